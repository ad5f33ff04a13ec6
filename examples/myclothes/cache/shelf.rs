//! The cache as one instance sees it: asked within a short deadline, left alone while it does not answer, and told afterwards what it
//! has missed.
//!
//! The first question that fails makes it count as away: from then on nobody asks, and pages wait for nothing. A task of its own tries again
//! every [`TRY_AGAIN`], writes first what could not be written meanwhile, and only then may pages ask again: so an instance never
//! believes what it should have corrected.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::entries::{Entry, Key, LONGEST, Names, decode_ids, encode_ids, jittered};
use crate::catalogue::Product;
use crate::redis::{Address, Command, ROLE, Reply, Servers};
use crate::sessions;

/// Between two tries while it is away.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// For one try: nobody waits for it.
const PATIENT: Duration = Duration::from_millis(1500);

/// KEYS: leases, of which at least one must be held; then entries. ARGV: who holds the leases; how many they are; then each entry and
/// its lifetime in milliseconds. An entry is written over an older one, and over one of the same version if it has something to show.
/// Returns how many were not written because something newer is there; -1 if no lease is held.
const WRITE: &[u8] = b"
    local leases, held = tonumber(ARGV[2]), 0
    for i = 1, leases do
        if redis.call('GET', KEYS[i]) == ARGV[1] then
            redis.call('DEL', KEYS[i])
            held = held + 1
        end
    end
    if leases > 0 and held == 0 then return -1 end
    local function version(entry) return tonumber(string.match(entry, '^%-?%d+')) or -2 end
    local newer = 0
    for i = leases + 1, #KEYS do
        local place = 2 * (i - leases)
        local entry, there = ARGV[place + 1], redis.call('GET', KEYS[i])
        local older = there and version(there) > version(entry)
        local same = there and version(there) == version(entry)
        if older then newer = newer + 1 end
        if not older and not (same and string.sub(entry, -1) == ' ') then
            redis.call('SET', KEYS[i], entry, 'PX', ARGV[place + 2])
        end
    end
    return newer";

/// It does not answer, or too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Away;

/// How long things may take; only tests have other times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// For one question, which a page waits for.
    pub(super) answer: Duration,
    /// For what another instance is loading.
    pub(super) loading: Duration,
    /// For how long a loader may load. Much less than [`LONGEST`], which is how long it is remembered that something was changed.
    pub(super) lease: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            answer: Duration::from_millis(200),
            loading: Duration::from_millis(500),
            lease: Duration::from_secs(2),
        }
    }
}

/// The cache.
pub(super) struct Shelf {
    servers: Servers,
    names: Names,
    /// Replicas that must have a change before it counts.
    replicas: u32,
    pub(super) times: Times,
    away: AtomicBool,
    /// What it could not be told: the newest state of each product.
    untold: Mutex<BTreeMap<i64, Entry>>,
    trouble: Notify,
    /// How often it went away.
    pub(super) failures: AtomicU64,
    /// What was loaded and not kept, because something newer was there.
    pub(super) too_old: AtomicU64,
}

impl Shelf {
    /// Away at first.
    pub(super) fn new(address: &Address, secret: &[u8], times: Times) -> Self {
        Self {
            servers: Servers::new(address.clone()),
            names: Names::new(secret),
            replicas: address.replicas,
            times,
            away: AtomicBool::new(true),
            untold: Mutex::default(),
            trouble: Notify::new(),
            failures: AtomicU64::new(0),
            too_old: AtomicU64::new(0),
        }
    }

    /// What it says of each of these products; `None` if nothing.
    pub(super) async fn look(&self, ids: &[i64]) -> Result<Vec<Option<Entry>>, Away> {
        let names: Vec<String> = ids.iter().map(|id| self.names.entry(Key::Product(*id))).collect();
        let mut question: Command<'_> = vec![b"MGET"];
        question.extend(names.iter().map(String::as_bytes));
        match self.ask(vec![question]).await?.into_iter().next() {
            Some(Reply::List(kept)) if kept.len() == ids.len() => {
                Ok(kept.iter().map(|reply| reply.bytes().and_then(Entry::decode)).collect())
            }
            other => Err(self.lost(&format!("an answer that MGET does not give: {other:?}"))),
        }
    }

