//! What origins may not answer: nonsense is a 502 with a reason, its connection is never used again, nobody gets a stranger's
//! answer, and a truncated answer never looks complete.

use std::sync::Arc;

use crate::support::message::Framing;
use crate::support::origin::Tally;
use crate::support::{Client, Cut, Edge, End, Findings, Gate, Origin, Raw, all, eventually};

const FAILURES: &str = "selvedge_target_failures_total";

/// Sends POSTs (which are never repeated) to origins of which each answers them all with its bytes.
async fn each_is_a_502(answers: &[&[u8]]) {
    let mut origins = Vec::new();
    for bytes in answers {
        origins.push(Origin::answering(bytes).await);
    }
    let edge = Edge::before_each(&origins).start().await;
    let mut findings = Findings::default();
    for (index, (bytes, origin)) in answers.iter().zip(&origins).enumerate() {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
        for number in 1..=2 {
            match Client::of(&edge).try_request("POST", &format!("/{index}"), &[], b"x").await {
                Ok(answer) => findings.expect(answer.status == 502, || {
                    format!("{shown:?}: {} {:?} instead of 502", answer.status, answer.text())
                }),
                Err(cut) => findings.expect(false, || format!("{shown:?}: {cut:?} instead of 502")),
            }
            findings.expect(origin.connections() == number, || {
                format!("{shown:?}: {} connections for {number} requests", origin.connections())
            });
        }
        findings
            .expect(origin.count() == 2, || format!("{shown:?}: {} requests for 2 POSTs", origin.count()));
        let counted = edge.metric(&format!("{FAILURES}{{pool=\"p{index}\",reason=\"protocol\"}}")).await;
        findings.expect(counted == 2, || {
            format!("{shown:?}: counted {counted} times as protocol failure, not twice")
        });
    }
    findings.report();
}

