//! The configuration from outside: the files in `config/`, and what the built program says of bad ones.
//!
//! Single rules are tested next to the code (`src/config/compile/tests.rs`); here is what only shows in the whole.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use selvedge::config::{Config, Overrides};

/// The program with these arguments, run to its end.
fn selvedge(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .args(arguments)
        .env_remove("SELVEDGE_ZONE")
        .output()
        .expect("the program starts")
}

fn check(file: &Path) -> Output {
    selvedge(&["check", "--config", file.to_str().expect("the path is UTF-8")])
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("output is UTF-8")
}

fn written(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("the file can be written");
    path
}

fn load(path: &Path) -> Config {
    Config::load(path, &Overrides::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn every_file_in_config_passes_the_check() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    assert!(files.len() >= 3, "some files are found: {files:?}");
    for file in files {
        let output = check(&file);
        assert_eq!(output.status.code(), Some(0), "{}:\n{}", file.display(), stderr(&output));
        assert!(stdout(&output).starts_with(&format!("{}: good\n", file.display())), "{}", stdout(&output));
    }
}

#[test]
fn the_reference_sets_every_key_to_its_default() {
    let folder = tempfile::tempdir().unwrap();
    let bare = written(
        &folder,
        "bare.toml",
        "[[listener]]\naddress = \"127.0.0.1:8080\"\n\
         [[route]]\npool = \"shop\"\n\
         [[route]]\npath = \"/a\"\nredirect = { path = \"/b\" }\n\
         [[route]]\npath = \"/c\"\nrespond = { status = 200 }\n\
         [[pool.shop.target]]\naddress = \"127.0.1.1:9001\"\n\
         [[pool.shop-next.discover]]\ndns = \"_http._tcp.shop.internal\"\n\
         [dns]\naddresses = [\"127.0.0.1:5300\"]\ndomain = \"lb.myclothes.test\"\n\
         [[dns.name_server]]\nname = \"ns1.lb.myclothes.test\"\naddresses = [\"203.0.113.10\"]\n\
         [[dns.node]]\nipv4 = \"203.0.113.10\"\nipv6 = \"2001:db8::10\"\nzone = \"az-a\"\n\
         check = \"203.0.113.10:9900\"\n[access_log]\n",
    );
    let bare = load(&bare);
    let reference = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/selvedge.toml"));
    let pool = |config: &Config| {
        let of = |name| config.pools.iter().find(|pool| &*pool.name == name).cloned();
        (of("shop"), of("shop-next"))
    };
    let shown = |config: &Config| {
        let Config { zone, workers, listeners, session_keys, admin, forwarding, shutdown, log, .. } = config;
        let Config { resolver, state, access_log, .. } = config;
        let node = format!(
            "{zone:#?} {workers} {session_keys:#?} {admin:#?} {forwarding:#?} {shutdown:#?} {log:#?} {resolver:#?} {state:#?} {access_log:#?}"
        );
        // The one name that there is without any, and no more than that.
        let mut dns = selvedge::config::Dns::clone(config.dns.as_ref().unwrap());
        dns.names.truncate(1);
        dns.nearest.clear();
        format!("{listeners:#?} {:#?} {dns:#?} {node}", pool(config))
    };
    assert_eq!(shown(&reference), shown(&bare));
    // Pools are numbered in the order of their names, and "shop" comes first in both files.
    assert_eq!(format!("{:#?}", reference.routes[0]), format!("{:#?}", bare.routes[0]));
    let defaults = |config: &Config| {
        let actions = config.routes.iter().map(|route| &route.action);
        let mut defaults = Vec::new();
        for action in actions {
            match action {
                selvedge::config::Action::Redirect(redirect) => defaults.push(redirect.status.to_string()),
                selvedge::config::Action::Respond(respond) => {
                    defaults.push(format!("{:?}", respond.content_type))
                }
                selvedge::config::Action::Pools(_) => {}
            }
        }
        defaults
    };
    assert_eq!(defaults(&reference), defaults(&bare));
}

#[test]
#[cfg(not(feature = "otlp"))]
fn a_table_for_a_feature_that_was_not_built_in_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let minimal = "[[listener]]\naddress = \"127.0.0.1:8080\"\n[[route]]\npool = \"shop\"\n\
                   [[pool.shop.target]]\naddress = \"127.0.1.1:9001\"\n";
    let file =
        written(&folder, "otlp.toml", &format!("{minimal}[otlp]\nendpoint = \"https://collector.test\"\n"));
    let output = check(&file);
    assert_eq!(output.status.code(), Some(78));
    let said = stderr(&output);
    assert!(said.contains("otlp.toml:7: otlp: "), "{said}");
    assert!(said.contains("built without the feature `otlp`"), "{said}");
    assert!(
        said.contains("remove the table, or build with: cargo build --release --features otlp"),
        "{said}"
    );
}

const BAD: &str = r#"wrkers = 4
zone = "az a"

[[listener]]
address = "127.0.0.1"
max_fields = 1000

[[listener]]
address = "127.0.0.1:8081"
head_timeout = 10

[[route]]
host = "shop.test:80"
pool = "shop"

[[route]]
path = "cart"
pool = "shp"

[[route]]
path = "/nothing"

[pool.shop]
balance = "quickest"

[pool.shop.stickiness]
mode = "lb_cooky"
idle = "8d"

[pool.shop.health]
interval = "1s"
timeout = "2s"
expect = ["200-"]

[pool.shop.zones]
panic = "120%"

