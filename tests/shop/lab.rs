//! The lab: comes up, is closed to all that its security groups do not name, survives its database, goes without a trace.
//!
//! Needs root, network namespaces and Debian's packages; without them it says so and is skipped. With `SELVEDGE_SOAK=1`, every disaster
//! happens in it, and 300 shoppers shop for ten minutes: a quarter of an hour.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::processes::{program, until_within};
use tokio::process::Command;

/// For one command.
const LONG: Duration = Duration::from_secs(180);
/// For one command that shops for ten minutes.
const VERY_LONG: Duration = Duration::from_secs(900);
/// All that can happen, as `lab chaos --disaster` calls it.
const DISASTERS: [&str; 9] = [
    "instance-killed",
    "instance-hung",
    "zone-cut",
    "zone-slow",
    "node-killed",
    "redis-killed",
    "postgres-killed",
    "deploy",
    "scale-in",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lab_comes_up_lets_through_what_its_groups_allow_fails_over_and_leaves_no_trace() {
    if let Some(why) = cannot_run().await {
        println!("SKIPPED, as {why}");
        return;
    }
    // What a test before this one may have left.
    lab(&["down"]).await;
    let start = Instant::now();
    let up = succeed(&["up"]).await;
    println!("up after {:?}", start.elapsed());
    assert!(up.contains("az-c-postgres") && up.contains("PostgreSQL's primary is in az-a."), "{up}");

    let matrix = succeed(&["matrix"]).await;
    assert!(matrix.contains("Exactly what the security groups allow is open."), "{matrix}");
    assert!(
        matrix.contains("    postgres   5432\n") && matrix.contains("    edge       443 53 53/udp 80\n"),
        "{matrix}"
    );
    // A hole somewhere else than where the probes start is found.
    let hole =
        "ip netns exec az-b nft insert rule inet groups forward ip daddr 10.77.2.30 tcp dport 6379 accept";
    assert!(Command::new("sh").args(["-c", hole]).status().await.unwrap().success());
    let output = lab(&["matrix"]).await;
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && !printed.contains("az-b-1 to az-b-redis 6379"), "{printed}");
    assert!(printed.contains("az-b-edge to az-b-redis 6379 is open and must not be"), "{printed}");

    let served = in_client("curl -s -m 10 http://10.77.2.10/api/whoami").await;
    assert!(served.contains("\"zone\":"), "{served}");
    let named = in_client("dig +short @10.77.3.10 myclothes.test").await;
    assert_eq!(named.lines().count(), 3, "{named}");

    // That every answer comes in time is not asked of a machine that has other tests to run.
    let output = lab(&["shop", "--shoppers", "20", "--for", "5s"]).await;
    let shopped = String::from_utf8_lossy(&output.stdout);
    println!("{shopped}");
    assert!(shopped.contains("GET /api/cart ") && shopped.contains("POST /api/cart/items "), "{output:?}");
    assert!(shopped.contains("carts lost: 0 of ") && shopped.contains("; 0 given up;"), "{shopped}");
    assert!(shopped.contains("orders lost 0, doubled 0, of "), "{shopped}");

    // It fails if it costs what is promised not to be lost.
    let cost = succeed(&["chaos", "--disaster", "instance-killed", "--shoppers", "20"]).await;
    println!("{cost}");
    assert!(cost.contains("(0 GET)") && cost.contains("carts lost: 0 of "), "{cost}");
    assert!(cost.contains("orders lost 0, doubled 0, of "), "{cost}");
    if std::env::var_os("SELVEDGE_SOAK").is_some() {
        soak().await;
    }

    let status = succeed(&["status"]).await;
    let says_primary = "PostgreSQL's primary is in ";
    let zone = status.split_once(says_primary).unwrap().1.split_once('.').unwrap().0.to_owned();
    let primary = status.lines().find(|line| line.starts_with(&format!("{zone}-postgres"))).unwrap();
    let pid = primary.split_whitespace().last().unwrap().parse().unwrap();
    crate::processes::send_signal(pid, rustix::process::Signal::STOP);
    until_within(LONG, "another primary is found", async || {
        let status = succeed(&["status"]).await;
        (status.contains(says_primary) && !status.contains(&format!("{says_primary}{zone}."))).then_some(())
    })
    .await;
    assert!(!crate::processes::runs(pid), "the old one must not go on");

    succeed(&["down"]).await;
    let left = Command::new("ip").args(["netns", "list"]).output().await.unwrap();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(!left.contains("az-") && !left.contains("client"), "{left}");
    assert!(!Path::new("/var/lib/myclothes-lab").exists());
    for line in up.lines().filter(|line| line.starts_with("az-")) {
        for pid in line.split([' ', ',']).filter_map(|word| word.parse().ok()) {
            assert!(!crate::processes::runs(pid), "{line}");
        }
    }
}

/// Everything happens in the lab that is up, and nothing is lost; then nothing happens, and nothing fails or grows.
async fn soak() {
    for disaster in DISASTERS {
        println!("{}", succeed(&["chaos", "--disaster", disaster]).await);
    }
    println!("{}", succeed_within(VERY_LONG, &["shop", "--shoppers", "300", "--for", "10m"]).await);
}

/// Why there can be no lab here.
async fn cannot_run() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root makes network namespaces".to_owned());
    }
    let output = Command::new("unshare").args(["--net", "true"]).output().await;
    if !output.is_ok_and(|output| output.status.success()) {
        return Some("network namespaces cannot be made here".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    None
}

async fn lab(args: &[&str]) -> Output {
    lab_within(LONG, args).await
}

async fn lab_within(deadline: Duration, args: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.arg("lab").args(args).stdin(Stdio::null()).kill_on_drop(true);
    tokio::time::timeout(deadline, command.output()).await.expect("it ends").unwrap()
}

async fn succeed(args: &[&str]) -> String {
    succeed_within(LONG, args).await
}

async fn succeed_within(deadline: Duration, args: &[&str]) -> String {
    let output = lab_within(deadline, args).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command where the shoppers are.
async fn in_client(command: &str) -> String {
    let output =
        Command::new("ip").args(["netns", "exec", "client", "sh", "-c", command]).output().await.unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
