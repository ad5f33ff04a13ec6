//! Where accounts, orders and the catalogue live: in a SQLite file, or in PostgreSQL.
//!
//! ```text
//! seen.rs      what a visitor has written, and must find again      sqlite/     a file that all instances open
//! choice.rs    what --database may say                              postgres/   a primary and its replicas
//! ```
//!
//! Both do the same, and `conformance.rs` asks it of both in the same words. A database that cannot be asked is a failure
//! ([`Failure::DatabaseAway`], 503), never an empty page. Carts and logins are not kept here ([`crate::cart_stores`]).

mod choice;
#[cfg(test)]
mod conformance;
pub(crate) mod postgres;
mod seen;
mod sqlite;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use choice::Choice;
pub(crate) use seen::{Seen, SeenCookie};

use crate::accounts::{Account, Delivery, Email};
use crate::catalogue::Product;
use crate::failure::Failure;
use crate::orders::{NewOrder, Order, Placed};

/// Options of a system, of one instance, and of commands that change the catalogue.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub(crate) struct Options {
    /// Where accounts, orders and the catalogue live: sqlite (in the data folder), or PostgreSQL:
    /// postgres://USER@HOST1,HOST2,HOST3/DATABASE, primary and replicas in any order. PGPASSWORD is the password if the URL has none
    #[arg(long = "database", value_name = "WHERE", default_value = "sqlite")]
    database: Choice,
    /// Certificates (PEM) by which PostgreSQL's are checked; with it, all connections to PostgreSQL are encrypted
    #[arg(long = "database-ca", value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl Options {
    /// Whether it is a file in the data folder.
    pub(crate) fn is_in_folder(&self) -> bool {
        self.database == Choice::Sqlite
    }

    /// The same options on the command line of an instance.
    pub(crate) fn args(&self) -> Vec<OsString> {
        let mut args = vec!["--database".into(), self.database.to_string().into()];
        if let Some(ca) = &self.ca {
            let ca = std::path::absolute(ca).unwrap_or_else(|_| ca.clone());
            args.extend(["--database-ca".into(), ca.into()]);
        }
        args
    }
}

/// What the shop asks of a database.
///
/// Every call ends within a few seconds: with [`Failure::DatabaseAway`] when the database does not answer. Reads find at least
/// what `seen` stands for, and writes add themselves to it. Every write may be repeated without being done twice.
pub(crate) trait Database {
    /// Random bytes, the same for all instances, that no client knows.
    fn secret(&self) -> &[u8];

    /// Everything for sale, in the order of the ids.
    fn products(&self, seen: &Seen) -> impl Future<Output = Result<Vec<Product>, Failure>> + Send;

    /// Those of these products that exist, in the order of the ids.
    fn some_products(
        &self,
        seen: &Seen,
        ids: &[i64],
    ) -> impl Future<Output = Result<Vec<Product>, Failure>> + Send;

    /// Sets the price of a product; `None` if there is no such product.
    fn set_price(
        &self,
        seen: &Seen,
        id: i64,
        cents: i64,
    ) -> impl Future<Output = Result<Option<Product>, Failure>> + Send;

    /// Sets how many pieces of a product there are; `None` if there is no such product.
    fn set_stock(
        &self,
        seen: &Seen,
        id: i64,
        pieces: i64,
    ) -> impl Future<Output = Result<Option<Product>, Failure>> + Send;

    /// The account with this id.
    fn account(&self, seen: &Seen, id: i64) -> impl Future<Output = Result<Option<Account>, Failure>> + Send;

    /// The account with this e-mail address, and its password's hash.
    fn account_with_email(
        &self,
        seen: &Seen,
        email: &Email,
    ) -> impl Future<Output = Result<Option<(Account, String)>, Failure>> + Send;

    /// Stores a new account. A conflict, if there is one with this e-mail address and another hash.
    fn create_account(
        &self,
        seen: &Seen,
        email: &Email,
        hash: &str,
        delivery: &Delivery,
    ) -> impl Future<Output = Result<Account, Failure>> + Send;

    /// Writes name and address; `None` if there is no such account.
    fn change_account(
        &self,
        seen: &Seen,
        id: i64,
        delivery: &Delivery,
    ) -> impl Future<Output = Result<Option<Account>, Failure>> + Send;

