//! What may not be asked by HTTP/2: refused with a counted reason, or with a reset, and no target ever sees a byte of it.

use crate::REFUSALS;
use crate::support::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GET, GOAWAY, HEADERS, Http2, RST_STREAM, asking,
    get, literal,
};
use crate::support::{Client, Edge, Findings, Origin};

const PROTOCOL_ERROR: u32 = 1;

/// What becomes of a stream: a status, or the reason of a reset or of a GOAWAY.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Status(u16),
    Reset(u32),
    GoAway(u32),
}

/// `:status` of an answer's head, which is nearly always the first of its fields. The table of fixed fields has seven.
fn status(block: &[u8]) -> u16 {
    match block {
        [0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(block[0] - 0x88)],
        [0x48 | 0x08, length, rest @ ..] if length & 0x80 == 0 => {
            std::str::from_utf8(&rest[..3]).unwrap().parse().unwrap()
        }
        // Three digits in Huffman's code, of five or six bits each.
        [0x48 | 0x08, _, rest @ ..] => {
            let mut bits =
                rest.iter().flat_map(|byte| (0..8).rev().map(move |bit| u32::from(byte >> bit & 1)));
            (0..3).fold(0, |number, _| {
                let five = (0..5).fold(0, |code, _| code << 1 | bits.next().unwrap());
                let digit = if five <= 2 { five } else { (five << 1 | bits.next().unwrap()) - 0b011001 + 3 };
                number * 10 + digit as u16
            })
        }
        other => panic!("no status in {other:02x?}"),
    }
}

async fn outcome_of(edge: &Edge, fields: &[u8], data: Option<&[u8]>) -> Outcome {
    let mut frames = Frames::connect(edge, &[]).await;
    frames.open(1, fields, data.is_none()).await;
    if let Some(data) = data {
        frames.send(DATA, END_STREAM, 1, data).await;
    }
    loop {
        let frame = frames.next().await.unwrap_or_else(|end| panic!("{end:?} without an outcome"));
        let code = |at: usize| u32::from_be_bytes(frame.payload[at..at + 4].try_into().unwrap());
        match frame.kind {
            HEADERS => return Outcome::Status(status(&frame.payload)),
            RST_STREAM => return Outcome::Reset(code(0)),
            GOAWAY => return Outcome::GoAway(code(4)),
            _ => {}
        }
    }
}

/// GET / with this field.
fn with(name: &str, value: &str) -> Vec<u8> {
    [GET, &literal(name, value)].concat()
}

