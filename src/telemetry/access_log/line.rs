//! Lines: what the writer makes of an entry.
//!
//! Written by hand, byte by byte, because this is most of what a line costs. Whatever a client has sent is made harmless: in
//! JSON it is valid UTF-8 with everything escaped that needs it (bytes that are no UTF-8 become U+FFFD), in the combined
//! format everything but printable ASCII, quotes and backslashes is `\xHH`. No client can begin a line or end a value.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::entry::{Piece, Read, Tls};
use crate::config::{AccessField, AccessFormat};
use crate::telemetry::time;

/// Status of requests whose client left before there was an answer, as others write it too.
const NO_ANSWER: u16 = 499;

/// Makes lines of one form.
pub(super) struct Lines {
    format: AccessFormat,
    /// Each field, and how JSON begins it: `,"status":`.
    fields: Vec<(AccessField, Box<[u8]>)>,
    clock: Clock,
}

impl Lines {
    pub(super) fn new(format: AccessFormat, fields: &[AccessField]) -> Self {
        let begin = |(at, field): (usize, &AccessField)| {
            let before = if at == 0 { "{" } else { "," };
            (*field, format!("{before}\"{field}\":").into_bytes().into())
        };
        Self { format, fields: fields.iter().enumerate().map(begin).collect(), clock: Clock::default() }
    }

    /// Adds the line of an entry whose batch has this anchor.
    pub(super) fn add(&mut self, entry: &Read<'_>, anchor: (Instant, SystemTime), into: &mut Vec<u8>) {
        let begun = |at: SystemTime, us: i64| match u64::try_from(us) {
            Ok(us) => at.checked_add(Duration::from_micros(us)),
            Err(_) => at.checked_sub(Duration::from_micros(us.unsigned_abs())),
        };
        let at = begun(anchor.1, entry.started_us).unwrap_or(anchor.1);
        match self.format {
            AccessFormat::Json => self.json(entry, at, into),
            AccessFormat::Combined => self.combined(entry, at, into),
        }
        into.push(b'\n');
    }

    fn json(&mut self, entry: &Read<'_>, at: SystemTime, into: &mut Vec<u8>) {
        for (field, begin) in &self.fields {
            into.extend_from_slice(begin);
            match field {
                AccessField::Time => {
                    into.push(b'"');
                    self.clock.rfc3339(at, into);
                    into.push(b'"');
                }
                field => value(*field, entry, into),
            }
        }
        into.push(b'}');
    }

    fn combined(&mut self, entry: &Read<'_>, at: SystemTime, into: &mut Vec<u8>) {
        address(entry.client, into);
        into.extend_from_slice(b" - - [");
        self.clock.common(at, into);
        into.extend_from_slice(b"] \"");
        match (entry.piece(Piece::Method), entry.piece(Piece::Path)) {
            (Some(method), Some(path)) => {
                printable(method, into);
                into.push(b' ');
                printable(path, into);
                into.push(b' ');
                into.extend_from_slice(protocol(entry.protocol).unwrap_or("-").as_bytes());
            }
            _ => into.push(b'-'),
        }
        into.extend_from_slice(b"\" ");
        decimal(u64::from(status(entry)), into);
        into.push(b' ');
        decimal(entry.bytes_out, into);
        for piece in [Piece::Referer, Piece::UserAgent] {
            into.extend_from_slice(b" \"");
            match entry.piece(piece) {
                Some(text) => printable(text, into),
                None => into.push(b'-'),
            }
            into.push(b'"');
        }
    }
}

