//! The servers that the URL names, what is known of each, and a few connections to it.

use std::error::Error as _;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use serde_json::json;
use tokio::time::Instant;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Config, NoTls};

use super::routes::{self, History, Observed, Role, Route};
use super::tls::Tls;

/// A primary and five replicas.
const MOST: usize = 6;
/// Connections of one instance to one server.
const CONNECTIONS: usize = 8;
/// How long a request waits for one of them.
const TURN: Duration = Duration::from_secs(2);
/// For a new connection.
const CONNECT: Duration = Duration::from_secs(2);
/// What the server itself gives up: a statement (in milliseconds) that waits for a lock, a transaction that nobody goes on with. No
/// limit for a statement as such: an interrupted commit would look like one that every replica has.
const SESSION: &str = "-c lock_timeout=2500 -c idle_in_transaction_session_timeout=5000";

/// Why a try failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The server does not answer.
    Away(String),
    /// It answers, but does not do this now: it is no primary any more, is shutting down, had to break a deadlock, has no place.
    NotNow(String),
    /// It says that the statement is wrong.
    Wrong(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Away(why) | Self::NotNow(why) | Self::Wrong(why)) = self;
        f.write_str(why)
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(said) = error.as_db_error() else {
            let io = error.source().is_some_and(|source| source.is::<std::io::Error>());
            let why = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            return if error.is_closed() || io { Self::Away(why) } else { Self::Wrong(why) };
        };
        let why = format!("{} ({})", said.message(), said.code().code());
        match said.code().code() {
            // It ends, or is not open yet.
            "57P01" | "57P02" | "57P03" => Self::Away(why),
            code if code == "25006" || code == "55P03" || code == "57014" => Self::NotNow(why),
            code if ["08", "40", "53"].iter().any(|class| code.starts_with(class)) => Self::NotNow(why),
            _ => Self::Wrong(why),
        }
    }
}

impl From<PoolError> for Trouble {
    fn from(error: PoolError) -> Self {
        use deadpool_postgres::TimeoutType;
        match error {
            PoolError::Backend(error) => match Self::from(error) {
                // A connection that cannot be made, for whatever reason, is none.
                Self::Away(why) | Self::NotNow(why) | Self::Wrong(why) => Self::Away(why),
            },
            PoolError::Timeout(TimeoutType::Wait) => Self::NotNow("every connection is in use".to_owned()),
            error => Self::Away(error.to_string()),
        }
    }
}

/// One server.
pub(super) struct Server {
    /// As the URL names it: `10.0.1.1:5432`.
    pub(super) name: String,
    pool: Pool,
    /// The watch's connection, which must not wait for those of requests.
    pub(super) probe: Pool,
    reads: AtomicU64,
}

impl Server {
    /// A connection, new or used before.
    pub(super) async fn client(&self) -> Result<Object, Trouble> {
        Ok(self.pool.get().await?)
    }
}

/// All servers, and what is known of them. Clones are the same servers.
#[derive(Clone)]
pub(super) struct Servers(Arc<Inner>);

struct Inner {
    list: Vec<Server>,
    zone: String,
    known: Mutex<Known>,
    turn: AtomicUsize,
}

/// What the watch has found out.
struct Known {
    servers: Vec<Observed>,
    history: History,
}

/// Whether a URL names servers, and not too many.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    let config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
        let why = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        format!("this URL of PostgreSQL cannot be read{why}")
    })?;
    match config.get_hosts() {
        [] => Err("this URL of PostgreSQL names no host".to_owned()),
        hosts if hosts.len() > MOST => {
            Err(format!("write at most {MOST} hosts: a primary and five replicas"))
        }
        _ => Ok(()),
    }
}

impl Servers {
    /// Opens nothing yet. The error is one line.
    pub(super) fn new(url: &str, ca: Option<&Path>, zone: &str) -> Result<Self, String> {
        check_url(url)?;
        let all: Config = url.parse().map_err(|error: tokio_postgres::Error| error.to_string())?;
        let encrypted = ca.is_some() || all.get_ssl_mode() == SslMode::Require;
        let tls = if encrypted { Some(Tls::new(ca)?) } else { None };
        let mut list = Vec::new();
        for (place, host) in all.get_hosts().iter().enumerate() {
            let ports = all.get_ports();
            let port = ports.get(place).or(ports.first()).copied().unwrap_or(5432);
            let config = one_of(&all, host, port, encrypted);
            let name = match host {
                Host::Tcp(host) => format!("{host}:{port}"),
                Host::Unix(path) => format!("{}:{port}", path.display()),
            };
            let pool = |size| pool(&config, tls.as_ref(), size).map_err(|error| format!("{name}: {error}"));
            let (probe, pool) = (pool(1)?, pool(CONNECTIONS)?);
            list.push(Server { name, pool, probe, reads: AtomicU64::new(0) });
        }
        let known = Known { servers: vec![Observed::default(); list.len()], history: History::default() };
        let (zone, turn) = (zone.to_owned(), AtomicUsize::new(0));
        Ok(Self(Arc::new(Inner { list, zone, known: Mutex::new(known), turn })))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.0.list.len()
    }

