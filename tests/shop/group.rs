//! The processes that are kept alive, and the DNS that names them.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::processes::{SOON, System, free_port, program, run_to_end, runs, send_signal, until};
use hickory_server::proto::op::{Message, Query};
use hickory_server::proto::rr::{Name, RecordType};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::Command;

#[tokio::test]
async fn what_cannot_be_started_says_so_in_one_line_and_starts_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let taken_port = free_port();
    let _held = std::net::TcpListener::bind(("127.0.3.2", taken_port)).unwrap();
    let free: Vec<String> = (0..4).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let port = free_port().to_string();
    let system = |changed: &str, value: &str| {
        let defaults =
            [("--listen", &free[0]), ("--admin", &free[1]), ("--dns", &free[2]), ("--port", &port)];
        let mut args: Vec<String> = Vec::new();
        for (option, default) in defaults {
            args.extend([option.into(), if option == changed { value.into() } else { default.clone() }]);
        }
        if changed == "--data" {
            args.extend(["--data".into(), value.into()]);
        }
        args
    };
    for (option, value, named) in [
        ("--listen", &*taken, &*taken),
        ("--admin", &*taken, &*taken),
        ("--dns", &*taken, &*taken),
        ("--port", &*taken_port.to_string(), &*format!("127.0.3.2:{taken_port}")),
        ("--data", "/dev/null/shop", "/dev/null/shop"),
    ] {
        let args = system(option, value);
        let output = run_to_end(&args.iter().map(|arg| &**arg).collect::<Vec<_>>()).await;
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{option}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{option}: {errors}");
        assert!(errors.contains(named) && errors.contains(option), "{option}: {errors}");
        assert!(output.stdout.is_empty(), "{option}");
        for address in &free[..3] {
            assert!(std::net::TcpListener::bind(address).is_ok(), "{option}: something listens on {address}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_instance_is_back_within_two_seconds() {
    let system = System::start().await;
    assert_eq!(system.announced.len(), 8, "{:?}", system.announced);
    for (name, address) in system.instances() {
        let pid = system.pid_of(address).await.unwrap();
        assert!(system.announced.contains(&(name.clone(), pid)), "{name} {pid}");
        send_signal(pid, Signal::KILL);
        let killed = Instant::now();
        let next =
            until("it is back", async || system.pid_of(address).await.filter(|next| *next != pid)).await;
        assert!(killed.elapsed() < Duration::from_secs(2), "{name} as {next} after {:?}", killed.elapsed());
    }
}

/// The records of an answer, as text.
pub(crate) async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Vec<String> {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question.to_vec().unwrap(), server).await.unwrap();
    let mut answer = [0; 4096];
    let length = tokio::time::timeout(SOON, socket.recv(&mut answer)).await.unwrap().unwrap();
    let answer = Message::from_vec(&answer[..length]).unwrap();
    assert!(answer.answers.iter().all(|record| record.ttl == 1), "{answer}");
    let mut records: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    records.sort();
    records
}

#[tokio::test]
async fn dns_answers_with_the_instances_that_it_was_told_last() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut dns = Command::new(program())
        .args(["dns", "--address", &address.to_string()])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = dns.stdin.take().unwrap();
    let member = |zone: &str, number: u8| json!({ "name": format!("{zone}-{number}"), "zone": zone, "address": format!("127.0.2.{number}:9001") });
    let all = [member("az-b", 1), member("az-b", 2), member("az-c", 3)];
    for members in [&all[..], &all[1..], &all[..1], &[]] {
        let expected: Vec<_> = members
            .iter()
            .map(|member| {
                let part = |key: &str| member[key].as_str().unwrap();
                format!("0 1 9001 {}.{}.shop.internal.", part("name"), part("zone"))
            })
            .collect();
        input.write_all(format!("{}\n", json!(members)).as_bytes()).await.unwrap();
        until("the answer follows", async || {
            // The first question may come before the server does.
            TcpStream::connect(address).await.ok()?;
            (ask(address, "_http._tcp.shop.internal.", RecordType::SRV).await == expected).then_some(())
        })
        .await;
    }
    drop(input);
    let status = tokio::time::timeout(SOON, dns.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_knows_all_instances_by_name_by_zone_and_as_a_service() {
    let system = System::start().await;
    let all: Vec<_> = system
        .instances()
        .iter()
        .map(|(name, address)| format!("0 1 {} {name}.{}.shop.internal.", address.port(), &name[..4]))
        .collect();
    until("all instances are listed", async || {
        (ask(system.dns, "_http._tcp.shop.internal.", RecordType::SRV).await == all).then_some(())
    })
    .await;
    assert_eq!(ask(system.dns, "_http._tcp.az-b.shop.internal.", RecordType::SRV).await, all[2..4]);
    for name in ["az-b-2.shop.internal.", "az-b-2.az-b.shop.internal."] {
        assert_eq!(ask(system.dns, name, RecordType::A).await, ["127.0.2.2"]);
    }
    assert_eq!(ask(system.dns, "az-c.shop.internal.", RecordType::A).await, ["127.0.3.1", "127.0.3.2"]);
    assert!(ask(system.dns, "nobody.shop.internal.", RecordType::A).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_system_stops_all_of_its_parts_and_a_killed_one_takes_them_along() {
    for (signal, succeeds) in [(Signal::TERM, true), (Signal::KILL, false)] {
        let mut system = System::start().await;
        send_signal(system.child.id().unwrap(), signal);
        let status = tokio::time::timeout(SOON, system.child.wait()).await.unwrap().unwrap();
        assert_eq!(status.success(), succeeds, "{status}");
        until("all parts end", async || (!system.announced.iter().any(|(_, pid)| runs(*pid))).then_some(()))
            .await;
    }
}
