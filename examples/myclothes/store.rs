//! The shop's storage: one SQLite file in the data folder, shared by all instances.
//!
//! SQLite allows one writer at a time, over all processes. In WAL mode readers never wait for it, and writers wait for
//! each other up to [`BUSY`]; every write is a `BEGIN IMMEDIATE` transaction, because one that starts by
//! reading and then wants to write can be refused without waiting. An instance that is killed leaves nothing half
//! written. What the tables mean is the business of the files named after them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};
use tokio::sync::Semaphore;

use crate::catalogue;
use crate::failure::Failure;

/// How long a writer waits for the others.
const BUSY: Duration = Duration::from_secs(5);
/// How long a request waits for one of its instance's connections.
const TURN: Duration = Duration::from_secs(5);
/// Connections of one instance.
const CONNECTIONS: usize = 4;

const SCHEMA: &str = "
    CREATE TABLE settings (
        name TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) STRICT;
    CREATE TABLE products (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        category TEXT NOT NULL,
        colour TEXT NOT NULL,
        hex TEXT NOT NULL,
        pattern TEXT NOT NULL,
        price_cents INTEGER NOT NULL CHECK (price_cents > 0),
        stock INTEGER NOT NULL CHECK (stock >= 0),
        description TEXT NOT NULL
    ) STRICT;
    CREATE TABLE accounts (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        email TEXT NOT NULL UNIQUE,
        password TEXT NOT NULL,
        name TEXT NOT NULL,
        address TEXT NOT NULL
    ) STRICT;
    CREATE TABLE orders (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        session_id TEXT NOT NULL,
        basket INTEGER NOT NULL,
        account_id INTEGER REFERENCES accounts (id) ON DELETE CASCADE,
        idempotency_key TEXT,
        name TEXT NOT NULL,
        address TEXT NOT NULL,
        total_cents INTEGER NOT NULL,
        placed_at INTEGER NOT NULL,
        UNIQUE (session_id, idempotency_key),
        UNIQUE (session_id, basket)
    ) STRICT;
    CREATE INDEX orders_by_account ON orders (account_id);
    CREATE TABLE order_items (
        order_id INTEGER NOT NULL REFERENCES orders (id) ON DELETE CASCADE,
        product_id INTEGER NOT NULL,
        name TEXT NOT NULL,
        price_cents INTEGER NOT NULL,
        quantity INTEGER NOT NULL,
        PRIMARY KEY (order_id, product_id)
    ) STRICT, WITHOUT ROWID;
    PRAGMA user_version = 2;
";

/// A few connections to the database, and the secret that the instances share.
#[derive(Clone)]
pub(crate) struct Store(Arc<Inner>);

struct Inner {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
    form_secret: Vec<u8>,
}

impl Store {
    /// Opens the database in this folder; creates and fills it when it is new.
    ///
    /// Blocks: call it before anything is served.
    pub(crate) fn open(folder: &Path) -> rusqlite::Result<Self> {
        let file = folder.join("shop.db");
        let mut connection = connect(&file)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        create(&mut connection)?;
        let form_secret =
            connection
                .query_row("SELECT value FROM settings WHERE name = 'form_secret'", [], |row| row.get(0))?;
        Ok(Self(Arc::new(Inner {
            file,
            idle: Mutex::new(vec![connection]),
            turns: Semaphore::new(CONNECTIONS),
            form_secret,
        })))
    }

    /// Random bytes, the same for all instances, that no client knows: the key of the form tokens.
    pub(crate) fn form_secret(&self) -> &[u8] {
        &self.0.form_secret
    }

    /// Runs `work` on one consistent view of the database, outside the threads that serve.
    pub(crate) async fn read<T, W>(&self, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        self.with_connection(|connection| work(&*connection.transaction()?)).await
    }

    /// Runs `work` in a write transaction: all of it happens when it returns `Ok`, else nothing.
    pub(crate) async fn write<T, W>(&self, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    {
        self.with_connection(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        })
        .await
    }

    async fn with_connection<T, W>(&self, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: FnOnce(&mut Connection) -> Result<T, Failure> + Send + 'static,
    {
        let Ok(Ok(turn)) = tokio::time::timeout(TURN, self.0.turns.acquire()).await else {
            return Err(Failure::Busy);
        };
        let inner = Arc::clone(&self.0);
        let outcome = tokio::task::spawn_blocking(move || {
            let spare = inner.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = spare.map_or_else(|| connect(&inner.file), Ok)?;
            let outcome = work(&mut connection);
            inner.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            outcome
        })
        .await;
        drop(turn);
        outcome.unwrap_or_else(|panic| Err(Failure::internal(panic)))
    }
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(file)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "foreign_keys", true)?;
    // Enough for a process that is killed; only a crash of the whole machine may lose the newest commits.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

/// Creates the tables and fills the catalogue, unless another process has done so.
fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version == 1 {
        let old =
            "it was made by an earlier version, which kept carts in it; name another folder with --data";
        return Err(rusqlite::Error::ToSqlConversionFailure(old.into()));
    }
    if version == 0 {
        transaction.execute_batch(SCHEMA)?;
        let mut secret = [0u8; 32];
        crate::sessions::fill_random(&mut secret);
        transaction.execute("INSERT INTO settings VALUES ('form_secret', ?1)", [&secret[..]])?;
        catalogue::seed(&transaction)?;
    }
    transaction.commit()
}

/// Turns "no such row" into `None`, and every other error of the database into a failure.
pub(crate) fn optional<T>(row: rusqlite::Result<T>) -> Result<Option<T>, Failure> {
    Ok(row.optional()?)
}
