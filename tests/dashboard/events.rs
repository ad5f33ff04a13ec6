//! The stream of events: what it shows, how many there may be, and that nobody can hold one up.

use serde_json::{Value, json};

use crate::support::{Client, Edge, Origin, Raw, Setup, eventually, within};

const JSON: &str = "Content-Type: application/json";

/// Streams that a node serves at a time.
const STREAMS: usize = 16;

/// A reader of `GET /v1/events`.
pub(crate) struct Events {
    raw: Raw,
    text: String,
}

impl Events {
    /// Asks for a stream; the status, and the reader of one that was given.
    async fn ask(edge: &Edge, fields: &str) -> (u16, Self) {
        let mut raw = Raw::to(edge.admin).await;
        raw.send(format!("GET /v1/events HTTP/1.1\r\nHost: {}\r\n{fields}\r\n", edge.admin)).await;
        let head = within("the head of the stream", raw.head()).await.unwrap();
        (head.status(), Self { raw, text: String::new() })
    }

    /// A stream that is given.
    pub(crate) async fn open(edge: &Edge) -> Self {
        let (status, events) = Self::ask(edge, "").await;
        assert_eq!(status, 200);
        events
    }

    /// The next picture.
    pub(crate) async fn next(&mut self) -> Value {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.strip_prefix("retry: 1000\nevent: picture\ndata: ");
                let picture = serde_json::from_str(data.unwrap_or_else(|| panic!("{event}"))).unwrap();
                self.text = rest.to_owned();
                return picture;
            }
            let chunk = async {
                let size = self.raw.line().await.unwrap();
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                let mut data = self.raw.exactly(size + 2).await.unwrap();
                data.truncate(size);
                String::from_utf8(data).unwrap()
            };
            self.text += &within("a chunk", chunk).await;
        }
    }

    /// Waits for a picture of which this holds.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..30 {
            let picture = self.next().await;
            if holds(&picture) {
                return picture;
            }
        }
        panic!("thirty pictures, and none with {what}");
    }
}

/// Two zones with a target each.
pub(crate) async fn two_zones() -> (Vec<Origin>, Setup) {
    let origins = vec![Origin::named("az-a-1").await, Origin::named("az-b-1").await];
    let setup = Setup::default()
        .target_with(&origins[0], "zone = \"az-a\"")
        .target_with(&origins[1], "zone = \"az-b\"")
        .pool("stickiness.mode = \"lb_cookie\"");
    (origins, setup)
}

/// Changes something by the admin API.
pub(crate) async fn change(edge: &Edge, method: &str, path: &str, body: &Value) -> Value {
    let mut client = Client::to(edge.admin);
    client.host = edge.admin.to_string();
    let answer =
        client.request(method, path, &[JSON, "Connection: close"], body.to_string().as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test]
async fn a_stream_shows_at_once_and_then_each_second_what_is() {
    let (origins, setup) = two_zones().await;
    let edge = setup.start().await;
    let mut events = Events::open(&edge).await;
    let first = events.next().await;
    assert_eq!(first["node"]["phase"], "serving");
    assert_eq!(first["dns"], Value::Null);
    assert_eq!(first["pools"][0]["zones"][0]["state"], "ok");
    let second = events.next().await;
    let uptime = |picture: &Value| picture["node"]["uptime_seconds"].as_f64().unwrap();
    assert!(uptime(&second) > uptime(&first), "another picture");

    let target = format!("az-b/{}", origins[1].address);
    let path = format!("/v1/pools/shop/targets/{target}/state");
    change(&edge, "PUT", &path, &json!({ "state": "drain", "deadline": "10m" })).await;
    change(
        &edge,
        "PUT",
        "/v1/zones/az-a/shift",
        &json!({ "for": "1h", "force": true, "comment": "a drill" }),
    )
    .await;
    let picture = events
        .until("a shift and a drain", |picture| {
            let pool = &picture["pools"][0];
            pool["zones"][0]["state"] == "shifted" && pool["targets"][1]["status"] == "draining"
        })
        .await;
    let (zone, target) = (&picture["pools"][0]["zones"][0], &picture["pools"][0]["targets"][1]);
    assert_eq!((&zone["reason"], &zone["evacuated"]), (&json!("a drill"), &json!(100.0)));
    let left = zone["left_seconds"].as_f64().unwrap();
    assert!((3500.0..=3600.0).contains(&left), "{left}");
    assert_eq!(target["drain"]["by"], "operator");
    let left = target["drain"]["left_seconds"].as_f64().unwrap();
    assert!((500.0..=600.0).contains(&left), "{left}");
    assert_eq!(picture["pools"][0]["targets"][0]["drain"], Value::Null);
}

#[tokio::test]
async fn a_zone_that_is_evacuated_slowly_says_how_far_it_is() {
    let (_origins, setup) = two_zones().await;
    let edge = setup.pool("zones.evacuate = \"2%/s\"").start().await;
    let mut events = Events::open(&edge).await;
    change(&edge, "PUT", "/v1/zones/az-a/shift", &json!({ "for": "1h", "force": true })).await;
    let evacuated = |picture: &Value| picture["pools"][0]["zones"][0]["evacuated"].as_f64().unwrap();
    let some = events.until("some evacuated", |picture| (0.1..50.0).contains(&evacuated(picture))).await;
    events.until("more evacuated", |picture| evacuated(picture) > evacuated(&some)).await;
}

#[tokio::test]
async fn so_many_streams_are_served_and_one_that_is_closed_makes_room() {
    let (_origins, setup) = two_zones().await;
    let edge = setup.start().await;
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        streams.push(Events::open(&edge).await);
    }
    let refused = edge.admin("/v1/events").await;
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("too_many_streams"), "{}", refused.text());
    assert_eq!(edge.admin("/v1/pools").await.status, 200, "the rest of the API goes on");
    drop(streams.pop());
    eventually("a place", async || Events::ask(&edge, "").await.0 == 200).await;
    streams[0].next().await;
}

#[tokio::test]
async fn a_page_from_elsewhere_gets_no_stream() {
    let (_origins, setup) = two_zones().await;
    let edge = setup.start().await;
    for (fields, status) in [
        ("Origin: http://evil.example\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: image\r\n", 403),
        ("Sec-Fetch-Site: same-site\r\nSec-Fetch-Dest: empty\r\n", 403),
        ("Sec-Fetch-Site: same-origin\r\nSec-Fetch-Dest: empty\r\n", 200),
        ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n", 200),
    ] {
        assert_eq!(Events::ask(&edge, fields).await.0, status, "{fields}");
    }
}