[[pool.shop.target]]
address = "shop.internal:9001"
weight = 1000

[session_keys]
file = "absent.keys"

[admin]
address = "0.0.0.0:9900"

[log]
level = "verbose"
"#;

#[test]
fn every_mistake_is_reported_at_once_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = written(&folder, "bad.toml", BAD);
    let output = check(&file);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(stdout(&output), "");
    let expected = [
        (1, "wrkers"),
        (2, "zone"),
        (5, "listener[0].address"),
        (6, "listener[0].max_fields"),
        (10, "listener[1].head_timeout"),
        (13, "route[0].host"),
        (17, "route[1].path"),
        (18, "route[1].pool"),
        (20, "route[2]"),
        (24, "pool.shop.balance"),
        (27, "pool.shop.stickiness.mode"),
        (28, "pool.shop.stickiness.idle"),
        (32, "pool.shop.health.timeout"),
        (33, "pool.shop.health.expect[0]"),
        (36, "pool.shop.zones.panic"),
        (39, "pool.shop.target[0].address"),
        (40, "pool.shop.target[0].weight"),
        (43, "session_keys.file"),
        (46, "admin.address"),
        (49, "log.level"),
    ];
    let text = stderr(&output);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, (number, key)) in lines.into_iter().zip(expected) {
        let begin = format!("{}:{number}: {key}: ", file.display());
        let message =
            line.strip_prefix(&begin).unwrap_or_else(|| panic!("{line}\ndoes not begin with {begin}"));
        let (what, hint) =
            message.split_once("; ").unwrap_or_else(|| panic!("{line} does not say what to write"));
        assert!(!what.is_empty() && !hint.is_empty(), "{line}");
    }
}

#[test]
fn a_wrong_configuration_is_refused_before_any_socket_is_bound() {
    // The port is taken: binding it would end with another exit code.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = format!("[[listener]]\naddress = \"{address}\"\n[[route]]\npool = \"shop\"\n");
    let file = written(&folder, "bad.toml", &text);
    for arguments in [&["run", "--config"][..], &["--config"]] {
        let output = selvedge(&[arguments, &[file.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
        assert!(
            stderr(&output).contains(":4: route[0].pool: there is no pool \"shop\"; "),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_taken_port_is_one_clear_line_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[[listener]]\naddress = \"{address}\"\n[[route]]\npool = \"shop\"\n\
         [[pool.shop.target]]\naddress = \"127.0.0.1:1\"\n[admin]\nenabled = false\n[log]\nlevel = \"error\"\n"
    );
    let file = written(&folder, "taken.toml", &text);
    let output = selvedge(&["run", "--config", file.to_str().unwrap()]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("selvedge: ") && text.contains(&address), "{text}");
}

#[test]
fn an_unreadable_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.toml");
    for path in [absent.as_path(), folder.path()] {
        let output = check(path);
        assert_eq!(output.status.code(), Some(78));
        let begin = format!("{}: cannot be read: ", path.display());
        assert!(stderr(&output).starts_with(&begin), "{}", stderr(&output));
    }
    let file = written(&folder, "latin1.toml", "");
    std::fs::write(&file, b"zone = \"\xe9\"").unwrap();
    assert_eq!(check(&file).status.code(), Some(78));
}

#[test]
fn a_bad_key_file_is_a_mistake_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[session_keys]\nfile = \"session.keys\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let file = written(&folder, "selvedge.toml", text);
    let message = || stderr(&check(&file));
    let key_file = folder.path().join("session.keys");
    let shown = key_file.display();

    assert!(message().contains(&format!(":2: session_keys.file: {shown} cannot be read: ")), "{}", message());
    assert!(message().contains(&format!("selvedge keys new > {shown}")), "{}", message());
    std::fs::create_dir(&key_file).unwrap();
    assert!(message().contains(&format!("{shown} cannot be read: ")), "{}", message());
    std::fs::remove_dir(&key_file).unwrap();
    std::fs::write(&key_file, "nonsense\n").unwrap();
    assert!(message().contains(&format!("{shown} cannot be used: line 1 is not ")), "{}", message());
    assert!(!message().contains("nonsense"), "a secret is not repeated: {}", message());
    std::fs::write(&key_file, selvedge(&["keys", "new"]).stdout).unwrap();
    assert_eq!(message(), "");
}

#[test]
fn secrets_that_others_can_read_are_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let keys = written(&folder, "session.keys", &stdout(&selvedge(&["keys", "new"])));
    let token = written(&folder, "admin.token", "0123456789abcdef0123456789abcdef\n");
    let text = "[session_keys]\nfile = \"session.keys\"\n[admin]\naddress = \"0.0.0.0:0\"\n\
                token_file = \"admin.token\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let file = written(&folder, "selvedge.toml", text);
    let warnings = |mode: u32| {
        for path in [&keys, &token] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let output = check(&file);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output).lines().filter(|line| line.contains("every user of this machine")).count()
    };
    assert_eq!((warnings(0o644), warnings(0o640), warnings(0o600)), (2, 0, 0));
}

#[test]
fn warnings_do_not_fail_the_check() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[pool.a.stickiness]\nmode = \"lb_cookie\"\n\
                [[pool.a.target]]\naddress = \"127.0.0.1:1\"\n";
    let output = check(&written(&folder, "selvedge.toml", text));
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    for warning in ["route: there is none", "pool.a: no route leads to it", "session_keys.file: not set"] {
        assert!(text.contains(&format!("selvedge.toml: warning: {warning}")), "{text}");
    }
}
