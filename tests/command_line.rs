//! The command line: exit codes, output, and how `status` deals with whatever answers it.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::thread::JoinHandle;

fn selvedge(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge")).args(arguments).output().expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("output is UTF-8")
}

const POOLS: &str = r#"{"pools":[{"name":"shop","balance":"least_outstanding","panic":false,"waiting":0,"targets":[
    {"name":"az-a/127.0.1.1:9001","zone":"az-a","address":"127.0.1.1:9001","weight":1,"status":"healthy","in_flight":7,
     "takes_new":true,"keeps_bound":true,"last_probe":null}]}]}"#;

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Reads one request head and sends `answer`; gives back the head.
fn answer_one(mut stream: impl std::io::Read + std::io::Write, answer: &str) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the head is complete");
        head.push(byte[0]);
    }
    stream.write_all(answer.as_bytes()).expect("the answer is read");
    String::from_utf8(head).expect("the head is text")
}

/// An admin API that gives one answer: its URL, and the head of the request it got.
fn admin_api(answer: String) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    (url, std::thread::spawn(move || answer_one(listener.accept().expect("somebody connects").0, &answer)))
}

#[test]
fn a_new_key_is_one_line_and_never_the_same() {
    let lines = [(); 2].map(|()| {
        let output = selvedge(&["keys", "new"]);
        assert!(output.status.success());
        assert_eq!(stderr(&output), "");
        stdout(&output)
    });
    for line in &lines {
        assert!(line.ends_with('\n') && line.lines().count() == 1, "{line:?}");
        selvedge::config::KeyRing::parse(line).expect("the line can be used");
    }
    assert_ne!(lines[0], lines[1]);
}

#[test]
fn wrong_arguments_end_with_exit_code_2() {
    for arguments in [
        &[][..],
        &["chek"],
        &["check"],
        &["run", "--config"],
        &["--zone", "az-a"],
        &["keys"],
        &["status", "--admin", "127.0.0.1:9900"],
    ] {
        let output = selvedge(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("--help"), "{arguments:?} leads to the help: {}", stderr(&output));
    }
    assert_eq!(selvedge(&["--version"]).status.code(), Some(0));
    assert_eq!(selvedge(&["--help"]).status.code(), Some(0));
}

#[test]
fn the_zone_comes_from_the_flag_then_the_environment_then_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("selvedge.toml");
    std::fs::write(&file, "zone = \"az-a\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n").unwrap();
    let run = |flag: &[&str], environment: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.args(["check", "--config"]).arg(&file).args(flag).env("SELVEDGE_ZONE", environment);
        command.output().unwrap()
    };
    let wrong = stderr(&run(&[], "from the environment"));
    assert!(wrong.contains("zone: \"from the environment\" is not a name"), "{wrong}");
    let wrong = stderr(&run(&["--zone", "from the flag"], "from the environment"));
    assert!(wrong.contains("zone: \"from the flag\" is not a name"), "{wrong}");
    assert!(run(&["--zone", "az-c"], "from the environment").status.success());
    assert!(stdout(&run(&["--zone", "az-c"], "az-b")).contains("zone az-c"));
    assert!(stdout(&run(&[], "az-b")).contains("zone az-b"));
    assert!(stdout(&run(&[], "")).contains("zone az-a"), "an empty variable is none");
}

#[test]
fn status_shows_a_table_or_the_json() {
    let (url, api) = admin_api(answer("200 OK", POOLS));
    let output = selvedge(&["status", "--admin", &url]);
    assert!(output.status.success(), "{}", stderr(&output));
    let head = api.join().unwrap();
    assert!(head.starts_with("GET /v1/pools HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {}\r\n", &url["http://".len()..])), "{head}");
    let table = stdout(&output);
    for word in ["shop", "least_outstanding", "az-a", "127.0.1.1:9001", "healthy", "7"] {
        assert!(table.contains(word), "{word} is missing in\n{table}");
    }

    let (url, _api) = admin_api(answer("200 OK", POOLS));
    let json = stdout(&selvedge(&["status", "--json", "--admin", &url]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["pools"][0]["targets"][0]["in_flight"], 7);
}

