//! A node that is started as root and is somebody else once its sockets are bound. Only root can see most of that: for others these
//! tests end at once.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::support::edge::session_keys;
use crate::support::{Client, Edge, Group, Origin, eventually, within};

/// Who everybody is who is nobody, and the group of that name.
struct Nobody {
    uid: u32,
    gid: u32,
}

/// `None` for who is not root, and so cannot become anybody.
fn nobody() -> Option<Nobody> {
    if !geteuid().is_root() {
        eprintln!("only root can give anything up: not tested");
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let nobody = fields.into_iter().find(|fields| fields[0] == "nobody").unwrap();
    Some(Nobody { uid: nobody[2].parse().unwrap(), gid: nobody[3].parse().unwrap() })
}

impl Nobody {
    fn owns(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.gid)).unwrap();
    }

    /// Checks who each thread of a process is, and that it may nothing.
    fn is(&self, pid: u32) {
        let tasks: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().collect();
        assert!(tasks.len() > 2, "there are workers");
        for task in tasks {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let of = |key: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
                line.unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
            };
            let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
            assert_eq!(of("Uid"), vec![uid; 4], "{status}");
            assert_eq!(of("Gid"), vec![gid.clone(); 4], "{status}");
            assert_eq!(of("Groups"), [gid], "{status}");
            for set in ["CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(of(set), ["0000000000000000"], "{status}");
            }
            assert_eq!(of("NoNewPrivs"), ["1"], "{status}");
        }
    }
}

/// A folder that everybody can enter, and in it the program: nobody may enter the one where it was built.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("selvedge");
    // By another process: one that this process writes could not be started while a fork of it holds it open.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_selvedge")).arg(&program).status().unwrap();
    assert!(copied.success());
    (folder, program)
}

#[tokio::test]
async fn root_is_given_up_once_the_sockets_are_bound_and_reloads_and_upgrades_go_on() {
    let Some(nobody) = nobody() else { return };
    let origin = Origin::start().await;
    let (folder, program) = folder();
    let own = folder.path().join("own");
    std::fs::create_dir(&own).unwrap();
    nobody.owns(&own);
    let keys = session_keys(&folder);
    std::fs::set_permissions(&keys, PermissionsExt::from_mode(0o640)).unwrap();
    nobody.owns(&keys);
    // An address of our own, at a port that only root can have.
    let [.., a, b] = std::process::id().to_be_bytes();
    let low = |port: u16| SocketAddr::from(([127, 80, a, b], port));
    let setup = |listeners: &[SocketAddr]| {
        let listeners: String =
            listeners.iter().map(|address| format!("[[listener]]\naddress = \"{address}\"\n")).collect();
        Edge::before(&origin)
            .top(&format!(
                "workers = 2\nwatch = false\nuser = \"nobody\"\nstate = \"{}/state.json\"",
                own.display()
            ))
            .and(&listeners)
            .and(&format!("[session_keys]\nfile = \"{}\"", keys.display()))
            .and(&format!("[access_log]\noutput = \"{}/access.log\"", own.display()))
            .and("[shutdown]\ndeadline = \"2s\"\nspread = \"100ms\"")
    };
    let mut edge = setup(&[low(80)]).program(&program).start().await;
    nobody.is(edge.pid());
    edge.logged(&["privileges are given up", "user=nobody"]).await;
    assert_eq!(Client::to(low(80)).get("/").await.status, 200);
    assert_eq!(std::fs::metadata(own.join("access.log")).unwrap().uid(), nobody.uid);
    // What is decided at run time can be kept.
    let mut admin = Client::to(edge.admin);
    admin.host = edge.admin.to_string();
    let fields = ["Content-Type: application/json", "Connection: close"];
    let path = "/v1/pools/shop/targets/az-c/127.0.0.1:9";
    let answer = admin.request("PUT", path, &fields, b"{\"weight\":0}").await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    eventually("the state to be kept", async || own.join("state.json").exists()).await;
    // Whatever needs no root can be had by a reload, and what does is refused.
    edge.becomes(&setup(&[low(80), low(8080)]).text()).await;
    assert_eq!(Client::to(low(8080)).get("/").await.status, 200);
    let free = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if free.trim().parse::<u16>().unwrap() > 81 {
        edge.write(&setup(&[low(80), low(8080), low(81)]).text());
        let refused = edge.reload().await.text();
        assert!(refused.contains("ports below 1024 need CAP_NET_BIND_SERVICE"), "{refused}");
    }
    assert_eq!(Client::to(low(80)).get("/").await.status, 200);
    edge.becomes(&setup(&[low(80)]).text()).await;
    // The new process has the sockets and is who the old one was.
    edge.is_upgraded().await;
    nobody.is(edge.successors()[0]);
    assert_eq!(edge.exit().await.code(), Some(0));
    assert_eq!(Client::to(low(80)).get("/").await.status, 200);
    assert_eq!(edge.reload().await.status, 200);
    // It cannot become another.
    edge.write(&setup(&[low(80)]).text().replace("\"nobody\"", "\"daemon\""));
    let answer = edge.upgrade().await;
    assert!(answer.text().contains("only root can"), "{}", answer.text());
    assert_eq!(edge.reload().await.status, 200);
    let shown = edge.admin("/v1/pools").await.text();
    assert!(shown.contains("user: stays user nobody"), "{shown}");
}

