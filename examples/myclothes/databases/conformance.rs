//! What every database must do, asked of each of them in the same words.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Choice, Database as _, Databases, Options, Seen};
use crate::accounts::{Delivery, Email};
use crate::carts::Basket;
use crate::failure::Failure;
use crate::orders::NewOrder;
use crate::sessions;

#[path = "../../../tests/support/postgres.rs"]
mod servers;
use servers::Cluster;

async fn open(place: Choice, data: &std::path::Path) -> Arc<Databases> {
    let options = Options { database: place, ca: None };
    Arc::new(Databases::open(&options, data, "az-b").await.unwrap())
}

fn home() -> Delivery {
    Delivery::parse("Ana", "1 Loom Street\nLeeds").unwrap()
}

fn order(lines: &[(i64, i64)]) -> NewOrder {
    let basket = Basket { number: sessions::random_number(), lines: lines.iter().copied().collect() };
    let session = sessions::random_text();
    NewOrder { session, account: None, basket, key: None, delivery: Ok(home()), total_cents: None }
}

fn conflict<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> String {
    match outcome {
        Err(Failure::Conflict(message)) => message,
        other => panic!("not a conflict: {other:?}"),
    }
}

async fn conforms(database: Arc<Databases>) {
    keeps_a_catalogue(&database).await;
    keeps_accounts(&database).await;
    places_an_order_once(&database).await;
    refuses_what_cannot_be_bought(&database).await;
    sells_no_more_than_there_is(&database).await;
    places_an_order_once_when_it_is_sent_many_times_at_once(&database).await;
}

async fn keeps_a_catalogue(database: &Databases) {
    let seen = Seen::default();
    let all = database.products(&seen).await.unwrap();
    assert!(all.len() >= 24 && all.is_sorted_by_key(|product| product.id), "{} products", all.len());
    let some = database.some_products(&seen, &[13, -1, 1]).await.unwrap();
    assert_eq!(some.iter().map(|product| product.id).collect::<Vec<_>>(), [1, 13]);
    let before = &some[1];
    let dearer = database.set_price(&seen, 13, before.price_cents + 100).await.unwrap().unwrap();
    assert_eq!(dearer.price_cents, before.price_cents + 100);
    assert!(dearer.version > before.version);
    assert_eq!(database.some_products(&seen, &[13]).await.unwrap(), [dearer]);
    assert_eq!(database.set_price(&seen, -1, 100).await.unwrap(), None);
    let back = database.set_price(&seen, 13, before.price_cents).await.unwrap().unwrap();
    let fewer = database.set_stock(&seen, 13, 77).await.unwrap().unwrap();
    assert!(fewer.stock == 77 && fewer.version > back.version);
}

async fn keeps_accounts(database: &Databases) {
    let seen = Seen::default();
    let email = Email::parse("ana@example.com").unwrap();
    assert!(database.account_with_email(&seen, &email).await.unwrap().is_none());
    let made = database.create_account(&seen, &email, "hash 1", &home()).await.unwrap();
    assert_eq!((&*made.email, &*made.name), ("ana@example.com", "Ana"));
    let again = database.create_account(&seen, &email, "hash 1", &home()).await.unwrap();
    assert_eq!(again.id, made.id, "the same write, tried again");
    let taken = database.create_account(&seen, &email, "hash 2", &home()).await;
    assert!(conflict(taken).contains("an account with this e-mail address"));
    let (found, hash) = database.account_with_email(&seen, &email).await.unwrap().unwrap();
    assert_eq!((found.id, &*hash), (made.id, "hash 1"));
    let moved = Delivery::parse("Ana B.", "2 Weft Lane").unwrap();
    database.change_account(&seen, made.id, &moved).await.unwrap().unwrap();
    assert_eq!(database.account(&seen, made.id).await.unwrap().unwrap().address, "2 Weft Lane");
    assert!(database.account(&seen, -1).await.unwrap().is_none());
    assert!(database.change_account(&seen, -1, &moved).await.unwrap().is_none());

    let bought = NewOrder { account: Some(made.id), ..order(&[(1, 1)]) };
    let placed = database.place(&seen, &bought).await.unwrap().order;
    let listed = database.orders_of(&seen, made.id).await.unwrap();
    assert_eq!(listed.iter().map(|order| order.id).collect::<Vec<_>>(), [placed.id]);
    let elsewhere = database.order(&seen, placed.id, "another session", Some(made.id)).await.unwrap();
    assert_eq!(elsewhere, Some(placed));
}

