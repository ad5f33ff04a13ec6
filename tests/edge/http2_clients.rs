//! Clients that others wrote: curl, nghttp and h2load agree that this is HTTP/2.

use std::process::Stdio;

use crate::support::tls::curl;
use crate::support::{Authority, Edge, Origin, Reply, within};

/// Runs a program; its exit code, and what it wrote.
async fn run(program: &str, arguments: &[&str]) -> (i32, String) {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = within(program, command.output()).await.unwrap_or_else(|_| {
        panic!("{program} is not installed: see tests/run.sh");
    });
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn curl_speaks_all_three_ways() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await;
    let plain = Edge::before(&origin).start().await;
    let tls = Edge::before(&origin).listener(&ca.issue("shop", &["shop.test"]).listener()).start().await;
    let written = ["--write-out", " %{http_version}"];
    for (edge, scheme, option, version) in [
        (&plain, "http", "--http2-prior-knowledge", "2"),
        (&plain, "http", "--http2", "1.1"),
        (&plain, "http", "--http1.1", "1.1"),
        (&tls, "https", "--http2", "2"),
        (&tls, "https", "--http1.1", "1.1"),
    ] {
        let url = format!("{scheme}://shop.test:{}/", edge.web.port());
        let arguments = [&[option, &url, "--data", "x"][..], &written].concat();
        let (code, text) = curl(edge.web, "shop.test", &ca.bundle(), &arguments).await;
        assert_eq!((code, text), (0, format!("a {version}")), "{option} {scheme}");
        assert_eq!(origin.last().body, b"x");
    }
}

#[tokio::test]
async fn nghttp_gets_large_and_small_answers() {
    let origin = Origin::start().await.route("/large", Reply::ok(vec![b'x'; 5 << 20]).chunked());
    let edge = Edge::before(&origin).start().await;
    let large = format!("http://{}/large", edge.web);
    let small = format!("http://{}/", edge.web);
    let (code, text) =
        run("nghttp", &["--null-out", "--stat", "--verbose", "--window-bits=16", &large, &small, &small])
            .await;
    assert_eq!(code, 0, "{text}");
    // It asks for the same address once.
    assert_eq!(text.matches(":status: 200").count(), 2, "{text}");
    assert!(!text.contains("PROTOCOL_ERROR") && !text.contains("RST_STREAM"), "{text}");
}

#[tokio::test]
async fn h2load_finishes_without_an_error() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await.route("/large", Reply::ok(vec![b'x'; 1 << 20]));
    let tls = ca.issue("shop", &["shop.test"]).listener();
    for (lines, scheme) in [("", "http"), (tls.as_str(), "https")] {
        let edge = Edge::before(&origin).listener(lines).top("workers = 2").start().await;
        for (path, requests) in [("/", "2000"), ("/large", "100")] {
            let url = format!("{scheme}://127.0.0.1:{}{path}", edge.web.port());
            let (code, text) = run("h2load", &["-n", requests, "-c", "8", "-m", "32", &url]).await;
            let all = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
            assert!(code == 0 && text.contains(&all), "{url}: {text}");
        }
        assert_eq!(edge.metric("selvedge_http2_faults_total").await, 0);
    }
}
