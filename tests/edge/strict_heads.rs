//! What may not be asked: every request that could be read in two ways is refused, counted by reason, its connection closed,
//! and no origin ever sees a byte of it.
//!
//! Each case names every outcome that the specification leaves open; most have exactly one.

use std::time::Duration;

use crate::REFUSALS;
use crate::support::{Client, Edge, End, Findings, Origin, Raw, Reply};

/// Longest that one case may take.
const SOON: Duration = Duration::from_secs(5);

/// A status and the reason that is counted with it.
type Outcome = (u16, &'static str);

/// A request, and how it may be refused.
struct Case {
    bytes: Vec<u8>,
    outcomes: Vec<Outcome>,
}

fn case(bytes: impl AsRef<[u8]>, outcomes: &[Outcome]) -> Case {
    Case { bytes: bytes.as_ref().to_vec(), outcomes: outcomes.to_vec() }
}

/// GET / with these lines after the Host field.
fn with_fields(lines: &str, outcomes: &[Outcome]) -> Case {
    case(format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n\r\n"), outcomes)
}

/// POST / with these lines after the Host field, and five bytes.
fn post_with(lines: &str, outcomes: &[Outcome]) -> Case {
    case(format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n\r\n0\r\n\r\n"), outcomes)
}

/// This request line, and a Host field.
fn with_line(line: &str, outcomes: &[Outcome]) -> Case {
    case(format!("{line}\r\nHost: shop.test\r\n\r\n"), outcomes)
}

/// Sends each case on a connection of its own, and reports everything that is not as it should be.
async fn all_are_refused(cases: impl IntoIterator<Item = Case>) {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut findings = Findings::default();
    let mut seen = 0;
    for case in cases {
        seen += 1;
        let refused = is_refused(&edge, &case).await;
        let shown = String::from_utf8_lossy(&case.bytes[..case.bytes.len().min(120)]);
        findings.expect(refused.is_ok(), || format!("{shown:?}: {}", refused.unwrap_err()));
    }
    assert!(seen > 0);
    findings.expect(origin.connections() == 0, || {
        format!("the origin received {:?}", String::from_utf8_lossy(&origin.bytes()))
    });
    findings.report();
    assert_eq!(Client::of(&edge).get("/").await.status, 200, "a good request afterwards");
}

/// What is not as it should be when `case` is sent.
async fn is_refused(edge: &Edge, case: &Case) -> Result<(), String> {
    let counted = async || {
        let mut counts = Vec::new();
        for (_, reason) in &case.outcomes {
            counts.push(edge.metric(&format!("{REFUSALS}{{reason=\"{reason}\"}}")).await);
        }
        counts
    };
    let before = counted().await;
    let mut raw = Raw::connect(edge).await;
    raw.send(&case.bytes).await;
    let Ok(answer) = tokio::time::timeout(SOON, raw.try_response("GET")).await else {
        return Err("no answer".to_owned());
    };
    let answer = answer.map_err(|cut| format!("{cut:?} instead of an answer"))?;
    if !case.outcomes.iter().any(|(status, _)| *status == answer.status) {
        return Err(format!("{}, not {:?}", answer.status, case.outcomes));
    }
    if !answer.fields.lists("connection", "close") {
        return Err(format!("{} without Connection: close", answer.status));
    }
    let Ok((rest, end)) = tokio::time::timeout(SOON, raw.until_end()).await else {
        return Err("the connection is not closed".to_owned());
    };
    if !rest.is_empty() || end != End::Closed {
        return Err(format!("{end:?} after {:?}", String::from_utf8_lossy(&rest)));
    }
    let after = counted().await;
    let grown =
        case.outcomes.iter().zip(before.iter().zip(&after)).filter(|(_, (before, after))| after > before);
    match grown.map(|(outcome, _)| *outcome).collect::<Vec<_>>()[..] {
        [(status, _)] if status == answer.status => Ok(()),
        ref other => Err(format!("{} is counted as {other:?}", answer.status)),
    }
}

#[tokio::test]
async fn a_request_line_that_is_none_is_refused() {
    const LINE: Outcome = (400, "request_line");
    const TARGET: Outcome = (400, "target");
    const VERSION: Outcome = (505, "version");
    all_are_refused([
        with_line("GET / HTTP/1.1 ", &[LINE]),
        with_line("GET  / HTTP/1.1", &[LINE]),
        with_line("GET /a b HTTP/1.1", &[LINE, VERSION]),
        with_line("GET\t/\tHTTP/1.1", &[LINE]),
        with_line(" GET / HTTP/1.1", &[LINE]),
        with_line("G(T / HTTP/1.1", &[LINE]),
        with_line("G\u{e9}T / HTTP/1.1", &[LINE]),
        with_line(" / HTTP/1.1", &[LINE]),
        with_line("GET HTTP/1.1", &[LINE, TARGET]),
        with_line("GET /", &[LINE]),
        with_line("GET / HTTP/1", &[LINE, VERSION]),
        with_line("GET / HTTP/1.10", &[LINE, VERSION]),
        with_line("GET / HTTP/01.1", &[LINE, VERSION]),
        with_line("GET / http/1.1", &[LINE, VERSION]),
        with_line("GET / HTTPS/1.1", &[LINE, VERSION]),
        with_line("GET / HTTP/1.1x", &[LINE, VERSION]),
        with_line("GET /\u{1} HTTP/1.1", &[LINE, TARGET]),
        with_line("GET /\u{7f} HTTP/1.1", &[LINE, TARGET]),
        with_line("GET /\0 HTTP/1.1", &[LINE, TARGET]),
        case(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", &[LINE]),
        case(b"\0\0\0\0\r\n\r\n", &[LINE]),
    ])
    .await;
}

#[tokio::test]
async fn a_version_other_than_1_0_and_1_1_is_refused_with_505() {
    all_are_refused([
        with_line("GET / HTTP/2.0", &[(505, "version")]),
        with_line("GET / HTTP/3.0", &[(505, "version")]),
        with_line("GET / HTTP/0.9", &[(505, "version")]),
        with_line("GET / HTTP/1.2", &[(505, "version")]),
        case(b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", &[(505, "version"), (400, "request_line")]),
        case(b"PRI * HTTP/2.0\r\nHost: shop.test\r\n\r\n", &[(505, "version")]),
    ])
    .await;
}

#[tokio::test]
async fn a_field_with_bytes_that_may_not_be_there_is_refused() {
    const FIELD: Outcome = (400, "field");
    all_are_refused([
        with_fields("X : a", &[FIELD]),
        with_fields("X\t: a", &[FIELD]),
        with_fields("Content-Length : 0", &[FIELD]),
        with_fields("Transfer-Encoding : chunked", &[FIELD]),
        with_fields(": a", &[FIELD]),
        with_fields("no colon", &[FIELD]),
        with_fields("X", &[FIELD]),
        with_fields("Bad Name: a", &[FIELD]),
        with_fields("B(d: a", &[FIELD]),
        with_fields("B\u{e9}d: a", &[FIELD]),
        with_fields("B\0d: a", &[FIELD]),
        with_fields("X: a\0b", &[FIELD]),
        with_fields("X: \u{1}", &[FIELD]),
        with_fields("X: a\u{8}b", &[FIELD]),
        with_fields("X: a\u{b}b", &[FIELD]),
        with_fields("X: a\u{1b}b", &[FIELD]),
        with_fields("X: a\u{7f}b", &[FIELD]),
        with_fields("Transfer-Encoding: \u{b}chunked", &[FIELD, (400, "transfer_encoding")]),
    ])
    .await;
}

#[tokio::test]
async fn a_line_that_does_not_end_in_crlf_is_refused() {
    const ENDING: Outcome = (400, "line_ending");
    all_are_refused([
        case("GET / HTTP/1.1\nHost: shop.test\r\n\r\n", &[ENDING]),
        case("GET / HTTP/1.1\r\nHost: shop.test\n\r\n", &[ENDING]),
        case("GET / HTTP/1.1\r\nHost: shop.test\r\nX: a\nY: b\r\n\r\n", &[ENDING]),
        case("GET / HTTP/1.1\r\nHost: shop.test\r\nX: a\r\n\nGET /hidden HTTP/1.1\r\n\r\n", &[ENDING]),
        case("GET / HTTP/1.1\nHost: shop.test\n\n", &[ENDING]),
        case("GET / HTTP/1.1\r\nHost: shop.test\r\nX: a\rb\r\n\r\n", &[ENDING, (400, "field")]),
        case("GET / HTTP/1.1\r\nHost: shop.test\r\nX: a\r\r\n\r\n", &[ENDING, (400, "field")]),
        case("GET / HTTP/1.1\rHost: shop.test\r\n\r\n", &[ENDING, (400, "request_line"), (505, "version")]),
        case("GET / HTTP/1.1\r\nHost: shop.test\r\n\rX: a\r\n\r\n", &[ENDING, (400, "field")]),
    ])
    .await;
}

#[tokio::test]
async fn a_continued_field_is_refused() {
    const FOLD: Outcome = (400, "obs_fold");
    all_are_refused([
        with_fields("X: a\r\n b", &[FOLD]),
        with_fields("X: a\r\n\tb", &[FOLD]),
        with_fields("X: a\r\n ", &[FOLD]),
        with_fields("Transfer-Encoding:\r\n chunked", &[FOLD]),
        case("GET / HTTP/1.1\r\n X: a\r\nHost: shop.test\r\n\r\n", &[FOLD, (400, "field")]),
    ])
    .await;
}

#[tokio::test]
async fn a_content_length_that_is_not_one_number_is_refused() {
    const LENGTH: Outcome = (400, "content_length");
    let values = [
        "",
        "a",
        "-1",
        "+5",
        "5 5",
        "5, 6",
        "5,",
        ",5",
        "0x5",
        "5.0",
        "5;",
        "1e1",
        "\"5\"",
        "18446744073709551616",
    ];
    let values = values.into_iter().chain(["99999999999999999999999999999999"]);
    let mut cases: Vec<_> = values.map(|v| post_with(&format!("Content-Length: {v}"), &[LENGTH])).collect();
    cases.push(post_with("Content-Length: 5\r\nContent-Length: 6", &[LENGTH]));
    cases.push(post_with("Content-Length: 5\r\nX: y\r\ncontent-length: 0", &[LENGTH]));
    all_are_refused(cases).await;
}

#[tokio::test]
async fn a_length_said_twice_alike_is_refused_or_said_once() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    for lines in ["Content-Length: 2\r\nContent-Length: 2", "Content-Length: 2, 2"] {
        let mut raw = Raw::connect(&edge).await;
        raw.send(format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{lines}\r\n\r\nok")).await;
        match raw.response().await.status {
            200 => assert_eq!(origin.last().fields.get("content-length"), Some("2")),
            status => assert_eq!(status, 400, "{lines:?}"),
        }
    }
}

#[tokio::test]
async fn a_transfer_encoding_other_than_one_chunked_is_refused() {
    const CODING: Outcome = (400, "transfer_encoding");
    const REAL: Outcome = (501, "transfer_coding");
    let none = [
        "",
        "chunked, chunked",
        ",chunked",
        "chunked,",
        "chunked;q=1",
        "\"chunked\"",
        "chunked identity",
        "chunke",
    ];
    let none = none.map(|value| post_with(&format!("Transfer-Encoding: {value}"), &[CODING, REAL]));
    let real = [
        "gzip",
        "deflate",
        "gzip, chunked",
        "compress, chunked",
        "chunked, gzip",
        "identity",
        "identity, chunked",
    ];
    let real = real.map(|value| post_with(&format!("Transfer-Encoding: {value}"), &[REAL, CODING]));
    let several = [
        post_with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", &[CODING]),
        post_with("Transfer-Encoding: chunked\r\ntransfer-encoding: identity", &[CODING, REAL]),
        post_with("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", &[CODING, REAL]),
        case("POST / HTTP/1.0\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[CODING]),
    ];
    all_are_refused(none.into_iter().chain(real).chain(several)).await;
}

#[tokio::test]
async fn a_real_transfer_coding_is_not_implemented() {
    all_are_refused(
        ["gzip", "gzip, chunked"]
            .map(|value| post_with(&format!("Transfer-Encoding: {value}"), &[(501, "transfer_coding")])),
    )
    .await;
}

#[tokio::test]
async fn a_length_together_with_a_transfer_encoding_is_refused() {
    const CONFLICT: Outcome = (400, "length_conflict");
    all_are_refused([
        post_with("Content-Length: 5\r\nTransfer-Encoding: chunked", &[CONFLICT]),
        post_with("Transfer-Encoding: chunked\r\nContent-Length: 5", &[CONFLICT]),
        post_with("Transfer-Encoding: Chunked\r\nX: y\r\ncontent-length: 0", &[CONFLICT]),
        with_fields("Content-Length: 0\r\nTransfer-Encoding: chunked", &[CONFLICT]),
    ])
    .await;
}

#[tokio::test]
async fn a_host_that_is_missing_doubled_or_none_is_refused() {
    const HOST: Outcome = (400, "host");
    let values = [
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "a\\b",
        "user@a",
        "user:pw@a",
        "a:b",
        "a:80:80",
        "a:99999",
        "<a>",
        "[::1",
        "::1",
        "[zz]",
        "a\"b",
        "http://a",
    ];
    let wrong = values.map(|v| case(format!("GET / HTTP/1.1\r\nHost: {v}\r\n\r\n"), &[HOST]));
    let several = [
        case("GET / HTTP/1.1\r\n\r\n", &[HOST]),
        case("GET / HTTP/1.1\r\nX: Host: a\r\n\r\n", &[HOST]),
        case("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[HOST]),
        case("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", &[HOST]),
        case("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", &[HOST]),
        case("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", &[HOST]),
    ];
    all_are_refused(wrong.into_iter().chain(several)).await;
}

#[tokio::test]
async fn an_absolute_target_that_disagrees_with_host_or_carries_userinfo_is_refused() {
    const HOST: Outcome = (400, "host");
    const TARGET: Outcome = (400, "target");
    all_are_refused([
        with_line("GET http://other.test/ HTTP/1.1", &[HOST]),
        with_line("GET http://shop.test:81/ HTTP/1.1", &[HOST]),
        with_line("GET http://user@shop.test/ HTTP/1.1", &[HOST, TARGET]),
        with_line("GET http://user:pw@shop.test/ HTTP/1.1", &[HOST, TARGET]),
        with_line("GET http://@shop.test/ HTTP/1.1", &[HOST, TARGET]),
        with_line("GET http://shop.test@other.test/ HTTP/1.1", &[HOST, TARGET]),
        with_line("GET http:///path HTTP/1.1", &[HOST, TARGET]),
        with_line("GET http:// HTTP/1.1", &[HOST, TARGET]),
        with_line("GET ftp://shop.test/ HTTP/1.1", &[TARGET]),
        with_line("GET http:shop.test/ HTTP/1.1", &[TARGET, HOST]),
        case("GET http://shop.test/ HTTP/1.1\r\n\r\n", &[HOST]),
    ])
    .await;
}

#[tokio::test]
async fn a_target_in_a_form_its_method_may_not_have_is_refused() {
    const TARGET: Outcome = (400, "target");
    all_are_refused([
        with_line("GET * HTTP/1.1", &[TARGET]),
        with_line("POST * HTTP/1.1", &[TARGET]),
        with_line("GET foo HTTP/1.1", &[TARGET]),
        with_line("GET shop.test:80 HTTP/1.1", &[TARGET]),
        with_line("GET shop.test HTTP/1.1", &[TARGET]),
        with_line("GET ?a=b HTTP/1.1", &[TARGET]),
        with_line("GET /a#b HTTP/1.1", &[TARGET]),
        with_line("OPTIONS *x HTTP/1.1", &[TARGET]),
        with_line("OPTIONS foo HTTP/1.1", &[TARGET]),
    ])
    .await;
}

#[tokio::test]
async fn connect_and_trace_are_refused_with_405() {
    const METHOD: Outcome = (405, "method");
    all_are_refused([
        case("CONNECT shop.test:443 HTTP/1.1\r\nHost: shop.test:443\r\n\r\n", &[METHOD]),
        case("CONNECT /x HTTP/1.1\r\nHost: shop.test\r\n\r\n", &[METHOD, (400, "target")]),
        with_line("TRACE / HTTP/1.1", &[METHOD]),
        with_line("TRACE /a HTTP/1.0", &[METHOD]),
        case("TRACE / HTTP/1.1\r\nHost: shop.test\r\nMax-Forwards: 0\r\n\r\n", &[METHOD]),
    ])
    .await;
}

#[tokio::test]
async fn connection_cannot_name_away_what_a_request_means() {
    const CONNECTION: Outcome = (400, "connection");
    let names = [
        "Host",
        "Content-Length",
        "Cookie",
        "Authorization",
        "close, host",
        "keep-alive,COOKIE",
        "x,, authorization",
    ];
    let mut cases: Vec<_> = names
        .iter()
        .map(|names| post_with(&format!("Connection: {names}\r\nContent-Length: 5"), &[CONNECTION]))
        .collect();
    cases.push(post_with("Connection: close\r\nConnection: cookie\r\nContent-Length: 5", &[CONNECTION]));
    all_are_refused(cases).await;
}

#[tokio::test]
async fn an_expectation_nobody_knows_is_refused_with_417() {
    all_are_refused([
        post_with("Expect: 200-ok\r\nContent-Length: 5", &[(417, "expectation")]),
        post_with("Expect: 100-continue, other\r\nContent-Length: 5", &[(417, "expectation")]),
    ])
    .await;
}

#[tokio::test]
async fn options_with_no_forwards_left_is_answered_here() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    for target in ["*", "/", "/any?x=y"] {
        let mut raw = Raw::connect(&edge).await;
        raw.send(format!("OPTIONS {target} HTTP/1.1\r\nHost: shop.test\r\nMax-Forwards: 0\r\n\r\n")).await;
        let answer = raw.response().await;
        assert!(matches!(answer.status, 200 | 204), "OPTIONS {target}: {answer:?}");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn options_with_forwards_left_reaches_the_origin_with_one_less() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("OPTIONS /a HTTP/1.1\r\nHost: shop.test\r\nMax-Forwards: 3\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    assert_eq!(origin.last().fields.get("max-forwards"), Some("2"));
}

#[tokio::test]
async fn a_refused_request_after_good_ones_ends_the_connection_after_their_answers() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    let good = "GET /1 HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    let bad = "GET /2 HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    raw.send(format!("{good}{bad}{good}")).await;
    assert_eq!(raw.response().await.status, 200);
    assert_eq!(raw.response().await.status, 400);
    raw.closed().await;
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn broken_chunk_framing_is_refused_and_never_complete_at_the_origin() {
    let bodies = [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a=b\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a=\0\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : bad\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
    ];
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut findings = Findings::default();
    for body in bodies {
        let before = edge.metric(REFUSALS).await;
        let mut raw = Raw::connect(&edge).await;
        raw.send(format!("POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))
            .await;
        match tokio::time::timeout(SOON, raw.try_response("POST")).await {
            Ok(Ok(answer)) if answer.status == 400 => {
                findings.expect(answer.fields.lists("connection", "close"), || {
                    format!("{body:?}: without Connection: close")
                });
                match tokio::time::timeout(SOON, raw.until_end()).await {
                    Ok((rest, _)) => {
                        findings
                            .expect(rest.is_empty(), || format!("{body:?}: more than one answer: {rest:?}"));
                    }
                    Err(_) => findings.expect(false, || format!("{body:?}: the connection is not closed")),
                }
                let now = edge.metric(REFUSALS).await;
                findings.expect(now == before + 1, || format!("{body:?}: not counted"));
            }
            other => findings.expect(false, || format!("{body:?}: {other:?}")),
        }
    }
    findings.expect(origin.count() == 0, || format!("complete at the origin: {:?}", origin.requests()));
    findings.report();
    assert!(edge.metric(&format!("{REFUSALS}{{reason=\"chunk\"}}")).await > 0);
}

#[tokio::test]
async fn what_is_unusual_but_unambiguous_passes() {
    let origin = Origin::replying(|request| Reply::ok(&request.target)).await;
    let edge = Edge::before(&origin).start().await;
    let mut findings = Findings::default();
    for (bytes, target) in [
        ("GET /a%2Fb//c?x=%41&y HTTP/1.1\r\nHost: shop.test\r\n\r\n", "/a%2Fb//c?x=%41&y"),
        ("GET /a?b=http://c/d?e HTTP/1.1\r\nHost: shop.test\r\n\r\n", "/a?b=http://c/d?e"),
        ("GET /x HTTP/1.1\r\nhOsT:SHOP.test:80  \r\n\r\n", "/x"),
        ("GET /x HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", "/x"),
        ("GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "/x"),
        ("GET http://shop.test/x?y HTTP/1.1\r\nHost: shop.test\r\n\r\n", "/x?y"),
        ("GET HTTP://shop.test:80/x HTTP/1.1\r\nHost: shop.test:80\r\n\r\n", "/x"),
        ("GET http://shop.test HTTP/1.1\r\nHost: shop.test\r\n\r\n", "/"),
        ("GET http://shop.test?y HTTP/1.1\r\nHost: shop.test\r\n\r\n", "/?y"),
        ("\r\nGET /x HTTP/1.1\r\nHost: shop.test\r\n\r\n", "/x"),
        ("PURGE /x HTTP/1.1\r\nHost: shop.test\r\n\r\n", "/x"),
        (
            "GET /x HTTP/1.1\r\nHost: shop.test\r\nX-Empty:\r\nX-Tab: a\tb\r\nX-Token!#$%&'*+.^_`|~: 1\r\n\r\n",
            "/x",
        ),
        ("POST /x HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding:  CHUNKED \r\n\r\n0\r\n\r\n", "/x"),
        ("POST /x HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 005\r\n\r\nhello", "/x"),
        ("GET /x HTTP/1.0\r\n\r\n", "/x"),
    ] {
        let mut raw = Raw::connect(&edge).await;
        match raw.send(bytes).await.try_response("GET").await {
            Ok(answer) => findings.expect(answer.status == 200 && answer.text() == target, || {
                format!("{bytes:?}: {} {:?}", answer.status, answer.text())
            }),
            Err(cut) => findings.expect(false, || format!("{bytes:?}: {cut:?}")),
        }
    }
    findings.report();
    for request in origin.requests() {
        assert!(request.fields.all("host").len() <= 1, "{request:?}");
    }
}

#[tokio::test]
async fn bytes_above_ascii_in_values_reach_the_origin_as_they_are() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send(b"GET / HTTP/1.1\r\nHost: shop.test\r\nX-Name: \xc3\xa9\xff\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    assert_eq!(origin.last().fields.get("x-name"), Some("\u{c3}\u{a9}\u{ff}"));
}
