//! Upgrades: another process takes the place of the one that runs, with its sockets and all that it knows; or it fails, and
//! the old one goes on.

use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::edge::{script, session_keys};
use crate::support::websocket::{Socket, echoing};
use crate::support::{Client, Edge, Gate, Group, Origin, Raw, Reply, Setup, eventually, within};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const STICKY: &str = "stickiness.mode = \"lb_cookie\"";
/// The old process waits for nobody for long.
const SHORT: &str = "[shutdown]\ndeadline = \"4s\"\nspread = \"100ms\"";

async fn node(edge: &Edge) -> Value {
    serde_json::from_slice(&edge.admin("/v1/pools").await.body).unwrap()
}

/// `selvedge upgrade` with these arguments.
async fn upgrade(edge: &Edge, arguments: &[&str]) -> Output {
    command(edge, "upgrade", arguments).await
}

/// A command for this node.
async fn command(edge: &Edge, name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args([name, "--admin", &format!("http://{}", edge.admin)]).args(arguments);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    within("the command to end", output).await.unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn an_upgrade_keeps_requests_sessions_and_counts_and_nobody_notices() {
    let gate = Gate::closed();
    let slow = Origin::holding(&gate, "finished").await;
    let (one, two) = (Origin::named("one").await, Origin::named("two").await);
    let setup = Edge::before_all(&[&one, &two]).pool(STICKY).top("workers = 2").and(&format!(
        "[[route]]\npath = \"/slow\"\npool = \"slow\"\n[pool.slow]\nhealth.enabled = false\n\
         stickiness.mode = \"off\"\n[[pool.slow.target]]\naddress = \"{}\"\n[shutdown]\nspread = \"100ms\"",
        slow.address
    ));
    let mut edge = setup.start().await;
    let mut client = Client::of(&edge);
    let first = client.get("/").await;
    let mut held = Raw::connect(&edge).await;
    held.send(GET.replace("GET /", "GET /slow")).await;
    slow.received(1).await;
    edge.counts("selvedge_requests_total", 1).await;
    let output = upgrade(&edge, &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let pid = edge.successors()[0];
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said, format!("process {pid} (version {}) serves now\n", env!("CARGO_PKG_VERSION")));
    // The session was sealed with a key that only the old process had.
    for _ in 0..4 {
        client.hang_up();
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.origin()), (200, first.origin()));
        assert_eq!(answer.set_cookie("SELVEDGE"), None, "the bond is as it was");
    }
    eventually("the old process to be seen draining", async || {
        let shown = node(&edge).await;
        let old = &shown["node"]["upgrade"]["predecessor"];
        let left = old["left_seconds"].as_f64().is_some_and(|left| left > 0.0 && left <= 30.0);
        old["drains"] == true && old["connections"] == 1 && left
    })
    .await;
    let said = command(&edge, "status", &[]).await;
    let drains = ", which served before, drains: 1 connection is left, for ";
    assert!(String::from_utf8_lossy(&said.stdout).contains(drains), "{said:?}");
    gate.open();
    assert_eq!(held.response().await.text(), "finished");
    assert_eq!(edge.exit().await.code(), Some(0));
    // What the old one has counted last is there too.
    edge.counts("selvedge_requests_total", 6).await;
    edge.counts("selvedge_target_responses_total{class=\"2xx\"}", 6).await;
    eventually("the end of the old process to be seen", async || {
        node(&edge).await["node"]["upgrade"]["predecessor"]["drains"] == false
    })
    .await;
    // The new one stops as any other.
    edge.signal_successor(pid, Signal::TERM);
    eventually("the new process to end", async || !Path::new(&format!("/proc/{pid}/fd/0")).exists()).await;
}

