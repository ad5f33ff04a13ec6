//! PostgreSQL: one primary takes the writes, its replicas answer the reads, and any of them may be gone at any moment.
//!
//! ```text
//! servers.rs    the servers of the URL, a few connections to each     tables.rs      what is asked of the tables
//! watch.rs      asks each twice a second what it is and how far       migrations.rs  the tables, version by version
//! routes.rs     who is asked, in which order (pure)                   tls.rs         encryption
//! ```
//!
//! A read goes to a replica in the own zone, else to one elsewhere, else to the primary: to the first that has come as
//! far in the log as the visitor has written. A write goes to whatever server is the primary by now, and is tried
//! again there for [`WRITE_PATIENCE`] when the old one fails; each write can be repeated without being done twice. Who becomes the primary is not decided
//! here. An acknowledged order survives the primary only if replication is synchronous (`synchronous_standby_names`).

mod migrations;
mod routes;
mod servers;
mod tables;
mod tls;
mod watch;

use std::path::Path;
use std::time::Duration;

use deadpool_postgres::Object;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Row;
use tokio_postgres::types::{PgLsn, ToSql};

pub(crate) use servers::check_url;
use servers::{Server, Servers, Trouble};
use watch::Watch;

use crate::databases::Seen;
use crate::failure::Failure;

/// From the start of a process until it must have found a database with the shop's tables.
const START_DEADLINE: Duration = Duration::from_secs(8);
/// After which a starting process that has found no primary is content with a replica.
const REPLICA_WILL_DO: Duration = Duration::from_secs(3);
/// For one try of a read or a write on one server.
const ATTEMPT: Duration = Duration::from_secs(3);
/// For a read, over all servers.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// For how long a write looks for a primary that takes it.
const WRITE_PATIENCE: Duration = Duration::from_secs(8);
/// Between two tries of a write.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// The servers, and the secret that the instances share.
pub(crate) struct Postgres {
    servers: Servers,
    secret: Vec<u8>,
    /// How far the log was when the tables were found: no replica is asked that may not have them.
    tables: u64,
    _watch: Watch,
}

/// Values of a statement.
type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Postgres {
    /// Finds the primary, brings its tables to the newest version, and fills them when they are new. Without a primary, a
    /// replica whose tables are of this version will do. The error is one line.
    pub(crate) async fn open(url: &str, ca: Option<&Path>, zone: &str) -> Result<Self, String> {
        let servers = Servers::new(url, ca, zone)?;
        let watch = Watch::start(&servers);
        let started = Instant::now();
        let mut why = None;
        while started.elapsed() < START_DEADLINE {
            let replica_too = started.elapsed() > REPLICA_WILL_DO;
            for (index, server) in servers.of_start(replica_too) {
                let prepared = async {
                    let mut client = server.client().await?;
                    if servers.is_primary(index) {
                        migrations::run(&mut client).await?;
                    }
                    Ok::<_, Trouble>((migrations::secret(&client).await?, position(&client).await?))
                };
                match timeout(START_DEADLINE, prepared).await {
                    Ok(Ok((secret, tables))) => {
                        return Ok(Self { servers, secret, tables, _watch: watch });
                    }
                    Ok(Err(trouble)) => why = Some(format!("{}: {trouble}", server.name)),
                    Err(_) => why = Some(format!("{}: no answer in time", server.name)),
                }
            }
            sleep(TRY_AGAIN).await;
        }
        let why = why.or_else(|| servers.reason()).unwrap_or_else(|| "there is no primary".to_owned());
        Err(format!("PostgreSQL cannot be used: {why}"))
    }

    /// The servers as this instance sees them.
    pub(crate) fn servers(&self) -> serde_json::Value {
        self.servers.view()
    }

    /// Runs one statement that changes nothing.
    async fn read(&self, seen: &Seen, sql: &str, values: Values<'_>) -> Result<Vec<Row>, Failure> {
        let work = async {
            let mut why = "no server is up".to_owned();
            let needed = seen.position().max(self.tables);
            for route in self.servers.routes(needed) {
                let server = self.servers.at(route.server);
                let ask = route.ask.then_some(needed);
                match read_from(server, ask, sql, values).await {
                    Ok(Some(rows)) => {
                        self.servers.count_read(route.server);
                        return Ok(rows);
                    }
                    Ok(None) => {}
                    Err(trouble) => why = self.note(route.server, &trouble)?,
                }
            }
            Err(Failure::database_away(why))
        };
        match timeout(READ_DEADLINE, work).await {
            Ok(done) => done,
            Err(_) => Err(Failure::database_away("no server answers in time")),
        }
    }

    /// Runs one statement on the primary, and notes for `seen` how far the log is then.
    async fn write(&self, seen: &Seen, sql: &str, values: Values<'_>) -> Result<Vec<Row>, Failure> {
        let mut patience = Patience::new();
        loop {
            let primary = self.primary(&mut patience).await?;
            match write_to(self.servers.at(primary), sql, values).await {
                Ok((rows, position)) => {
                    seen.advance(position);
                    return Ok(rows);
                }
                Err(trouble) => patience.why = self.note(primary, &trouble)?,
            }
        }
    }

    /// The server that takes writes; waits for one. The first call returns at once if there is one, later ones after a pause.
    async fn primary(&self, patience: &mut Patience) -> Result<usize, Failure> {
        loop {
            if patience.tried && patience.started.elapsed() > WRITE_PATIENCE {
                return Err(Failure::database_away(&patience.why));
            }
            if patience.tried {
                sleep(TRY_AGAIN).await;
            }
            patience.tried = true;
            if let Some(primary) = self.servers.primary() {
                return Ok(primary);
            }
        }
    }

    /// What a failed try means: a server that is away is not asked again until it has answered the watch, and others are;
    /// what is wrong with the statement itself is the shop's own fault.
    fn note(&self, server: usize, trouble: &Trouble) -> Result<String, Failure> {
        let why = format!("{}: {trouble}", self.servers.at(server).name);
        match trouble {
            Trouble::Away(_) => self.servers.lost(server, &why),
            Trouble::NotNow(_) => {}
            Trouble::Wrong(_) => return Err(Failure::internal(why)),
        }
        Ok(why)
    }
}

