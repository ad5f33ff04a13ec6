//! WebSocket by hand, as strict as RFC 6455 allows: a torn or unmasked frame fails the test.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::message::Request;
use super::wire::{End, Wire};
use super::{Conn, Edge, Origin, Raw};

/// What a client sends to switch.
pub const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Opcode of a message of bytes.
pub const BINARY: u8 = 2;
/// Opcode of the frame that ends.
pub const CLOSE: u8 = 8;

/// One frame, unmasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its kind.
    pub opcode: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Code and reason of a Close; panics if it is another frame.
    pub fn closes(&self) -> (u16, String) {
        assert_eq!(self.opcode, CLOSE, "a Close expected, got {self:?}");
        let (code, reason) = self.payload.split_at(2);
        (u16::from_be_bytes([code[0], code[1]]), String::from_utf8(reason.to_vec()).unwrap())
    }
}

/// The bytes of a frame; masked, as clients do, with this mask.
pub fn frame(opcode: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => bytes.push(bit | length as u8),
        length @ 126..65_536 => {
            bytes.push(bit | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(bit | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(mask.as_ref().map_or(&[][..], |mask| mask));
    let mask = mask.unwrap_or_default();
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The next frame of a peer whose frames have to be masked, or must not be; waits for its first byte as long as it takes.
pub async fn next(wire: &mut Wire, masked: bool) -> Result<Frame, End> {
    wire.idle().await?;
    let head = wire.exactly(2).await?;
    assert_eq!(head[0] & 0xf0, 0x80, "a whole frame without extensions: {head:?}");
    let opcode = head[0] & 15;
    assert!(matches!(opcode, 1 | 2 | 8 | 9 | 10), "an opcode: {head:?}");
    assert_eq!(head[1] & 0x80 != 0, masked, "a mask where one has to be: {head:?}");
    let length = match head[1] & 0x7f {
        126 => u64::from(u16::from_be_bytes(wire.exactly(2).await?.try_into().unwrap())),
        127 => u64::from_be_bytes(wire.exactly(8).await?.try_into().unwrap()),
        short => u64::from(short),
    };
    assert!(length < 1 << 24, "a length: {length}");
    assert!(opcode < 8 || length < 126, "a control frame is short");
    let mask = if masked { wire.exactly(4).await? } else { vec![0; 4] };
    let payload = wire.exactly(length as usize).await?;
    let payload = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Ok(Frame { opcode, payload })
}

/// A client's WebSocket through the edge.
pub struct Socket(pub Raw);

impl Socket {
    /// Connects and switches.
    pub async fn open(edge: &Edge) -> Self {
        Self::over(Raw::connect(edge).await).await
    }

    /// Switches on an open connection.
    pub async fn over(mut raw: Raw) -> Self {
        raw.send(HANDSHAKE).await;
        assert_eq!(raw.head().await.unwrap().status(), 101);
        Self(raw)
    }

    /// Sends a message.
    pub async fn say(&mut self, payload: &[u8]) {
        self.0.send(frame(BINARY, Some([7, 77, 177, 250]), payload)).await;
    }

    /// The next frame.
    pub async fn hear(&mut self) -> Result<Frame, End> {
        next(&mut self.0, false).await
    }

    /// Sends a message, which has to come back.
    pub async fn echo(&mut self, payload: &[u8]) {
        self.say(payload).await;
        assert_eq!(self.hear().await, Ok(Frame { opcode: BINARY, payload: payload.to_vec() }));
    }

    /// Waits for a Close, answers it, and waits for the end of the connection; its code and reason.
    pub async fn closed(&mut self) -> (u16, String) {
        let told = self.hear().await.expect("a Close").closes();
        self.0.send(frame(CLOSE, Some([1, 2, 3, 4]), &told.0.to_be_bytes())).await;
        assert_eq!(self.0.until_end().await, (Vec::new(), End::Closed), "nothing comes after a Close");
        told
    }
}

/// An origin that switches and sends messages back, until it is told to end; `told` gets code and reason of each Close.
pub async fn echoing(told: impl Fn((u16, String)) + Send + Sync + Clone + 'static) -> Origin {
    Origin::raw(move |mut conn| {
        let told = told.clone();
        async move {
            let Some(_) = switch(&mut conn).await else { return };
            loop {
                let Ok(heard) = next(&mut conn, true).await else { return };
                if heard.opcode == CLOSE {
                    told(heard.closes());
                    conn.send(frame(CLOSE, None, &heard.payload[..2])).await;
                    conn.until_end().await;
                    return;
                }
                if conn.try_send(frame(heard.opcode, None, &heard.payload)).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// Answers requests up to one that asks for WebSocket, and switches; `None` when there is none.
pub async fn switch(conn: &mut Conn) -> Option<Request> {
    loop {
        let request = conn.request().await?;
        if request.fields.lists("upgrade", "websocket") {
            let key = request.fields.get("sec-websocket-key").unwrap_or_default();
            conn.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                accept(key)
            ))
            .await;
            return Some(request);
        }
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    }
}

/// What proves that the key was understood.
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}
