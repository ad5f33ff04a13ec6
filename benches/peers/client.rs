//! A plain HTTP client for what comes before the load: is the proxy there, does it answer rightly, which cookies does
//! it hand out, and what do idle connections cost it.
//!
//! Blocking, because nothing here is timed.

use std::collections::HashSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::origin;
use crate::process::Process;

/// Sessions that the load carries.
const COOKIES: usize = 64;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer, as far as the bench looks at it.
struct Answer {
    status: u16,
    /// `name=value` of its first Set-Cookie.
    cookie: Option<String>,
    served_by: String,
    body_length: usize,
}

/// Waits until a request to `address` is answered with 200, as long as `process` lives.
pub(crate) fn wait_until_it_answers(address: SocketAddr, process: &mut Process) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let last = match exchange(address, "GET", "/1k", None, 0) {
            Ok(answer) if answer.status == 200 => return Ok(()),
            Ok(answer) => format!("it answers {}", answer.status),
            Err(error) => error.to_string(),
        };
        process.check_alive()?;
        if Instant::now() > deadline {
            return Err(format!("{address} does not come up within {PATIENCE:?}: {last}"));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// One request of each kind, so that no load is spent on a proxy that answers wrongly.
pub(crate) fn check_answers(address: SocketAddr) -> Result<()> {
    let kinds = [
        ("GET", "/1k", 0, 1 << 10),
        ("GET", "/64k", 0, 64 << 10),
        ("GET", "/1m", 0, 1 << 20),
        ("POST", "/post", 4096, 1 << 10),
    ];
    for (method, path, sent, expected) in kinds {
        let answer = exchange(address, method, path, None, sent)
            .map_err(|error| format!("{method} {path}: {error}"))?;
        if answer.status != 200 || answer.body_length != expected {
            return Err(format!("{method} {path}: status {}, {} bytes", answer.status, answer.body_length));
        }
    }
    Ok(())
}

/// A cookie for each client, each checked to lead back to the target that its first answer came from. None at all when
/// there are to be no sessions, which is checked too.
pub(crate) fn cookies(address: SocketAddr, sticky: bool) -> Result<Vec<String>> {
    let mut cookies = Vec::new();
    let mut targets = HashSet::new();
    for _ in 0..COOKIES {
        let first =
            exchange(address, "GET", "/1k", None, 0).map_err(|error| format!("first request: {error}"))?;
        match first.cookie {
            Some(_) if !sticky => return Err("it sets a cookie although sessions are off".into()),
            None if sticky => return Err("it sets no cookie although sessions are on".into()),
            None => {}
            Some(cookie) => {
                for _ in 0..3 {
                    let next = exchange(address, "GET", "/1k", Some(&cookie), 0)
                        .map_err(|error| format!("second request: {error}"))?;
                    if next.served_by != first.served_by {
                        return Err(format!("{cookie} does not lead back to its target"));
                    }
                }
                cookies.push(cookie);
            }
        }
        targets.insert(first.served_by);
    }
    if targets.len() < 2 { Err(format!("only {targets:?} was used")) } else { Ok(cookies) }
}

/// How many idle connections to open: 4000, or fewer where not so many files may be open.
pub(crate) fn idle_connections(files: u64) -> usize {
    usize::try_from(files.saturating_sub(1000)).unwrap_or(usize::MAX).clamp(100, 4000)
}

/// Opens `count` connections, has one request answered on each, all at once, and hands them over, open.
pub(crate) fn open_idle(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let explain = |error: io::Error| format!("idle connections: {error}");
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(connect(address).map_err(explain)?);
    }
    for stream in &mut connections {
        send(stream, address, "GET", "/1k", None, 0).map_err(explain)?;
    }
    for stream in &mut connections {
        let answer = read_answer(&mut BufReader::new(stream)).map_err(explain)?;
        if answer.status != 200 {
            return Err(format!("idle connections: status {}", answer.status));
        }
    }
    Ok(connections)
}

/// Resident memory once it has not changed for a second (or has not settled after ten).
pub(crate) fn settled_rss(process: &Process) -> Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let (mut rss, mut since) = (process.rss()?, Instant::now());
    while since.elapsed() < Duration::from_secs(1) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
        let now = process.rss()?;
        if now != rss {
            (rss, since) = (now, Instant::now());
        }
    }
    Ok(rss)
}

/// One request on a connection of its own.
fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    cookie: Option<&str>,
    sent: usize,
) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    send(&mut stream, address, method, path, cookie, sent)?;
    read_answer(&mut BufReader::new(stream))
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send(
    stream: &mut TcpStream,
    address: SocketAddr,
    method: &str,
    path: &str,
    cookie: Option<&str>,
    sent: usize,
) -> io::Result<()> {
    let cookie = cookie.map(|cookie| format!("Cookie: {cookie}\r\n")).unwrap_or_default();
    let length = if sent > 0 { format!("Content-Length: {sent}\r\n") } else { String::new() };
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{cookie}{length}\r\n").into_bytes();
    request.resize(request.len() + sent, b'x');
    stream.write_all(&request)
}

/// Reads one answer to its last byte; its length must be stated.
fn read_answer(stream: &mut impl BufRead) -> io::Result<Answer> {
    let broken = |what: &str| io::Error::other(format!("not an answer: {what}"));
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status =
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| broken(line.trim()))?;
    let mut answer = Answer { status, cookie: None, served_by: String::new(), body_length: 0 };
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let field = line.trim_end();
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':').ok_or_else(|| broken(field))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => answer.body_length = value.parse().map_err(|_| broken(field))?,
            "set-cookie" if answer.cookie.is_none() => {
                answer.cookie = value.split(';').next().map(ToOwned::to_owned);
            }
            name if name == origin::SERVED_BY => value.clone_into(&mut answer.served_by),
            _ => {}
        }
    }
    let read = io::copy(&mut stream.take(answer.body_length as u64), &mut io::sink())?;
    if read == answer.body_length as u64 { Ok(answer) } else { Err(broken("cut short")) }
}