    /// The ids of all products, if it knows them.
    pub(super) async fn ids(&self) -> Result<Option<Vec<i64>>, Away> {
        let name = self.names.entry(Key::All);
        let replies = self.ask(vec![vec![b"GET", name.as_bytes()]]).await?;
        Ok(replies.first().and_then(Reply::bytes).and_then(decode_ids))
    }

    /// Those of these that `loader` may load now: nobody else will for a while.
    pub(super) async fn lease(&self, loader: &str, keys: &[Key]) -> Result<Vec<Key>, Away> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let time = self.times.lease.as_millis().to_string();
        let names: Vec<String> = keys.iter().map(|key| self.names.lease(*key)).collect();
        let mut questions: Vec<Command<'_>> = Vec::new();
        for name in &names {
            questions.push(vec![b"SET", name.as_bytes(), loader.as_bytes(), b"NX", b"PX", time.as_bytes()]);
        }
        let replies = self.ask(questions).await?;
        let mine = keys.iter().zip(replies).filter(|(_, reply)| *reply == Reply::Status("OK".to_owned()));
        Ok(mine.map(|(key, _)| *key).collect())
    }

    /// Keeps what was loaded under these leases, unless all of them are over, and gives them back.
    pub(super) async fn keep(&self, loader: &str, leases: &[Key], loaded: &[Loaded<'_>]) -> Result<(), Away> {
        let entries: Vec<Kept> = loaded.iter().map(|loaded| self.kept(loaded)).collect();
        let newer =
            self.write(loader, leases, &entries, self.times.answer).await.map_err(|why| self.lost(&why))?;
        self.too_old.fetch_add(newer, Relaxed);
        Ok(())
    }

    /// Tells it what products have become. `false` if it cannot be told now; it will be.
    pub(super) async fn tell(&self, changed: Vec<(i64, Entry)>) -> bool {
        if !self.is_away() {
            let entries: Vec<Kept> =
                changed.iter().map(|(id, entry)| self.kept(&Loaded::One(*id, entry))).collect();
            match self.write("", &[], &entries, self.times.answer).await {
                Ok(_) => return true,
                Err(why) => drop(self.lost(&why)),
            }
        }
        let mut untold = self.untold();
        for (id, entry) in changed {
            let newer = untold.get(&id).is_none_or(|there| version(there) < version(&entry));
            if newer {
                untold.insert(id, entry);
            }
        }
        // It may have come back in between, and must not be believed.
        self.away.store(true, Relaxed);
        drop(untold);
        self.trouble.notify_one();
        false
    }

    /// Whether nobody asks it now.
    pub(super) fn is_away(&self) -> bool {
        self.away.load(Relaxed)
    }

    /// How many products it could not be told of.
    pub(super) fn untold_products(&self) -> usize {
        self.untold().len()
    }

    /// Tries for the first time. If that fails, [`mend`](Self::mend) goes on.
    pub(super) async fn begin(&self) {
        if let Err(why) = self.try_again().await {
            self.failures.fetch_add(1, Relaxed);
            say_away(&why);
            self.trouble.notify_one();
        }
    }

    /// Tries again whenever it is away. Never ends.
    pub(super) async fn mend(&self) {
        loop {
            self.trouble.notified().await;
            if !self.is_away() {
                continue;
            }
            while self.try_again().await.is_err() {
                sleep(TRY_AGAIN).await;
            }
            eprintln!("myclothes: the cache answers again");
        }
    }

    /// Tells it what it has missed; pages ask it again from then on. Also proves that it can be written to.
    pub(super) async fn try_again(&self) -> Result<(), String> {
        loop {
            let untold: Vec<(i64, Entry)> =
                self.untold().iter().map(|(id, entry)| (*id, entry.clone())).collect();
            let mut entries: Vec<Kept> =
                untold.iter().map(|(id, entry)| self.kept(&Loaded::One(*id, entry))).collect();
            // Always written, so that replicas that confirm it have confirmed what was written before it, too.
            let trial = format!("{}:trial", self.names.tag);
            entries.push(Kept { name: trial, entry: "0 null".to_owned(), lifetime: LONGEST });
            self.write("", &[], &entries, PATIENT).await?;
            let mut left = self.untold();
            for (id, entry) in &untold {
                if left.get(id) == Some(entry) {
                    left.remove(id);
                }
            }
            if left.is_empty() {
                self.away.store(false, Relaxed);
                return Ok(());
            }
        }
    }

    /// Asks, unless it is away. A server that its replicas have left is away: what was told to its successor it does not know.
    async fn ask(&self, mut questions: Vec<Command<'_>>) -> Result<Vec<Reply>, Away> {
        if self.is_away() {
            return Err(Away);
        }
        if self.replicas > 0 {
            questions.push(vec![ROLE]);
        }
        let (begin, answer) = (Instant::now(), self.times.answer);
        let mut asked = self.servers.ask(&self.names.tag, &questions, answer).await;
        if asked.is_err() && begin.elapsed() < answer / 2 {
            // The connection may have been an old one, and no question is harmed by being asked twice.
            asked = self.servers.ask(&self.names.tag, &questions, answer / 2).await;
        }
        asked.map_err(|why| self.lost(&why))
    }

    async fn write(
        &self,
        loader: &str,
        leases: &[Key],
        entries: &[Kept],
        within: Duration,
    ) -> Result<u64, String> {
        let count = leases.len().to_string();
        let names: Vec<String> = leases.iter().map(|key| self.names.lease(*key)).collect();
        let lifetimes: Vec<String> =
            entries.iter().map(|kept| kept.lifetime.as_millis().to_string()).collect();
        let keys = (leases.len() + entries.len()).to_string();
        let mut script: Command<'_> = vec![b"EVAL", WRITE, keys.as_bytes()];
        script.extend(names.iter().map(String::as_bytes));
        script.extend(entries.iter().map(|kept| kept.name.as_bytes()));
        script.extend([loader.as_bytes(), count.as_bytes()]);
        for (kept, lifetime) in entries.iter().zip(&lifetimes) {
            script.extend([kept.entry.as_bytes(), lifetime.as_bytes()]);
        }
        // A change that only a primary knows is lost with it, and the old entry is there again. What was loaded may be lost.
        let replicas = if leases.is_empty() { self.replicas } else { 0 };
        let (wanted, patience) = (replicas.to_string(), (within.as_millis() / 2).to_string());
        let mut commands = vec![script];
        if replicas > 0 {
            commands.push(vec![b"WAIT", wanted.as_bytes(), patience.as_bytes()]);
        }
        let replies = self.servers.ask(&self.names.tag, &commands, within).await?;
        match replies[..] {
            [Reply::Number(newer)] => Ok(newer.max(0).unsigned_abs()),
            [Reply::Number(newer), Reply::Number(confirmed)] if confirmed >= i64::from(replicas) => {
                Ok(newer.max(0).unsigned_abs())
            }
            [_, Reply::Number(confirmed)] => {
                Err(format!("{confirmed} replicas have confirmed a change, and {replicas} must"))
            }
            _ => Err(format!("an answer that a script does not give: {replies:?}")),
        }
    }

    fn kept(&self, loaded: &Loaded<'_>) -> Kept {
        let random = sessions::random_number();
        match loaded {
            Loaded::One(id, entry) => Kept {
                name: self.names.entry(Key::Product(*id)),
                entry: entry.encode(),
                lifetime: entry.lifetime(random),
            },
            Loaded::All(products) => Kept {
                name: self.names.entry(Key::All),
                entry: encode_ids(products),
                lifetime: jittered(LONGEST, random),
            },
        }
    }

    /// Nobody asks any more, until it has answered a try. Said once.
    fn lost(&self, why: &str) -> Away {
        let untold = self.untold();
        let was_there = !self.away.swap(true, Relaxed);
        drop(untold);
        if was_there {
            self.failures.fetch_add(1, Relaxed);
            say_away(why);
            self.trouble.notify_one();
        }
        Away
    }

    fn untold(&self) -> MutexGuard<'_, BTreeMap<i64, Entry>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say_away(why: &str) {
    eprintln!("myclothes: the cache does not answer, and the catalogue comes from the database: {why}");
}

/// What was loaded.
pub(super) enum Loaded<'a> {
    One(i64, &'a Entry),
    /// All products there are; only which ones is kept.
    All(&'a [Product]),
}

/// An entry as Redis gets it.
struct Kept {
    name: String,
    entry: String,
    lifetime: Duration,
}

fn version(entry: &Entry) -> i64 {
    match entry {
        Entry::Product(product) => product.version,
        Entry::Nothing => -1,
        Entry::Changed(version) => *version,
    }
}
