//! `selvedge reload` and `selvedge check --diff`, before a running node and between two files.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Client, Edge, Origin, Setup};

async fn selvedge(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(arguments).env_remove("SELVEDGE_ZONE");
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output { status, stdout, stderr } = run.await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn before(origins: &[&Origin]) -> Setup {
    Edge::before_all(origins)
        .top("watch = false")
        .pool("stickiness.mode = \"lb_cookie\"\nstickiness.cookie = \"S\"\nhealth.enabled = false")
}

fn written(edge: &Edge, name: &str, text: &str) -> String {
    let path = edge.config().with_file_name(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn reload_says_what_changed_or_every_mistake() {
    let origin = Origin::start().await;
    let edge = before(&[&origin]).start().await;
    let admin = format!("http://{}", edge.admin);
    edge.write(&before(&[&origin]).pool("retry.attempts = 2").text());
    let (code, out, err) = selvedge(&["reload", "--admin", &admin]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        out,
        "configuration 2 runs\nchanges:\n  pool.shop.retry: { attempts = 2 } comes\nno session moves or ends\nwarnings:\n  \
         session_keys.file: not set, so a key was made that no other node has and that ends with this process, and the \
         sessions with it; `selvedge keys new` prints a line for such a file\n"
    );
    edge.write(&before(&[&origin]).pool("retry.attempts = 99\nbalance = \"fair\"").text());
    let (code, out, err) = selvedge(&["reload", "--admin", &admin]).await;
    assert_eq!((code, out.as_str()), (Some(78), ""));
    let lines: Vec<_> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines.iter().all(|line| line.contains("selvedge.toml:")), "{err}");
    assert!(err.contains("pool.shop.retry.attempts") && err.contains("pool.shop.balance"), "{err}");
    assert_eq!(edge.generation().await, 2);
}

#[tokio::test]
async fn reload_fails_when_nobody_answers() {
    let nobody = crate::support::Refusing::new();
    let (code, _, err) = selvedge(&["reload", "--admin", &format!("http://{}", nobody.address)]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("is the node running"), "{err}");
}

#[tokio::test]
async fn a_diff_with_the_running_node_says_which_sessions_move_and_changes_nothing() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let edge = before(&[&a, &b]).start().await;
    let admin = format!("http://{}", edge.admin);
    let diff = async |candidate: &str| {
        let file = written(&edge, "candidate.toml", candidate);
        selvedge(&["check", "--config", &file, "--diff", "--admin", &admin]).await
    };
    let (code, out, _) = diff(&before(&[&a, &b]).text()).await;
    assert_eq!(code, Some(0));
    assert!(out.starts_with("nothing changes\nno session moves or ends\n"), "{out}");
    let (code, out, _) = diff(&before(&[&a, &b]).pool("balance = \"round_robin\"").text()).await;
    assert_eq!(code, Some(0));
    assert!(
        out.starts_with("changes:\n  pool.shop.balance: \"round_robin\" comes\nno session moves"),
        "{out}"
    );
    let (code, out, err) = diff(&before(&[&a]).text()).await;
    assert_eq!((code, err.as_str()), (Some(3), ""));
    let moves =
        format!("sessions:\n  sessions of pool shop at -/{b} (about 0 lately) move once it has drained");
    assert!(out.contains(&moves), "{out}");
    let (code, out, _) = diff(&before(&[&a, &b]).text().replace("\"S\"", "\"T\"")).await;
    assert_eq!(code, Some(3));
    assert!(
        out.contains("sessions of pool shop (about 0 lately) end: the cookie \"S\" is not looked for"),
        "{out}"
    );
    let (code, out, err) = diff("colour = \"red\"").await;
    assert_eq!((code, out.as_str()), (Some(78), ""));
    assert!(err.contains("candidate.toml:1: colour"), "{err}");
    assert_eq!(edge.generation().await, 1);
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
    // Without --admin it is the node that the file itself names.
    let named = before(&[&a, &b]).and(&format!("[admin]\naddress = \"{}\"", edge.admin)).text();
    let file = written(&edge, "named.toml", &named);
    let (code, out, _) = selvedge(&["check", "--diff", "--config", &file]).await;
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("waits for a restart:\n  admin.address"), "{out}");
}

#[tokio::test]
async fn a_diff_between_two_files_needs_no_node() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old.toml"), folder.path().join("new.toml"));
    std::fs::write(&old, before(&[&a, &b]).text()).unwrap();
    std::fs::write(&new, before(&[&a]).top("workers = 3").text()).unwrap();
    let against = async |new: &Path, old: &Path| {
        selvedge(&["check", "--diff", "--config", text(new), "--against", text(old)]).await
    };
    let (code, out, err) = against(&new, &old).await;
    assert_eq!((code, err.as_str()), (Some(3), ""));
    assert!(out.contains(&format!("pool.shop.target[{b}]: {{ address = \"{b}\" }} goes")), "{out}");
    assert!(out.contains("waits for a restart:\n  workers: stays 1 until a restart makes it 3\n"), "{out}");
    assert_eq!(against(&old, &old).await.0, Some(0));
    let (code, _, err) = selvedge(&["check", "--config", text(&new), "--against", text(&old)]).await;
    assert_eq!(code, Some(2), "--against is part of --diff: {err}");
    std::fs::write(&old, "nonsense").unwrap();
    let (code, _, err) = against(&new, &old).await;
    assert_eq!(code, Some(78));
    assert!(err.contains("old.toml:1"), "{err}");
}

#[tokio::test]
async fn a_diff_fails_when_no_node_answers() {
    let nobody = crate::support::Refusing::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("selvedge.toml");
    std::fs::write(&file, Edge::without_pool().text()).unwrap();
    let admin = format!("http://{}", nobody.address);
    let (code, _, err) = selvedge(&["check", "--diff", "--config", text(&file), "--admin", &admin]).await;
    assert_eq!(code, Some(1));
    assert!(err.contains("is the node running"), "{err}");
}
