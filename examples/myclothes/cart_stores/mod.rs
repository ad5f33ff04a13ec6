//! Where carts and logins live: in the instance, with the visitor, or in a store that all instances share.
//!
//! ```text
//! place.rs    what --carts may say              memory.rs   in the instance: gone with it
//! changes.rs  one change at a time counts       cookie.rs   with the visitor, sealed
//!                                               sqlite.rs   a file that all instances open
//!                                               redis.rs    one server, Sentinels, or a cluster
//!                                               dynamodb/   a table of DynamoDB
//! ```
//!
//! Every store does the same three things with one key: [`load`](CartStore::load), and [`save`](CartStore::save) and
//! [`remove`](CartStore::remove) if nobody else has written since. Whatever a request wants is made of these in `changes.rs`. A
//! store that cannot be asked is a failure ([`Failure::CartsAway`], 503), never an empty cart. Orders and accounts are
//! not kept here.

mod changes;
#[cfg(test)]
mod conformance;
mod cookie;
mod dynamodb;
mod memory;
mod place;
mod redis;
mod sqlite;

pub(crate) use changes::Carts;
pub(crate) use place::Place;

use crate::failure::Failure;
use crate::sessions::{Session, Visitor};

/// Options of a system and of one instance.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct Options {
    /// Where carts and logins live: memory, cookie, sqlite, redis://HOST:PORT, redis+sentinel://HOST:PORT,…/NAME,
    /// redis+cluster://HOST:PORT,… or dynamodb://TABLE?region=REGION
    #[arg(long = "carts", value_name = "WHERE", default_value = "sqlite")]
    pub(crate) place: Place,
}

/// A random number that each write draws: who has read it knows what would be overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version(i64);

/// A session as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) version: Version,
    pub(crate) session: Session,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is kept.
    Kept,
    /// It is kept if the visitor gets this as a cookie.
    ByVisitor(String),
    /// It was written, but not as safely as it has to be: it may be lost with the server that has it.
    Unconfirmed,
    /// Nothing was written: somebody else has written since.
    Changed,
}

/// A place where sessions are kept, by the hash of their sid.
///
/// Every call ends within a few seconds: with [`Failure::CartsAway`] when the store does not answer. Such a write may have
/// happened or not.
pub(crate) trait CartStore {
    /// What is kept for this visitor.
    fn load(&self, visitor: &Visitor) -> impl Future<Output = Result<Option<Held>, Failure>> + Send;

    /// Writes a session, if what is kept still has the version `expected`; `None`: if nothing is kept.
    fn save(
        &self,
        visitor: &Visitor,
        expected: Option<Version>,
        new: &Held,
    ) -> impl Future<Output = Result<Written, Failure>> + Send;

    /// Removes a session, if it still has the version `expected`.
    fn remove(
        &self,
        visitor: &Visitor,
        expected: Version,
    ) -> impl Future<Output = Result<Written, Failure>> + Send;

    /// Forgets some of the sessions that are over, where that does not happen by itself.
    fn forget_old(&self, now: i64) -> impl Future<Output = Result<(), Failure>> + Send;
}
