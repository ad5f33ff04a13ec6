//! Listeners over a reload: those that stay keep their sockets, new ones are bound first, old ones let their clients finish.

use std::net::TcpListener;

use crate::support::wire::Wire;
use crate::support::{Client, Edge, Gate, Origin, Raw, Reply, Setup, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// `name` on a port that is free.
fn listener(name: &str, keys: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n{keys}\n")
}

fn before(origin: &Origin) -> Setup {
    Edge::before(origin).top("watch = false\nworkers = 2")
}

#[tokio::test]
async fn a_new_listener_serves_and_one_that_stays_keeps_its_sockets() {
    let origin = Origin::start().await;
    let mut edge = before(&origin).start().await;
    let sockets = edge.listening(edge.web.port());
    assert_eq!(sockets.len(), 2, "one for each worker");
    edge.becomes(&before(&origin).and(&listener("second", "")).text()).await;
    let second = edge.address_of("second").await;
    assert_eq!(Client::to(second).get("/").await.status, 200);
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
    assert_eq!(edge.listening(edge.web.port()), sockets);
    assert_eq!(edge.listening(second.port()).len(), 2);
    let shown = edge.admin("/v1/pools").await.text();
    assert!(shown.contains(&second.to_string()) && shown.contains(&edge.web.to_string()), "{shown}");
}

#[tokio::test]
async fn a_removed_listener_closes_and_its_clients_finish() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            while let Some(request) = conn.request().await {
                if request.target == "/held" {
                    gate.pass().await;
                }
                conn.send(Reply::ok("finished").bytes(&request.method)).await;
            }
        }
    })
    .await;
    let mut edge = before(&origin).and(&listener("second", "")).start().await;
    let second = edge.address_of("second").await;
    let mut idle = Raw::to(second).await;
    idle.send(GET).await;
    assert_eq!(idle.response().await.status, 200);
    let mut busy = Raw::to(second).await;
    busy.send("GET /held HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let mut elsewhere = Raw::connect(&edge).await;
    elsewhere.send(GET).await;
    assert_eq!(elsewhere.response().await.status, 200);
    origin.received(3).await;
    edge.becomes(&before(&origin).text()).await;
    eventually("the listener to be closed", async || Wire::connect(second, None).await.is_err()).await;
    assert!(edge.listening(second.port()).is_empty());
    idle.closed().await;
    gate.open();
    let answer = busy.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "finished"));
    assert!(answer.fields.lists("connection", "close"), "{answer:?}");
    busy.closed().await;
    elsewhere.send(GET).await;
    assert!(
        !elsewhere.response().await.fields.lists("connection", "close"),
        "the other listener is as it was"
    );
    edge.logged(&["no longer listening", "second"]).await;
    assert_eq!(edge.stop_gracefully().await.code(), Some(0));
}

#[tokio::test]
async fn who_had_connected_to_a_removed_listener_is_still_served() {
    let origin = Origin::start().await;
    let mut edge = before(&origin).and(&listener("second", "")).start().await;
    let second = edge.address_of("second").await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut raw = Raw::to(second).await;
        raw.send(GET).await;
        clients.push(raw);
    }
    edge.becomes(&before(&origin).text()).await;
    for raw in &mut clients {
        assert_eq!(raw.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_taken_address_refuses_the_whole_reload() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let origin = Origin::start().await;
    let mut edge = before(&origin).start().await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let good = format!("[[listener]]\nname = \"good\"\naddress = \"{free}\"\n");
    let bad = format!("[[listener]]\nname = \"bad\"\naddress = \"{address}\"\n");
    let route = "[[route]]\npath = \"/new\"\nrespond = { status = 204 }\n";
    let sockets = edge.listening(edge.web.port());
    edge.write(&before(&origin).and(&good).and(&bad).and(route).text());
    let refused = edge.reload().await;
    let text = refused.text();
    assert_eq!(refused.status, 409, "{text}");
    assert!(text.contains("listener_not_bound") && text.contains("listener bad: cannot listen on"), "{text}");
    assert!(text.contains("another process listens there"), "{text}");
    assert!(Wire::connect(free, None).await.is_err(), "what was bound for it is let go");
    assert_eq!(Client::of(&edge).get("/new").await.origin(), "origin", "the routes are the old ones");
    assert_eq!((edge.listening(edge.web.port()), edge.generation().await), (sockets, 1));
    drop(taken);
    assert_eq!(edge.reload().await.status, 200);
    assert_eq!(Client::to(address).get("/new").await.status, 204);
    assert_eq!(edge.address_of("good").await, free);
}

#[tokio::test]
async fn options_of_a_listener_hold_for_connections_made_after_the_reload() {
    let origin = Origin::start().await;
    let edge = before(&origin).start().await;
    let sockets = edge.listening(edge.web.port());
    let long = format!("X: {}", "x".repeat(3000));
    let mut old = Client::of(&edge);
    assert_eq!(old.get_with("/", &[&long]).await.status, 200);
    edge.becomes(&before(&origin).listener("max_head = \"1KiB\"").text()).await;
    assert_eq!(old.get_with("/", &[&long]).await.status, 200);
    assert_eq!(old.connects, 1);
    assert_eq!(Client::of(&edge).get_with("/", &[&long]).await.status, 431);
    edge.becomes(&before(&origin).listener("allow = [\"127.0.0.9/32\"]").text()).await;
    assert!(Client::of(&edge).try_request("POST", "/", &[], b"").await.is_err(), "closed at accept");
    assert_eq!(Client::of(&edge).from("127.0.0.9").get("/").await.status, 200);
    assert_eq!(edge.listening(edge.web.port()), sockets);
}

#[tokio::test]
async fn a_renamed_listener_keeps_its_sockets_and_a_moved_one_has_both_for_a_moment() {
    let origin = Origin::start().await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let of = |name: &str, ip: &str| {
        let text = before(&origin).text();
        text.replace("name = \"web\"", &format!("name = \"{name}\"")).replacen(
            "127.0.0.1:0",
            &format!("{ip}:{port}"),
            1,
        )
    };
    let edge = Edge::start(&of("web", "127.0.0.1")).await;
    assert_eq!(edge.web.port(), port);
    let sockets = edge.listening(port);
    edge.becomes(&of("front", "127.0.0.1")).await;
    assert_eq!(edge.listening(port), sockets);
    let mut open = Client::of(&edge);
    assert_eq!(open.get("/").await.status, 200);
    edge.becomes(&of("front", "0.0.0.0")).await;
    assert_eq!(Client::of(&edge).get("/").await.status, 200, "the port was ours, so it is no stranger's");
    assert_eq!(Client::to(([127, 0, 0, 5], port).into()).get("/").await.status, 200);
    eventually("the old sockets to be gone", async || {
        edge.listening(port).iter().all(|socket| !sockets.contains(socket))
    })
    .await;
}
