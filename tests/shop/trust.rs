//! Instances that answer nobody but the balancer.

use std::path::Path;
use std::process::Output;

use crate::browser::Browser;
use crate::processes::{SOON, System, until};
use http::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

/// Asks an instance by itself, with a certificate or without.
async fn curl(tls: &Path, address: std::net::SocketAddr, path: &str, shown: Option<&str>) -> Output {
    let (port, ip) = (address.port(), address.ip());
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "15", "--cacert"]).arg(tls.join("instances-ca.pem"));
    command.args(["--resolve", &format!("shop.internal:{port}:{ip}")]);
    if let Some(name) = shown {
        command.arg("--cert").arg(tls.join(format!("{name}.pem")));
        command.arg("--key").arg(tls.join(format!("{name}.key")));
    }
    command.arg(format!("https://shop.internal:{port}{path}")).kill_on_drop(true);
    tokio::time::timeout(SOON, command.output()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_verifies_the_balancer_answers_nobody_else() {
    let system = System::start_with(&["--verify-balancer"]).await;
    let tls = system.data.path().join("tls");
    let healthy = until("all instances pass their checks", async || {
        let answer = Browser::new(system.admin).try_send(Method::GET, "/v1/pools", &[], "").await.ok()?;
        let healthy = answer.text().matches("\"status\":\"healthy\"").count();
        (healthy == system.instances().len()).then_some(healthy)
    })
    .await;
    assert_eq!(healthy, 6);
    let mut visitor = Browser::new(system.proxy);
    let added = visitor.post("/api/cart/items", json!({ "product_id": 13, "quantity": 2 })).await;
    assert_eq!(added.status, StatusCode::OK, "{added:?}");

    let (_, instance) = system.instances()[0];
    // An authority that the instances do not know, with the balancer's name.
    let foreign = rcgen::generate_simple_self_signed(["balancer.internal".to_owned()]).unwrap();
    std::fs::write(tls.join("foreign.pem"), foreign.cert.pem()).unwrap();
    std::fs::write(tls.join("foreign.key"), foreign.signing_key.serialize_pem()).unwrap();
    for path in ["/healthz", "/api/whoami", "/"] {
        let accepted = curl(&tls, instance, path, Some("balancer")).await;
        assert!(accepted.status.success() && !accepted.stdout.is_empty(), "{path}: {accepted:?}");
        for shown in [None, Some("foreign"), Some("instance")] {
            let refused = curl(&tls, instance, path, shown).await;
            assert!(!refused.status.success() && refused.stdout.is_empty(), "{path} {shown:?}: {refused:?}");
        }
        let mut plain = TcpStream::connect(instance).await.unwrap();
        plain.write_all(format!("GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A reset is a refusal as well.
        let read = tokio::time::timeout(SOON, plain.read_to_end(&mut answer)).await.expect("it is closed");
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"), "{path}: {read:?} {answer:?}");
    }
}

#[tokio::test]
async fn half_of_the_options_for_tls_are_refused() {
    let output =
        crate::processes::run_to_end(&["instance", "--data", "/nowhere", "--tls-cert", "x.pem"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--tls-key"), "{said}");
}
