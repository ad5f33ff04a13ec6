//! What testssl.sh, a scanner that others wrote, finds at a listener with TLS: nothing of medium severity or worse.
//!
//! It takes a minute, so it runs with `SELVEDGE_SOAK=1` only.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Authority, Edge, Origin, Reply};

/// Is said of the authority that the test makes for itself, which publishes no list of what it has revoked.
const OF_THE_AUTHORITY: [&str; 1] = ["cert_revocation"];

#[tokio::test]
async fn a_scanner_finds_nothing_of_medium_severity_or_worse() {
    if std::env::var_os("SELVEDGE_SOAK").is_none() {
        return;
    }
    let ca = Authority::new("ca");
    // Which scripts and frames a page allows is for the application to say.
    let page = Reply::ok("page").field("Content-Security-Policy: default-src 'self'");
    let origin = Origin::start().await.route("/", page);
    let hsts = "\ntls.hsts.max_age = \"365d\"";
    let edge =
        Edge::before(&origin).listener(&(ca.issue("shop", &["shop.test"]).listener() + hsts)).start().await;
    let report = ca.folder().path().join("report.json");
    let mut command = tokio::process::Command::new("testssl");
    command.args(["--quiet", "--color", "0", "--warnings", "batch", "--ip", "127.0.0.1", "--add-ca"]);
    command
        .arg(ca.bundle())
        .arg("--jsonfile")
        .arg(&report)
        .arg(format!("https://shop.test:{}", edge.web.port()));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(600), command.output()).await;
    let output = output.expect("testssl took ten minutes").expect("testssl is installed: see tests/run.sh");
    let text = std::fs::read_to_string(&report).unwrap_or_else(|_| panic!("no report: {output:?}"));
    let findings: Vec<Value> = serde_json::from_str(&text).unwrap();
    let severity = |finding: &Value| finding["severity"].as_str().unwrap_or_default().to_owned();
    let fine = findings.iter().filter(|finding| severity(finding) == "OK").count();
    assert!(fine > 30, "only {fine} checks passed: {text}");
    let bad: Vec<_> = findings
        .iter()
        .filter(|finding| matches!(&*severity(finding), "MEDIUM" | "HIGH" | "CRITICAL" | "FATAL" | "WARN"))
        .filter(|finding| !OF_THE_AUTHORITY.contains(&finding["id"].as_str().unwrap_or_default()))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}