    pub(super) fn at(&self, index: usize) -> &Server {
        &self.0.list[index]
    }

    /// Notes what a server has told.
    pub(super) fn observed(&self, index: usize, told: Observed) {
        let mut known = self.known();
        known.servers[index] = told;
        let Known { servers, history } = &mut *known;
        if let Some(primary) = routes::primary(servers)
            && primary == index
        {
            history.note(index, &servers[index], Instant::now());
        }
    }

    /// Notes that a server does not answer; says so once.
    pub(super) fn lost(&self, index: usize, why: &str) {
        let was_up = std::mem::take(&mut self.known().servers[index].up);
        self.known().servers[index].reason = Some(why.to_owned());
        if was_up {
            eprintln!("myclothes: PostgreSQL does not answer: {why}");
        }
    }

    /// The server that takes writes.
    pub(super) fn primary(&self) -> Option<usize> {
        routes::primary(&self.known().servers)
    }

    pub(super) fn is_primary(&self, index: usize) -> bool {
        self.primary() == Some(index)
    }

    /// Who is asked to read, in this order.
    pub(super) fn routes(&self, seen: u64) -> Vec<Route> {
        let turn = self.0.turn.fetch_add(1, Relaxed);
        let known = self.known();
        let lags = known.servers.iter().map(|server| known.history.lag(server.position, Instant::now()));
        let lags: Vec<_> = lags.collect();
        routes::reading(&known.servers, &lags, &self.0.zone, seen, turn)
    }

    /// Who a starting process can begin with: the primary, or else replicas.
    pub(super) fn of_start(&self, replica_too: bool) -> Vec<(usize, &Server)> {
        let primary = self.primary();
        let known = self.known();
        let good = |index: &usize| {
            primary == Some(*index) || (replica_too && primary.is_none() && known.servers[*index].up)
        };
        (0..self.len()).filter(good).map(|index| (index, self.at(index))).collect()
    }

    /// Why the first server that does not answer does not.
    pub(super) fn reason(&self) -> Option<String> {
        self.known().servers.iter().find_map(|server| server.reason.clone())
    }

    pub(super) fn count_read(&self, index: usize) {
        self.at(index).reads.fetch_add(1, Relaxed);
    }

    /// What is known, without addresses: this is shown to everybody.
    pub(super) fn view(&self) -> serde_json::Value {
        let known = self.known();
        let primary = routes::primary(&known.servers);
        let one = |(index, server): (usize, &Observed)| {
            let role = match server.role {
                _ if !server.up => "away",
                Role::Primary { .. } if primary == Some(index) => "primary",
                Role::Primary { .. } => "former primary",
                Role::Replica => "replica",
            };
            let lag = known.history.lag(server.position, Instant::now());
            json!({
                "zone": server.zone,
                "role": role,
                "lag_ms": lag.as_millis() as u64,
                "reads": self.at(index).reads.load(Relaxed),
            })
        };
        known.servers.iter().enumerate().map(one).collect()
    }
}

/// The same configuration for one host.
fn one_of(all: &Config, host: &Host, port: u16, encrypted: bool) -> Config {
    let mut one = Config::new();
    match host {
        Host::Tcp(name) => one.host(name),
        Host::Unix(path) => one.host_path(path),
    };
    one.port(port).user(all.get_user().unwrap_or("myclothes"));
    one.dbname(all.get_dbname().or(all.get_user()).unwrap_or("myclothes"));
    if let Some(password) = all.get_password() {
        one.password(password);
    } else if let Ok(password) = std::env::var("PGPASSWORD") {
        one.password(password);
    }
    one.application_name(all.get_application_name().unwrap_or("myclothes"));
    let options = all.get_options().map_or_else(|| SESSION.to_owned(), |given| format!("{SESSION} {given}"));
    one.options(options).connect_timeout(CONNECT).tcp_user_timeout(Duration::from_secs(4));
    one.keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3);
    one.ssl_mode(if encrypted { SslMode::Require } else { SslMode::Disable });
    one
}

fn pool(config: &Config, tls: Option<&Tls>, size: usize) -> Result<Pool, deadpool_postgres::BuildError> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match tls {
        Some(tls) => Manager::from_config(config.clone(), tls.clone(), recycling),
        None => Manager::from_config(config.clone(), NoTls, recycling),
    };
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(TURN))
        .create_timeout(Some(CONNECT))
        .recycle_timeout(Some(CONNECT))
        .build()
}
