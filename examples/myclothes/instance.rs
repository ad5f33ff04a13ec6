//! One instance of the shop: an HTTP server that keeps nothing to itself.
//!
//! Whatever a visitor leaves behind is in stores that all instances share (or with the visitor), so any of them may be killed at any
//! moment; only with `--carts memory` do carts and logins end with it. Asked to stop with SIGTERM, an instance answers its health checks with 503 for a while, still serving everyone, so that
//! balancers look away first; then it closes its listener, finishes what is in flight, and exits.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::cache;
use crate::cart_stores::{self, CartStore as _, Carts};
use crate::databases::{self, SeenCookie};
use crate::failure::Failure;
use crate::store::Store;
use crate::{api, input, pages, parent, sessions, trust};

/// Largest request body in bytes; more is answered with 413.
pub(crate) const MAX_BODY: usize = 64 * 1024;
/// From a request's head to its answer, body included; then 408.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// For a TLS handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Between two requests of a connection, and for the head of one.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Bytes of a request's head; more is answered with 431.
const MAX_HEAD: usize = 64 * 1024;
/// Open connections; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// From the closing of the listener to the end: what is still in flight then is cut.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks for sessions that are over.
const HOUSEKEEPING: Duration = Duration::from_secs(600);

const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
/// Pages load the stylesheet and the icon from this site and nothing else from anywhere.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; \
                              base-uri 'none'; frame-ancestors 'none'";

/// Options of `myclothes instance`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Name of this instance, shown by every answer
    #[arg(long, default_value = "az-a-1")]
    name: String,
    /// Availability zone it stands in
    #[arg(long, default_value = "az-a")]
    zone: String,
    /// Where it listens
    #[arg(long, default_value = "127.0.1.1:9001")]
    address: SocketAddr,
    /// Folder of the files that all instances share; not needed when the database and the carts are elsewhere
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    database: databases::Options,
    #[command(flatten)]
    cache: cache::Options,
    #[command(flatten)]
    carts: cart_stores::Options,
    #[command(flatten)]
    trust: trust::Options,
    /// Seconds between SIGTERM and the closing of the listener, with health checks failing
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    drain_delay: u32,
    /// Stop when standard input ends, as it does when the process that started this one is gone
    #[arg(long)]
    supervised: bool,
}

/// Who serves.
#[derive(Debug, Serialize)]
pub(crate) struct Identity {
    pub(crate) instance: String,
    pub(crate) zone: String,
    pub(crate) pid: u32,
}

/// What every handler gets.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) identity: Arc<Identity>,
    pub(crate) store: Arc<Store>,
    pub(crate) carts: Arc<Carts>,
    draining: Arc<AtomicBool>,
}

/// Serves until asked to stop. An error is one line that says what could not be started.
pub(crate) async fn run(options: Options) -> Result<(), String> {
    let Options { name, zone, address, data, database, cache, carts, trust, drain_delay, supervised } =
        options;
    if data.is_none() && (database.is_in_folder() || carts.place.is_in_folder()) {
        return Err(format!(
            "{name}: a folder is needed for the database or the carts: write --data DIR, or say with --database and --carts \
             that both are elsewhere"
        ));
    }
    let data = data.unwrap_or_default();
    let store =
        Store::open(&database, &cache, &data, &zone).await.map_err(|error| format!("{name}: {error}"))?;
    let store = Arc::new(store);
    let carts =
        Carts::open(&carts.place, &data, store.form_secret()).map_err(|error| format!("{name}: {error}"))?;
    carts.prepare().await.map_err(|error| format!("{name}: {error}"))?;
    let carts = Arc::new(carts);
    let acceptor = trust.acceptor().map_err(|error| format!("{name}: {error}"))?;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("{name}: cannot listen on {address}: {error}"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    println!("ready {name} {address} {}", std::process::id());
    // Nobody may be reading.
    let _ = std::io::stdout().flush();

    let identity = Arc::new(Identity { instance: name, zone, pid: std::process::id() });
    let housekeeping = tokio::spawn(forget_old_sessions(Arc::clone(&carts)));
    let app = App { identity, store, carts, draining: Arc::default() };
    let mut parent_gone = parent::gone(supervised);
    let draining = Arc::clone(&app.draining);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = &mut parent_gone => return,
        }
        draining.store(true, Relaxed);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(drain_delay.into())) => {}
            () = &mut parent_gone => {}
        }
    };
    serve(listener, acceptor, router(app), stop).await;
    housekeeping.abort();
    Ok(())
}

fn router(app: App) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .nest("/api", api::routes())
        .merge(pages::routes())
        .fallback(async || Failure::NotFound)
        .method_not_allowed_fallback(async || Failure::WrongMethod)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(app.clone(), finish))
        .with_state(app)
}

/// Shallow on purpose: an instance is not better than the others when the database they share is gone.
async fn healthz(State(app): State<App>) -> (StatusCode, &'static str) {
    if app.draining.load(Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

/// The outermost layer: refuses changes that other sites want, ends what takes too long, gives failures their form, and
/// signs every answer.
async fn finish(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let seen = SeenCookie::of(request.headers(), app.store.form_secret());
    request.extensions_mut().insert(seen.seen.clone());
    let for_machines = request.uri().path().starts_with("/api/");
    let mut response = if !input::from_this_site(request.method(), request.headers()) {
        Failure::Forbidden("This request comes from a page of another site.").into_response()
    } else {
        match tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Failure::TooSlow.into_response(),
        }
    };
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        let mut told =
            if for_machines { api::failure(&failure) } else { pages::failure(&app.identity, &failure) };
        // What the router added, `Allow` for one, stays.
        for (name, value) in response.headers() {
            told.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        response = told;
    }
    let headers = response.headers_mut();
    seen.stamp(headers, app.store.form_secret());
    if let Ok(name) = HeaderValue::from_str(&app.identity.instance) {
        headers.insert(SERVED_BY, name);
    }
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Accepts until `stop`, then finishes what is in flight.
async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let service = TowerToHyperService::new(router);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(KEEP_ALIVE).max_buf_size(MAX_HEAD);
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = &mut stop => break,
        };
        let Some((stream, slot)) = accepted else { continue };
        let (http, service, watcher) = (http.clone(), service.clone(), graceful.watcher());
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // An error here is a client that went away or sent nonsense; it has its answer or wants none.
            let _ = match acceptor {
                None => watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await,
                Some(acceptor) => {
                    // Whoever is no balancer ends here.
                    let shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream)).await;
                    let Ok(Ok(stream)) = shaken else { return };
                    watcher.watch(http.serve_connection(TokioIo::new(stream), service)).await
                }
            };
            drop(slot);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN_DEADLINE, graceful.shutdown()).await;
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small; without this the last packet of one may wait for an acknowledgement.
            let _ = stream.set_nodelay(true);
            Some((stream, slot))
        }
        Err(_) => {
            // Out of file descriptors, most likely: give the others time to end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

async fn forget_old_sessions(carts: Arc<Carts>) -> Infallible {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        // A failure is logged where it is made, and the next round tries again.
        let _ = carts.forget_old(sessions::unix_now()).await;
    }
}
