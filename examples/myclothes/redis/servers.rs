//! The connections to Redis: which server has a key now, and asking it within a deadline.
//!
//! Nothing is asked twice here: what becomes of a write whose answer is lost is for whoever asks to find out. After
//! any trouble with a server its connections are closed, and the next request looks again for the one that takes writes, at
//! another Sentinel or seed first than the one that was asked last.

use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::address::{Address, Kind};
use super::wire::{Command, MAX_REPLY, Reply, encode, parse};

/// Share of the deadline for one Sentinel, and for one server of a cluster to connect: three may be away.
const SHARE: u32 = 4;
/// Requests of one instance that Redis works on; more wait.
const CONNECTIONS: usize = 32;
/// Bytes of replies for which a connection has room from the start.
const ROOM: usize = 4096;
/// Servers of a cluster that may send one request on to another.
const MOVES: usize = 5;
/// The command that asks a server what it is. When it is the last of a question, the answer counts only if the server is a primary
/// that is followed by as many replicas as the address wants.
pub(crate) const ROLE: &[u8] = b"ROLE";

/// The servers of one address.
pub(crate) struct Servers {
    address: Address,
    turns: Semaphore,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Connections that nobody uses, by server.
    idle: HashMap<String, Vec<Connection>>,
    /// The server that takes writes, where Sentinels say so.
    primary: Option<String>,
    /// Servers by slot, as far as a cluster has told.
    slots: HashMap<u16, String>,
    /// Whom to ask first: counts up with every trouble.
    first: usize,
}

/// Where a cluster sends a request on to.
enum Moved {
    /// From now on.
    ForGood(String),
    /// For this time.
    Once(String),
}

