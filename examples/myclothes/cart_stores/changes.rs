//! What requests want of a session, made of what every store can do: read it, and write it if nobody else has.
//!
//! A change reads the session, changes it, and writes it if it is still what was read; else it begins anew. So two windows
//! that add to one cart at the same time both count, on whatever instances. When a store does not answer, a write
//! may have happened: the session is read again, and its version tells, so that nothing is put into a cart twice. Where even that
//! cannot be known, the request fails and says so.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cookie::Cookie;
use super::dynamodb::{DynamoDb, Login};
use super::memory::Memory;
use super::redis::Redis;
use super::sqlite::Sqlite;
use super::{CartStore, Held, Place, Version, Written};
use crate::failure::Failure;
use crate::sessions::{self, Session, SetCookies, Visitor};

/// For a whole change, however often it has to begin anew.
const DEADLINE: Duration = Duration::from_secs(4);
/// Longest pause before a change begins anew; the shortest is none, and which one is drawn, so that two do not meet again.
const PAUSE: Duration = Duration::from_millis(20);

/// The store of one instance.
pub(crate) enum Carts {
    Memory(Memory),
    Cookie(Cookie),
    Sqlite(Sqlite),
    Redis(Box<Redis>),
    DynamoDb(Box<DynamoDb>),
}

impl Carts {
    /// Opens the store. `data` is the data folder, `secret` what all instances share. The error is one line.
    pub(crate) fn open(place: &Place, data: &Path, secret: &[u8]) -> Result<Self, String> {
        Ok(match place {
            Place::Memory => Self::Memory(Memory::default()),
            Place::Cookie => Self::Cookie(Cookie::new(secret).map_err(|failure| failure.message())?),
            Place::Redis(address) => Self::Redis(Box::new(Redis::new(address))),
            Place::DynamoDb(address) => {
                let login = Login::new(address, |name| std::env::var(name).ok())?;
                Self::DynamoDb(Box::new(DynamoDb::new(address, login)))
            }
            Place::Sqlite => Self::Sqlite(Sqlite::open(data).map_err(|error| {
                format!("the carts in {} cannot be used: {error}", data.join("carts.db").display())
            })?),
        })
    }

    /// Finds out, before anything is served, what would never work. A store that does not answer now is no error: requests say so
    /// until it does. The error is one line.
    pub(crate) async fn prepare(&self) -> Result<(), String> {
        match self {
            Self::DynamoDb(store) => store.prepare().await,
            Self::Memory(_) | Self::Cookie(_) | Self::Sqlite(_) | Self::Redis(_) => Ok(()),
        }
    }

    /// The session of a visitor, if there is one.
    pub(crate) async fn find(&self, visitor: &Visitor) -> Result<Option<Session>, Failure> {
        Ok(self.held(visitor).await?.map(|held| held.session).filter(counts))
    }

    /// Changes the session of a visitor, who gets one if there is none. `change` may be called more than once, each time with
    /// what is there by then; when it fails, nothing is changed.
    pub(crate) async fn change(
        &self,
        visitor: &Visitor,
        change: impl Fn(&mut Session) -> Result<(), Failure> + Send,
    ) -> Result<(Session, SetCookies), Failure> {
        let started = Instant::now();
        let mut before = self.held(visitor).await?;
        loop {
            let expected = before.as_ref().map(|held| held.version);
            let mut session = before.map(|held| held.session).filter(counts).unwrap_or_else(Session::fresh);
            change(&mut session)?;
            let new = held(session);
            let unsure = match self.save(visitor, expected, &new).await {
                Ok(Written::Kept) => return Ok((new.session, visitor.cookies())),
                Ok(Written::ByVisitor(sealed)) => {
                    return Ok((new.session, visitor.cookies_with(Some(&sealed))));
                }
                Ok(Written::Unconfirmed) => return Err(Failure::CartsAway),
                Ok(Written::Changed) => None,
                Err(away @ Failure::CartsAway) => Some(away),
                Err(failure) => return Err(failure),
            };
            if started.elapsed() > DEADLINE {
                return Err(unsure.unwrap_or(Failure::Busy));
            }
            sleep(PAUSE.mul_f64(f64::from(sessions::random_number() as u8) / 255.0)).await;
            before = self.load(visitor).await?;
            let now = before.as_ref().map(|held| held.version);
            if now == Some(new.version) {
                return Ok((new.session, visitor.cookies()));
            }
            if let Some(away) = unsure
                && now != expected
            {
                return Err(away);
            }
        }
    }

