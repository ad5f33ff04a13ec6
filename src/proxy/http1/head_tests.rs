//! What heads mean, and which are refused.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { max_head: 4096, max_fields: 20 };

fn request(text: &str) -> Result<Request, Refusal> {
    let mut buffer = BytesMut::from(text);
    take_request(&mut buffer, &mut 0, LIMITS, &mut Fields::new()).map(|head| head.expect("a whole head"))
}

fn answer(text: &str) -> Result<Answer, BadAnswer> {
    let mut buffer = BytesMut::from(text);
    take_answer(&mut buffer, &mut 0, LIMITS, &Method::GET, &mut Fields::new()).map(|head| head.unwrap())
}

#[test]
fn ambiguous_requests_are_refused_for_their_reason() {
    use Refusal as R;
    for (text, refusal) in [
        ("GET / HTTP/1.1\nHost: a\n\n", R::LineEnding),
        ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", R::LineEnding),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", R::ObsFold),
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", R::ObsFold),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", R::Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", R::Field),
        ("GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", R::Field),
        ("GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n", R::Field),
        ("GET / HTTP/1.1\r\n\r\n", R::Host),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", R::Host),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", R::Host),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", R::Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", R::Host),
        ("GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", R::Host),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", R::Host),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", R::Host),
        ("GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", R::Host),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", R::Target),
        ("GET foo HTTP/1.1\r\nHost: a\r\n\r\n", R::Target),
        ("GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", R::Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", R::Target),
        ("GET /#f HTTP/1.1\r\nHost: a\r\n\r\n", R::Target),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", R::Method),
        ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", R::Method),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", R::Version),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", R::RequestLine),
        ("GET /\r\nHost: a\r\n\r\n", R::RequestLine),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", R::ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", R::ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", R::ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", R::ContentLength),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", R::ContentLength),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            R::LengthConflict,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n", R::TransferEncoding),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", R::TransferEncoding),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n", R::TransferEncoding),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", R::TransferEncoding),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            R::TransferEncoding,
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", R::TransferCoding),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", R::TransferEncoding),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, host\r\n\r\n", R::Connection),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Cookie\r\n\r\n", R::Connection),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", R::Expectation),
    ] {
        assert_eq!(request(text).map(|_| ()), Err(refusal), "{text:?}");
    }
}

#[test]
fn fields_of_the_connection_are_taken_out() {
    let request = request(
        "POST /a?b HTTP/1.1\r\nHost: A.test:80\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n\
         Proxy-Connection: x\r\nTE: trailers, gzip\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nContent-Length: 5\r\n\
         Content-Length: 5\r\nX-Kept: 1\r\nExpect: 100-Continue\r\n\r\n",
    )
    .unwrap();
    let names: Vec<_> = request.head.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["host", "x-kept"]);
    assert_eq!(request.framing, Framing::Length(5));
    assert!(request.keep_alive && request.head.accepts_trailers && request.head.expect_continue);
    assert!(!request.head.websocket);
}

#[test]
fn the_absolute_form_names_the_host() {
    let request = request("GET http://shop.test/x HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(request.head.host().unwrap(), "shop.test");
    assert_eq!(request.head.path, "/x");
    assert!(request.http10 && !request.keep_alive);
}

#[test]
fn a_head_too_large_is_told_from_a_target_too_long() {
    let mut map = Fields::new();
    let mut long = BytesMut::from(format!("GET /{}", "a".repeat(5000)).as_str());
    assert_eq!(take_request(&mut long, &mut 0, LIMITS, &mut map).unwrap_err(), Refusal::TargetTooLong);
    let mut large = BytesMut::from(format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(5000)).as_str());
    assert_eq!(take_request(&mut large, &mut 0, LIMITS, &mut map).unwrap_err(), Refusal::HeadTooLarge);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(20));
    assert_eq!(request(&many).unwrap_err(), Refusal::HeadTooLarge);
}

#[test]
fn nonsense_answers_are_not_passed_on() {
    for text in [
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 999 What\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
    ] {
        assert!(answer(text).is_err(), "{text:?}");
    }
}

#[test]
fn an_answer_without_a_length_ends_with_its_connection() {
    let answer = answer("HTTP/1.1 200\r\n\r\n").unwrap();
    assert_eq!((answer.framing, answer.keep_alive), (Framing::Close, false));
}

#[test]
fn the_length_of_a_head_answer_is_kept_as_a_field() {
    let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n");
    let answer =
        take_answer(&mut buffer, &mut 0, LIMITS, &Method::HEAD, &mut Fields::new()).unwrap().unwrap();
    assert_eq!(answer.framing, Framing::None);
    assert_eq!(answer.headers[header::CONTENT_LENGTH], "7");
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        let _ = take_request(&mut buffer, &mut 0, LIMITS, &mut Fields::new());
        let mut buffer = BytesMut::from(&[b"HTTP/1.1 ", &bytes[..]].concat()[..]);
        let _ = take_answer(&mut buffer, &mut 0, LIMITS, &Method::GET, &mut Fields::new());
    }

    #[test]
    fn a_head_reads_the_same_however_its_bytes_arrive(step in 1usize..40) {
        let text = "POST /path HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\nCookie: a=b\r\n\r\nabc";
        let (mut buffer, mut scanned, mut map) = (BytesMut::new(), 0, Fields::new());
        let mut head = None;
        for piece in text.as_bytes().chunks(step) {
            buffer.extend_from_slice(piece);
            if head.is_none() {
                head = take_request(&mut buffer, &mut scanned, LIMITS, &mut map).unwrap();
            }
        }
        prop_assert_eq!(head.unwrap().framing, Framing::Length(3));
        prop_assert_eq!(&buffer[..], b"abc");
    }
}
