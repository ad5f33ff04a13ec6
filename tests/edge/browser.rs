//! A real browser: its WebSocket goes through, and it is told when the target leaves. Runs Chromium, or Chrome.

use std::time::Duration;

use super::tunnel_ends::set;
use crate::support::chromium::Chromium;
use crate::support::websocket::{CLOSE, frame, next, switch};
use crate::support::{Authority, Edge, Origin, Reply};

/// Opens a WebSocket, and reports what becomes of it by requests.
const PAGE: &str = r#"<!doctype html><title>chat</title><script>
const socket = new WebSocket(location.origin.replace("http", "ws") + "/chat");
const report = (what) => fetch("/report?" + encodeURIComponent(what));
socket.onopen = () => socket.send("hello from a browser");
socket.onmessage = (message) => report("heard " + message.data);
socket.onclose = (close) => report(`closed ${close.code} ${close.reason} ${close.wasClean}`);
</script>"#;

/// Waits for the page to report this: browsers start slowly on a busy machine.
async fn reported(pages: &Origin, what: &str) {
    let target = format!("/report?{}", what.replace(' ', "%20"));
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    let waiting = async {
        while !pages.requests().iter().any(|request| request.target == target) {
            tick.tick().await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    let targets: Vec<_> = pages.requests().into_iter().map(|request| request.target).collect();
    assert!(seen.is_ok(), "{target} was not asked for, but {targets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browsers_websocket_echoes_and_is_told_that_its_target_leaves() {
    let ca = Authority::new("ca");
    for (scheme, listener) in
        [("http", String::new()), ("https", ca.issue("shop", &["127.0.0.1"]).listener())]
    {
        let chat = Origin::raw(async |mut conn| {
            if switch(&mut conn).await.is_none() {
                return;
            }
            while let Ok(heard) = next(&mut conn, true).await {
                if heard.opcode == CLOSE {
                    conn.send(frame(CLOSE, None, &heard.payload[..2])).await;
                    conn.until_end().await;
                    return;
                }
                conn.send(frame(heard.opcode, None, &heard.payload)).await;
            }
        })
        .await;
        let pages = Origin::replying(|_| Reply::ok(PAGE).field("Content-Type: text/html")).await;
        let edge = Edge::before(&chat)
            .listener(&listener)
            .route("path = \"/chat\"")
            .and(&format!(
                "[[route]]\npool = \"pages\"\n[pool.pages]\nhealth.enabled = false\nstickiness.mode = \"off\"\n\
                 [[pool.pages.target]]\naddress = \"{pages}\""
            ))
            .start()
            .await;
        let _browser = Chromium::open(&format!("{scheme}://{}/", edge.web)).await;
        reported(&pages, "heard hello from a browser").await;
        set(&edge, &chat, "{\"state\":\"drain\",\"deadline\":\"2s\"}").await;
        reported(&pages, "closed 1001 going away true").await;
        edge.counts("selvedge_tunnels_closed_total{reason=\"drain\"}", 1).await;
    }
}
