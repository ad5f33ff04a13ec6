//! The access log: one line for each request whatever became of it, and no request that waits for its line.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::http2::{Http2, asking};
use crate::support::websocket::{self, Socket};
use crate::support::{
    Authority, Client, Edge, Gate, Origin, Raw, Refusing, Reply, Setup, all, eventually, within,
};

const LINES: &str = "selvedge_access_log_lines_total";
const RECEIVED: &str = "selvedge_requests_received_total";

/// A folder with nothing in it, and the path of a log there.
fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    (folder, path)
}

fn logging(setup: Setup, path: &Path, keys: &str) -> Setup {
    setup.and(&format!("[access_log]\noutput = {path:?}\n{keys}\n"))
}

/// The lines in the file, once there are so many.
async fn lines(path: &Path, count: usize) -> Vec<String> {
    let mut text = String::new();
    eventually(&format!("{count} lines in {}", path.display()), async || {
        text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().count() >= count && text.ends_with('\n')
    })
    .await;
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), count, "{text}");
    lines
}

async fn objects(path: &Path, count: usize) -> Vec<Value> {
    let read = |line: &String| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    lines(path, count).await.iter().map(read).collect()
}

/// The values of these fields.
fn values<'a>(line: &'a Value, fields: &[&str]) -> Vec<&'a Value> {
    fields.iter().map(|field| line.get(field).unwrap_or_else(|| panic!("no {field} in {line}"))).collect()
}

#[tokio::test]
async fn a_line_says_all_that_is_known_of_a_request() {
    let (_folder, path) = place();
    let origin = Origin::replying(|_| Reply::ok("hello")).await;
    let setup =
        Setup::default().target_with(&origin, "zone = \"az-b\"").pool("stickiness.mode = \"lb_cookie\"");
    let edge = logging(setup, &path, "").start().await;
    let mut client = Client::of(&edge);
    let fields = ["User-Agent: test/1 \"quoted\"", "Referer: http://shop.test/\u{e9}", "Accept: */*"];
    client.request("POST", "/cart?x=%22&y=1", &fields, b"four").await;
    client.get("/again").await;
    let log = objects(&path, 2).await;
    let known = [
        "client",
        "method",
        "host",
        "path",
        "protocol",
        "tls",
        "status",
        "reason",
        "bytes_in",
        "bytes_out",
        "pool",
        "zone",
        "target",
        "attempts",
        "verdict",
        "moved",
        "user_agent",
        "referer",
    ];
    let expected = serde_json::json!([
        "127.0.0.1",
        "POST",
        "shop.test",
        "/cart?x=%22&y=1",
        "HTTP/1.1",
        null,
        200,
        null,
        4,
        5,
        "shop",
        "az-b",
        origin.address.to_string(),
        1,
        "none",
        false,
        "test/1 \"quoted\"",
        "http://shop.test/\u{e9}",
    ]);
    assert_eq!(serde_json::json!(values(&log[0], &known)), expected);
    assert_eq!(log[1]["verdict"], "valid");
    let sent = origin.requests()[0].fields.get("x-request-id").unwrap().to_owned();
    assert_eq!(log[0]["request_id"], sent.as_str());
    let (first_byte, duration) =
        (log[0]["first_byte"].as_f64().unwrap(), log[0]["duration"].as_f64().unwrap());
    assert!(first_byte > 0.0 && first_byte <= duration && duration < 60.0, "{first_byte} {duration}");
    let time = log[0]["time"].as_str().unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 24, "{time}");
    assert_eq!(log[0].as_object().unwrap().len(), 24);
}

