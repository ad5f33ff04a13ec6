//! The catalogue in Redis, between the shop and its database: off, `cache-aside` or `write-through`.
//!
//! ```text
//! entries.rs   what is kept, under which name, for how long (pure)     loading.rs   what is missing is loaded
//! shelf.rs     Redis: asked, told, left alone while it is away         loads.rs     one loader at a time, in this instance
//!                                                                      tests.rs     all of it, with a real Redis
//! ```
//!
//! Both load what is missing when somebody asks for it. After a change, cache-aside puts "changed" in the place of a product, and
//! write-through the product as it is now. Only pages are answered from here: a checkout decides by the database alone.
//!
//! **An older state of a product never takes the place of a newer one, and does not outlive it.** Products count their changes
//! (`version`). The shop tells the cache of a change before it tells whoever made it, and what is told stays for most of a minute, be it only
//! "changed, version 8". A loader reads 7, a writer writes 8 and tells, and then the loader wants to keep its 7:
//!
//! - while the 8 is there, the script that writes compares the versions, and the 7 is dropped ([`shelf`], `WRITE`);
//! - when the 8 is over, so is the loader's lease, which it took in Redis before it read and which the same script looks for. So a loader that
//!   was stopped for minutes keeps nothing. One with a lease has begun to read long after the 8 was committed, and
//!   no replica is asked that is so far behind.
//!
//! When the cache cannot be told, the change counts all the same, and pages come from the database: for this instance until the cache has been
//! told ([`shelf`]), and for the visitor who made the change, wherever they go, for as long as an old entry may last
//! ([`Seen::go_past_cache`]). Others may see the old state so long, and so they may when an instance is killed between the database's answer and the
//! telling. Which ids there are is not versioned, as the shop sells what it was made with.
//!
//! One loader at a time loads a key ([`loading`]).

mod entries;
mod loading;
mod loads;
mod shelf;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use entries::{Entry, LONGEST};
use loads::Loads;
use shelf::{Away, Shelf, Times};

use crate::catalogue::Product;
use crate::databases::{Database as _, Databases, Seen};
use crate::failure::Failure;
use crate::orders::{NewOrder, Placed};
use crate::redis::Address;
use crate::sessions;

/// Between two looks for what another instance loads.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// For a cache that is away to be told of a change, where somebody waits for that.
const KNOWN: Duration = Duration::from_secs(3);

/// Options of a system, of one instance, and of commands that change the catalogue.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub(crate) struct Options {
    /// How the catalogue is kept in Redis, too
    #[arg(
        id = "cache",
        long = "cache",
        value_name = "HOW",
        default_value = "off",
        requires_ifs = [("cache-aside", "cache_url"), ("write-through", "cache_url")]
    )]
    pub(crate) mode: Mode,
    /// Where: redis://HOST:PORT, redis+sentinel://HOST:PORT,…/NAME or redis+cluster://HOST:PORT,…
    #[arg(id = "cache_url", long = "cache-url", value_name = "URL", requires = "cache")]
    pub(crate) url: Option<Address>,
}

/// How the catalogue is cached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Not at all
    #[default]
    Off,
    /// What is asked for is kept; what changes is dropped, and loaded when it is asked for again
    CacheAside,
    /// What is asked for is kept; what changes is written into the cache at once
    WriteThrough,
}

impl Mode {
    /// As it is written on a command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::CacheAside => "cache-aside",
            Self::WriteThrough => "write-through",
        }
    }
}

impl Options {
    /// The same options on the command line of an instance.
    pub(crate) fn args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--cache".into(), self.mode.word().into()];
        if let Some(url) = &self.url {
            args.extend(["--cache-url".into(), url.to_string().into()]);
        }
        args
    }
}

/// The cache of one instance.
pub(crate) struct Cache {
    mode: Mode,
    shelf: Arc<Shelf>,
    loads: Loads,
    counts: Counts,
    _mending: JoinSet<()>,
}

/// Questions for the catalogue, by who has answered them.
#[derive(Default)]
struct Counts {
    /// The cache alone.
    hits: AtomicU64,
    /// The cache, but for something that had to be loaded.
    misses: AtomicU64,
    /// The database alone: the cache is away, or must not be believed.
    past: AtomicU64,
    /// How often this instance has asked the database for something that was missing.
    loads: AtomicU64,
}

impl Counts {
    fn add(count: &AtomicU64) {
        count.fetch_add(1, Relaxed);
    }
}

/// What was found of some products.
#[derive(Default)]
struct Found {
    products: Vec<Product>,
    missing: Vec<i64>,
}

impl Found {
    fn add(&mut self, id: i64, entry: Option<Entry>) {
        match entry {
            Some(Entry::Product(product)) => self.products.push(product),
            Some(Entry::Nothing) => {}
            Some(Entry::Changed(_)) | None => self.missing.push(id),
        }
    }
}

impl Cache {
    /// Connects, if there is to be a cache. One that does not answer is left for later. `secret` is what all instances with the same
    /// database share.
    pub(crate) async fn open(options: &Options, secret: &[u8]) -> Option<Arc<Self>> {
        let (mode, url) = (options.mode, options.url.as_ref()?);
        if mode == Mode::Off {
            return None;
        }
        Some(Arc::new(Self::with(mode, url, secret, Times::default()).await))
    }

