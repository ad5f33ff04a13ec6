//! What every store must do, asked of each of them in the same words.
//!
//! `here` and `there` are the stores of two instances of one shop. Where visitors keep their carts, or an instance keeps them to itself,
//! some of this is promised less: [`Promise`] says what.

use std::path::Path;
use std::sync::Arc;

use super::dynamodb::{DynamoDb, Login};
use super::{CartStore as _, Carts, Held, Place, Version, Written};
use crate::carts::Basket;
use crate::failure::Failure;
use crate::redis_servers::{Server, Watched};
use crate::sessions::{self, LIFETIME, Session, Visitor};

#[path = "../../../tests/support/dynalite.rs"]
mod dynalite;

use dynalite::Dynalite;

const SECRET: &[u8] = b"what the instances share";

/// How far a store reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    /// Everything, over all instances.
    All,
    /// Everything, in one instance.
    OneInstance,
    /// Of two changes at the same time one is lost, and copies of old cookies work.
    ByCookie,
}

fn open(place: &Place, data: &Path) -> Arc<Carts> {
    Arc::new(Carts::open(place, data, SECRET).unwrap())
}

async fn conforms(here: Arc<Carts>, there: Arc<Carts>, promise: Promise) {
    keeps_what_was_put_into_it(&here, &there).await;
    does_nothing_when_a_change_is_refused(&here).await;
    moves_the_cart_with_a_login_and_ends_it_with_a_logout(&here, &there, promise).await;
    if promise != Promise::ByCookie {
        counts_all_of_many_changes_at_the_same_time(&here, &there).await;
        writes_only_over_what_was_read(&here).await;
    }
    begins_anew_after_a_month(&here).await;
}

async fn add(carts: &Carts, visitor: &Visitor, product: i64, quantity: i64) -> Result<Visitor, Failure> {
    let (_, cookies) = carts.change(visitor, |session| session.basket.add(product, quantity)).await?;
    Ok(visitor.after(&cookies))
}

async fn lines(carts: &Carts, visitor: &Visitor) -> Vec<(i64, i64)> {
    let session = carts.find(visitor).await.unwrap();
    session.map_or_else(Vec::new, |session| session.basket.lines.into_iter().collect())
}