#[tokio::test]
async fn fields_and_form_are_as_configured() {
    let (_folder, path) = place();
    let origin = Origin::replying(|_| Reply::ok("hello")).await;
    let config = logging(Edge::before(&origin), &path, "fields = [\"status\", \"path\"]");
    let edge = config.start().await;
    Client::of(&edge).get("/a").await;
    assert_eq!(lines(&path, 1).await, ["{\"status\":200,\"path\":\"/a\"}"]);
    let (_folder, path) = place();
    let edge = logging(Edge::before(&origin), &path, "format = \"combined\"").start().await;
    let refused = Client::of(&edge).get_with("/a\\b?c", &["User-Agent: x\"\t\u{7f}y"]).await;
    Client::of(&edge).get_with("/a", &["User-Agent: x\"y"]).await;
    let log = lines(&path, 2).await;
    // The first is refused: what cannot be read cannot be told.
    let end = format!("] \"-\" 400 {} \"-\" \"-\"", refused.body.len());
    assert!(log[0].starts_with("127.0.0.1 - - [") && log[0].ends_with(&end), "{}", log[0]);
    assert!(log[1].ends_with(" +0000] \"GET /a HTTP/1.1\" 200 5 \"-\" \"x\\\"y\""), "{}", log[1]);
}

#[tokio::test]
async fn a_field_that_is_not_there_is_refused_with_a_hint() {
    let origin = Refusing::new();
    let refused = async |keys: &str| {
        let text = Edge::before(&origin).and(&format!("[access_log]\n{keys}\n")).text();
        let (code, said) = Edge::refuses(&text).await;
        (code, said)
    };
    for (keys, code, says) in [
        ("fields = [\"stats\"]", 78, "did you mean \"status\"?"),
        ("fields = [\"status\", \"status\"]", 78, "write each field once"),
        ("fields = []", 78, "access_log.fields: is empty"),
        ("format = \"combined\"\nfields = [\"status\"]", 78, "has no meaning with format = \"combined\""),
        ("output = \"/\"", 78, "access_log.output: is not the path of a file"),
        ("output = \"/none/access.log\"", 1, "access_log.output: cannot open /none/access.log"),
        ("max_size = \"1KiB\"", 78, "write \"64KiB\" to \"1024GiB\""),
    ] {
        let (got, said) = refused(keys).await;
        assert!(got == Some(code) && said.contains(says), "{keys}: {got:?} {said}");
    }
}