#[tokio::test]
async fn what_could_be_read_in_two_ways_never_reaches_a_target() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut findings = Findings::default();
    let reset = || Outcome::Reset(PROTOCOL_ERROR);
    let malformed = "http2_message";
    let cases = [
        ("Host that differs", with("host", "other.test"), None, Outcome::Status(400), "host"),
        (
            "two Hosts",
            [with("host", "shop.test"), literal("host", "shop.test")].concat(),
            None,
            Outcome::Status(400),
            "host",
        ),
        ("no host", b"\x82\x86\x84".to_vec(), None, Outcome::Status(400), "host"),
        ("userinfo", b"\x82\x86\x84\x41\x0bu@shop.test".to_vec(), None, Outcome::Status(400), "host"),
        ("a space before a value", with("x", " a"), None, Outcome::Status(400), "field"),
        ("a tab after a value", with("x", "a\t"), None, Outcome::Status(400), "field"),
        ("another expectation", with("expect", "x"), None, Outcome::Status(417), "expectation"),
        ("TRACE", b"\x42\x05TRACE\x86\x84\x41\x09shop.test".to_vec(), None, Outcome::Status(405), "method"),
        ("CONNECT", b"\x42\x07CONNECT\x41\x0cshop.test:80".to_vec(), None, Outcome::Status(405), "method"),
        ("http2-settings", with("http2-settings", "AAMAAABk"), None, Outcome::Status(400), malformed),
        ("connection", with("connection", "close"), None, reset(), malformed),
        ("transfer-encoding", with("transfer-encoding", "chunked"), None, reset(), malformed),
        ("upgrade", with("upgrade", "h2c"), None, reset(), malformed),
        ("keep-alive", with("keep-alive", "1"), None, reset(), malformed),
        ("te", with("te", "gzip"), None, reset(), malformed),
        ("a pseudo-field twice", [GET, b"\x84"].concat(), None, reset(), malformed),
        ("a late pseudo-field", [&literal("x", "y"), GET].concat(), None, reset(), malformed),
        ("no method", b"\x86\x84\x41\x09shop.test".to_vec(), None, reset(), malformed),
        ("no scheme", b"\x82\x84\x41\x09shop.test".to_vec(), None, reset(), malformed),
        ("no path", b"\x82\x86\x41\x09shop.test".to_vec(), None, reset(), malformed),
        ("an empty path", b"\x82\x86\x44\x00\x41\x09shop.test".to_vec(), None, reset(), malformed),
        ("a status", [b"\x88", GET].concat(), None, reset(), malformed),
        ("a length that is none", with("content-length", "x"), Some(&b"x"[..]), reset(), malformed),
        ("a length with a sign", with("content-length", "+1"), Some(b"x"), reset(), malformed),
        (
            "two lengths",
            [with("content-length", "1"), literal("content-length", "2")].concat(),
            Some(b"x"),
            reset(),
            malformed,
        ),
        ("no body of this length", with("content-length", "1"), None, reset(), malformed),
    ];
    for (name, fields, data, outcome, reason) in cases {
        let selector = format!("{REFUSALS}{{reason=\"{reason}\"}}");
        let before = edge.metric(&selector).await;
        let became = outcome_of(&edge, &fields, data).await;
        findings.expect(became == outcome, || format!("{name}: {became:?} instead of {outcome:?}"));
        let counted = edge.metric(&selector).await - before;
        findings.expect(counted == 1, || format!("{name}: counted {counted} times as {reason}"));
    }
    for (name, fields) in [
        ("upper case", with("X-Upper", "a")),
        ("CR in a value", with("x", "a\rb")),
        ("LF in a value", with("x", "a\nb")),
        ("NUL in a value", with("x", "a\0b")),
        ("a colon in a name", with("x:y", "a")),
        ("a space in a name", with("x y", "a")),
        ("an unknown pseudo-field", [&literal(":x", "y"), GET].concat()),
    ] {
        let became = outcome_of(&edge, &fields, None).await;
        let refused = matches!(became, Outcome::GoAway(_) | Outcome::Reset(_));
        findings.expect(refused, || format!("{name}: {became:?}"));
    }
    findings.report();
    assert_eq!(origin.connections(), 0, "{:?}", String::from_utf8_lossy(&origin.bytes()));
    assert_eq!(Client::of(&edge).get("/").await.status, 200, "a good request afterwards");
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_announced_is_never_complete_for_the_target() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    for data in ["hell", "hello!"] {
        let fields = [b"\x83\x86\x84\x41\x09shop.test", &literal("content-length", "5")[..]].concat();
        let became = outcome_of(&edge, &fields, Some(data.as_bytes())).await;
        assert_eq!(became, Outcome::Reset(PROTOCOL_ERROR), "{data}");
    }
    edge.counts(&format!("{REFUSALS}{{reason=\"http2_message\"}}"), 2).await;
    edge.counts("selvedge_http2_streams_open", 0).await;
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn heads_have_the_bounds_of_http1() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("max_head = \"4KiB\"\nmax_fields = 20").start().await;
    let mut client = Http2::connect(&edge).await;
    let value = "v".repeat(3800);
    assert_eq!(client.request(asking("GET", "/", &[("x", &value)]), b"").await.status, 200);
    let value = "v".repeat(4096);
    let answer = client.request(asking("GET", "/", &[("x", &value)]), b"").await;
    assert_eq!((answer.status, answer.field("content-type")), (431, Some("text/plain; charset=utf-8")));
    assert_eq!(client.request(asking("GET", "/", &[("x", "y"); 21]), b"").await.status, 431);
    assert_eq!(client.request(get(&format!("/{value}")), b"").await.status, 414);
    assert_eq!(client.request(asking("GET", "/", &[("cookie", "a=1"); 200]), b"").await.status, 200);
    assert_eq!(client.request(asking("GET", "/", &[("cookie", "a=1"); 300]), b"").await.status, 431);
    edge.counts(&format!("{REFUSALS}{{reason=\"head_too_large\"}}"), 3).await;
    edge.counts(&format!("{REFUSALS}{{reason=\"target_too_long\"}}"), 1).await;
    assert_eq!(origin.count(), 2);
}

#[tokio::test]
async fn a_head_in_pieces_is_one_head() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut frames = Frames::connect(&edge, &[]).await;
    frames.send(HEADERS, END_STREAM, 1, &GET[..5]).await.send(CONTINUATION, END_HEADERS, 1, &GET[5..]).await;
    assert_eq!(status(&frames.until(HEADERS).await.payload), 200);
}
