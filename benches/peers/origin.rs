//! The origin: this program again, answering bytes that were prepared at its start.
//!
//! It must cost far less than any proxy, because it shares a core with the load: one thread, one read and one write
//! for a request that arrives whole. It reads just as much HTTP as the proxies' requests need (a head, and a body
//! by Content-Length) and closes the connection on everything else.

use std::io;
use std::net::SocketAddr;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Result;
use crate::proxy;

/// First argument that makes this program an origin; its addresses follow.
pub(crate) const ARGUMENT: &str = "origin";

/// Field that names the target which answered.
pub(crate) const SERVED_BY: &str = "x-served-by";

/// Targets that the proxies share the load among.
const TARGETS: usize = 2;

/// Largest request head; a proxy sends well under 1 KiB.
const MAX_HEAD: usize = 16 * 1024;

/// Addresses for the origin to listen on.
pub(crate) fn free_addresses() -> Result<Vec<SocketAddr>> {
    (0..TARGETS).map(|_| proxy::free_address()).collect()
}

/// Serves the addresses of the command line until it is killed.
pub(crate) fn run() -> Result<()> {
    let explain = |error: io::Error| format!("origin: {error}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(explain)?;
    runtime.block_on(async {
        let mut listening = tokio::task::JoinSet::new();
        for (number, address) in (1..).zip(std::env::args().skip(2)) {
            let listener = TcpListener::bind(&address).await.map_err(explain)?;
            // Leaked on purpose: it lives as long as the process.
            let answers: &'static Answers = Box::leak(Box::new(Answers::prepare(&format!("s{number}"))));
            listening.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        // A proxy that closes or breaks off is nothing to report.
                        let _ = serve(stream, answers).await;
                    });
                }
            });
        }
        listening.join_all().await;
        Err("origin: accept failed".into())
    })
}

/// One answer for each path, head and body in one piece.
struct Answers {
    small: Vec<u8>,
    medium: Vec<u8>,
    large: Vec<u8>,
}

impl Answers {
    fn prepare(name: &str) -> Self {
        let answer = |length: usize| {
            let mut bytes = format!(
                "HTTP/1.1 200 OK\r\ndate: Mon, 02 Nov 2026 12:00:00 GMT\r\nserver: origin\r\n\
                 content-type: text/plain\r\n{SERVED_BY}: {name}\r\ncontent-length: {length}\r\n\r\n"
            )
            .into_bytes();
            bytes.resize(bytes.len() + length, b'x');
            bytes
        };
        Self { small: answer(1 << 10), medium: answer(64 << 10), large: answer(1 << 20) }
    }

    fn for_path(&self, path: &[u8]) -> &[u8] {
        match path {
            b"/64k" => &self.medium,
            b"/1m" => &self.large,
            _ => &self.small,
        }
    }
}

async fn serve(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = Vec::with_capacity(MAX_HEAD);
    loop {
        let head_length = loop {
            if let Some(end) = memmem::find(&received, b"\r\n\r\n") {
                break end + 4;
            }
            if received.len() >= MAX_HEAD || stream.read_buf(&mut received).await? == 0 {
                return Ok(());
            }
        };
        let Some((path, body_length)) = parse(&received[..head_length]) else { return Ok(()) };
        let answer = answers.for_path(path);
        let mut missing = (head_length + body_length).saturating_sub(received.len());
        received.drain(..received.len().min(head_length + body_length));
        while missing > 0 {
            let read = stream.read_buf(&mut received).await?;
            if read == 0 {
                return Ok(());
            }
            let of_body = read.min(missing);
            received.drain(..of_body);
            missing -= of_body;
        }
        stream.write_all(answer).await?;
    }
}

/// Path and body length of a head; `None` for what an origin of this kind does not serve.
fn parse(head: &[u8]) -> Option<(&[u8], usize)> {
    let mut lines = head.split(|&byte| byte == b'\n');
    let path = lines.next()?.split(|&byte| byte == b' ').nth(1)?;
    let mut length = 0;
    if !head.starts_with(b"GET ") {
        for line in lines {
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            if name.eq_ignore_ascii_case(b"transfer-encoding") {
                return None;
            } else if name.eq_ignore_ascii_case(b"content-length") {
                length = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
            }
        }
    }
    Some((path, length))
}