#[tokio::test]
async fn what_is_known_of_targets_and_zones_is_handed_over() {
    let (healthy, sick, drained) =
        (Origin::named("healthy").await, Origin::start().await, Origin::start().await);
    let (shifted, registered) = (Origin::start().await, Origin::start().await);
    sick.set_sick(true);
    let setup = Setup::default()
        .top("zone = \"az-a\"\nwatch = false")
        .target_with(&healthy, "zone = \"az-a\"")
        .target_with(&sick, "zone = \"az-a\"")
        .target_with(&drained, "zone = \"az-a\"")
        .target_with(&shifted, "zone = \"az-b\"")
        .pool("health.interval = \"300s\"\nhealth.unhealthy = 1\nzones.shift_capacity = \"0%\"\ndrain.deadline = \"200s\"")
        .and(SHORT);
    let text = setup.text();
    let mut edge = setup.start().await;
    let put = async |path: &str, body: &str| {
        let mut client = Client::to(edge.admin);
        client.host = edge.admin.to_string();
        let fields = ["Content-Type: application/json", "Connection: close"];
        let answer = client.request("PUT", path, &fields, body.as_bytes()).await;
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
    };
    put(&format!("/v1/pools/shop/targets/az-a/{}/state", drained.address), "{\"state\":\"drain\"}").await;
    put(&format!("/v1/pools/shop/targets/az-c/{}", registered.address), "{\"weight\":7}").await;
    put("/v1/zones/az-b/shift", "{\"for\":\"2h\",\"comment\":\"power work\"}").await;
    let zones_of = |shown: &Value| {
        let zones = shown["pools"][0]["zones"].as_array().unwrap().clone();
        let keys = ["name", "state", "share", "healthy", "reason"];
        zones.iter().map(|zone| keys.map(|key| zone[key].to_string()).join(" ")).collect::<Vec<_>>()
    };
    let statuses = |shown: &Value| {
        let targets = shown["pools"][0]["targets"].as_array().unwrap().clone();
        let keys = ["name", "status", "health", "admin", "weight", "source", "takes_new"];
        let mut statuses: Vec<_> =
            targets.iter().map(|target| keys.map(|key| target[key].to_string()).join(" ")).collect();
        statuses.sort();
        statuses
    };
    let (mut before, mut zones) = (Vec::new(), Vec::new());
    eventually("the checks to be taken", async || {
        let shown = node(&edge).await;
        (before, zones) = (statuses(&shown), zones_of(&shown));
        !before.iter().any(|target| target.contains("initial"))
    })
    .await;
    edge.write("nonsense");
    assert_eq!(edge.upgrade().await.status, 422);
    edge.write(&text);
    edge.is_upgraded().await;
    let shown = node(&edge).await;
    assert_eq!(statuses(&shown), before, "at once, and without a check");
    assert_eq!(zones_of(&shown), zones);
    assert_eq!(edge.admin("/readyz").await.status, 200);
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
    let decisions = shown["pools"][0]["decisions"].to_string();
    assert!(decisions.contains("power work"), "{decisions}");
    assert_eq!(edge.exit().await.code(), Some(0));
    // And once more: what was inherited is left like what was found out.
    edge.is_upgraded().await;
    assert_eq!(statuses(&node(&edge).await), before);
    edge.counts("selvedge_upgrades_total{result=\"done\"}", 2).await;
    edge.counts("selvedge_upgrades_total{result=\"refused\"}", 1).await;
}

#[tokio::test]
async fn sigusr2_upgrades_and_the_new_process_has_the_configuration_of_the_file() {
    let (old, new) = (Origin::named("old").await, Origin::named("new").await);
    for (before, after) in [(1, 3), (3, 1)] {
        let mut edge = Edge::before(&old).top(&format!("workers = {before}")).and(SHORT).start().await;
        let port = edge.web.port();
        let inodes = edge.listening(port);
        edge.write(&Edge::before(&new).top(&format!("workers = {after}\nwatch = false")).and(SHORT).text());
        edge.ask_for_upgrade();
        edge.logged(&["another process serves now"]).await;
        // For a moment both accept: one of them answers.
        for _ in 0..40 {
            assert_eq!(Client::of(&edge).get("/").await.status, 200);
        }
        assert_eq!(edge.exit().await.code(), Some(0));
        assert_eq!(inodes.len(), before);
        // Every socket is accepted from, whether there are more workers or fewer.
        for _ in 0..40 {
            assert_eq!(Client::of(&edge).get("/").await.origin(), "new");
        }
    }
}

#[tokio::test]
async fn a_new_process_that_fails_leaves_the_old_one_serving_and_says_why() {
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    let admin = format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"{}\"", token.display());
    let setup = || Edge::before(&origin).top("watch = false").and(&admin).and("[upgrade]\ndeadline = \"2s\"");
    let edge = Edge::start_unready(&setup().text()).await;
    let cases = [
        (folder.path().join("absent"), "cannot be started: No such file or directory"),
        (script(&folder, "dies", "exit 7"), "ended before it had taken over: exit status: 7"),
        (script(&folder, "hangs", "exec sleep 600"), "was not ready within 2s"),
        (script(&folder, "talks", "echo nonsense >&0\nexec sleep 600"), "cannot be spoken with"),
    ];
    for (binary, expected) in cases {
        let binary = binary.to_str().unwrap();
        let output = upgrade(&edge, &["--token-file", token.to_str().unwrap(), "--binary", binary]).await;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{binary}: {said}");
        assert!(said.contains(expected) && said.contains("the old process goes on"), "{binary}: {said}");
        edge.logged(&["upgrade refused, this process goes on", expected]).await;
        assert_eq!(Client::of(&edge).get("/").await.status, 200);
    }
    // A wrong configuration is told with every mistake.
    edge.write("[[listener]]\naddress = \"nowhere\"\ncolour = \"red\"");
    let output = upgrade(&edge, &["--token-file", token.to_str().unwrap()]).await;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("nowhere") && said.contains("colour"), "{said}");
    // So is an address that cannot be had.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    edge.write(&setup().and(&format!("[[listener]]\nname = \"second\"\naddress = \"{taken}\"")).text());
    let output = upgrade(&edge, &["--token-file", token.to_str().unwrap()]).await;
    assert!(stderr(&output).contains(&format!("cannot listen on {taken}")), "{}", stderr(&output));
    // And the way is free for one that works.
    edge.write(&setup().text());
    let output = upgrade(&edge, &["--token-file", token.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
}

#[tokio::test]
async fn a_second_upgrade_at_the_same_time_is_refused_and_a_program_is_not_named_by_just_anybody() {
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    let admin = format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"{}\"", token.display());
    let edge = Edge::start_unready(&Edge::before(&origin).and(&admin).text()).await;
    let hangs = script(&folder, "hangs", "exec sleep 600");
    let token = ["--token-file", token.to_str().unwrap()];
    let first = [&token[..], &["--binary", hangs.to_str().unwrap()]].concat();
    let second = async {
        edge.logged(&["a new process is started to take over"]).await;
        let output = upgrade(&edge, &token).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("another upgrade is under way"), "{}", stderr(&output));
        edge.signal_successor(edge.successors()[0], Signal::KILL);
    };
    let (output, ()) = tokio::join!(upgrade(&edge, &first), second);
    assert!(stderr(&output).contains("ended before it had taken over: signal: 9"), "{}", stderr(&output));
    let open = Edge::before(&origin).start().await;
    let output = upgrade(&open, &["--binary", hangs.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("a program can be named only over"), "{}", stderr(&output));
    assert!(open.successors().is_empty());
}