#[tokio::test]
async fn every_request_has_a_line_whatever_became_of_it() {
    let (_folder, path) = place();
    let origin = Origin::raw(async |mut conn| {
        while let Some(request) = conn.request().await {
            let answer = match &*request.target {
                "/hang" => {
                    conn.ended().await;
                    return;
                }
                "/cut" => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
                "/nonsense" => "NONSENSE\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            };
            conn.send(answer).await;
            if !answer.ends_with("ok") {
                return;
            }
        }
    })
    .await;
    let setup = Edge::before(&origin)
        .route("host = \"shop.test\"")
        .pool("retry.attempts = 1")
        .and("[[route]]\nhost = \"old.test\"\nredirect = { host = \"shop.test\" }\n")
        .and("[[route]]\nhost = \"down.test\"\npool = \"down\"\n[pool.down]\nhealth.enabled = false\nqueue.length = 0")
        .and("stickiness.mode = \"off\"\n[[pool.down.target]]\naddress = \"127.0.0.1:1\"\n");
    let edge = logging(setup, &path, "").start().await;
    let ask = async |bytes: &str| {
        let mut raw = Raw::connect(&edge).await;
        raw.send(bytes).await;
        raw
    };
    let get = |path: &str, host: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let mut expected = vec![];
    for (bytes, status, reason, path) in [
        (get("/", "other.test"), 404, "no_route", "/"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(), 400, "host", ""),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".into(), 204, "", "*"),
        (get("/x", "old.test"), 308, "", "/x"),
        (get("/", "down.test"), 503, "no_target", "/"),
        (get("/nonsense", "shop.test"), 502, "protocol", "/nonsense"),
    ] {
        let answer = ask(&bytes).await.response().await;
        assert_eq!(answer.status, status, "{bytes}");
        expected.push((status, reason, path));
    }
    ask(&get("/cut", "shop.test")).await.cut().await;
    expected.push((200, "answer_broken", "/cut"));
    let raw = ask(&get("/hang", "shop.test")).await;
    eventually("the request at the origin", async || origin.last().target == "/hang").await;
    drop(raw);
    expected.push((499, "client_gone", "/hang"));
    let log = objects(&path, expected.len()).await;
    let seen: Vec<_> = log
        .iter()
        .map(|line| {
            let text = |field: &str| line[field].as_str().unwrap_or_default();
            (line["status"].as_u64().unwrap() as u16, text("reason"), text("path"))
        })
        .collect();
    assert_eq!(seen, expected);
    assert_eq!(edge.metric(RECEIVED).await, expected.len() as u64);
    edge.counts(&format!("{LINES}{{result=\"written\"}}"), expected.len() as u64).await;
    let cut = log.iter().find(|line| line["path"] == "/cut").unwrap();
    assert_eq!(cut["bytes_out"], 4);
}

#[tokio::test]
async fn a_web_socket_has_its_line_at_its_end() {
    let (_folder, path) = place();
    let origin = websocket::echoing(|_| ()).await;
    let edge = logging(Edge::before(&origin), &path, "").start().await;
    let mut socket = Socket::open(&edge).await;
    socket.echo(b"hello").await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    drop(socket);
    let log = objects(&path, 1).await;
    assert_eq!(log[0]["status"], 101);
    // Frames: two bytes of head, four of mask on the way there, and what was said.
    assert_eq!(values(&log[0], &["bytes_in", "bytes_out"]), [11, 7]);
}

#[tokio::test]
async fn http2_and_tls_are_in_the_line() {
    let (_folder, path) = place();
    let ca = Authority::new("ca");
    let issued = ca.issue("web", &["shop.test"]);
    let origin = Origin::replying(|_| Reply::ok("hello")).await;
    let edge = logging(Edge::before(&origin).listener(&issued.listener()), &path, "").start().await;
    let mut client = Http2::over(&ca.dialer("shop.test"), &edge).await;
    client.request(asking("POST", "/x", &[]), b"seven77").await;
    let log = objects(&path, 1).await;
    let fields = ["protocol", "tls", "method", "path", "status", "bytes_in", "bytes_out"];
    let expected = serde_json::json!(["HTTP/2.0", "1.3", "POST", "/x", 200, 7, 5]);
    assert_eq!(serde_json::json!(values(&log[0], &fields)), expected);
}

#[tokio::test]
async fn the_last_lines_are_written_before_the_end() {
    let (_folder, path) = place();
    let (gate, origin) = (Gate::closed(), Origin::start().await);
    let slow = Origin::holding(&gate, "late").await;
    let setup = logging(Edge::before_each(&[origin, slow]), &path, "");
    let mut edge = setup.start().await;
    Client::of(&edge).get("/0").await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET /1 HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    edge.counts("selvedge_requests_in_flight", 1).await;
    edge.terminate();
    edge.logged(&["stopping"]).await;
    gate.open();
    raw.response().await;
    assert!(edge.exit().await.success());
    assert_eq!(lines(&path, 2).await.len(), 2);
}

#[tokio::test]
async fn sigusr1_opens_the_file_again() {
    let (folder, path) = place();
    let origin = Origin::start().await;
    let edge = logging(Edge::before(&origin), &path, "fields = [\"path\"]").start().await;
    Client::of(&edge).get("/one").await;
    lines(&path, 1).await;
    let moved = folder.path().join("access.log.old");
    std::fs::rename(&path, &moved).unwrap();
    edge.log_was_moved();
    edge.logged(&["access log: opened again"]).await;
    Client::of(&edge).get("/two").await;
    assert_eq!(lines(&path, 1).await, ["{\"path\":\"/two\"}"]);
    assert_eq!(lines(&moved, 1).await, ["{\"path\":\"/one\"}"]);
}

#[tokio::test]
async fn sigusr1_without_a_log_ends_nothing() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    edge.log_was_moved();
    edge.logged(&["SIGUSR1", "there is none"]).await;
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
}

#[tokio::test]
async fn a_large_file_is_moved_away_and_no_line_is_lost() {
    let (folder, path) = place();
    let origin = Origin::start().await;
    let keys = "fields = [\"path\"]\nmax_size = \"64KiB\"\nkeep = 50";
    let edge = logging(Edge::before(&origin), &path, keys).start().await;
    let mut client = Client::of(&edge);
    let long = "x".repeat(2000);
    for number in 0..100 {
        client.get(&format!("/{number}/{long}")).await;
    }
    edge.counts(&format!("{LINES}{{result=\"written\"}}"), 100).await;
    let mut numbers = Vec::new();
    let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.len() <= 64 << 10 && text.ends_with('\n'), "{}", text.len());
        numbers.extend(text.lines().map(|line| line.split('/').nth(1).unwrap().parse::<u32>().unwrap()));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
}