    /// Places an order and takes the stock, both or neither, unless it was placed before.
    fn place(&self, seen: &Seen, order: &NewOrder) -> impl Future<Output = Result<Placed, Failure>> + Send;

    /// An order, if this session or this account placed it.
    fn order(
        &self,
        seen: &Seen,
        id: i64,
        session: &str,
        account: Option<i64>,
    ) -> impl Future<Output = Result<Option<Order>, Failure>> + Send;

    /// The newest orders of an account, without their lines.
    fn orders_of(
        &self,
        seen: &Seen,
        account: i64,
    ) -> impl Future<Output = Result<Vec<Order>, Failure>> + Send;
}

/// The database that was chosen.
pub(crate) enum Databases {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

impl Databases {
    /// Opens the database; makes its tables and fills the catalogue when it is new. `data` is the data folder, `zone` where
    /// this process stands. The error is one line.
    pub(crate) async fn open(options: &Options, data: &Path, zone: &str) -> Result<Self, String> {
        match &options.database {
            Choice::Sqlite => sqlite::Sqlite::open(data)
                .map(Self::Sqlite)
                .map_err(|error| format!("the database in {} cannot be used: {error}", data.display())),
            Choice::Postgres(url) => {
                postgres::Postgres::open(url, options.ca.as_deref(), zone).await.map(Self::Postgres)
            }
        }
    }

    /// What is known of the servers; `null` where there are none.
    pub(crate) fn servers(&self) -> serde_json::Value {
        match self {
            Self::Sqlite(_) => serde_json::Value::Null,
            Self::Postgres(postgres) => postgres.servers(),
        }
    }
}

/// Each call goes to the database that was chosen.
macro_rules! chosen {
    ($self:ident, $call:ident($($argument:expr),*)) => {
        match $self {
            Databases::Sqlite(database) => database.$call($($argument),*).await,
            Databases::Postgres(database) => database.$call($($argument),*).await,
        }
    };
}

impl Database for Databases {
    fn secret(&self) -> &[u8] {
        match self {
            Self::Sqlite(database) => database.secret(),
            Self::Postgres(database) => database.secret(),
        }
    }

    async fn products(&self, seen: &Seen) -> Result<Vec<Product>, Failure> {
        chosen!(self, products(seen))
    }

    async fn some_products(&self, seen: &Seen, ids: &[i64]) -> Result<Vec<Product>, Failure> {
        chosen!(self, some_products(seen, ids))
    }

    async fn set_price(&self, seen: &Seen, id: i64, cents: i64) -> Result<Option<Product>, Failure> {
        chosen!(self, set_price(seen, id, cents))
    }

    async fn set_stock(&self, seen: &Seen, id: i64, pieces: i64) -> Result<Option<Product>, Failure> {
        chosen!(self, set_stock(seen, id, pieces))
    }

    async fn account(&self, seen: &Seen, id: i64) -> Result<Option<Account>, Failure> {
        chosen!(self, account(seen, id))
    }

    async fn account_with_email(
        &self,
        seen: &Seen,
        email: &Email,
    ) -> Result<Option<(Account, String)>, Failure> {
        chosen!(self, account_with_email(seen, email))
    }

    async fn create_account(
        &self,
        seen: &Seen,
        email: &Email,
        hash: &str,
        delivery: &Delivery,
    ) -> Result<Account, Failure> {
        chosen!(self, create_account(seen, email, hash, delivery))
    }

    async fn change_account(
        &self,
        seen: &Seen,
        id: i64,
        delivery: &Delivery,
    ) -> Result<Option<Account>, Failure> {
        chosen!(self, change_account(seen, id, delivery))
    }

    async fn place(&self, seen: &Seen, order: &NewOrder) -> Result<Placed, Failure> {
        chosen!(self, place(seen, order))
    }

    async fn order(
        &self,
        seen: &Seen,
        id: i64,
        session: &str,
        account: Option<i64>,
    ) -> Result<Option<Order>, Failure> {
        chosen!(self, order(seen, id, session, account))
    }

    async fn orders_of(&self, seen: &Seen, account: i64) -> Result<Vec<Order>, Failure> {
        chosen!(self, orders_of(seen, account))
    }
}