/// How long a write has been tried.
struct Patience {
    started: Instant,
    tried: bool,
    why: String,
}

impl Patience {
    fn new() -> Self {
        Self { started: Instant::now(), tried: false, why: "there is no primary".to_owned() }
    }
}

/// One try of a read on one server; `None` from a replica that has not come as far as `ask`.
async fn read_from(
    server: &Server,
    ask: Option<u64>,
    sql: &str,
    values: Values<'_>,
) -> Result<Option<Vec<Row>>, Trouble> {
    let client = server.client().await?;
    let work = async {
        if let Some(position) = ask {
            let statement = client.prepare_cached("SELECT pg_last_wal_replay_lsn() >= $1").await?;
            let far: Option<bool> = client.query_one(&statement, &[&PgLsn::from(position)]).await?.get(0);
            if far != Some(true) {
                return Ok(None);
            }
        }
        let statement = client.prepare_cached(sql).await?;
        Ok(Some(client.query(&statement, values).await?))
    };
    let done = timeout(ATTEMPT, work).await;
    settle(client, done)
}

/// One try of a statement on the primary: its rows, and how far the log is after it.
async fn write_to(server: &Server, sql: &str, values: Values<'_>) -> Result<(Vec<Row>, u64), Trouble> {
    let client = server.client().await?;
    let work = async {
        let statement = client.prepare_cached(sql).await?;
        let rows = client.query(&statement, values).await?;
        Ok((rows, position(&client).await?))
    };
    let done = timeout(ATTEMPT, work).await;
    settle(client, done)
}

/// How far the server's log is.
async fn position(client: &Object) -> Result<u64, Trouble> {
    let sql =
        "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END";
    let statement = client.prepare_cached(sql).await?;
    let position: Option<PgLsn> = client.query_one(&statement, &[]).await?.get(0);
    Ok(position.map_or(0, Into::into))
}

/// Gives the connection back, or closes it if the server may still be busy with what was given up.
fn settle<T>(client: Object, done: Result<Result<T, Trouble>, Elapsed>) -> Result<T, Trouble> {
    let done = done.unwrap_or_else(|_| Err(Trouble::Away("no answer in time".to_owned())));
    if matches!(done, Err(Trouble::Away(_))) {
        drop(Object::take(client));
    }
    done
}
