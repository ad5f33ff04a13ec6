//! Carts in Redis: one hash for each session, with the version that the last write drew. It expires by itself.
//!
//! A write is a script that looks at the version and writes, which nothing else can come between. With Sentinels or in a cluster it counts
//! only when a replica has it too (`?replicas=N`), because what only the primary knows is lost with the primary: a write that no replica has
//! confirmed in time is answered with 503. Reads are asked of the primary, since a replica may not know the
//! newest cart, and only as long as so many replicas follow it: one that was cut off, and comes back, takes itself for the primary until
//! Sentinels tell it otherwise, and does not know what was written meanwhile. Redis must not evict (`maxmemory-policy noeviction`, its default).

use std::time::Duration;

use super::{CartStore, Held, Version, Written};
use crate::failure::Failure;
use crate::redis::{Address, Command, ROLE, Reply, Servers};
use crate::sessions::{self, Session, Visitor};

/// For everything that one request wants of Redis at a time.
const DEADLINE: Duration = Duration::from_millis(1500);
/// Milliseconds for replicas to confirm a write; less than the deadline of the whole question.
const CONFIRM: &[u8] = b"600";

/// KEYS: the session. ARGV: version expected ("" for none), new version, content, when it expires.
const SAVE: &[u8] = b"
    local held = redis.call('HGET', KEYS[1], 'v') or ''
    if held ~= ARGV[1] then return 0 end
    redis.call('HSET', KEYS[1], 'v', ARGV[2], 's', ARGV[3])
    redis.call('EXPIREAT', KEYS[1], ARGV[4])
    return 1";
/// KEYS: the session. ARGV: version expected.
const REMOVE: &[u8] = b"
    if redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return 0 end
    return redis.call('DEL', KEYS[1])";

/// Sessions in Redis.
pub(crate) struct Redis {
    servers: Servers,
    replicas: u32,
}

impl Redis {
    /// Connects when it is first asked.
    pub(crate) fn new(address: &Address) -> Self {
        Self { servers: Servers::new(address.clone()), replicas: address.replicas }
    }

    /// Runs a script that returns 1 when it has written, and waits for the replicas.
    async fn write(&self, key: &str, script: &[u8], args: &[&[u8]]) -> Result<Written, Failure> {
        let count = self.replicas.to_string();
        let mut commands: Vec<Command<'_>> = vec![[&[b"EVAL", script, b"1", key.as_bytes()], args].concat()];
        if self.replicas > 0 {
            commands.push(vec![b"WAIT", count.as_bytes(), CONFIRM]);
        }
        let replies = self.servers.ask(key, &commands, DEADLINE).await.map_err(away)?;
        match replies[..] {
            [Reply::Number(0), ..] => Ok(Written::Changed),
            [Reply::Number(1)] => Ok(Written::Kept),
            [Reply::Number(1), Reply::Number(confirmed)] if confirmed >= i64::from(self.replicas) => {
                Ok(Written::Kept)
            }
            [Reply::Number(1), Reply::Number(confirmed)] => {
                let reason = format!("{confirmed} replicas have confirmed a write, and {count} must");
                Failure::carts_away("redis", reason);
                Ok(Written::Unconfirmed)
            }
            _ => Err(away(format!("an answer that a script does not give: {replies:?}"))),
        }
    }
}

fn away(reason: String) -> Failure {
    Failure::carts_away("redis", reason)
}

fn key(visitor: &Visitor) -> String {
    format!("myclothes:session:{}", visitor.sid.hash())
}

impl CartStore for Redis {
    async fn load(&self, visitor: &Visitor) -> Result<Option<Held>, Failure> {
        let key = key(visitor);
        let mut question: Vec<Command<'_>> = vec![vec![b"HMGET", key.as_bytes(), b"v", b"s"]];
        if self.replicas > 0 {
            question.push(vec![ROLE]);
        }
        let replies = match self.servers.ask(&key, &question, DEADLINE).await {
            // The connection may have been an old one. It costs nothing to ask again.
            Err(_) => self.servers.ask(&key, &question, DEADLINE).await.map_err(away)?,
            Ok(replies) => replies,
        };
        let [Reply::List(fields), ..] = &replies[..] else {
            return Err(away(format!("an answer that HMGET does not give: {replies:?}")));
        };
        match &fields[..] {
            [Reply::Bytes(None), Reply::Bytes(None)] => Ok(None),
            [version, Reply::Bytes(Some(session))] => {
                let number = version.text().and_then(|text| text.parse().ok());
                let version =
                    number.map(Version).ok_or_else(|| Failure::internal("a version that is none"))?;
                let session: Session = serde_json::from_slice(session).map_err(Failure::internal)?;
                Ok(Some(Held { version, session }))
            }
            _ => Err(away(format!("an answer that HMGET does not give: {replies:?}"))),
        }
    }

    async fn save(
        &self,
        visitor: &Visitor,
        expected: Option<Version>,
        new: &Held,
    ) -> Result<Written, Failure> {
        let expected = expected.map_or_else(String::new, |version| version.0.to_string());
        let (version, expires) = (new.version.0.to_string(), new.session.written + sessions::LIFETIME);
        let session = serde_json::to_vec(&new.session).map_err(Failure::internal)?;
        let expires = expires.to_string();
        let args = [expected.as_bytes(), version.as_bytes(), &session, expires.as_bytes()];
        self.write(&key(visitor), SAVE, &args).await
    }

    async fn remove(&self, visitor: &Visitor, expected: Version) -> Result<Written, Failure> {
        self.write(&key(visitor), REMOVE, &[expected.0.to_string().as_bytes()]).await
    }

    async fn forget_old(&self, _: i64) -> Result<(), Failure> {
        Ok(())
    }
}
