//! Connections of the admin API: accepted, bounded, and given an end.
//!
//! Everything that a client could hold for ever has a limit here: connections at a time, the life of one, the wait for
//! a head. What is answered is not known here.

use std::convert::Infallible;
use std::io;
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

use super::answer;
use super::guard::Guard;
use super::listen::{AdminListener, AdminSocket};
use crate::control::Control;

/// Connections served at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;

/// From the wait for a request to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection older than this finishes its request and is closed.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);

/// Time that is left to it then.
const CONNECTION_END: Duration = Duration::from_secs(10);

/// Bytes of a request head.
const HEAD_MAX: usize = 64 * 1024;

/// Wait after a failed accept, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers on `listener` until dropped. Needs a `LocalSet`.
pub(in crate::control) async fn serve(control: Rc<Control>, listener: AdminListener) {
    let AdminListener { socket, token, .. } = listener;
    let guard = Guard { token, local: None };
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let served = match socket {
        AdminSocket::Tcp(socket) => serve_tcp(control, socket, guard, slots).await,
        AdminSocket::Unix(socket, _removed_at_the_end) => serve_unix(control, socket, guard, slots).await,
    };
    if let Err(error) = served {
        error!(%error, "the admin API cannot be served");
        std::future::pending::<()>().await;
    }
}

async fn serve_tcp(
    control: Rc<Control>,
    socket: std::net::TcpListener,
    guard: Guard,
    slots: Arc<Semaphore>,
) -> io::Result<()> {
    let socket = TcpListener::from_std(socket)?;
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match socket.accept().await.and_then(|(stream, _)| Ok((stream.local_addr()?, stream))) {
            Ok((local, stream)) => {
                let guard = Guard { local: Some(local), ..guard.clone() };
                spawn_local(connection(control.clone(), stream, guard, slot));
            }
            Err(error) => pause(&error).await,
        }
    }
    Ok(())
}

async fn serve_unix(
    control: Rc<Control>,
    socket: std::os::unix::net::UnixListener,
    guard: Guard,
    slots: Arc<Semaphore>,
) -> io::Result<()> {
    let socket = UnixListener::from_std(socket)?;
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match socket.accept().await {
            Ok((stream, _)) => {
                spawn_local(connection(control.clone(), stream, guard.clone(), slot));
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

/// Serves one connection to its end; the slot is free then.
async fn connection<S>(control: Rc<Control>, stream: S, guard: Guard, _slot: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(|request| {
        let (control, guard) = (control.clone(), guard.clone());
        async move { Ok::<_, Infallible>(answer(&control, &guard, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = match timeout(CONNECTION_LIFE, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(CONNECTION_END, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection to the admin API broke");
    }
}