#[test]
fn status_finds_socket_and_token_in_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("admin.sock")).unwrap();
    let api = std::thread::spawn(move || answer_one(listener.accept().unwrap().0, &answer("200 OK", POOLS)));
    std::fs::write(folder.path().join("admin.token"), "correct-horse-battery\n").unwrap();
    let file = folder.path().join("selvedge.toml");
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"unix:admin.sock\"\ntoken_file = \"admin.token\"\n";
    std::fs::write(&file, text).unwrap();
    let output = selvedge(&["status", "--config", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let head = api.join().unwrap();
    assert!(head.contains("authorization: Bearer correct-horse-battery\r\n"), "{head}");
}

#[test]
fn status_says_in_one_line_what_is_wrong() {
    let failed = |admin: &str, expected: &str| {
        let output = selvedge(&["status", "--admin", admin]);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.lines().count() == 1 && text.starts_with("selvedge: ") && text.contains(expected),
            "{text}"
        );
        assert_eq!(stdout(&output), "");
    };
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    failed(&format!("http://{unused}"), "is the node running");
    failed("unix:/nonexistent/admin.sock", "is the node running");
    for (given, expected) in [
        (answer("401 Unauthorized", ""), "it wants another token"),
        (answer("404 Not Found", "no"), "it answered 404 Not Found"),
        (answer("200 OK", "<html>"), "is not that of selvedge's admin API"),
        (answer("200 OK", "{\"pools\":[{}]}"), "is not that of selvedge's admin API"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(), "broken answer"),
        ("SSH-2.0-OpenSSH\r\n".to_owned(), "no usable answer"),
    ] {
        failed(&admin_api(given).0, expected);
    }
}

#[test]
fn status_does_not_wait_forever() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    // The kernel accepts the connection; nobody ever answers.
    let output = selvedge(&["status", "--admin", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no answer within 5 s"), "{}", stderr(&output));
    drop(silent);
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    let output = command.args(["keys", "new"]).stdout(writer).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn the_exit_codes_stand_in_the_help_and_in_the_manual() {
    let help = stdout(&selvedge(&["--help"]));
    let manual = stdout(&selvedge(&["man"]));
    for code in ["0", "1", "2", "3", "78"] {
        let says = |text: &str| text.lines().any(|line| line.split_whitespace().next() == Some(code));
        assert!(says(&help), "{code} is not explained in\n{help}");
        assert!(says(&manual), "{code} is not explained in\n{manual}");
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let output = selvedge(&["man", folder.path().to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    let pages = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let pages: Vec<_> = pages.map(|name| name.into_string().unwrap()).collect();
    let help = stdout(&selvedge(&["--help"]));
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<_> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() >= 9 && pages.len() > commands.len(), "{commands:?} {pages:?}");
    for command in
        commands.into_iter().filter(|command| *command != "help").chain(["zone-shift", "target-drain"])
    {
        assert!(pages.contains(&format!("selvedge-{command}.1")), "{command} is not in {pages:?}");
    }
    for page in pages {
        let text = std::fs::read_to_string(folder.path().join(&page)).unwrap();
        assert!(text.contains("\n.TH ") && text.contains("\n.SH DESCRIPTION\n"), "{page}:\n{text}");
    }
    let output = selvedge(&["man", "/nonexistent/man1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("give a folder that is there"), "{}", stderr(&output));
}

#[test]
fn bash_completes_commands_and_options_with_the_script_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("selvedge.bash");
    std::fs::write(&script, selvedge(&["completions", "bash"]).stdout).unwrap();
    let completed = |words: &[&str]| {
        let ask = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); \
                   _selvedge selvedge \"${COMP_WORDS[COMP_CWORD]}\"; echo \"${COMPREPLY[@]}\"";
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", ask, "bash"]).arg(&script).args(words);
        let output = bash.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let commands = completed(&["selvedge", ""]);
    for command in ["run", "check", "zone", "target", "schema"] {
        assert!(commands.split_whitespace().any(|word| word == command), "{command} is not in {commands}");
    }
    assert_eq!(completed(&["selvedge", "zone", "shi"]).trim(), "shift");
    assert!(completed(&["selvedge", "zone", "shift", "--d"]).contains("--dry-run"));
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&selvedge(&["completions", shell]));
        assert!(script.contains("selvedge") && script.contains("dry-run"), "{shell}:\n{script}");
    }
}

#[test]
fn colours_are_for_terminals_whose_user_does_not_object() {
    // `script` gives the program a terminal of its own.
    let on_terminal = |variable: &str| {
        let mut script = Command::new("script");
        let line = format!("{} chek", env!("CARGO_BIN_EXE_selvedge"));
        script.args(["--quiet", "--command", &line, "/dev/null"]).env_remove("NO_COLOR");
        if !variable.is_empty() {
            script.env(variable, "1");
        }
        let output = script.env("TERM", "xterm").stdin(std::process::Stdio::null()).output().unwrap();
        let text = stdout(&output);
        assert!(text.contains("unrecognized subcommand"), "{text}{}", stderr(&output));
        text.contains("\u{1b}[")
    };
    assert!(on_terminal(""), "there are colours on a terminal");
    assert!(!on_terminal("NO_COLOR"), "there are none where NO_COLOR is set");
    assert!(!stderr(&selvedge(&["chek"])).contains('\u{1b}'), "there are none in a pipe");
}