async fn keeps_what_was_put_into_it(here: &Carts, there: &Carts) {
    let nobody = Visitor::new();
    assert_eq!(here.find(&nobody).await.unwrap(), None);
    let ana = add(here, &nobody, 13, 2).await.unwrap();
    let ana = add(there, &ana, 1, 1).await.unwrap();
    let ana = add(here, &ana, 13, 1).await.unwrap();
    for carts in [here, there] {
        assert_eq!(lines(carts, &ana).await, [(1, 1), (13, 3)]);
        let bea = Visitor::new().after(&Visitor::new().cookies());
        assert_eq!(carts.find(&bea).await.unwrap(), None, "another visitor has another cart");
    }
    let before = here.find(&ana).await.unwrap().unwrap();
    let (after, cookies) = here
        .change(&ana, |session| {
            session.basket.remove(13);
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!((&after.id, after.account), (&before.id, None), "it is still the same session");
    assert_eq!(there.find(&ana.after(&cookies)).await.unwrap(), Some(after));
}

async fn does_nothing_when_a_change_is_refused(here: &Carts) {
    let ana = add(here, &Visitor::new(), 13, 2).await.unwrap();
    let before = here.find(&ana).await.unwrap();
    let refused = here.change(&ana, |session| {
        session.basket.lines.clear();
        session.basket.add(1, 0)
    });
    assert!(matches!(refused.await, Err(Failure::Invalid(_))));
    assert_eq!(here.find(&ana).await.unwrap(), before);
}

async fn moves_the_cart_with_a_login_and_ends_it_with_a_logout(
    here: &Carts,
    there: &Carts,
    promise: Promise,
) {
    let before = add(here, &Visitor::new(), 13, 2).await.unwrap();
    let id = here.find(&before).await.unwrap().unwrap().id;
    let ana = before.after(&there.log_in(&before, i64::MAX).await.unwrap());
    let session = here.find(&ana).await.unwrap().unwrap();
    assert_eq!((session.id, session.account), (id, Some(i64::MAX)));
    assert_eq!(lines(there, &ana).await, [(13, 2)]);
    // Somebody who planted the old sid gets nothing for it, whatever else they copied from before the login.
    assert_eq!(here.find(&before).await.unwrap().and_then(|session| session.account), None);
    let mut mixed = ana.clone();
    mixed.sid = before.sid.clone();
    assert_eq!(here.find(&mixed).await.unwrap().and_then(|session| session.account), None);

    let gone = ana.after(&there.log_out(&ana).await.unwrap());
    assert_eq!(here.find(&gone).await.unwrap(), None);
    if promise != Promise::ByCookie {
        assert_eq!(here.find(&ana).await.unwrap(), None, "the sid from before the logout is worth nothing");
        assert_eq!(here.find(&before).await.unwrap(), None);
    }
    // Twice, and by somebody who was never here.
    gone.after(&here.log_out(&ana).await.unwrap());
    here.log_out(&Visitor::new()).await.unwrap();
    let new = Visitor::new();
    let new = new.after(&here.log_in(&new, 7).await.unwrap());
    assert_eq!(there.find(&new).await.unwrap().unwrap().account, Some(7));
}

async fn counts_all_of_many_changes_at_the_same_time(here: &Arc<Carts>, there: &Arc<Carts>) {
    const EACH: i64 = 25;
    let ana = add(here, &Visitor::new(), 7, 1).await.unwrap();
    let windows = [here, there, here, there].map(|carts| {
        let (carts, ana) = (Arc::clone(carts), ana.clone());
        tokio::spawn(async move {
            for _ in 0..EACH {
                add(&carts, &ana, 7, 1).await.unwrap();
            }
        })
    });
    for window in windows {
        window.await.unwrap();
    }
    assert_eq!(lines(there, &ana).await, [(7, 1 + 4 * EACH)]);

    // A window that adds while another one logs in: the addition is in the cart that moves, or in a new one of the old sid.
    let (adding, in_there) = (Arc::clone(here), ana.clone());
    let window = tokio::spawn(async move { add(&adding, &in_there, 8, 1).await.unwrap() });
    let logged_in = ana.after(&there.log_in(&ana, 1).await.unwrap());
    let other = window.await.unwrap();
    let both = [lines(here, &logged_in).await, lines(here, &other).await].concat();
    assert!(both.contains(&(7, 1 + 4 * EACH)) && both.contains(&(8, 1)), "{both:?}");
}

async fn writes_only_over_what_was_read(carts: &Carts) {
    let held = |number| {
        let basket = Basket { number, lines: [(number, 1)].into() };
        let session = Session { basket, written: sessions::unix_now(), ..Session::fresh() };
        Held { version: Version(number), session }
    };
    let ana = Visitor::new().after(&Visitor::new().cookies());
    let [first, second] = [held(1), held(-2)];
    let (wrong, right) = (Version(3), first.version);
    assert_eq!(carts.save(&ana, Some(wrong), &first).await.unwrap(), Written::Changed);
    assert_eq!(carts.load(&ana).await.unwrap(), None);
    assert_eq!(carts.save(&ana, None, &first).await.unwrap(), Written::Kept);
    assert_eq!(carts.save(&ana, None, &second).await.unwrap(), Written::Changed);
    assert_eq!(carts.save(&ana, Some(wrong), &second).await.unwrap(), Written::Changed);
    assert_eq!(carts.remove(&ana, wrong).await.unwrap(), Written::Changed);
    assert_eq!(carts.load(&ana).await.unwrap(), Some(first));
    assert_eq!(carts.save(&ana, Some(right), &second).await.unwrap(), Written::Kept);
    assert_eq!(carts.load(&ana).await.unwrap(), Some(second.clone()));
    assert_eq!(carts.remove(&ana, second.version).await.unwrap(), Written::Kept);
    assert_eq!(carts.load(&ana).await.unwrap(), None);
    assert_eq!(carts.remove(&ana, second.version).await.unwrap(), Written::Changed);
}

async fn begins_anew_after_a_month(carts: &Carts) {
    let now = sessions::unix_now();
    let old = |written| Held { version: Version(5), session: Session { written, ..Session::fresh() } };
    let [ana, bea] = [(); 2].map(|()| Visitor::new().after(&Visitor::new().cookies()));
    let mut visitors = Vec::new();
    for (visitor, written) in [(ana, now - LIFETIME - 10), (bea, now - LIFETIME + 1000)] {
        let held = old(written);
        visitors.push(match carts.save(&visitor, None, &held).await.unwrap() {
            Written::ByVisitor(sealed) => visitor.with_sealed(sealed),
            _ => visitor,
        });
    }
    assert_eq!(carts.find(&visitors[0]).await.unwrap(), None);
    assert!(carts.find(&visitors[1]).await.unwrap().is_some());
    visitors[0] = add(carts, &visitors[0], 1, 1).await.unwrap();
    assert_eq!(lines(carts, &visitors[0]).await, [(1, 1)], "and it can be used again");
    carts.forget_old(now).await.unwrap();
    assert!(carts.find(&visitors[0]).await.unwrap().is_some());
    assert!(carts.find(&visitors[1]).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_memory_conform_in_one_instance() {
    let carts = open(&Place::Memory, Path::new("/nowhere"));
    conforms(Arc::clone(&carts), carts, Promise::OneInstance).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_sqlite_conform() {
    let data = tempfile::tempdir().unwrap();
    let [here, there] = [(); 2].map(|()| open(&Place::Sqlite, data.path()));
    conforms(Arc::clone(&here), there, Promise::All).await;
    // What is over leaves the file, and nothing else does.
    let ana = add(&here, &Visitor::new(), 1, 1).await.unwrap();
    here.forget_old(sessions::unix_now() + LIFETIME - 1000).await.unwrap();
    assert!(here.load(&ana).await.unwrap().is_some());
    here.forget_old(sessions::unix_now() + LIFETIME + 1000).await.unwrap();
    assert!(here.load(&ana).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_cookies_conform_but_for_changes_at_the_same_time() {
    let [here, there] = [(); 2].map(|()| open(&Place::Cookie, Path::new("/nowhere")));
    conforms(here, there, Promise::ByCookie).await;
}

#[tokio::test]
async fn a_cookie_that_was_changed_or_copied_to_another_browser_opens_nothing() {
    let carts = open(&Place::Cookie, Path::new("/nowhere"));
    let ana = add(&carts, &Visitor::new(), 13, 2).await.unwrap();
    let sealed = ana.sealed.clone().unwrap();
    assert!(!sealed.contains("13") || !sealed.contains("lines"), "it can be read: {sealed}");
    for place in [0, 20, sealed.len() / 2, sealed.len() - 1] {
        let other = if sealed.as_bytes()[place] == b'A' { "B" } else { "A" };
        let mut changed = sealed.clone();
        changed.replace_range(place..=place, other);
        let forged = ana.with_sealed(changed);
        assert_eq!(carts.find(&forged).await.unwrap(), None, "byte {place} was changed");
    }
    for nonsense in ["", "x", "AAAA", "%%%", &"A".repeat(8000)] {
        let forged = ana.with_sealed(nonsense);
        assert_eq!(carts.find(&forged).await.unwrap(), None, "{nonsense}");
    }
    let bea = Visitor::new().after(&Visitor::new().cookies()).with_sealed(sealed);
    assert_eq!(carts.find(&bea).await.unwrap(), None);
    let elsewhere = Carts::open(&Place::Cookie, Path::new("/nowhere"), b"another shop").unwrap();
    assert_eq!(elsewhere.find(&ana).await.unwrap(), None);
}

#[tokio::test]
async fn a_cart_that_no_browser_would_keep_is_refused_and_stays_as_it_was() {
    let carts = open(&Place::Cookie, Path::new("/nowhere"));
    let mut ana = add(&carts, &Visitor::new(), 1, 1).await.unwrap();
    let full = loop {
        let product = 1000 + lines(&carts, &ana).await.len() as i64;
        // `after` checks that a browser keeps the cookies.
        match add(&carts, &ana, product, 99).await {
            Ok(next) => ana = next,
            Err(refused) => break refused,
        }
        assert!(product < 2000, "it is never full");
    };
    assert!(matches!(&full, Failure::Conflict(message) if message.contains("Your cart is full")), "{full:?}");
    let before = lines(&carts, &ana).await;
    assert!(before.len() > 200, "only {} products", before.len());
    // A login fits, and so does whatever makes it smaller.
    let ana = ana.after(&carts.log_in(&ana, i64::MAX).await.unwrap());
    assert_eq!(lines(&carts, &ana).await, before);
    let removed = carts.change(&ana, |session| {
        session.basket.remove(1001);
        Ok(())
    });
    let ana = ana.after(&removed.await.unwrap().1);
    assert_eq!(lines(&carts, &ana).await.len(), before.len() - 1);
}

fn redis(place: &str) -> [Arc<Carts>; 2] {
    let place: Place = place.parse().unwrap();
    [(); 2].map(|()| open(&place, Path::new("/nowhere")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_redis_conform_and_are_never_shown_empty_while_it_is_away() {
    let mut server = Server::start("requirepass p@ss\n");
    let [here, there] = redis(&format!("redis://:p%40ss@{}/2", server.address()));
    conforms(Arc::clone(&here), there, Promise::All).await;

    let ana = add(&here, &Visitor::new(), 13, 2).await.unwrap();
    // One that hangs, then one that is gone.
    let pid = rustix::process::Pid::from_raw(server.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    assert!(matches!(here.find(&ana).await, Err(Failure::CartsAway)));
    assert!(matches!(add(&here, &ana, 1, 1).await, Err(Failure::CartsAway)));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(lines(&here, &ana).await, [(13, 2)]);
    server.kill();
    assert!(matches!(here.find(&ana).await, Err(Failure::CartsAway)));
    assert!(matches!(add(&here, &ana, 1, 1).await, Err(Failure::CartsAway)));
    assert!(matches!(here.log_out(&ana).await, Err(Failure::CartsAway)));
    let [stranger, _] = redis(&format!("redis://{}", Server::start("requirepass other\n").address()));
    assert!(matches!(stranger.find(&ana).await, Err(Failure::CartsAway)), "no password was given");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_redis_has_closed_costs_no_request() {
    let server = Server::start("");
    let [here, _] = redis(&format!("redis://{}", server.address()));
    let mut ana = add(&here, &Visitor::new(), 1, 1).await.unwrap();
    for pieces in 2..=4 {
        server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
        ana = add(&here, &ana, 1, 1).await.unwrap();
        server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).unwrap();
        assert_eq!(lines(&here, &ana).await, [(1, pieces)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_redis_outlive_its_primary_where_sentinels_watch() {
    let mut watched = Watched::start();
    let [here, there] = redis(&watched.place());
    conforms(Arc::clone(&here), Arc::clone(&there), Promise::All).await;

    // Every cart that was said to be kept is there after the fail-over, and none has more in it than was asked for.
    let mut visitors = Vec::new();
    for _ in 0..20 {
        visitors.push((add(&here, &Visitor::new(), 13, 1).await.unwrap(), 1..=1));
    }
    watched.servers[0].kill();
    let (mut moved, started) = (0, std::time::Instant::now());
    while moved < visitors.len() {
        assert!(started.elapsed() < std::time::Duration::from_secs(90), "no primary was promoted");
        moved = 0;
        for (visitor, pieces) in &mut visitors {
            let (carts, (low, high)) =
                (if moved % 2 == 0 { &here } else { &there }, (*pieces.start(), *pieces.end()));
            *pieces = match add(carts, visitor, 13, 1).await {
                Ok(_) => {
                    moved += 1;
                    low + 1..=high + 1
                }
                Err(Failure::CartsAway) => low..=high + 1,
                Err(failure) => panic!("{failure:?}"),
            };
        }
    }
    for (visitor, pieces) in &visitors {
        let [(13, found)] = lines(&there, visitor).await[..] else { panic!("a cart is lost") };
        assert!(pieces.contains(&found), "{found} of {pieces:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_no_replica_has_is_not_said_to_be_kept() {
    let server = Server::start("");
    let [unsafe_one, _] = redis(&format!("redis://{}", server.address()));
    let [safe, _] = redis(&format!("redis://{}?replicas=1", server.address()));
    let ana = add(&unsafe_one, &Visitor::new(), 1, 1).await.unwrap();
    // Nothing is read for one who was never here.
    assert!(matches!(add(&safe, &Visitor::new(), 1, 1).await, Err(Failure::CartsAway)));
    let replica = Server::start(&format!("replicaof 127.0.0.1 {}\n", server.port));
    // Only then is it sent anything, and it confirms the first of it up to a second later.
    server.ask_until(&["INFO", "replication"], "state=online");
    let started = std::time::Instant::now();
    while let Err(failure) = add(&safe, &ana, 2, 1).await {
        assert!(matches!(failure, Failure::CartsAway), "{failure:?}");
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "the replica never confirms");
    }
    // A replica asked by mistake takes nothing.
    let [wrong, _] = redis(&format!("redis://{}", replica.address()));
    assert!(matches!(add(&wrong, &ana, 1, 1).await, Err(Failure::CartsAway)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_nobody_follows_any_more_is_not_believed() {
    let server = Server::start("");
    let mut replica = Server::start(&format!("replicaof 127.0.0.1 {}\n", server.port));
    server.ask_until(&["INFO", "replication"], "state=online");
    let [here, _] = redis(&format!("redis://{}?replicas=1", server.address()));
    let [trusting, _] = redis(&format!("redis://{}?replicas=0", server.address()));
    let ana = add(&trusting, &Visitor::new(), 13, 2).await.unwrap();
    assert_eq!(lines(&here, &ana).await, [(13, 2)]);
    // As for a primary that was cut off: the others may have gone on without it.
    replica.kill();
    server.ask_until(&["INFO", "replication"], "connected_slaves:0");
    assert!(matches!(here.find(&ana).await, Err(Failure::CartsAway)));
    assert_eq!(lines(&trusting, &ana).await, [(13, 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_a_redis_cluster_conform_and_only_those_of_a_dead_server_are_away() {
    let servers = [(); 3].map(|()| Server::start("cluster-enabled yes\ncluster-node-timeout 5000\n"));
    for (server, slots) in servers.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]) {
        server.ask(&["CLUSTER", "ADDSLOTSRANGE", slots.0, slots.1]).unwrap();
    }
    for other in &servers[1..] {
        servers[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string()]).unwrap();
    }
    for server in &servers {
        server.ask_until(&["CLUSTER", "INFO"], "cluster_state:ok");
        server.ask_until(&["CLUSTER", "INFO"], "cluster_known_nodes:3");
    }
    let seeds: Vec<_> = servers.iter().map(Server::address).collect();
    let [here, there] = redis(&format!("redis+cluster://{}?replicas=0", seeds.join(",")));
    conforms(Arc::clone(&here), Arc::clone(&there), Promise::All).await;
    let mut visitors = Vec::new();
    for _ in 0..30 {
        visitors.push(add(&here, &Visitor::new(), 13, 2).await.unwrap());
    }
    for visitor in &visitors {
        assert_eq!(lines(&there, visitor).await, [(13, 2)]);
    }
    // One of three is gone: its carts cannot be reached, those of the others can.
    let [first, second, mut third] = servers;
    third.kill();
    let mut away = 0;
    for visitor in &visitors {
        match here.find(visitor).await {
            Ok(found) => assert_eq!(found.unwrap().basket.pieces(), 2),
            Err(Failure::CartsAway) => away += 1,
            Err(failure) => panic!("{failure:?}"),
        }
    }
    assert!(away > 0, "nobody had a cart there");
    drop((first, second));
}

/// Two instances with these credentials, whatever the environment says.
async fn dynamodb(place: &str) -> [Arc<Carts>; 2] {
    let Place::DynamoDb(address) = place.parse().unwrap() else { panic!("{place}") };
    let carts = [(); 2].map(|()| {
        let login = Login::new(&address, |name| Some(format!("a test's {name}"))).unwrap();
        Arc::new(Carts::DynamoDb(Box::new(DynamoDb::new(&address, login))))
    });
    let [here, there] = &carts;
    let (first, second) = tokio::join!(here.prepare(), there.prepare());
    first.and(second).unwrap();
    carts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_dynamodb_conform_and_are_never_shown_empty_while_it_is_away() {
    let mut server = Dynalite::start();
    let place = server.place("carts");
    let [here, there] = dynamodb(&place).await;
    conforms(Arc::clone(&here), there, Promise::All).await;

    let ana = add(&here, &Visitor::new(), 13, 2).await.unwrap();
    // One that hangs, then one that is gone.
    let pid = rustix::process::Pid::from_raw(server.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let asked = std::time::Instant::now();
    assert!(matches!(here.find(&ana).await, Err(Failure::CartsAway)));
    assert!(matches!(add(&here, &ana, 1, 1).await, Err(Failure::CartsAway)));
    assert!(asked.elapsed() < std::time::Duration::from_secs(20), "each has a deadline of a few seconds");
    // Who starts now serves the catalogue.
    let [late, _] = dynamodb(&place).await;
    assert!(matches!(late.find(&ana).await, Err(Failure::CartsAway)));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(lines(&late, &ana).await, [(13, 2)]);
    server.kill();
    assert!(matches!(here.find(&ana).await, Err(Failure::CartsAway)));
    assert!(matches!(add(&here, &ana, 1, 1).await, Err(Failure::CartsAway)));
    assert!(matches!(here.log_out(&ana).await, Err(Failure::CartsAway)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_cart_fits_into_an_item_of_dynamodb() {
    let server = Dynalite::start();
    let [here, there] = dynamodb(&server.place("carts")).await;
    let fill = |session: &mut Session| {
        let products = i64::MAX - crate::carts::MAX_LINES as i64..i64::MAX;
        session.basket.lines = products.map(|product| (product, crate::carts::MAX_LINE)).collect();
        Ok(())
    };
    let ana = Visitor::new();
    let (full, cookies) = here.change(&ana, fill).await.unwrap();
    assert_eq!(there.find(&ana.after(&cookies)).await.unwrap(), Some(full));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_dynamodb_that_is_missing_is_told_before_anything_is_served() {
    let server = Dynalite::start();
    let place = server.place("carts").replace("create=true", "create=false");
    let Place::DynamoDb(address) = place.parse().unwrap() else { panic!("{place}") };
    let login = Login::new(&address, |name| Some(name.to_owned())).unwrap();
    let missing = DynamoDb::new(&address, login).prepare().await.unwrap_err();
    for said in [
        "no table carts",
        "--table-name carts",
        "AttributeName=sid_hash",
        "AttributeName=expires",
        "create=true",
    ] {
        assert!(missing.contains(said), "{missing}");
    }
}