/// A field's value in JSON; `null` for what is not known or does not apply.
fn value(field: AccessField, entry: &Read<'_>, into: &mut Vec<u8>) {
    let target = || entry.piece(Piece::Target).map(|name| name.split_at(zone_end(name)));
    let text = match field {
        AccessField::Time => None,
        AccessField::Client => {
            into.push(b'"');
            address(entry.client, into);
            into.push(b'"');
            return;
        }
        AccessField::Status => return decimal(u64::from(status(entry)), into),
        AccessField::BytesIn => return decimal(entry.bytes_in, into),
        AccessField::BytesOut => return decimal(entry.bytes_out, into),
        AccessField::Duration => return seconds(entry.duration_us, into),
        AccessField::FirstByte => match entry.first_byte_us {
            Some(us) => return seconds(us, into),
            None => None,
        },
        AccessField::Attempts => return decimal(u64::from(entry.attempts), into),
        AccessField::Moved => {
            into.extend_from_slice(if entry.moved { b"true" } else { b"false" });
            return;
        }
        AccessField::Method => entry.piece(Piece::Method),
        AccessField::Host => entry.piece(Piece::Host),
        AccessField::Path => entry.piece(Piece::Path),
        AccessField::Protocol => protocol(entry.protocol).map(str::as_bytes),
        AccessField::Tls => match entry.tls {
            Tls::None => None,
            Tls::Tls12 => Some(&b"1.2"[..]),
            Tls::Tls13 => Some(&b"1.3"[..]),
        },
        AccessField::Reason => (!entry.reason.is_empty()).then_some(entry.reason),
        AccessField::Pool => entry.piece(Piece::Pool),
        AccessField::Zone => target().map(|(zone, _)| zone),
        AccessField::Target => target().map(|(_, address)| &address[1..]),
        AccessField::Verdict => entry.verdict.map(|verdict| verdict.as_str().as_bytes()),
        AccessField::Decision => match entry.decision {
            Some(decision) => {
                into.push(b'"');
                for (before, code) in decision.codes() {
                    into.extend_from_slice(before.as_bytes());
                    into.extend_from_slice(code.as_bytes());
                }
                into.push(b'"');
                return;
            }
            None => None,
        },
        AccessField::Route => entry.piece(Piece::Route),
        AccessField::RequestId => entry.piece(Piece::RequestId),
        AccessField::UserAgent => entry.piece(Piece::UserAgent),
        AccessField::Referer => entry.piece(Piece::Referer),
    };
    match text {
        Some(text) => quoted(text, into),
        None => into.extend_from_slice(b"null"),
    }
}

/// Where the zone ends in `zone/address`; a slash is there.
fn zone_end(name: &[u8]) -> usize {
    memchr::memchr(b'/', name).unwrap_or(name.len().saturating_sub(1))
}

fn status(entry: &Read<'_>) -> u16 {
    if entry.status == 0 { NO_ANSWER } else { entry.status }
}

fn protocol(version: u8) -> Option<&'static str> {
    match version {
        10 => Some("HTTP/1.0"),
        11 => Some("HTTP/1.1"),
        20 => Some("HTTP/2.0"),
        _ => None,
    }
}

fn decimal(mut number: u64, into: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    into.extend_from_slice(&digits[at..]);
}

/// So many digits, with zeros before them.
fn digits(number: u64, count: u32, into: &mut Vec<u8>) {
    into.extend((0..count).rev().map(|place| b'0' + (number / 10u64.pow(place) % 10) as u8));
}

/// Microseconds as seconds.
fn seconds(us: u64, into: &mut Vec<u8>) {
    decimal(us / 1_000_000, into);
    into.push(b'.');
    digits(us % 1_000_000, 6, into);
}

fn address(address: IpAddr, into: &mut Vec<u8>) {
    match address {
        IpAddr::V4(v4) => {
            for (at, byte) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    into.push(b'.');
                }
                decimal(u64::from(byte), into);
            }
        }
        IpAddr::V6(v6) => into.extend_from_slice(v6.to_string().as_bytes()),
    }
}

/// Text as JSON.
fn quoted(text: &[u8], into: &mut Vec<u8>) {
    into.push(b'"');
    if text.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'"' && *byte != b'\\') {
        into.extend_from_slice(text);
    } else {
        for char in String::from_utf8_lossy(text).chars() {
            match char {
                '"' => into.extend_from_slice(b"\\\""),
                '\\' => into.extend_from_slice(b"\\\\"),
                // Also what ends a line for some readers.
                '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                    into.extend_from_slice(b"\\u");
                    into.extend((0..4).rev().map(|place| hex((char as u32 >> (4 * place)) as u8)));
                }
                char => into.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    into.push(b'"');
}

/// Text for the combined format.
fn printable(text: &[u8], into: &mut Vec<u8>) {
    for byte in text {
        match byte {
            b'"' | b'\\' => into.extend_from_slice(&[b'\\', *byte]),
            b' '..=b'~' => into.push(*byte),
            byte => into.extend_from_slice(&[b'\\', b'x', hex(byte >> 4), hex(*byte)]),
        }
    }
}

fn hex(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble & 15)]
}

/// Writes times, the same second only once.
#[derive(Default)]
struct Clock {
    second: Option<u64>,
    /// `2026-03-01T12:34:56`
    iso: String,
    /// `01/Mar/2026:12:34:56 +0000`
    common: String,
}