    /// Logs in: the session moves to a new sid, so that one planted before the login is worth nothing, and keeps its cart.
    pub(crate) async fn log_in(&self, visitor: &Visitor, account: i64) -> Result<SetCookies, Failure> {
        let started = Instant::now();
        let renewed = visitor.renewed();
        let mut copied = None;
        // Nobody knows the new sid yet. Should this end half way, the visitor still has the old one.
        loop {
            let old = self.held(visitor).await?;
            let session = old.clone().map(|held| held.session).filter(counts).unwrap_or_else(Session::fresh);
            let new = held(Session { account: Some(account), ..session });
            let cookies = match self.save(&renewed, copied, &new).await? {
                Written::Kept => renewed.cookies(),
                Written::ByVisitor(sealed) => renewed.cookies_with(Some(&sealed)),
                Written::Unconfirmed => return Err(Failure::CartsAway),
                Written::Changed => return Err(Failure::Busy),
            };
            copied = Some(new.version);
            let Some(old) = old else { return Ok(cookies) };
            match self.remove(visitor, old.version).await? {
                Written::Kept | Written::ByVisitor(_) => return Ok(cookies),
                Written::Unconfirmed => return Err(Failure::CartsAway),
                Written::Changed => {}
            }
            if started.elapsed() > DEADLINE {
                return Err(Failure::Busy);
            }
        }
    }

    /// Logs out: the session and its cart are gone, so that the next person at this screen sees neither.
    pub(crate) async fn log_out(&self, visitor: &Visitor) -> Result<SetCookies, Failure> {
        let started = Instant::now();
        while let Some(old) = self.held(visitor).await? {
            match self.remove(visitor, old.version).await? {
                Written::Kept => break,
                Written::ByVisitor(nothing) => return Ok(visitor.renewed().cookies_with(Some(&nothing))),
                Written::Unconfirmed => return Err(Failure::CartsAway),
                Written::Changed if started.elapsed() > DEADLINE => return Err(Failure::Busy),
                Written::Changed => {}
            }
        }
        Ok(visitor.renewed().cookies())
    }

    async fn held(&self, visitor: &Visitor) -> Result<Option<Held>, Failure> {
        // For a sid that was drawn just now, nothing is kept anywhere.
        if visitor.known { self.load(visitor).await } else { Ok(None) }
    }
}

/// Each call goes to the store that was chosen.
impl CartStore for Carts {
    async fn load(&self, visitor: &Visitor) -> Result<Option<Held>, Failure> {
        match self {
            Self::Memory(store) => store.load(visitor).await,
            Self::Cookie(store) => store.load(visitor).await,
            Self::Sqlite(store) => store.load(visitor).await,
            Self::Redis(store) => store.load(visitor).await,
            Self::DynamoDb(store) => store.load(visitor).await,
        }
    }

    async fn save(&self, of: &Visitor, expected: Option<Version>, new: &Held) -> Result<Written, Failure> {
        match self {
            Self::Memory(store) => store.save(of, expected, new).await,
            Self::Cookie(store) => store.save(of, expected, new).await,
            Self::Sqlite(store) => store.save(of, expected, new).await,
            Self::Redis(store) => store.save(of, expected, new).await,
            Self::DynamoDb(store) => store.save(of, expected, new).await,
        }
    }

    async fn remove(&self, visitor: &Visitor, expected: Version) -> Result<Written, Failure> {
        match self {
            Self::Memory(store) => store.remove(visitor, expected).await,
            Self::Cookie(store) => store.remove(visitor, expected).await,
            Self::Sqlite(store) => store.remove(visitor, expected).await,
            Self::Redis(store) => store.remove(visitor, expected).await,
            Self::DynamoDb(store) => store.remove(visitor, expected).await,
        }
    }

    async fn forget_old(&self, now: i64) -> Result<(), Failure> {
        match self {
            Self::Memory(store) => store.forget_old(now).await,
            Self::Cookie(store) => store.forget_old(now).await,
            Self::Sqlite(store) => store.forget_old(now).await,
            Self::Redis(store) => store.forget_old(now).await,
            Self::DynamoDb(store) => store.forget_old(now).await,
        }
    }
}

/// A session as it is written now.
fn held(session: Session) -> Held {
    let session = Session { written: sessions::unix_now(), ..session };
    Held { version: Version(sessions::random_number()), session }
}

/// Whether a session is still one.
fn counts(session: &Session) -> bool {
    !session.is_over(sessions::unix_now())
}
