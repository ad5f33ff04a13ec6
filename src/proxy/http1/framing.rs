//! Where an HTTP/1 body ends: by length, by chunks, by the end of the connection (RFC 9112 §6 and §7).
//!
//! [`Decoder`] takes bytes out of a buffer that somebody else fills. It accepts exactly the grammar: CRLF only, no
//! space around sizes, at most 16 hexadecimal digits, extensions bounded and dropped. Trailers are parsed as strictly as
//! heads. It keeps no data of its own.

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

use super::{head, lines};

/// How a body is delimited on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// So many bytes; 0 is a body that is announced and empty.
    Length(u64),
    /// Chunks, then trailers.
    Chunked,
    /// Everything up to the end of the connection; answers only.
    Close,
}

/// Position in a body.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// The body is over.
    Done,
    /// So many bytes are left.
    Length(u64),
    /// Before a chunk's size line.
    ChunkSize,
    /// So many bytes of this chunk are left.
    ChunkData(u64),
    /// Before the CRLF that ends a chunk.
    ChunkEnd,
    /// After the last chunk.
    Trailers,
    /// Until the connection ends.
    Close,
}

/// What a call of [`Decoder::decode`] brought.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// Part of the body; never empty.
    Data(Bytes),
    /// The body is over, with these trailers.
    Trailers(HeaderMap),
    /// The body is over.
    End,
    /// The buffer must be filled further first.
    NeedMore,
}

/// Chunked framing is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadChunk;

/// Longest size line, extensions included.
const SIZE_LINE_MAX: usize = 256;
/// Longest trailer section.
pub(crate) const TRAILERS_MAX: usize = 8 * 1024;

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::ChunkSize,
            Framing::Close => Self::Close,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Takes the next part of the body out of `buffer`.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BadChunk> {
        loop {
            match self {
                Self::Done => return Ok(Decoded::End),
                Self::Length(left) | Self::ChunkData(left) => {
                    if buffer.is_empty() {
                        return Ok(Decoded::NeedMore);
                    }
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                    *left -= take as u64;
                    if *left == 0 {
                        *self = if matches!(self, Self::Length(_)) { Self::Done } else { Self::ChunkEnd };
                    }
                    return Ok(Decoded::Data(buffer.split_to(take).freeze()));
                }
                Self::Close if buffer.is_empty() => return Ok(Decoded::NeedMore),
                Self::Close => return Ok(Decoded::Data(buffer.split().freeze())),
                Self::ChunkSize => match size_line(buffer)? {
                    None => return Ok(Decoded::NeedMore),
                    Some(0) => *self = Self::Trailers,
                    Some(size) => *self = Self::ChunkData(size),
                },
                Self::ChunkEnd => match buffer.get(..2) {
                    Some(b"\r\n") => {
                        buffer.advance(2);
                        *self = Self::ChunkSize;
                    }
                    None if b"\r\n".starts_with(buffer) => return Ok(Decoded::NeedMore),
                    _ => return Err(BadChunk),
                },
                Self::Trailers => {
                    let decoded = trailers(buffer)?;
                    if !matches!(decoded, Decoded::NeedMore) {
                        *self = Self::Done;
                    }
                    return Ok(decoded);
                }
            }
        }
    }

    /// The stream has ended; whether the body is whole.
    pub(crate) fn finish(&mut self) -> bool {
        let whole = matches!(self, Self::Done | Self::Close);
        if whole {
            *self = Self::Done;
        }
        whole
    }
}

/// Takes a chunk's size line off the buffer, once it is all there.
fn size_line(buffer: &mut BytesMut) -> Result<Option<u64>, BadChunk> {
    let window = &buffer[..buffer.len().min(SIZE_LINE_MAX)];
    let digits = window.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits > 16 || (digits == 0 && !window.is_empty()) {
        return Err(BadChunk);
    }
    match window.get(digits) {
        None => return Ok(None),
        Some(b'\r' | b';') => {}
        // White space before an extension is bad grammar that some accept (RFC 9112 §7.1.1): nobody needs it.
        Some(_) => return Err(BadChunk),
    }
    let Some(cr) = memchr::memchr2(b'\r', b'\n', window) else {
        return if window.len() == SIZE_LINE_MAX { Err(BadChunk) } else { Ok(None) };
    };
    match (window[cr], window.get(cr + 1)) {
        (b'\r', Some(b'\n')) => {}
        (b'\r', None) if window.len() < SIZE_LINE_MAX => return Ok(None),
        _ => return Err(BadChunk),
    }
    if window[digits..cr].iter().any(|byte| *byte < b' ' && *byte != b'\t' || *byte == 0x7f) {
        return Err(BadChunk);
    }
    let digits = std::str::from_utf8(&window[..digits]).map_err(|_| BadChunk)?;
    let size = u64::from_str_radix(digits, 16).map_err(|_| BadChunk)?;
    buffer.advance(cr + 2);
    Ok(Some(size))
}

/// Takes the trailer section off the buffer, once it is all there.
fn trailers(buffer: &mut BytesMut) -> Result<Decoded, BadChunk> {
    match buffer.get(..2) {
        Some(b"\r\n") => {
            buffer.advance(2);
            return Ok(Decoded::End);
        }
        None if b"\r\n".starts_with(buffer) => return Ok(Decoded::NeedMore),
        _ => {}
    }
    match lines::end_of_head(buffer, 0) {
        Err(_) => Err(BadChunk),
        Ok(Some(end)) if end <= TRAILERS_MAX => {
            let section = buffer.split_to(end).freeze();
            head::parse_trailers(&section).map(Decoded::Trailers).ok_or(BadChunk)
        }
        Ok(None) if buffer.len() < TRAILERS_MAX => Ok(Decoded::NeedMore),
        Ok(_) => Err(BadChunk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decodes `wire`, given in pieces of `step` bytes; the data and what is left over.
    fn decode_all(framing: Framing, wire: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>), BadChunk> {
        let (mut decoder, mut buffer, mut data) = (Decoder::new(framing), BytesMut::new(), Vec::new());
        let mut pieces = wire.chunks(step);
        loop {
            match decoder.decode(&mut buffer)? {
                Decoded::Data(part) => data.extend_from_slice(&part),
                Decoded::End | Decoded::Trailers(_) => {
                    buffer.extend(pieces.flatten());
                    return Ok((data, buffer.to_vec()));
                }
                Decoded::NeedMore => match pieces.next() {
                    Some(piece) => buffer.extend_from_slice(piece),
                    None => return Err(BadChunk),
                },
            }
        }
    }

    proptest! {
        #[test]
        fn any_body_survives_chunking_however_the_bytes_arrive(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            step in 1usize..64,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:x};ext=\"1\"\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\nx-sum: 1\r\n\r\nGET /next");
            let (data, rest) = decode_all(Framing::Chunked, &wire, step).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(rest, b"GET /next".to_vec());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(wire in prop::collection::vec(any::<u8>(), 0..400), step in 1usize..50) {
            let _ = decode_all(Framing::Chunked, &wire, step);
        }
    }

    #[test]
    fn loose_chunk_framing_is_refused() {
        for wire in [
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "11111111111111111\r\nx",
            "5\r\rhello\r\n0\r\n\r\n",
            "0\r\nbad trailer\r\n\r\n",
            "0\r\nx: y\n\r\n",
        ] {
            assert_eq!(decode_all(Framing::Chunked, wire.as_bytes(), 1000), Err(BadChunk), "{wire:?}");
            assert_eq!(decode_all(Framing::Chunked, wire.as_bytes(), 1), Err(BadChunk), "{wire:?}");
        }
    }
}
