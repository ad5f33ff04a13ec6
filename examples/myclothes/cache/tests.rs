//! The cache with a real Redis and a real database: what is kept, who loads, and that nothing old stays.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;

use super::entries::{Entry, Key, Names};
use super::shelf::{Away, Loaded, Shelf, Times};
use super::{Cache, Mode};
use crate::accounts::Delivery;
use crate::carts::Basket;
use crate::databases::{self, Database as _, Databases, Seen};
use crate::orders::NewOrder;
use crate::redis::Address;
use crate::redis_servers::Server;
use crate::sessions;

/// For a machine that has other things to do: what is asked is answered, and who loads has loaded.
const GENEROUS: Times = Times {
    answer: Duration::from_secs(20),
    loading: Duration::from_secs(20),
    lease: Duration::from_secs(20),
};
/// For anything that should happen soon.
const SOON: Duration = Duration::from_secs(20);

/// Instances of one shop, with one Redis.
struct Shop {
    server: Server,
    database: Arc<Databases>,
    _data: tempfile::TempDir,
}

impl Shop {
    async fn open() -> Self {
        let data = tempfile::tempdir().unwrap();
        let database = Databases::open(&databases::Options::default(), data.path(), "").await.unwrap();
        Self { server: Server::start(""), database: Arc::new(database), _data: data }
    }

    fn url(&self) -> Address {
        format!("redis://{}", self.server.address()).parse().unwrap()
    }

    async fn instance(&self, mode: Mode, times: Times) -> Arc<Cache> {
        Arc::new(Cache::with(mode, &self.url(), self.database.secret(), times).await)
    }

    /// Price and stock of a product, as a page of this instance shows them.
    async fn shown(&self, cache: &Cache, id: i64) -> (i64, i64) {
        let found = cache.some_products(&self.database, &Seen::default(), &[id]).await.unwrap();
        (found[0].price_cents, found[0].stock)
    }

    /// The same, in the list of everything.
    async fn listed(&self, cache: &Cache, id: i64) -> (i64, i64) {
        let all = cache.products(&self.database, &Seen::default()).await.unwrap();
        let found = all.iter().find(|product| product.id == id).unwrap();
        (found.price_cents, found.stock)
    }

    async fn set_price(&self, cache: &Cache, id: i64, cents: i64) {
        let seen = Seen::default();
        let product = self.database.set_price(&seen, id, cents).await.unwrap().unwrap();
        cache.changed(&seen, &[product]).await;
    }

    fn name(&self, key: Key) -> String {
        Names::new(self.database.secret()).entry(key)
    }

    /// What Redis has under this name.
    fn kept(&self, key: Key) -> String {
        self.server.ask(&["GET", &self.name(key)]).unwrap()
    }

    /// For how long it still has it.
    fn lasts(&self, key: Key) -> i64 {
        let answer = self.server.ask(&["PTTL", &self.name(key)]).unwrap();
        answer.trim().trim_start_matches(':').parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.server.pid().cast_signed()).unwrap(), signal).unwrap();
    }
}

/// Hits, misses, questions past the cache, loads.
fn counts(cache: &Cache) -> [u64; 4] {
    let counts = &cache.counts;
    [&counts.hits, &counts.misses, &counts.past, &counts.loads].map(|count| count.load(Relaxed))
}