async fn places_an_order_once(database: &Databases) {
    let seen = Seen::default();
    let before = database.some_products(&Seen::everything(), &[1, 13]).await.unwrap();
    let first = NewOrder { key: Some("a".into()), ..order(&[(13, 2), (1, 1)]) };
    let placed = database.place(&seen, &first).await.unwrap();
    assert!(placed.now);
    let lines: Vec<_> = placed.order.items.iter().map(|item| (item.product_id, item.quantity)).collect();
    assert_eq!(lines, [(1, 1), (13, 2)]);
    assert_eq!(placed.order.total_cents, before[0].price_cents + 2 * before[1].price_cents);
    assert_eq!(placed.order.placed_on.len(), "2026-03-31".len());
    let left: Vec<_> = placed.products.iter().map(|product| product.stock).collect();
    assert_eq!(left, [before[0].stock - 1, before[1].stock - 2]);
    assert_eq!(database.some_products(&seen, &[1, 13]).await.unwrap(), placed.products);

    let same_basket = NewOrder { key: Some("b".into()), ..first.clone() };
    let same_key = NewOrder { basket: order(&[(1, 5)]).basket, ..first.clone() };
    let without_address = NewOrder { delivery: Err(Failure::LoginNeeded), ..first.clone() };
    for repeated in [&first, &same_basket, &same_key, &without_address] {
        let again = database.place(&seen, repeated).await.unwrap();
        assert_eq!((again.now, &again.order), (false, &placed.order));
    }
    let somebody = NewOrder { session: sessions::random_text(), ..first.clone() };
    assert_ne!(database.place(&seen, &somebody).await.unwrap().order.id, placed.order.id);
    let found = database.order(&seen, placed.order.id, &first.session, None).await.unwrap();
    assert_eq!(found.as_ref(), Some(&placed.order));
    assert_eq!(database.order(&seen, placed.order.id, &somebody.session, None).await.unwrap(), None);
}

async fn refuses_what_cannot_be_bought(database: &Databases) {
    let seen = Seen::default();
    let stock = database.set_stock(&seen, 7, 3).await.unwrap().unwrap();
    assert!(conflict(database.place(&seen, &order(&[])).await).contains("empty"));
    assert!(conflict(database.place(&seen, &order(&[(1, 1), (7, 4)])).await).contains("only 3 are left"));
    let told = NewOrder { total_cents: Some(stock.price_cents - 1), ..order(&[(7, 1)]) };
    assert!(conflict(database.place(&seen, &told).await).contains("price has changed"));
    let nowhere = NewOrder { delivery: Err(Failure::LoginNeeded), ..order(&[(7, 1)]) };
    assert!(matches!(database.place(&seen, &nowhere).await, Err(Failure::LoginNeeded)));
    assert_eq!(database.some_products(&seen, &[7]).await.unwrap(), [stock], "none of it changed anything");
    database.set_stock(&seen, 7, 0).await.unwrap();
    assert!(conflict(database.place(&seen, &order(&[(7, 1)])).await).contains("sold out"));
}