#[tokio::test]
async fn what_that_user_could_not_read_again_or_write_is_said_at_the_start() {
    if nobody().is_none() {
        return;
    }
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let keys = session_keys(&folder);
    std::fs::set_permissions(&keys, PermissionsExt::from_mode(0o600)).unwrap();
    let state = folder.path().join("state.json");
    let config = Edge::before(&origin)
        .top(&format!("user = \"nobody\"\nstate = \"{}\"", state.display()))
        .and(&format!("[session_keys]\nfile = \"{}\"", keys.display()))
        .text();
    let (code, said) = Edge::refuses(&config).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("cannot read {}", keys.display())) && said.contains("chgrp"), "{said}");
    assert!(said.contains("state: user nobody (uid") && said.contains("cannot write into"), "{said}");
}

#[tokio::test]
async fn who_is_not_root_cannot_become_another() {
    let Some(nobody) = nobody() else { return };
    let origin = Origin::start().await;
    let (folder, program) = folder();
    let config = folder.path().join("selvedge.toml");
    std::fs::write(&config, Edge::before(&origin).top("user = \"daemon\"").text()).unwrap();
    let mut command = Command::new(program);
    command.args(["run", "--config"]).arg(&config).uid(nobody.uid).gid(nobody.gid);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within("the program to give up", output).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot become user daemon") && said.contains("only root can"), "{said}");
}

#[tokio::test]
async fn the_socket_of_the_admin_api_belongs_to_that_user() {
    let Some(nobody) = nobody() else { return };
    let origin = Origin::start().await;
    let (folder, program) = folder();
    nobody.owns(folder.path());
    let (config, socket) = (folder.path().join("selvedge.toml"), folder.path().join("admin.sock"));
    let admin = format!("[admin]\naddress = \"unix:{}\"", socket.display());
    std::fs::write(&config, Edge::before(&origin).top("user = \"nobody\"").and(&admin).text()).unwrap();
    let mut node = Group::spawn(Command::new(&program).args(["run", "--config"]).arg(&config));
    eventually("nobody to be answered at the socket", async || {
        let mut command = Command::new(&program);
        command.args(["status", "--admin", &format!("unix:{}", socket.display())]);
        command.uid(nobody.uid).gid(nobody.gid);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        output.status.success()
    })
    .await;
    let about = std::fs::metadata(&socket).unwrap();
    assert_eq!((about.uid(), about.gid(), about.mode() & 0o777), (nobody.uid, nobody.gid, 0o600));
    kill_process(Pid::from_child(&node), Signal::TERM).unwrap();
    eventually("the node to end", async || node.try_wait().unwrap().is_some()).await;
    assert!(!socket.exists(), "its file goes with it");
}