#[tokio::test]
async fn websockets_of_the_old_process_go_on_and_are_told_before_it_ends() {
    let origin = echoing(|_| ()).await;
    let mut edge = Edge::before(&origin).and("[shutdown]\ndeadline = \"3s\"").start().await;
    let mut socket = Socket::open(&edge).await;
    edge.is_upgraded().await;
    socket.echo(b"after the upgrade").await;
    let mut other = Socket::open(&edge).await;
    assert_eq!(socket.closed().await.0, 1001);
    assert_eq!(edge.exit().await.code(), Some(0));
    assert!(!edge.log().contains("were cut"), "{}", edge.log());
    other.echo(b"at the new one").await;
}

#[tokio::test]
async fn a_key_file_serves_both_processes_and_an_ejected_target_stays_out() {
    let folder = tempfile::tempdir().unwrap();
    let keys = session_keys(&folder);
    let (origin, bad) = (Origin::start().await, Origin::replying(|_| Reply::status(500)).await);
    let setup =
        Edge::before_all(&[&origin, &bad]).pool(STICKY).pool("outlier.ejection = \"300s\"").and(SHORT);
    let mut edge = setup.and(&format!("[session_keys]\nfile = \"{}\"", keys.display())).start().await;
    let of = async || {
        let targets = node(&edge).await["pools"][0]["targets"].as_array().unwrap().clone();
        targets.into_iter().find(|target| target["address"] == bad.address.to_string()).unwrap()
    };
    eventually("the bad target to be ejected", async || {
        Client::of(&edge).get("/").await;
        of().await["status"] == "ejected"
    })
    .await;
    let before = of().await;
    edge.is_upgraded().await;
    let after = of().await;
    for key in ["status", "ejections"] {
        assert_eq!(after[key], before[key], "{after}");
    }
    // Behind that stands for how long it is out, which is less now.
    let why = |target: &Value| target["reason"].as_str().unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(why(&after), why(&before));
    assert_eq!(edge.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_unix_socket_of_the_admin_api_goes_with_the_process_that_serves() {
    let (origin, folder) = (Origin::start().await, tempfile::tempdir().unwrap());
    let (config, socket) = (folder.path().join("selvedge.toml"), folder.path().join("admin.sock"));
    let admin = format!("[admin]\naddress = \"unix:{}\"", socket.display());
    std::fs::write(&config, Edge::before(&origin).and(&admin).text()).unwrap();
    let program = env!("CARGO_BIN_EXE_selvedge");
    let mut old = Group::spawn(Command::new(program).args(["run", "--config"]).arg(&config));
    let command = async |name: &str, more: &[&str]| {
        let mut command = Command::new(program);
        command.arg(name).args(["--admin", &format!("unix:{}", socket.display())]).args(more);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap());
        within("a command to end", output).await.unwrap()
    };
    eventually("the socket", async || command("status", &[]).await.status.success()).await;
    // Whoever may use the socket may name a program.
    let output = command("upgrade", &["--binary", program]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let said = String::from_utf8(output.stdout).unwrap();
    let pid: u32 = said.split_whitespace().nth(1).unwrap().parse().unwrap();
    eventually("the old process to end", async || old.try_wait().unwrap().is_some()).await;
    assert!(socket.exists() && command("status", &[]).await.status.success(), "its end takes nothing away");
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), Signal::TERM).unwrap();
    eventually("the socket to go", async || !socket.exists()).await;
}