async fn sells_no_more_than_there_is(database: &Arc<Databases>) {
    let seen = Seen::default();
    for product in [3, 4] {
        database.set_stock(&seen, product, 10).await.unwrap();
    }
    let mut buyers = JoinSet::new();
    for _ in 0..15 {
        let (database, seen) = (Arc::clone(database), seen.clone());
        buyers.spawn(async move { database.place(&seen, &order(&[(3, 1), (4, 1)])).await });
    }
    let (mut bought, mut refused) = (0, 0);
    while let Some(outcome) = buyers.join_next().await {
        match outcome.unwrap() {
            Ok(placed) => bought += i32::from(placed.now),
            Err(Failure::Conflict(message)) if message.contains("sold out") => refused += 1,
            Err(failure) => panic!("{failure:?}"),
        }
    }
    assert_eq!((bought, refused), (10, 5));
    let left = database.some_products(&seen, &[3, 4]).await.unwrap();
    assert_eq!(left.iter().map(|product| product.stock).collect::<Vec<_>>(), [0, 0]);
}

async fn places_an_order_once_when_it_is_sent_many_times_at_once(database: &Arc<Databases>) {
    let same = NewOrder { key: Some("one".into()), ..order(&[(5, 1)]) };
    let before = database.some_products(&Seen::everything(), &[5]).await.unwrap()[0].stock;
    let mut senders = JoinSet::new();
    for _ in 0..6 {
        let (database, same) = (Arc::clone(database), same.clone());
        senders.spawn(async move { database.place(&Seen::default(), &same).await.unwrap() });
    }
    let (mut now, mut ids) = (0, Vec::new());
    while let Some(placed) = senders.join_next().await {
        let placed = placed.unwrap();
        now += i32::from(placed.now);
        ids.push(placed.order.id);
    }
    ids.dedup();
    assert_eq!((now, ids.len()), (1, 1));
    assert_eq!(database.some_products(&Seen::everything(), &[5]).await.unwrap()[0].stock, before - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_does_what_every_database_must() {
    let data = tempfile::tempdir().unwrap();
    conforms(open(Choice::Sqlite, data.path()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_with_a_replica_does_what_every_database_must() {
    let cluster = Cluster::start(1);
    // The replica first: the order of the URL means nothing. Three at once: one makes the tables.
    let place = Choice::Postgres(cluster.url(&[1, 0]));
    let nowhere = std::path::Path::new("/");
    let (one, two, three) =
        tokio::join!(open(place.clone(), nowhere), open(place.clone(), nowhere), open(place, nowhere));
    assert_eq!((one.secret(), one.secret()), (two.secret(), three.secret()));
    conforms(one).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_postgresql_are_encrypted_when_its_authority_is_named() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let cluster = Cluster::start_with(0, Some((&certificate, &key)));
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (folder.path().join("right.pem"), folder.path().join("wrong.pem"));
    std::fs::write(&right, certificate).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&wrong, other.cert.pem()).unwrap();
    let options = |ca: &std::path::Path| Options {
        database: Choice::Postgres(cluster.url(&[0])),
        ca: Some(ca.to_owned()),
    };
    let database = Databases::open(&options(&right), folder.path(), "").await.unwrap();
    assert!(!database.products(&Seen::default()).await.unwrap().is_empty());
    let plain = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                 WHERE NOT ssl AND application_name = 'myclothes'";
    assert_eq!(cluster.ask(0, plain), "0");
    let refused = Databases::open(&options(&wrong), folder.path(), "").await.err().unwrap();
    assert!(refused.contains("certificate"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_waits_for_the_promoted_replica_and_is_placed_there() {
    let mut cluster = Cluster::start(2);
    let place = Choice::Postgres(cluster.url(&[0, 1, 2]));
    let database = open(place, std::path::Path::new("/")).await;
    let (seen, first) = (Seen::default(), order(&[(1, 1)]));
    let before = database.place(&seen, &first).await.unwrap().order;
    cluster.kill(0);
    let (waiting, there) = (order(&[(2, 1)]), seen.clone());
    let placing = {
        let database = Arc::clone(&database);
        tokio::spawn(async move { database.place(&there, &waiting).await })
    };
    cluster.promote(2, Some(1));
    assert!(placing.await.unwrap().unwrap().now);
    assert_eq!(database.order(&seen, before.id, &first.session, None).await.unwrap(), Some(before));
    assert!(!database.place(&seen, &first).await.unwrap().now);
}