#[tokio::test]
async fn nonsense_is_a_502() {
    each_is_a_502(&[
        b"nonsense\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x28\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn an_answer_with_broken_fields_is_a_502() {
    each_is_a_502(&[
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\rY: b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nBad Name: a\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok",
    ])
    .await;
}

#[tokio::test]
async fn an_answer_whose_length_is_unclear_is_a_502() {
    each_is_a_502(&[
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok!",
        b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn a_folded_field_in_an_answer_does_not_reach_the_client() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nX: a\r\n  b\r\nContent-Length: 2\r\n\r\nok").await;
    let edge = Edge::before(&origin).start().await;
    let answer = Client::of(&edge).post("/", b"x").await;
    // RFC 9112 5.2 lets a proxy refuse the answer or join the lines.
    assert!(
        answer.status == 502 || answer.fields.get("x").is_some_and(|x| x.starts_with("a ")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_space_before_a_colon_in_an_answer_does_not_reach_the_client() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok").await;
    let edge = Edge::before(&origin).start().await;
    let answer = Client::of(&edge).post("/", b"x").await;
    assert!(answer.status == 502 || answer.fields.get("x") == Some("a"), "{answer:?}");
}

#[tokio::test]
async fn an_endless_head_is_a_502() {
    let filler = format!("X-Filler: {}\r\n", "x".repeat(1000));
    for start in ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 "] {
        let filler = filler.clone();
        let origin = Origin::raw(move |mut conn| {
            let filler = filler.clone();
            async move {
                conn.request().await;
                conn.send(start).await;
                while conn.try_send(&filler).await.is_ok() {}
            }
        })
        .await;
        let edge = Edge::before(&origin).start().await;
        assert_eq!(Client::of(&edge).post("/", b"x").await.status, 502);
        edge.counts(&format!("{FAILURES}{{reason=\"protocol\"}}"), 1).await;
    }
}

#[tokio::test]
async fn endless_interim_answers_are_a_502() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        while conn.try_send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").await.is_ok() {}
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let answer = Client::of(&edge).post("/", b"x").await;
    assert_eq!(answer.status, 502);
    assert!(answer.interim.len() < 1000, "{} interim answers", answer.interim.len());
}

#[tokio::test]
async fn an_unasked_101_is_a_502() {
    each_is_a_502(&[
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ])
    .await;
}

#[tokio::test]
async fn an_origin_that_closes_without_an_answer_is_a_502() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    assert_eq!(Client::of(&edge).post("/", b"x").await.status, 502);
    assert_eq!(origin.count(), 1);
    edge.counts(&format!("{FAILURES}{{reason=\"reset\"}}"), 1).await;
}

#[tokio::test]
async fn a_head_that_ends_early_is_a_502() {
    for partial in ["H", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"] {
        let origin = Origin::raw(move |mut conn| async move {
            conn.request().await;
            conn.send(partial).await;
        })
        .await;
        let edge = Edge::before(&origin).start().await;
        assert_eq!(Client::of(&edge).post("/", b"x").await.status, 502, "{partial:?}");
        assert_eq!(edge.metric(FAILURES).await, 1);
    }
}

/// The client's view of an answer that breaks off.
async fn cut_answer(answer: &'static [u8], request: &str) -> Cut {
    let origin = Origin::raw(move |mut conn| async move {
        conn.request().await;
        conn.send(answer).await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send(request).await;
    let cut = raw.cut().await;
    edge.counts(&format!("{FAILURES}{{reason=\"reset\"}}"), 1).await;
    cut
}

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const OLD_GET: &str = "GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n";

#[tokio::test]
async fn an_answer_shorter_than_its_length_is_cut() {
    let cut = cut_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", GET).await;
    assert_eq!(cut.head.expect("the head passes").framing(Some("GET")), Framing::Length(10));
    assert_eq!(cut.body, b"hello", "what came before the cut is the client's");
}

#[tokio::test]
async fn a_chunked_answer_without_its_last_chunk_is_cut() {
    for answer in [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".as_slice(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello",
    ] {
        let cut = cut_answer(answer, GET).await;
        assert_eq!(cut.body, b"hello", "{:?}", String::from_utf8_lossy(answer));
    }
}

#[tokio::test]
async fn a_truncated_answer_to_http_1_0_ends_in_a_reset() {
    // Without a length, an orderly end is all that tells a complete answer from a truncated one.
    let cut =
        cut_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", OLD_GET).await;
    assert_eq!(cut.end, End::Reset);
}

#[tokio::test]
async fn a_close_delimited_answer_that_ends_in_a_reset_is_cut() {
    for request in [GET, OLD_GET] {
        let gate = Gate::closed();
        let at_origin = gate.clone();
        let origin = Origin::raw(move |mut conn| {
            let gate = at_origin.clone();
            async move {
                conn.request().await;
                conn.send("HTTP/1.1 200 OK\r\nX: y\r\n\r\nhello").await;
                gate.pass().await;
                conn.reset();
            }
        })
        .await;
        let edge = Edge::before(&origin).start().await;
        let mut raw = Raw::connect(&edge).await;
        raw.send(request).await;
        let framing = raw.head().await.expect("the head passes").framing(Some("GET"));
        gate.open();
        let end = raw.body(framing, &mut Vec::new()).await.expect_err("a truncated answer looks complete");
        assert!(framing == Framing::Chunked || end == End::Reset, "{framing:?}");
    }
}

#[tokio::test]
async fn broken_chunks_in_an_answer_cut_it() {
    for answer in [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n"
            .as_slice(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld!\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n-1\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n10000000000000000\r\n",
    ] {
        let origin = Origin::answering(answer).await;
        let edge = Edge::before(&origin).start().await;
        let mut raw = Raw::connect(&edge).await;
        raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 0\r\n\r\n").await;
        match raw.try_response("POST").await {
            Ok(answer) => assert_eq!(answer.status, 502, "{answer:?}"),
            Err(cut) => assert!(cut.body.is_empty() || cut.body.starts_with(b"hello"), "{cut:?}"),
        }
        edge.counts(&format!("{FAILURES}{{reason=\"protocol\"}}"), 1).await;
        assert_eq!(Client::of(&edge).try_request("POST", "/", &[], b"").await.map_or(502, |a| a.status), 502);
        assert_eq!(origin.connections(), 2, "a broken connection was used again");
    }
}

#[tokio::test]
async fn bytes_after_a_complete_answer_reach_nobody() {
    const STRANGER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nstranger";
    let complete = [
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown"),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nown\r\n0\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"),
    ];
    let mut cases = Vec::new();
    let mut origins = Vec::new();
    for (method, own) in complete {
        for surplus in [STRANGER, "stranger", "\r\n"] {
            cases.push((method, own, surplus));
            origins.push(Origin::answering(format!("{own}{surplus}")).await);
        }
    }
    let edge = Edge::before_each(&origins).start().await;
    let mut findings = Findings::default();
    for (index, ((method, own, surplus), origin)) in cases.into_iter().zip(&origins).enumerate() {
        for _ in 0..3 {
            let mut raw = Raw::connect(&edge).await;
            raw.send(format!("{method} /{index} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"))
                .await;
            let (bytes, _) = raw.until_end().await;
            let text = String::from_utf8_lossy(&bytes);
            findings.expect(!text.contains("stranger") && text.matches("HTTP/1.1 ").count() == 1, || {
                format!("{method}, {own:?} + {surplus:?}: the client received {text:?}")
            });
        }
        findings.expect(origin.connections() == 3, || {
            format!("{method}, {own:?} + {surplus:?}: {} connections for 3 requests", origin.connections())
        });
    }
    findings.report();
}

#[tokio::test]
async fn an_answer_on_an_idle_connection_reaches_nobody() {
    let gate = Gate::closed();
    let sent = Tally::default();
    let (at_origin, count) = (gate.clone(), sent.clone());
    let origin = Origin::raw(move |mut conn| {
        let (gate, sent) = (at_origin.clone(), count.clone());
        async move {
            let first = conn.number == 1;
            while conn.request().await.is_some() {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown").await;
                if first {
                    gate.pass().await;
                    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nstranger").await;
                    sent.add("stranger");
                }
            }
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Client::of(&edge);
    assert_eq!(client.get("/").await.text(), "own");
    gate.open();
    eventually("the stranger's answer to be sent", async || sent.of("stranger") == 1).await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.text(), "own");
        assert_eq!(Client::of(&edge).get("/").await.text(), "own");
    }
}

#[tokio::test]
async fn many_clients_of_a_broken_origin_never_get_each_others_answers() {
    // Every third answer carries surplus bytes, every fifth is cut, every seventh connection is reset after its answer.
    let tally = Arc::new(Tally::default());
    let origin = Origin::raw(move |mut conn| {
        let tally = tally.clone();
        async move {
            while let Some(request) = conn.request().await {
                let number = tally.add("requests");
                let own = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}",
                    request.target.len(),
                    request.target
                );
                let cut = if number.is_multiple_of(5) { own.len() - 2 } else { own.len() };
                conn.send(&own[..cut]).await;
                if number.is_multiple_of(3) && cut == own.len() {
                    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n/stranger").await;
                }
                if number.is_multiple_of(7) {
                    conn.reset();
                }
                if cut < own.len() || number.is_multiple_of(7) {
                    return;
                }
            }
        }
    })
    .await;
    let edge = Edge::before(&origin).top("workers = 2").start().await;
    let clients = (0..8).map(|client| {
        let mut connection = Client::of(&edge);
        async move {
            let mut complete = 0;
            for number in 0..60 {
                let target = format!("/{client}/{number}");
                if let Ok(answer) = connection.try_request("GET", &target, &[], b"").await {
                    assert!(answer.status == 502 || answer.text() == target, "{target} got {answer:?}");
                    complete += usize::from(answer.status == 200);
                }
            }
            complete
        }
    });
    let complete: usize = all(clients).await.into_iter().sum();
    assert!(complete > 240, "only {complete} of 480 requests were answered");
}