impl Clock {
    /// Milliseconds of the second that is now in the texts.
    fn turn_to(&mut self, at: SystemTime) -> u32 {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.iso = time::rfc3339(at);
            self.iso.truncate("2026-03-01T12:34:56".len());
            self.common = time::common(at);
        }
        since.subsec_millis()
    }

    fn rfc3339(&mut self, at: SystemTime, into: &mut Vec<u8>) {
        let ms = self.turn_to(at);
        into.extend_from_slice(self.iso.as_bytes());
        into.push(b'.');
        digits(u64::from(ms), 3, into);
        into.push(b'Z');
    }

    fn common(&mut self, at: SystemTime, into: &mut Vec<u8>) {
        self.turn_to(at);
        into.extend_from_slice(self.common.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::Entry;
    use super::*;
    use proptest::prelude::*;

    fn line(format: AccessFormat, fields: &[AccessField], fill: impl Fn(&mut Entry)) -> String {
        let mut entry = Entry::default();
        entry.begin(Piece::set_of(fields));
        fill(&mut entry);
        let (now, mut bytes, mut text) = (Instant::now(), Vec::new(), Vec::new());
        entry.encode(now + Duration::from_millis(1500), now, &mut bytes);
        let read = Read::take(&mut &bytes[..]).unwrap();
        let anchor = (now, UNIX_EPOCH + Duration::from_secs(1_709_251_198));
        Lines::new(format, fields).add(&read, anchor, &mut text);
        String::from_utf8(text).unwrap()
    }

    fn usual(entry: &mut Entry) {
        entry.set(Piece::Method, b"GET");
        entry.set(Piece::Path, b"/a?b=\"c\"");
        entry.set(Piece::UserAgent, b"curl/8");
        entry.set(Piece::Target, b"az-a/127.0.1.1:9001");
        entry.client = "::ffff:192.0.2.7".parse().unwrap();
        (entry.protocol, entry.status, entry.bytes_out) = (11, 200, 1024);
        (entry.duration, entry.first_byte) =
            (Duration::from_micros(1_020_003), Some(Duration::from_micros(7)));
    }

    #[test]
    fn json_has_its_fields_in_their_order() {
        let line = line(AccessFormat::Json, AccessField::ALL, usual);
        let expected = "{\"time\":\"2024-02-29T23:59:59.500Z\",\"client\":\"192.0.2.7\",\"method\":\"GET\",\"host\":null,\
            \"path\":\"/a?b=\\\"c\\\"\",\"protocol\":\"HTTP/1.1\",\"tls\":null,\"status\":200,\"reason\":null,\
            \"bytes_in\":0,\"bytes_out\":1024,\"duration\":1.020003,\"first_byte\":0.000007,\"route\":null,\"pool\":null,\
            \"zone\":\"az-a\",\"target\":\"127.0.1.1:9001\",\"attempts\":0,\"verdict\":null,\"decision\":null,\"moved\":false,\
            \"request_id\":null,\"user_agent\":\"curl/8\",\"referer\":null}\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn combined_is_as_everybody_reads_it() {
        let line = line(AccessFormat::Combined, AccessField::COMBINED, usual);
        let expected = "192.0.2.7 - - [29/Feb/2024:23:59:59 +0000] \"GET /a?b=\\\"c\\\" HTTP/1.1\" 200 1024 \"-\" \"curl/8\"\n";
        assert_eq!(line, expected);
    }

    #[test]
    fn a_request_without_a_head_or_an_answer_has_a_line_too() {
        let none = |_: &mut Entry| {};
        let combined = line(AccessFormat::Combined, AccessField::COMBINED, none);
        assert_eq!(combined, ":: - - [29/Feb/2024:23:59:59 +0000] \"-\" 499 0 \"-\" \"-\"\n");
        let fields = [AccessField::Method, AccessField::Status, AccessField::FirstByte];
        let json = line(AccessFormat::Json, &fields, none);
        assert_eq!(json, "{\"method\":null,\"status\":499,\"first_byte\":null}\n");
    }

    proptest! {
        #[test]
        fn no_client_can_write_a_line_of_its_own(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let agent = |entry: &mut Entry| entry.set(Piece::UserAgent, &text);
            let json = line(AccessFormat::Json, &[AccessField::UserAgent], agent);
            prop_assert_eq!(json.lines().count(), 1);
            let read: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(read["user_agent"].as_str().unwrap(), &*String::from_utf8_lossy(&text));
            let combined = line(AccessFormat::Combined, AccessField::COMBINED, agent);
            prop_assert!(combined.ends_with("\"\n") && combined.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            let inside = combined.rsplit_once(" \"-\" \"").unwrap().1.strip_suffix("\"\n").unwrap();
            let bare = inside.replace("\\\\", "").replace("\\\"", "");
            prop_assert!(!bare.contains('"'), "{}", combined);
        }
    }
}
