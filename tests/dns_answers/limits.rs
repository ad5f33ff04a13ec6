//! What many questions, slow clients and noise can do: little.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::Answering;
use super::ask::{A, Ask, Connection, TXT, addresses, read, tcp, udp};
use crate::support::{eventually, within};

const ONE_NODE: &str = "domain = \"lb.test\"\nhealth.enabled = false\n[[dns.name_server]]\nname = \"ns.test\"\n\
                        [[dns.node]]\nipv4 = \"192.0.2.1\"\n";

/// Asks `count` times at once from one socket; how many answers were whole, and how many were empty.
async fn burst(dns: std::net::SocketAddr, count: usize) -> (usize, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(dns).await.unwrap();
    let query = Ask::new("lb.test", A).bytes();
    for _ in 0..count {
        socket.send(&query).await.unwrap();
    }
    let (mut whole, mut empty) = (0, 0);
    let mut answer = [0; 512];
    while let Ok(Ok(length)) = timeout(Duration::from_millis(500), socket.recv(&mut answer)).await {
        let answer = read(&answer[..length]);
        if answer.truncation {
            assert!(answer.answers.is_empty() && length == query.len(), "{answer}");
            empty += 1;
        } else {
            assert_eq!(answer.answers.len(), 1);
            whole += 1;
        }
    }
    (whole, empty)
}

#[tokio::test]
async fn a_flood_from_one_neighbourhood_gets_what_the_limit_says() {
    let lines = format!("rate_limit = {{ responses = 20, slip = 4 }}\n{ONE_NODE}");
    let Answering { edge, dns } = Answering::start(&lines).await;
    let begun = Instant::now();
    let (whole, empty) = burst(dns, 400).await;
    let earned = 20.0 * (1.0 + begun.elapsed().as_secs_f64());
    assert!((20..=earned as usize + 1).contains(&whole), "{whole} whole answers, {earned} earned");
    assert!((380 - whole + 20) / 4 >= empty && empty >= 50, "{empty} empty answers");
    assert_eq!(addresses(&tcp(dns, &Ask::new("lb.test", A)).await), ["192.0.2.1"], "over TCP all is well");
    let [truncated, dropped] = [
        edge.metric("selvedge_dns_limited_total{action=\"truncated\"}").await,
        edge.metric("selvedge_dns_limited_total{action=\"dropped\"}").await,
    ];
    assert_eq!((truncated as usize, (truncated + dropped) as usize), (empty, 400 - whole));
    assert_eq!(edge.metric("selvedge_dns_queries_total{transport=\"udp\"}").await, 400);
}

#[tokio::test]
async fn who_is_exempt_or_without_a_limit_gets_all_answers() {
    for limit in ["{ responses = 1, exempt = [\"127.0.0.0/8\"] }", "{ responses = \"off\" }"] {
        let Answering { edge: _edge, dns } =
            Answering::start(&format!("rate_limit = {limit}\n{ONE_NODE}")).await;
        assert_eq!(burst(dns, 100).await, (100, 0), "{limit}");
    }
}

#[tokio::test]
async fn a_connection_takes_many_queries_in_any_pieces_and_answers_in_their_order() {
    let Answering { edge: _edge, dns } = Answering::start(ONE_NODE).await;
    let mut connection = Connection::open(dns).await;
    let mut bytes = Vec::new();
    for id in 0..50 {
        let query = Ask::new("lb.test", if id % 2 == 0 { A } else { TXT }).id(id).bytes();
        bytes.extend((query.len() as u16).to_be_bytes());
        bytes.extend(query);
    }
    for piece in bytes.chunks(7) {
        connection.0.write_all(piece).await.unwrap();
    }
    for id in 0..50 {
        let answer = read(&connection.receive().await.unwrap());
        assert_eq!((answer.id, answer.answers.len()), (id, usize::from(id % 2 == 0)));
    }
}

#[tokio::test]
async fn a_connection_that_asks_nothing_or_not_to_the_end_is_closed() {
    let Answering { edge, dns } = Answering::start(&format!("idle = \"200ms\"\n{ONE_NODE}")).await;
    for start in [&b""[..], b"\0", b"\0\x20half a query"] {
        let mut connection = Connection::open(dns).await;
        connection.0.write_all(start).await.unwrap();
        assert!(connection.receive().await.is_none(), "{start:?}");
    }
    edge.counts("selvedge_dns_connections_open", 0).await;
}

#[tokio::test]
async fn a_connection_with_noise_is_closed() {
    let Answering { edge: _edge, dns } = Answering::start(ONE_NODE).await;
    for noise in [&b"\0\0"[..], b"\0\x03abc", b"\xff\xff", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut connection = Connection::open(dns).await;
        connection.0.write_all(noise).await.unwrap();
        let mut rest = Vec::new();
        // A reset is an end too: the server has not read all.
        let _ = within("the end", connection.0.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{noise:?}: {rest:?}");
    }
}

#[tokio::test]
async fn nobody_is_kept_out_by_connections_that_are_held() {
    let Answering { edge, dns } = Answering::start(&format!("max_connections = 4\n{ONE_NODE}")).await;
    let mut held = Vec::new();
    for number in 0..4 {
        let mut connection = Connection::open(dns).await;
        connection.send(&Ask::new("lb.test", A).id(number).bytes()).await;
        assert!(connection.receive().await.is_some());
        held.push(connection);
    }
    // The first is used again, so the second is the one unused for longest.
    held[0].send(&Ask::new("lb.test", A).bytes()).await;
    assert!(held[0].receive().await.is_some());
    assert_eq!(addresses(&tcp(dns, &Ask::new("lb.test", A)).await), ["192.0.2.1"]);
    assert!(held[1].receive().await.is_none(), "closed for the new one");
    for number in [0, 2, 3] {
        held[number].send(&Ask::new("lb.test", A).bytes()).await;
        assert!(held[number].receive().await.is_some(), "{number} is still open");
    }
    edge.counts("selvedge_dns_connections_displaced_total", 1).await;
    drop(held);
    edge.counts("selvedge_dns_connections_open", 0).await;
    for _ in 0..20 {
        Connection::open(dns).await;
    }
    assert_eq!(addresses(&tcp(dns, &Ask::new("lb.test", A)).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn noise_is_not_answered_and_harms_nobody() {
    let Answering { edge, dns } =
        Answering::start(&format!("rate_limit.responses = \"off\"\n{ONE_NODE}")).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(dns).await.unwrap();
    let query = Ask::new("lb.test", A).edns().bytes();
    let mut state = 1u32;
    for round in 0..2000usize {
        // Bytes that look random, with a good query before them half of the time, or with its bytes changed.
        let mut bytes = if round % 2 == 0 { query.clone() } else { Vec::new() };
        for at in 0..round % 97 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let byte = (state >> 24) as u8;
            match bytes.get_mut(at * 7) {
                Some(old) if round % 4 == 0 => *old = byte,
                _ => bytes.push(byte),
            }
        }
        socket.send(&bytes).await.unwrap();
    }
    assert_eq!(addresses(&udp(dns, &Ask::new("lb.test", A)).await), ["192.0.2.1"]);
    eventually("all of it to be read", async || edge.metric("selvedge_dns_queries_total").await >= 1000)
        .await;
    assert_eq!(edge.metric("selvedge_dns_panics_total").await, 0);
    assert!(edge.metric("selvedge_dns_ignored_total").await > 100);
    assert!(edge.metric("selvedge_dns_responses_total{rcode=\"formerr\"}").await > 100);
}