    async fn with(mode: Mode, url: &Address, secret: &[u8], times: Times) -> Self {
        let shelf = Arc::new(Shelf::new(url, secret, times));
        shelf.begin().await;
        let mut mending = JoinSet::new();
        let mended = Arc::clone(&shelf);
        mending.spawn(async move { mended.mend().await });
        Self { mode, shelf, loads: Loads::default(), counts: Counts::default(), _mending: mending }
    }

    /// Everything for sale, in the order of the ids.
    pub(crate) async fn products(&self, database: &Databases, seen: &Seen) -> Result<Vec<Product>, Failure> {
        let ids = if past(seen) { Err(Away) } else { self.shelf.ids().await };
        match ids {
            Ok(Some(ids)) => self.some_products(database, seen, &ids).await,
            Ok(None) => {
                Counts::add(&self.counts.misses);
                self.load_all(database, seen).await
            }
            Err(Away) => {
                Counts::add(&self.counts.past);
                database.products(seen).await
            }
        }
    }

    /// Those of these products that exist, in the order of the ids.
    pub(crate) async fn some_products(
        &self,
        database: &Databases,
        seen: &Seen,
        ids: &[i64],
    ) -> Result<Vec<Product>, Failure> {
        let found = if past(seen) { Err(Away) } else { self.look(ids).await };
        match found {
            Ok(found) => {
                let count = if found.missing.is_empty() { &self.counts.hits } else { &self.counts.misses };
                Counts::add(count);
                self.complete(database, seen, found).await
            }
            Err(Away) => {
                Counts::add(&self.counts.past);
                database.some_products(seen, ids).await
            }
        }
    }

    /// Places an order, and tells the cache what it has changed.
    pub(crate) async fn place(
        &self,
        database: &Databases,
        seen: &Seen,
        order: &NewOrder,
    ) -> Result<Placed, Failure> {
        let placed = match database.place(seen, order).await {
            Ok(placed) => placed,
            Err(refused) => {
                // Perhaps because of what a page has shown: from now on it shows what the database has.
                seen.go_past_cache(sessions::unix_now() + LONGEST.as_secs().cast_signed());
                return Err(refused);
            }
        };
        if placed.now {
            self.changed(seen, &placed.products).await;
        } else {
            // Whoever placed it may not have come so far as to tell.
            let ids: Vec<i64> = placed.order.items.iter().map(|item| item.product_id).collect();
            if let Ok(products) = database.some_products(seen, &ids).await {
                self.changed(seen, &products).await;
            }
        }
        Ok(placed)
    }

    /// Tells the cache that these products were changed, by this visitor, and are so now.
    pub(crate) async fn changed(&self, seen: &Seen, products: &[Product]) {
        let entry = |product: &Product| match self.mode {
            Mode::WriteThrough => Entry::Product(product.clone()),
            _ => Entry::Changed(product.version),
        };
        let entries = products.iter().map(|product| (product.id, entry(product))).collect();
        if !self.shelf.tell(entries).await {
            seen.go_past_cache(sessions::unix_now() + LONGEST.as_secs().cast_signed());
        }
    }

    /// Whether the cache knows all that it had to be told; waits for that a while.
    pub(crate) async fn knows_all(&self) -> bool {
        let begin = Instant::now();
        while self.shelf.untold_products() > 0 {
            if begin.elapsed() > KNOWN {
                return false;
            }
            sleep(LOOK_AGAIN).await;
        }
        true
    }

    /// Share of the questions that the cache has answered alone, in per cent; `None` before the first.
    pub(crate) fn hit_rate(&self) -> Option<u64> {
        let [hits, misses, past] =
            [&self.counts.hits, &self.counts.misses, &self.counts.past].map(|count| count.load(Relaxed));
        (100 * hits).checked_div(hits + misses + past)
    }

    /// What has come of it, for whoever wants to know.
    pub(crate) fn view(&self) -> serde_json::Value {
        let Counts { hits, misses, past, loads } = &self.counts;
        let [hits, misses, past, loads] = [hits, misses, past, loads].map(|count| count.load(Relaxed));
        json!({
            "mode": self.mode,
            "state": if self.shelf.is_away() { "away" } else { "in use" },
            "hit_rate_percent": self.hit_rate(),
            "hits": hits,
            "misses": misses,
            "past": past,
            "loads": loads,
            "too_old": self.shelf.too_old.load(Relaxed),
            "failures": self.shelf.failures.load(Relaxed),
            "untold_products": self.shelf.untold_products(),
        })
    }

    async fn look(&self, ids: &[i64]) -> Result<Found, Away> {
        let mut found = Found::default();
        if !ids.is_empty() {
            for (id, entry) in ids.iter().zip(self.shelf.look(ids).await?) {
                found.add(*id, entry);
            }
        }
        Ok(found)
    }

    /// Adds what is missing, and brings all of it into order.
    async fn complete(
        &self,
        database: &Databases,
        seen: &Seen,
        found: Found,
    ) -> Result<Vec<Product>, Failure> {
        let Found { mut products, missing } = found;
        products.extend(self.load(database, seen, &missing).await?);
        products.sort_by_key(|product| product.id);
        Ok(products)
    }
}

/// Whether this visitor must see what the database has.
fn past(seen: &Seen) -> bool {
    seen.is_past_cache(sessions::unix_now())
}
