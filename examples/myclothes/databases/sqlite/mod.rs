//! One SQLite file in the data folder, shared by all instances.
//!
//! SQLite allows one writer at a time, over all processes. In WAL mode readers never wait for it, and writers wait for
//! each other up to [`BUSY`]; every write is a `BEGIN IMMEDIATE` transaction, because one that starts by
//! reading and then wants to write can be refused without waiting. An instance that is killed leaves nothing half
//! written. What is asked of the tables is in `tables.rs`.

mod tables;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::Semaphore;

use crate::catalogue;
use crate::failure::Failure;
use crate::sessions;

/// How long a writer waits for the others.
const BUSY: Duration = Duration::from_secs(5);
/// How long a request waits for one of its instance's connections.
const TURN: Duration = Duration::from_secs(5);
/// Connections of one instance.
const CONNECTIONS: usize = 4;

/// Makes the tables of version 2 in a new file.
const FIRST: &str = "
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

/// Makes version 3 of version 2.
const COUNT_CHANGES: &str = "
    ALTER TABLE products ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
    PRAGMA user_version = 3;
";

/// A few connections to the file, and the secret that the instances share.
pub(crate) struct Sqlite {
    inner: Arc<Inner>,
    secret: Vec<u8>,
}

struct Inner {
    file: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
}

impl Sqlite {
    /// Opens the database in this folder; creates and fills it when it is new.
    ///
    /// Blocks: call it before anything is served.
    pub(crate) fn open(folder: &Path) -> rusqlite::Result<Self> {
        let file = folder.join("shop.db");
        let mut connection = connect(&file)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        migrate(&mut connection)?;
        let secret =
            connection
                .query_row("SELECT value FROM settings WHERE name = 'form_secret'", [], |row| row.get(0))?;
        let idle = Mutex::new(vec![connection]);
        let inner = Inner { file, idle, turns: Semaphore::new(CONNECTIONS) };
        Ok(Self { inner: Arc::new(inner), secret })
    }

    /// Runs `work` on one consistent view of the database, outside the threads that serve.
    async fn read<T, W>(&self, work: W) -> Result<T, Failure>
    where
        T: Send + 'static,
        W: FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    {
        self.with_connection(|connection| work(&*connection.transaction()?)).await
    }

    /// Runs `work` in a write transaction: all of it happens when it returns `Ok`, else nothing.
    async fn write<T, W>(&self, work: W) -> Result<T, Failure>
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
        let Ok(Ok(turn)) = tokio::time::timeout(TURN, self.inner.turns.acquire()).await else {
            return Err(Failure::Busy);
        };
        let inner = Arc::clone(&self.inner);
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

/// Brings the tables to the newest version, and fills the catalogue of a new file, unless another process has done so.
fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let refuse = |why: &str| {
        let why = format!("{why}; name another folder with --data");
        Err(rusqlite::Error::ToSqlConversionFailure(why.into()))
    };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match version {
        0 => {
            transaction.execute_batch(FIRST)?;
            let mut secret = [0u8; 32];
            sessions::fill_random(&mut secret);
            transaction.execute("INSERT INTO settings VALUES ('form_secret', ?1)", [&secret[..]])?;
            seed(&transaction)?;
            transaction.execute_batch(COUNT_CHANGES)?;
        }
        1 => return refuse("it was made by an earlier version, which kept carts in it"),
        2 => transaction.execute_batch(COUNT_CHANGES)?,
        3 => {}
        _ => return refuse("it was made by a later version"),
    }
    transaction.commit()
}

fn seed(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut insert = transaction.prepare(
        "INSERT INTO products (id, name, category, colour, hex, pattern, price_cents, stock, description)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    for product in catalogue::data_file() {
        insert.execute(params![
            product.id,
            product.name,
            product.category,
            product.colour,
            product.hex,
            product.pattern,
            product.price_cents,
            product.stock,
            product.description,
        ])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_an_earlier_version_become_those_of_this_one() {
        let folder = tempfile::tempdir().unwrap();
        {
            let old = Connection::open(folder.path().join("shop.db")).unwrap();
            old.execute_batch(FIRST).unwrap();
            old.execute_batch("INSERT INTO settings VALUES ('form_secret', x'0102')").unwrap();
        }
        assert_eq!(Sqlite::open(folder.path()).unwrap().secret, [1, 2]);
        let version = Connection::open(folder.path().join("shop.db")).unwrap();
        assert_eq!(version.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap(), 3);
        version.pragma_update(None, "user_version", 4).unwrap();
        let refused = Sqlite::open(folder.path()).err().unwrap().to_string();
        assert!(refused.contains("a later version"), "{refused}");
    }
}
