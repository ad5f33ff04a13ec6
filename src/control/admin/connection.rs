//! Connections of the admin API: accepted, bounded, and given an end.
//!
//! Everything that a client could hold for ever has a limit here: connections at a time, the life of one, the wait for
//! a head. What is answered is not known here.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use super::events::{self, Feed, Hold};
use super::guard::Guard;
use super::listen::{AdminListener, AdminSocket};
use super::{Link, answer};
use crate::control::Control;

/// Connections served at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;

/// How long a connection may take for what.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// From the wait for a request to the end of its head.
    head: Duration,
    /// A connection older than this finishes its request and is closed.
    life: Duration,
    /// Time that is left to it then.
    end: Duration,
}

const LIMITS: Limits =
    Limits { head: Duration::from_secs(10), life: Duration::from_secs(60), end: Duration::from_secs(10) };

/// For the first request of a client that has connected just before another process took the place of this one: less than this
/// process waits for the last answers.
const FIRST: Duration = Duration::from_secs(1);

/// Bytes of a request head.
const HEAD_MAX: usize = 64 * 1024;

/// Wait after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers on `listener` until dropped; who connects once another process has taken the place of this one is for that. Needs a
/// `LocalSet`.
pub(in crate::control) async fn serve(control: Rc<Control>, listener: AdminListener) {
    let (slots, feed) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Rc::new(Feed::new(events::STEP)));
    let fed = (control.clone(), feed.clone());
    spawn_local(async move { fed.1.run(&fed.0).await });
    let served = match listener.socket {
        AdminSocket::Tcp(socket) => serve_tcp(control, feed, socket, slots).await,
        AdminSocket::Unix(socket, _removed_at_the_end) => serve_unix(control, feed, socket, slots).await,
    };
    if let Err(error) = served {
        error!(%error, "the admin API cannot be served");
    }
    std::future::pending::<()>().await;
}

async fn serve_tcp(
    control: Rc<Control>,
    feed: Rc<Feed>,
    socket: std::net::TcpListener,
    slots: Arc<Semaphore>,
) -> io::Result<()> {
    let socket = TcpListener::from_std(socket)?;
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let accepted = tokio::select! {
            biased;
            () = control.succeeded() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| Ok((stream.local_addr()?, stream))) {
            Ok((local, stream)) => {
                spawn_local(hold(
                    slot,
                    connection(control.clone(), feed.clone(), stream, Some(local), LIMITS),
                ));
            }
            Err(error) => pause(&error).await,
        }
    }
    Ok(())
}

async fn serve_unix(
    control: Rc<Control>,
    feed: Rc<Feed>,
    socket: std::os::unix::net::UnixListener,
    slots: Arc<Semaphore>,
) -> io::Result<()> {
    let socket = UnixListener::from_std(socket)?;
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let accepted = tokio::select! {
            biased;
            () = control.succeeded() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                spawn_local(hold(slot, connection(control.clone(), feed.clone(), stream, None, LIMITS)));
            }
            Err(error) => pause(&error).await,
        }
    }
    Ok(())
}

async fn pause(error: &io::Error) {
    warn!(%error, "the admin API could not accept a connection");
    sleep(ACCEPT_PAUSE).await;
}

/// Keeps a slot for as long as `connection` lasts.
async fn hold(slot: OwnedSemaphorePermit, connection: impl Future<Output = ()>) {
    connection.await;
    drop(slot);
}