/// Sends so many requests on several connections; all must be answered.
async fn answered(edge: &Edge, count: usize) {
    let address = edge.web;
    let answers = (0..8).map(|_| async move {
        let mut client = Client::to(address);
        for _ in 0..count / 8 {
            assert_eq!(client.get("/").await.status, 200);
        }
    });
    within("every request to be answered", all(answers)).await;
}

/// Whether written, dropped and failed lines are as many as requests.
async fn adds_up(edge: &Edge) {
    let requests = edge.metric(RECEIVED).await;
    edge.counts(LINES, requests).await;
}

#[tokio::test]
async fn a_pipe_that_nobody_opens_stalls_no_request() {
    let (_folder, path) = place();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let origin = Origin::start().await;
    let edge = logging(Edge::before(&origin), &path, "").start().await;
    answered(&edge, 800).await;
    adds_up(&edge).await;
    assert_eq!(edge.metric(&format!("{LINES}{{result=\"written\"}}")).await, 0);
    edge.logged(&["access log: lines are dropped"]).await;
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_stalls_no_request_and_goes_on_when_somebody_does() {
    let (_folder, path) = place();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let pipe = rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    let origin = Origin::start().await;
    let agent = format!("User-Agent: {}", "x".repeat(2000));
    let edge = logging(Edge::before(&origin), &path, "buffer = \"128KiB\"").start().await;
    let mut client = Client::of(&edge);
    // More than the pipe, the writer and the worker's buffers can hold.
    eventually("lines to be dropped", async || {
        for _ in 0..100 {
            assert_eq!(client.get_with("/", &[&agent]).await.status, 200);
        }
        edge.metric(&format!("{LINES}{{result=\"dropped\"}}")).await > 0
    })
    .await;
    edge.logged(&["access log: lines were dropped"]).await;
    let reader = std::thread::spawn(move || {
        rustix::fs::fcntl_setfl(&pipe, OFlags::empty()).unwrap();
        let mut text = String::new();
        File::from(pipe).read_to_string(&mut text).unwrap();
        text.lines().count() as u64
    });
    adds_up(&edge).await;
    let mut edge = edge;
    let written = edge.metric(&format!("{LINES}{{result=\"written\"}}")).await;
    assert_eq!(edge.metric(&format!("{LINES}{{result=\"failed\"}}")).await, 0);
    edge.stop_gracefully().await;
    assert_eq!(reader.join().unwrap(), written);
}

#[tokio::test]
async fn a_closed_standard_output_stalls_no_request() {
    let origin = Origin::start().await;
    let (reader, writer) = std::io::pipe().unwrap();
    let text = Edge::before(&origin).and("[access_log]\n").text();
    let edge = Edge::start_writing_to(Stdio::from(writer), &text).await;
    edge.ready().await;
    drop(reader);
    answered(&edge, 800).await;
    adds_up(&edge).await;
    edge.counts(&format!("{LINES}{{result=\"failed\"}}"), 800).await;
    edge.logged(&["access log: lines are dropped", "Broken pipe"]).await;
}

#[tokio::test]
async fn a_standard_output_that_nobody_reads_stalls_no_request_and_no_end() {
    let origin = Origin::start().await;
    let (_reader, writer) = std::io::pipe().unwrap();
    let text = Edge::before(&origin).and("[access_log]\nbuffer = \"128KiB\"\n").text();
    let mut edge = Edge::start_writing_to(Stdio::from(writer), &text).await;
    edge.ready().await;
    let agent = format!("User-Agent: {}", "x".repeat(2000));
    let mut client = Client::of(&edge);
    eventually("lines to be dropped", async || {
        for _ in 0..100 {
            assert_eq!(client.get_with("/", &[&agent]).await.status, 200);
        }
        edge.metric(&format!("{LINES}{{result=\"dropped\"}}")).await > 0
    })
    .await;
    assert!(edge.stop_gracefully().await.success());
}

#[tokio::test]
async fn a_reload_changes_begins_and_ends_the_log_and_no_line_is_lost() {
    let (folder, path) = place();
    let origin = Origin::start().await;
    let setup = || Edge::before(&origin).top("workers = 2\nwatch = false");
    let other = folder.path().join("other.log");
    let edge = logging(setup(), &path, "fields = [\"path\"]").start().await;
    let mut clients = [Client::of(&edge), Client::of(&edge), Client::of(&edge)];
    let mut count = 0;
    let mut ask = async || {
        for client in &mut clients {
            assert_eq!(client.get(&format!("/{count}")).await.status, 200);
            count += 1;
        }
    };
    ask().await;
    // Other fields in the same file, then another file.
    edge.becomes(&logging(setup(), &path, "fields = [\"path\", \"status\"]").text()).await;
    ask().await;
    edge.becomes(&logging(setup(), &other, "fields = [\"method\", \"path\"]").text()).await;
    ask().await;
    // A file that cannot be opened refuses the whole.
    edge.write(&logging(setup(), &folder.path().join("none/access.log"), "").text());
    let refused = edge.reload().await;
    assert_eq!(refused.status, 409);
    assert!(refused.text().contains("access_log.output: cannot open"), "{}", refused.text());
    ask().await;
    // None, and one again.
    edge.becomes(&setup().text()).await;
    ask().await;
    edge.becomes(&logging(setup(), &other, "fields = [\"path\"]").text()).await;
    ask().await;
    let mut first = lines(&path, 6).await;
    first.sort();
    let with_status = |number: u32| format!("{{\"path\":\"/{number}\",\"status\":200}}");
    let alone = |number: u32| format!("{{\"path\":\"/{number}\"}}");
    let mut expected: Vec<_> = (0..3).map(alone).chain((3..6).map(with_status)).collect();
    expected.sort();
    assert_eq!(first, expected);
    let mut second = lines(&other, 9).await;
    second.sort();
    let with_method = |number: u32| format!("{{\"method\":\"GET\",\"path\":\"/{number}\"}}");
    let mut expected: Vec<_> = (6..12).map(with_method).chain((15..18).map(alone)).collect();
    expected.sort();
    assert_eq!(second, expected);
    edge.counts(&format!("{LINES}{{result=\"written\"}}"), 15).await;
    assert_eq!(edge.metric(&format!("{LINES}{{result=\"dropped\"}}")).await, 0);
}

#[tokio::test]
async fn a_request_that_began_under_another_log_has_one_line_in_the_one_of_its_end() {
    let (folder, path) = place();
    let gate = Gate::closed();
    let origin = Origin::holding(&gate, "ok").await;
    let setup = || Edge::before(&origin).top("watch = false");
    let other = folder.path().join("other.log");
    let edge = logging(setup(), &path, "fields = [\"path\"]").start().await;
    let mut held = Raw::connect(&edge).await;
    held.send("GET /held HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    origin.received(1).await;
    edge.becomes(&logging(setup(), &other, "fields = [\"host\", \"path\", \"status\"]").text()).await;
    gate.open();
    assert_eq!(held.response().await.status, 200);
    // What was not gathered for the first is not known to the second.
    assert_eq!(lines(&other, 1).await, ["{\"host\":null,\"path\":\"/held\",\"status\":200}"]);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
}

#[tokio::test]
async fn a_log_whose_pipe_nobody_reads_is_replaced_by_a_reload() {
    let (folder, path) = place();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
    let _reader = rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    let origin = Origin::start().await;
    let setup = || Edge::before(&origin).top("watch = false");
    let edge = logging(setup(), &path, "").start().await;
    let mut client = Client::of(&edge);
    // More than a pipe holds.
    let long = format!("/{}", "x".repeat(4000));
    for _ in 0..40 {
        assert_eq!(client.get(&long).await.status, 200);
    }
    let other = folder.path().join("other.log");
    edge.becomes(&logging(setup(), &other, "fields = [\"path\"]").text()).await;
    assert_eq!(client.get("/after").await.status, 200);
    assert_eq!(lines(&other, 1).await, ["{\"path\":\"/after\"}"]);
}
