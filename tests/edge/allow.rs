//! A listener's security group: who is not listed is closed at accept, before a byte is read.

use crate::support::{Client, Edge, Origin, Raw};

#[tokio::test]
async fn a_source_that_is_not_listed_is_closed_at_accept() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("allow = [\"127.0.0.2/32\", \"127.0.5.0/24\"]").start().await;
    for source in ["127.0.0.2", "127.0.5.200"] {
        assert_eq!(Client::of(&edge).from(source).get("/").await.status, 200, "{source}");
    }
    for (number, source) in ["127.0.0.1", "127.0.0.3", "127.0.6.1"].into_iter().enumerate() {
        let mut raw = Raw::from(&edge, source).await;
        raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        let (bytes, _) = raw.until_end().await;
        assert!(bytes.is_empty(), "{source}: {bytes:?}");
        edge.counts("selvedge_connections_denied_total", number as u64 + 1).await;
    }
    assert_eq!(origin.count(), 2);
    edge.counts("selvedge_connections_open", 0).await;
}

#[tokio::test]
async fn a_claimed_source_does_not_open_the_door() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .listener("allow = [\"127.0.0.2/32\"]\ntrusted = [\"127.0.0.0/8\"]")
        .start()
        .await;
    let mut raw = Raw::from(&edge, "127.0.0.1").await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 127.0.0.2\r\n\r\n").await;
    assert!(raw.until_end().await.0.is_empty());
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn denied_connections_leave_room_for_others() {
    let origin = Origin::start().await;
    let edge =
        Edge::before(&origin).listener("allow = [\"127.0.0.2/32\"]\nmax_connections = 1").start().await;
    let mut denied = Vec::new();
    for _ in 0..10 {
        denied.push(Raw::from(&edge, "127.0.0.1").await);
    }
    assert_eq!(Client::of(&edge).from("127.0.0.2").get("/").await.status, 200);
}