/// Serves one connection to its end; `local` is this end of it, unless it is a unix socket.
async fn connection<S>(
    control: Rc<Control>,
    feed: Rc<Feed>,
    stream: S,
    local: Option<SocketAddr>,
    limits: Limits,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let _open = Open::count(&control);
    let hold = Rc::new(Hold::default());
    let service = service_fn(|request| {
        if !hold.is_asked.replace(true) {
            hold.first.notify_one();
        }
        let control = control.clone();
        // A reload may have brought another token.
        let token = control.running().config.admin.as_ref().and_then(|admin| admin.token.clone());
        let link = Link { guard: Guard { token, local }, feed: feed.clone(), hold: hold.clone() };
        async move { Ok::<_, Infallible>(answer(&control, &link, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(HEAD_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = async {
        let lives = tokio::select! {
            lives = timeout(limits.life, connection.as_mut()) => lives,
            // What comes next is for the process that has taken the place of this one.
            () = control.succeeded() => match hold.streams.get() {
                true => return Ok(()),
                false => {
                    if !hold.is_asked.get() {
                        tokio::select! {
                            ended = timeout(FIRST, connection.as_mut()) => if let Ok(ended) = ended {
                                return ended;
                            },
                            () = hold.first.notified() => {}
                        }
                    }
                    connection.as_mut().graceful_shutdown();
                    timeout(limits.end, connection.as_mut()).await
                }
            },
        };
        match lives {
            Ok(ended) => ended,
            // It ends by itself, and its connection with it.
            Err(_) if hold.streams.get() => connection.await,
            Err(_) => {
                connection.as_mut().graceful_shutdown();
                timeout(limits.end, connection).await.unwrap_or(Ok(()))
            }
        }
    };
    let ended = tokio::select! {
        ended = served => ended,
        () = hold.cut.notified() => {
            debug!("a reader of events took none for too long");
            Ok(())
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection to the admin API broke");
    }
}

/// Counts a connection to the admin API.
struct Open(Rc<Control>);

impl Open {
    fn count(control: &Rc<Control>) -> Self {
        control.asked.set(control.asked.get() + 1);
        Self(control.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.asked.set(self.0.asked.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::task::LocalSet;

    use super::*;
    use crate::config::{Config, Overrides};
    use crate::control::{Node, Phase};
    use crate::pool::Pools;

    const LONG: Duration = Duration::from_secs(600);
    const SHORT: Duration = Duration::from_millis(50);

    /// The client's end of a connection to an API of a node without pools; `buffer` bytes are in flight at most.
    fn connect(buffer: usize, limits: Limits) -> DuplexStream {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("selvedge.toml");
        std::fs::write(&file, "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"").unwrap();
        let config = Arc::new(Config::load(&file, &Overrides::default()).unwrap());
        let pools = Arc::new(Pools::new(1));
        let (_, phase) = tokio::sync::watch::channel(Phase::Serving);
        let node = Node { pools, phase, started: Instant::now(), explain: |_, _, _| Ok(Default::default()) };
        let (ours, theirs) = duplex(buffer);
        let control = Rc::new(Control::new(node, config, Vec::new(), None));
        let feed = Rc::new(Feed::new(SHORT / 10));
        let fed = (control.clone(), feed.clone());
        spawn_local(async move { fed.1.run(&fed.0).await });
        spawn_local(connection(control, feed, theirs, None, limits));
        ours
    }

    /// What comes until the connection ends.
    async fn to_end(stream: &mut DuplexStream) -> String {
        let mut text = String::new();
        let ended = timeout(Duration::from_secs(15), stream.read_to_string(&mut text)).await;
        ended.expect("the connection ends").unwrap();
        text
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_or_half_a_head_is_closed() {
        let limits = Limits { head: SHORT, life: LONG, end: LONG };
        let scene = async {
            for sent in ["", "GET /livez HTTP/1.1\r\nHo", "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"] {
                let mut stream = connect(4096, limits);
                stream.write_all(sent.as_bytes()).await.unwrap();
                let answer = to_end(&mut stream).await;
                assert_eq!(answer.contains(" 200 OK"), sent.ends_with("\r\n\r\n"), "{answer}");
            }
        };
        LocalSet::new().run_until(scene).await;
    }

    #[tokio::test]
    async fn a_client_that_never_reads_its_answer_is_given_up() {
        let limits = Limits { head: LONG, life: SHORT, end: SHORT };
        let scene = async {
            let mut stream = connect(64, limits);
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            // Nothing is read, and the other end goes away all the same.
            let given_up = async { while stream.write_all(b"x").await.is_ok() {} };
            timeout(Duration::from_secs(15), given_up).await.expect("the connection ends");
            assert!(to_end(&mut stream).await.len() <= 64);
        };
        LocalSet::new().run_until(scene).await;
    }

    #[tokio::test]
    async fn a_reader_of_events_outlives_the_connection_of_others_and_is_cut_when_it_stalls() {
        let limits = Limits { head: LONG, life: SHORT, end: SHORT };
        let scene = async {
            let mut stream = connect(4096, limits);
            stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let begun = Instant::now();
            let mut buffer = [0; 4096];
            while begun.elapsed() < SHORT * 5 {
                let read = timeout(Duration::from_secs(15), stream.read(&mut buffer)).await.unwrap();
                assert_ne!(read.unwrap(), 0, "it goes on for as long as somebody reads");
            }
            // Nothing is read any more; what shows that the other end has gone is that it takes nothing.
            let cut = async { while stream.write_all(b"x").await.is_ok() {} };
            timeout(Duration::from_secs(15), cut).await.expect("the connection ends");
        };
        LocalSet::new().run_until(scene).await;
    }

    #[tokio::test]
    async fn a_busy_connection_ends_between_two_requests_when_it_is_old() {
        let limits = Limits { head: LONG, life: SHORT, end: LONG };
        let scene = async {
            let mut stream = connect(4096, limits);
            let mut answers = 0;
            while stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() {
                let mut answer = [0; 1024];
                match timeout(Duration::from_secs(15), stream.read(&mut answer)).await.unwrap().unwrap() {
                    0 => break,
                    n => assert!(answer[..n].ends_with(b"\r\n\r\nok\n")),
                }
                answers += 1;
            }
            assert!(answers > 1, "{answers}");
        };
        LocalSet::new().run_until(scene).await;
    }
}