fn order(lines: &[(i64, i64)]) -> NewOrder {
    let basket = Basket { number: sessions::random_number(), lines: lines.iter().copied().collect() };
    let delivery = Ok(Delivery::parse("Ana", "1 Loom Street\nLeeds").unwrap());
    NewOrder {
        session: sessions::random_text(),
        account: None,
        basket,
        key: None,
        delivery,
        total_cents: None,
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < SOON, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_for_is_kept_for_all_instances_and_not_for_ever() {
    let shop = Shop::open().await;
    let (here, there) =
        (shop.instance(Mode::CacheAside, GENEROUS).await, shop.instance(Mode::CacheAside, GENEROUS).await);
    assert_eq!(here.hit_rate(), None);
    let all = here.products(&shop.database, &Seen::default()).await.unwrap();
    assert_eq!(all, shop.database.products(&Seen::default()).await.unwrap());
    assert_eq!(counts(&here), [0, 1, 0, 1]);
    for cache in [&here, &there] {
        assert_eq!(cache.products(&shop.database, &Seen::default()).await.unwrap(), all);
        let some = cache.some_products(&shop.database, &Seen::default(), &[13, 1]).await.unwrap();
        assert_eq!(some, [all[0].clone(), all[12].clone()]);
    }
    assert_eq!((counts(&here), counts(&there)), ([2, 1, 0, 1], [2, 0, 0, 0]));
    assert_eq!((here.hit_rate(), there.hit_rate()), (Some(66), Some(100)));

    // It ends at different times.
    let ends: Vec<i64> = all.iter().map(|product| shop.lasts(Key::Product(product.id))).collect();
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(*last <= 60_000 && *first > 20_000 && last - first > 3_000, "{ends:?}");
    assert!((20_000..=60_000).contains(&shop.lasts(Key::All)));

    // When one thing is over, only that is loaded again.
    shop.server.ask(&["DEL", &shop.name(Key::Product(13))]).unwrap();
    assert_eq!(here.products(&shop.database, &Seen::default()).await.unwrap(), all);
    assert_eq!(counts(&here), [2, 2, 0, 2]);
    assert!(shop.kept(Key::Product(13)).contains("Selvedge Jeans"));

    // Something that another program has written there is loaded again, too.
    shop.server.ask(&["SET", &shop.name(Key::Product(13)), "1 {\"id\":13,\"size\":\"L\"}"]).unwrap();
    shop.server.ask(&["SET", &shop.name(Key::All), "nonsense"]).unwrap();
    assert_eq!(here.products(&shop.database, &Seen::default()).await.unwrap(), all);
    assert_eq!(there.some_products(&shop.database, &Seen::default(), &[13]).await.unwrap()[0], all[12]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_there_is_no_such_product_is_kept_too_but_not_for_long() {
    let shop = Shop::open().await;
    let cache = shop.instance(Mode::WriteThrough, GENEROUS).await;
    for _ in 0..3 {
        let found = cache.some_products(&shop.database, &Seen::default(), &[1_000_000]).await.unwrap();
        assert!(found.is_empty());
    }
    // On a machine that stands still for seconds it may be over already.
    let [hits, misses, past, loads] = counts(&cache);
    assert!((hits, past) == (3 - misses, 0) && misses == loads, "{:?}", counts(&cache));
    let entry = cache.shelf.look(&[1_000_000]).await.unwrap();
    assert!(matches!(entry[..], [Some(Entry::Nothing) | None]));
    assert!(shop.lasts(Key::Product(1_000_000)) <= 5_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_miss_the_same_at_the_same_time_ask_the_database_once() {
    let shop = Arc::new(Shop::open().await);
    for ids in [vec![], vec![13], vec![1, 2, 3], vec![2, 1_000_000]] {
        shop.server.ask(&["FLUSHALL"]).unwrap();
        let instances = [
            shop.instance(Mode::CacheAside, GENEROUS).await,
            shop.instance(Mode::CacheAside, GENEROUS).await,
        ];
        let mut asking = JoinSet::new();
        for number in 0..60 {
            let (shop, cache, ids) = (Arc::clone(&shop), Arc::clone(&instances[number % 2]), ids.clone());
            asking.spawn(async move {
                let seen = Seen::default();
                let found = match ids.is_empty() {
                    true => cache.products(&shop.database, &seen).await,
                    false => cache.some_products(&shop.database, &seen, &ids).await,
                };
                assert!(!found.unwrap().is_empty());
            });
        }
        while let Some(asked) = asking.join_next().await {
            asked.unwrap();
        }
        let loads: u64 = instances.iter().map(|cache| counts(cache)[3]).sum();
        assert_eq!(loads, 1, "{ids:?}: {:?}", instances.map(|cache| counts(&cache)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_instance_loads_is_waited_for_but_not_long() {
    let shop = Arc::new(Shop::open().await);
    let patient = shop.instance(Mode::CacheAside, GENEROUS).await;
    let short = Times { loading: Duration::from_millis(50), ..GENEROUS };
    let hasty = shop.instance(Mode::CacheAside, short).await;
    let dead = Shelf::new(
        &shop.url(),
        shop.database.secret(),
        Times { lease: Duration::from_secs(3600), ..GENEROUS },
    );
    dead.try_again().await.unwrap();
    let key = Key::Product(13);
    assert_eq!(dead.lease("dead", &[key, Key::All]).await.unwrap(), [key, Key::All]);
    assert_eq!(dead.lease("other", &[key]).await.unwrap(), []);
    let price = shop.shown(&hasty, 13).await;
    assert_eq!(shop.listed(&hasty, 13).await, price);
    assert_eq!(counts(&hasty), [0, 2, 0, 2]);
    assert!(shop.kept(key).contains("$-1"), "without a lease, nothing is kept");

    let waiting = {
        let (shop, patient) = (Arc::clone(&shop), Arc::clone(&patient));
        tokio::spawn(async move { shop.shown(&patient, 13).await })
    };
    until("it has looked", async || counts(&patient)[1] == 1).await;
    assert_eq!(counts(&patient)[3], 0);
    // The lease of somebody who died ends by itself.
    shop.server.ask(&["DEL", &Names::new(shop.database.secret()).lease(key)]).unwrap();
    assert_eq!(waiting.await.unwrap(), price);
    assert_eq!(counts(&patient), [0, 1, 0, 1]);
    assert!(shop.kept(key).contains("Selvedge Jeans"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_seen_by_all_instances_at_once() {
    for mode in [Mode::CacheAside, Mode::WriteThrough] {
        let shop = Shop::open().await;
        let (here, there) = (shop.instance(mode, GENEROUS).await, shop.instance(mode, GENEROUS).await);
        let (_, stock) = shop.listed(&here, 13).await;
        shop.listed(&there, 13).await;
        let loads = counts(&there)[3];
        shop.set_price(&here, 13, 12_345).await;
        assert_eq!(shop.shown(&there, 13).await, (12_345, stock));
        assert_eq!(shop.listed(&there, 13).await, (12_345, stock));

        let bought = order(&[(13, 2), (1, 1)]);
        let placed = here.place(&shop.database, &Seen::default(), &bought).await.unwrap();
        assert!(placed.now);
        assert_eq!(shop.listed(&there, 13).await, (12_345, stock - 2));
        // What is written through need not be loaded again.
        let loaded = counts(&there)[3] - loads;
        assert_eq!(loaded, if mode == Mode::CacheAside { 2 } else { 0 }, "{mode:?}");

        // Whoever placed it first may have died before it told.
        shop.server.ask(&["SET", &shop.name(Key::Product(13)), "1 "]).unwrap();
        let again = here.place(&shop.database, &Seen::default(), &bought).await.unwrap();
        assert!(!again.now);
        let version = shop.database.some_products(&Seen::default(), &[13]).await.unwrap()[0].version;
        assert!(
            shop.kept(Key::Product(13)).contains(&format!("\n{version} ")),
            "{}",
            shop.kept(Key::Product(13))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_before_a_change_is_not_kept_after_it() {
    for mode in [Mode::CacheAside, Mode::WriteThrough] {
        let shop = Shop::open().await;
        let (here, there) = (shop.instance(mode, GENEROUS).await, shop.instance(mode, GENEROUS).await);
        let seen = Seen::default();
        let key = Key::Product(13);

        // A loader reads, somebody else writes and tells, the loader wants to keep what it has read.
        let leased = here.shelf.lease("loader", &[key]).await.unwrap();
        let old = shop.database.some_products(&seen, &[13]).await.unwrap().remove(0);
        shop.set_price(&there, 13, 777).await;
        let told = shop.kept(key);
        let entry = Entry::Product(old.clone());
        here.shelf.keep("loader", &leased, &[Loaded::One(13, &entry)]).await.unwrap();
        assert_eq!(shop.kept(key), told, "the new one stays");
        assert_eq!(here.shelf.too_old.load(Relaxed), 1);
        assert_eq!(shop.shown(&here, 13).await.0, 777);

        // Even if what was told is over by then: the lease is, too.
        let leased = here.shelf.lease("loader", &[key, Key::All]).await.unwrap();
        assert_eq!(leased.len(), 2);
        shop.set_price(&there, 13, 888).await;
        shop.server.ask(&["FLUSHALL"]).unwrap();
        let all = [old];
        let loaded = [Loaded::All(&all), Loaded::One(13, &entry)];
        here.shelf.keep("loader", &leased, &loaded).await.unwrap();
        assert!(shop.kept(key).contains("$-1") && shop.kept(Key::All).contains("$-1"));
        assert_eq!(shop.listed(&here, 13).await.0, 888);

        // Nor does an old "changed" take the place of a newer state.
        let newest = shop.kept(key);
        for entry in [Entry::Changed(1), Entry::Nothing] {
            assert!(here.shelf.tell(vec![(13, entry)]).await);
        }
        assert_eq!(shop.kept(key), newest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_hangs_is_left_alone_and_told_afterwards_what_it_has_missed() {
    let shop = Shop::open().await;
    let short = Times { answer: Duration::from_millis(100), ..GENEROUS };
    let here = shop.instance(Mode::CacheAside, short).await;
    let there = shop.instance(Mode::CacheAside, GENEROUS).await;
    let (price, _) = shop.shown(&there, 13).await;
    shop.signal(Signal::STOP);
    assert_eq!(shop.shown(&here, 13).await.0, price, "from the database");
    assert!(here.shelf.is_away());
    let seen = Seen::default();
    let product = shop.database.set_price(&seen, 13, 555).await.unwrap().unwrap();
    here.changed(&seen, &[product]).await;
    assert!(seen.is_past_cache(sessions::unix_now() + 30), "who has changed it reads what they have written");
    assert_eq!(here.shelf.untold_products(), 1);
    assert_eq!(shop.shown(&here, 13).await.0, 555);
    assert_eq!(counts(&here)[0], 0);

    shop.signal(Signal::CONT);
    until("it is told", async || here.shelf.untold_products() == 0).await;
    assert_eq!(shop.shown(&there, 13).await.0, 555);
    until("it is asked again", async || {
        let hits = counts(&here)[0];
        assert_eq!(shop.shown(&here, 13).await.0, 555);
        counts(&here)[0] > hits
    })
    .await;
    // The visitor still reads past it, wherever they are.
    let past = counts(&there)[2];
    there.some_products(&shop.database, &seen, &[13]).await.unwrap();
    assert_eq!(counts(&there)[2], past + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_missed_a_change_does_not_believe_the_cache_before_it_has_told_it() {
    let mut shop = Shop::open().await;
    let url = shop.url();
    let shelf = Shelf::new(&url, shop.database.secret(), GENEROUS);
    shelf.try_again().await.unwrap();
    assert_eq!(shelf.look(&[13]).await, Ok(vec![None]));
    shop.server.kill();
    assert_eq!(shelf.look(&[13]).await, Err(Away));
    assert!(!shelf.tell(vec![(13, Entry::Changed(7))]).await);
    assert!(!shelf.tell(vec![(13, Entry::Changed(6)), (1, Entry::Changed(2))]).await);
    assert!(shelf.try_again().await.is_err() && shelf.is_away());
    shop.server.revive();
    assert_eq!(shelf.look(&[13]).await, Err(Away), "it was not told yet");
    shelf.try_again().await.unwrap();
    assert_eq!(shelf.look(&[13, 1]).await, Ok(vec![Some(Entry::Changed(7)), Some(Entry::Changed(2))]));
    // A server that can be read and not be written to is of no use.
    shop.server.ask(&["CONFIG", "SET", "min-replicas-to-write", "1"]).unwrap();
    assert!(!shelf.tell(vec![(13, Entry::Changed(8))]).await);
    assert!(shelf.try_again().await.unwrap_err().contains("NOREPLICAS"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_counts_as_told_when_replicas_have_it_and_nobody_is_believed_whom_they_have_left() {
    let shop = Shop::open().await;
    let url: Address = format!("redis://{}?replicas=1", shop.server.address()).parse().unwrap();
    let shelf =
        Shelf::new(&url, shop.database.secret(), Times { answer: Duration::from_secs(1), ..GENEROUS });
    let refused = shelf.try_again().await.unwrap_err();
    assert!(refused.contains("0 replicas have confirmed a change, and 1 must"), "{refused}");
    let mut replica = Server::start(&format!("replicaof 127.0.0.1 {}\n", shop.server.port));
    until("the replica confirms", async || shelf.try_again().await.is_ok()).await;
    until("and a change, too", async || {
        let told = shelf.tell(vec![(13, Entry::Changed(7))]).await;
        if !told {
            // It may have been late.
            let _ = shelf.try_again().await;
        }
        told
    })
    .await;
    assert_eq!(shelf.look(&[13]).await, Ok(vec![Some(Entry::Changed(7))]));
    // As for a server that was cut off: another one may have been told of changes since.
    replica.kill();
    shop.server.ask_until(&["INFO", "replication"], "connected_slaves:0");
    assert_eq!(shelf.look(&[13]).await, Err(Away));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_the_whole_catalogue_on_one_server() {
    let shop = Shop::open().await;
    let server = Server::start("cluster-enabled yes\n");
    server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).unwrap();
    server.ask_until(&["CLUSTER", "INFO"], "cluster_state:ok");
    let url: Address = format!("redis+cluster://{}?replicas=0", server.address()).parse().unwrap();
    let cache = Cache::with(Mode::WriteThrough, &url, shop.database.secret(), GENEROUS).await;
    for _ in 0..2 {
        assert!(cache.products(&shop.database, &Seen::default()).await.unwrap().len() > 20);
    }
    shop.set_price(&cache, 13, 4_321).await;
    assert_eq!(shop.listed(&cache, 13).await.0, 4_321);
    assert_eq!(counts(&cache), [2, 1, 0, 1]);
}