impl Servers {
    /// Connects when it is first asked. As for Redis' own client, `REDISCLI_AUTH` is the password if the address has none.
    pub(crate) fn new(address: Address) -> Self {
        let address = address.or_password(std::env::var("REDISCLI_AUTH").ok());
        Self { address, turns: Semaphore::new(CONNECTIONS), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends these commands, all about `key` or keys of its slot, and gives the replies. None of them is an error; the text of one is
    /// the error. `within` is for everything: a connection, where the primary is, the answers.
    pub(crate) async fn ask(
        &self,
        key: &str,
        commands: &[Command<'_>],
        within: Duration,
    ) -> Result<Vec<Reply>, String> {
        let deadline = Instant::now() + within;
        let late = |_| format!("no answer within {within:?}");
        let turn = timeout_at(deadline, self.turns.acquire()).await.map_err(late)?;
        let slot = slot(key.as_bytes());
        let mut server = timeout_at(deadline, self.server_of(slot, within / SHARE)).await.map_err(late)??;
        let mut once = false;
        for _ in 0..MOVES {
            let exchange = async {
                let mut connection = self.connection(&server).await?;
                let replies = connection.ask(commands, once).await.map_err(|error| error.to_string())?;
                Ok((connection, replies))
            };
            let (connection, replies) = match timeout_at(deadline, exchange).await.map_err(late) {
                Ok(Ok(done)) => done,
                Ok(Err(trouble)) | Err(trouble) => {
                    self.forget(&server);
                    return Err(format!("{server}: {trouble}"));
                }
            };
            let Some(error) = replies.iter().find_map(|reply| match reply {
                Reply::Error(error) => Some(error),
                _ => None,
            }) else {
                if commands.last().is_some_and(|last| last[..] == [ROLE])
                    && let Err(why) = is_followed(replies.last(), self.address.replicas)
                {
                    self.forget(&server);
                    return Err(format!("{server}: {why}"));
                }
                self.known().idle.entry(server).or_default().push(connection);
                drop(turn);
                return Ok(replies);
            };
            match moved(error, &server) {
                Some(to) => {
                    self.known().idle.entry(server).or_default().push(connection);
                    (server, once) = match to {
                        Moved::Once(to) => (to, true),
                        Moved::ForGood(to) => {
                            self.known().slots.insert(slot, to.clone());
                            (to, false)
                        }
                    };
                }
                None => {
                    self.forget(&server);
                    return Err(format!("{server}: {error}"));
                }
            }
        }
        Err(format!("the servers of the cluster do not agree on who has slot {slot}"))
    }

    /// Closes what is open to a server, and looks for the right one anew.
    fn forget(&self, server: &str) {
        let mut known = self.known();
        known.idle.remove(server);
        known.primary = None;
        known.slots.retain(|_, of_slot| of_slot != server);
        known.first = known.first.wrapping_add(1);
    }

    /// The server to ask about a slot; `short` is for each that may know.
    async fn server_of(&self, slot: u16, short: Duration) -> Result<String, String> {
        let servers = &self.address.servers;
        let first = {
            let known = self.known();
            let found = match self.address.kind {
                Kind::One => servers.first(),
                Kind::Sentinel(_) => known.primary.as_ref(),
                Kind::Cluster => known.slots.get(&slot),
            };
            if let Some(found) = found {
                return Ok(found.clone());
            }
            known.first
        };
        let mut trouble = String::new();
        for place in 0..servers.len() {
            let server = &servers[(first + place) % servers.len()];
            let asked = async {
                match &self.address.kind {
                    Kind::Sentinel(name) => primary_by(server, name).await,
                    // Whichever can be reached will tell.
                    _ => {
                        let connection = self.connection(server).await?;
                        self.known().idle.entry(server.clone()).or_default().push(connection);
                        Ok(server.clone())
                    }
                }
            };
            match timeout(short, asked).await {
                Ok(Ok(found)) => {
                    if let Kind::Sentinel(_) = self.address.kind {
                        self.known().primary = Some(found.clone());
                    }
                    return Ok(found);
                }
                Ok(Err(why)) => trouble = format!("{server}: {why}"),
                Err(_) => trouble = format!("{server}: no answer within {short:?}"),
            }
        }
        Err(trouble)
    }

    /// A connection to a server that takes writes.
    async fn connection(&self, server: &str) -> Result<Connection, String> {
        let kept = self.known().idle.get_mut(server).and_then(Vec::pop);
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let mut connection = Connection::open(server).await.map_err(|error| error.to_string())?;
        let mut hello: Vec<Command<'_>> = Vec::new();
        if let Some((user, password)) = &self.address.login {
            let parts = ["AUTH", user, password].into_iter().filter(|part| !part.is_empty());
            hello.push(parts.map(str::as_bytes).collect());
        }
        let number = self.address.database.to_string();
        if self.address.database > 0 {
            hello.push(vec![b"SELECT", number.as_bytes()]);
        }
        // A primary that came back after another was promoted may not know it yet, and a replica may be asked by mistake.
        if let Kind::Sentinel(_) = self.address.kind {
            hello.push(vec![ROLE]);
        }
        for reply in connection.ask(&hello, false).await.map_err(|error| error.to_string())? {
            match reply {
                Reply::Error(error) => return Err(error),
                role @ Reply::List(_) => is_followed(Some(&role), 0)?,
                _ => {}
            }
        }
        Ok(connection)
    }
}

/// Whether this answer to ROLE is that of a primary, and of one that so many replicas follow.
fn is_followed(role: Option<&Reply>, replicas: u32) -> Result<(), String> {
    let Some(Reply::List(role)) = role else { return Err("an answer that ROLE does not give".to_owned()) };
    match (role.first().and_then(Reply::text), role.get(2)) {
        (Some("master"), Some(Reply::List(following))) if following.len() >= replicas as usize => Ok(()),
        (Some("master"), Some(Reply::List(following))) => {
            Err(format!("{} replicas follow it, and {replicas} must", following.len()))
        }
        _ => Err("it takes no writes (it is a replica)".to_owned()),
    }
}

/// Asks a Sentinel for the primary of this name.
async fn primary_by(sentinel: &str, name: &str) -> Result<String, String> {
    let mut connection = Connection::open(sentinel).await.map_err(|error| error.to_string())?;
    let question: Command<'_> = vec![b"SENTINEL", b"get-master-addr-by-name", name.as_bytes()];
    let replies = connection.ask(&[question], false).await.map_err(|error| error.to_string())?;
    match replies.first() {
        Some(Reply::List(parts)) => match parts.iter().map(Reply::text).collect::<Vec<_>>()[..] {
            [Some(host), Some(port)] => Ok(format!("{host}:{port}")),
            _ => Err("an answer that no Sentinel gives".to_owned()),
        },
        Some(Reply::Error(error)) => Err(error.clone()),
        _ => Err(format!("this Sentinel knows no primary called {name}")),
    }
}

/// Where an error sends the request on to. A server that means itself leaves out its host.
fn moved(error: &str, server: &str) -> Option<Moved> {
    let mut words = error.split(' ');
    let kind = words.next()?;
    let to = words.nth(1)?;
    let to = match to.strip_prefix(':') {
        Some(port) => format!("{}:{port}", server.rsplit_once(':')?.0),
        None => to.to_owned(),
    };
    match kind {
        "MOVED" => Some(Moved::ForGood(to)),
        "ASK" => Some(Moved::Once(to)),
        _ => None,
    }
}

/// The slot of a key in a cluster: CRC-16 (XMODEM) of it, or of its part in braces.
fn slot(key: &[u8]) -> u16 {
    let of = |wanted: u8, key: &[u8]| key.iter().position(|byte| *byte == wanted);
    let key = match of(b'{', key).map(|open| &key[open + 1..]) {
        Some(inner) => of(b'}', inner).filter(|end| *end > 0).map_or(key, |end| &inner[..end]),
        None => key,
    };
    let mut crc: u16 = 0;
    for byte in key {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % 16384
}

/// One connection, used by one request at a time.
struct Connection {
    stream: TcpStream,
    /// What was received and not looked at yet.
    received: Vec<u8>,
}

impl Connection {
    async fn open(server: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(ROOM) })
    }

    /// Sends commands and waits for the reply to each; with `once`, where a cluster has said ASK.
    async fn ask(&mut self, commands: &[Command<'_>], once: bool) -> io::Result<Vec<Reply>> {
        let mut sent = Vec::new();
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        for command in commands {
            if once {
                encode(&[b"ASKING"], &mut sent);
            }
            encode(command, &mut sent);
        }
        self.stream.write_all(&sent).await?;
        let mut replies = Vec::with_capacity(commands.len());
        for _ in commands {
            if once {
                self.reply().await?;
            }
            replies.push(self.reply().await?);
        }
        Ok(replies)
    }

    async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            let parsed = parse(&self.received).map_err(io::Error::other)?;
            if let Some((reply, length)) = parsed {
                self.received.drain(..length);
                return Ok(reply);
            }
            if self.received.len() > 2 * MAX_REPLY {
                return Err(io::Error::other("a reply that is too large"));
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_slot_that_redis_gives_it() {
        // From the specification of Redis Cluster, and from CLUSTER KEYSLOT.
        assert_eq!(slot(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!((slot(b"a:{foo}:b"), slot(b"{foo}}"), slot(b"{{foo}}")), (12182, 12182, slot(b"{foo")));
        assert_ne!(slot(b"{}foo"), slot(b"foo"));
    }

    #[test]
    fn a_primary_is_believed_while_it_is_followed() {
        let text = |text: &str| Reply::Bytes(Some(text.into()));
        let following = |count| Reply::List(vec![Reply::List(vec![text("10.0.0.2")]); count]);
        let primary = |count| Reply::List(vec![text("master"), Reply::Number(7), following(count)]);
        assert_eq!(is_followed(Some(&primary(1)), 1), Ok(()));
        assert_eq!(is_followed(Some(&primary(0)), 0), Ok(()));
        assert_eq!(is_followed(Some(&primary(1)), 2), Err("1 replicas follow it, and 2 must".to_owned()));
        let replica = ["slave", "10.0.0.1", "6379", "connected", "9"].map(text);
        assert!(is_followed(Some(&Reply::List(replica.into())), 0).unwrap_err().contains("a replica"));
        assert!(is_followed(Some(&Reply::Number(1)), 0).is_err() && is_followed(None, 0).is_err());
    }

    #[test]
    fn an_error_says_where_else_to_ask() {
        let to = |error: &str| match moved(error, "10.0.0.1:1") {
            Some(Moved::ForGood(to)) => format!("for good {to}"),
            Some(Moved::Once(to)) => format!("once {to}"),
            None => String::new(),
        };
        assert_eq!(to("MOVED 3999 10.0.0.2:6381"), "for good 10.0.0.2:6381");
        assert_eq!(to("MOVED 3999 :6381"), "for good 10.0.0.1:6381");
        assert_eq!(to("ASK 3999 10.0.0.2:6381"), "once 10.0.0.2:6381");
        assert_eq!(to("READONLY You can't write against a read only replica."), "");
        assert_eq!(to("ERR"), "");
    }
}
