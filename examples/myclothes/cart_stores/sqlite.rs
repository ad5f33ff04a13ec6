//! Carts in a SQLite file of the data folder, which all instances on this machine open.
//!
//! One row for each session, read and written by single statements: a write that finds another version than it expects
//! changes nothing. An instance that is killed leaves nothing half written. A file of its own, so that carts never wait for orders.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::Semaphore;

use super::{CartStore, Held, Version, Written};
use crate::failure::Failure;
use crate::sessions::{self, Session, Visitor};

/// How long a write waits for those of other instances.
const BUSY: Duration = Duration::from_secs(2);
/// How long a request waits for one of its instance's connections.
const TURN: Duration = Duration::from_secs(2);
/// Connections of one instance.
const CONNECTIONS: usize = 4;

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS sessions (
        sid_hash TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        written INTEGER NOT NULL,
        session TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS sessions_by_age ON sessions (written);
";

/// A few connections to the file.
pub(crate) struct Sqlite(Arc<Inner>);

struct Inner {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
}

impl Sqlite {
    /// Opens the file in this folder, and makes it when it is new. Blocks: call it before anything is served.
    pub(crate) fn open(folder: &Path) -> rusqlite::Result<Self> {
        let file = folder.join("carts.db");
        let connection = connect(&file)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.execute_batch(SCHEMA)?;
        let idle = Mutex::new(vec![connection]);
        Ok(Self(Arc::new(Inner { file, idle, turns: Semaphore::new(CONNECTIONS) })))
    }

    /// Runs `work` outside the threads that serve.
    async fn with<T, W>(&self, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let Ok(Ok(turn)) = tokio::time::timeout(TURN, self.0.turns.acquire()).await else {
            return Err(Failure::carts_away("sqlite", "every connection is in use"));
        };
        let inner = Arc::clone(&self.0);
        let outcome = tokio::task::spawn_blocking(move || {
            let spare = inner.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = spare.map_or_else(|| connect(&inner.file), Ok)?;
            let outcome = work(&connection);
            inner.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            outcome
        })
        .await;
        drop(turn);
        outcome.map_err(Failure::internal)?.map_err(|error| Failure::carts_away("sqlite", error))
    }
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(BUSY)?;
    // Enough for a process that is killed; only a crash of the whole machine may lose the newest commits.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// What a statement that changes one row or none has done.
fn written(rows: usize) -> Written {
    if rows == 0 { Written::Changed } else { Written::Kept }
}

impl CartStore for Sqlite {
    async fn load(&self, visitor: &Visitor) -> Result<Option<Held>, Failure> {
        let key = visitor.sid.hash();
        let row = self
            .with(move |connection| {
                connection
                    .prepare_cached("SELECT version, session FROM sessions WHERE sid_hash = ?1")?
                    .query_row([key], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))
                    .optional()
            })
            .await?;
        let Some((version, text)) = row else { return Ok(None) };
        let session: Session = serde_json::from_str(&text).map_err(Failure::internal)?;
        Ok(Some(Held { version: Version(version), session }))
    }

    async fn save(
        &self,
        visitor: &Visitor,
        expected: Option<Version>,
        new: &Held,
    ) -> Result<Written, Failure> {
        let (key, at, version) = (visitor.sid.hash(), new.session.written, new.version.0);
        let text = serde_json::to_string(&new.session).map_err(Failure::internal)?;
        self.with(move |connection| match expected {
            None => connection
                .prepare_cached("INSERT INTO sessions VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING")?
                .execute(params![key, version, at, text]),
            Some(expected) => connection
                .prepare_cached(
                    "UPDATE sessions SET version = ?2, written = ?3, session = ?4
                     WHERE sid_hash = ?1 AND version = ?5",
                )?
                .execute(params![key, version, at, text, expected.0]),
        })
        .await
        .map(written)
    }

    async fn remove(&self, visitor: &Visitor, expected: Version) -> Result<Written, Failure> {
        let key = visitor.sid.hash();
        self.with(move |connection| {
            connection
                .prepare_cached("DELETE FROM sessions WHERE sid_hash = ?1 AND version = ?2")?
                .execute(params![key, expected.0])
        })
        .await
        .map(written)
    }

    async fn forget_old(&self, now: i64) -> Result<(), Failure> {
        self.with(move |connection| {
            connection.execute(
                "DELETE FROM sessions WHERE sid_hash IN
                    (SELECT sid_hash FROM sessions WHERE written < ?1 ORDER BY written LIMIT 1000)",
                [now - sessions::LIFETIME],
            )
        })
        .await
        .map(drop)
    }
}
