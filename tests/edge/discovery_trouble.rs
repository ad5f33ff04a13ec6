//! Name servers that die, lie, dawdle and change their minds: requests go on undisturbed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use hickory_server::proto::op::ResponseCode;
use tokio::task::JoinHandle;

use crate::discovery::{QUICK, SERVFAIL, SHOP, answering, has, named, pool, publish, targets};
use crate::support::{Client, Dns, Edge, Origin, Refusing, Said, Setup, eventually};

/// A pool with sessions whose targets `dns` knows; failed lookups are repeated soon.
fn setup(dns: &Dns, discover: &str, pool: &str) -> Setup {
    Setup::default()
        .and(&format!("[resolver]\ntimeout = \"100ms\"\nattempts = 1\nnameservers = [\"{}\"]", dns.address))
        .discover(&format!("dns = \"{SHOP}\"\nzone_from = \"label\"\nmax_ttl = \"1s\"\n{discover}"))
        .pool(&format!("{QUICK}\nstickiness.mode = \"lb_cookie\"\n{pool}"))
}

/// Shoppers who ask again 5 ms after each answer until they are stopped: half of them with a session.
struct Shoppers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Trip>>,
}

/// What one shopper saw.
struct Trip {
    /// Requests that were answered with 200.
    good: usize,
    /// All others.
    bad: Vec<String>,
    /// Origins in the order in which they answered, without repetitions, each with the time of its first answer.
    path: Vec<(String, Instant)>,
    keeps_session: bool,
}

impl Shoppers {
    fn start(edge: &Edge, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shopper = |number: usize| {
            let (mut client, stop) = (Client::of(edge), stop.clone());
            let keeps_session = number.is_multiple_of(2);
            tokio::spawn(async move {
                let mut trip = Trip { good: 0, bad: Vec::new(), path: Vec::new(), keeps_session };
                while !stop.load(SeqCst) {
                    if !keeps_session {
                        client.jar.clear();
                    }
                    match client.try_request("GET", "/", &[], b"").await {
                        Ok(answer) if answer.status == 200 => {
                            trip.good += 1;
                            let origin = answer.origin();
                            if trip.path.last().is_none_or(|(last, _)| last != origin) {
                                trip.path.push((origin.to_owned(), Instant::now()));
                            }
                        }
                        Ok(answer) => trip.bad.push(format!("{} {}", answer.status, answer.text())),
                        Err(cut) => trip.bad.push(format!("{cut:?}")),
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                trip
            })
        };
        let tasks = (0..count).map(shopper).collect();
        Self { stop, tasks }
    }

    /// Ends all trips; none of them may have seen anything but good answers.
    async fn come_home(self) -> Vec<Trip> {
        self.stop.store(true, SeqCst);
        let mut trips = Vec::new();
        for task in self.tasks {
            trips.push(task.await.unwrap());
        }
        let bad: Vec<_> = trips.iter().flat_map(|trip| &trip.bad).collect();
        assert!(bad.is_empty(), "{} failed requests, such as {}", bad.len(), bad[0]);
        assert!(trips.iter().all(|trip| trip.good > 0));
        trips
    }
}

/// No session of these trips has ever moved.
fn nobody_moved(trips: &[Trip]) {
    let moved = trips.iter().filter(|trip| trip.keeps_session && trip.path.len() > 1).count();
    assert_eq!(moved, 0, "sessions moved");
}

#[tokio::test]
async fn silence_errors_and_a_dead_server_leave_everything_as_it_is() {
    let (mut dns, one, two) = (Dns::start().await, Origin::named("one").await, Origin::named("two").await);
    publish(&dns, 1, &[("shop-1", &one), ("shop-2", &two)]);
    let edge = setup(&dns, "hold = \"0s\"\nmin_ttl = \"200ms\"", "").start().await;
    let shoppers = Shoppers::start(&edge, 10);
    let late = Said::Late(Duration::from_secs(10), Box::new(Said::Empty));
    let moods = [
        ("servfail", Said::Code(SERVFAIL), "answers SERVFAIL"),
        ("refused", Said::Code(ResponseCode::Refused), "answers REFUSED"),
        ("timeout", Said::Silence, "does not answer within 100ms"),
        ("timeout", late, "does not answer within 100ms"),
        ("error", Said::Code(ResponseCode::NotImp), "answers NotImp"),
    ];
    for (result, mood, error) in moods {
        let selector = format!("selvedge_discovery_lookups_total{{result=\"{result}\"}}");
        let before = edge.metric(&selector).await;
        dns.mood(Some(mood));
        eventually(&format!("three lookups that end with {result}"), async || {
            edge.metric(&selector).await >= before + 3
        })
        .await;
        let shown = pool(&edge).await;
        let name = &shown["discovery"][0];
        assert!(name["error"]["what"].as_str().unwrap().contains(error), "{name}");
        assert_eq!(name["targets"].as_array().unwrap().len(), 2);
        dns.mood(None);
        eventually("a good answer", async || pool(&edge).await["discovery"][0]["error"].is_null()).await;
    }
    dns.stop().await;
    let failed = "selvedge_discovery_lookups_total{result=\"timeout\"}";
    let before = edge.metric(failed).await;
    eventually("lookups of a dead server to fail", async || edge.metric(failed).await >= before + 2).await;
    assert_eq!(answering(&edge, 40).await, ["one", "two"]);
    dns.resume().await;
    eventually("a good answer", async || pool(&edge).await["discovery"][0]["error"].is_null()).await;
    assert_eq!(edge.admin("/readyz").await.status, 200);
    nobody_moved(&shoppers.come_home().await);
}

#[tokio::test]
async fn that_there_is_nothing_is_not_believed_before_the_hold_is_over() {
    for (mood, result) in [(Said::NoName, "nxdomain"), (Said::Empty, "empty")] {
        let (dns, one) = (Dns::start().await, Origin::named("one").await);
        publish(&dns, 1, &[("shop-1", &one)]);
        let edge = setup(&dns, "hold = \"2s\"\nmin_ttl = \"100ms\"", "queue.length = 0").start().await;
        let mut bound = Client::of(&edge);
        bound.get("/").await;
        let (begun, shoppers) = (Instant::now(), Shoppers::start(&edge, 4));
        dns.mood(Some(mood.clone()));
        eventually("doubts", async || pool(&edge).await["discovery"][0]["doubted_seconds"].is_number()).await;
        // A lie that ends in time has cost nothing.
        dns.mood(None);
        eventually("no doubts", async || pool(&edge).await["discovery"][0]["doubted_seconds"].is_null())
            .await;
        has(&edge, &[(named("az-a", &one), "healthy")]).await;
        nobody_moved(&shoppers.come_home().await);
        dns.mood(Some(mood));
        has(&edge, &[(named("az-a", &one), "draining")]).await;
        assert!(begun.elapsed() > Duration::from_secs(2));
        assert_eq!(Client::of(&edge).get("/").await.status, 503);
        assert_eq!(bound.get("/").await.origin(), "one");
        assert!(edge.metric(&format!("selvedge_discovery_lookups_total{{result=\"{result}\"}}")).await > 2);
        dns.mood(None);
        has(&edge, &[(named("az-a", &one), "healthy")]).await;
    }
}

#[tokio::test]
async fn an_answer_full_of_wrong_addresses_takes_nothing_out_of_service() {
    let (dns, one, nobody) = (Dns::start().await, Origin::named("one").await, Refusing::new());
    publish(&dns, 1, &[("shop-1", &one)]);
    let edge = setup(&dns, "", "").start().await;
    let shoppers = Shoppers::start(&edge, 10);
    dns.srv(SHOP, 1, [(0, 1, nobody.address.port(), "wrong.az-a.shop.internal")]);
    dns.a("wrong.az-a.shop.internal", 1, [Ipv4Addr::LOCALHOST]);
    let wrong = format!("az-a/{}", nobody.address);
    let mut expected = [(named("az-a", &one), "healthy"), (wrong, "unhealthy")];
    expected.sort();
    has(&edge, &expected).await;
    publish(&dns, 1, &[("shop-1", &one)]);
    has(&edge, &[(named("az-a", &one), "healthy")]).await;
    nobody_moved(&shoppers.come_home().await);
}

#[tokio::test]
async fn a_host_that_nobody_can_tell_of_keeps_its_address() {
    let (dns, one, two) = (Dns::start().await, Origin::named("one").await, Origin::named("two").await);
    publish(&dns, 1, &[("shop-1", &one), ("shop-2", &two)]);
    let edge = setup(&dns, "", "").start().await;
    let host = "shop-1.az-a.shop.internal";
    for said in [Said::Code(SERVFAIL), Said::Silence, Said::Empty] {
        dns.say(host, hickory_server::proto::rr::RecordType::A, said);
        dns.is_asked(host).await;
        dns.is_asked(host).await;
        assert_eq!(answering(&edge, 40).await, ["one", "two"]);
    }
}

#[tokio::test]
async fn answers_that_change_each_moment_disturb_nobody() {
    let (dns, one, two) = (Dns::start().await, Origin::named("one").await, Origin::named("two").await);
    publish(&dns, 0, &[("shop-1", &one), ("shop-2", &two)]);
    let edge = setup(&dns, "min_ttl = \"100ms\"", "").start().await;
    let shoppers = Shoppers::start(&edge, 20);
    for round in 0..30 {
        match round % 4 {
            0 => publish(&dns, 0, &[("shop-1", &one)]),
            1 => publish(&dns, 0, &[("shop-2", &two)]),
            2 => dns.mood(Some(Said::Empty)),
            _ => dns.mood(None),
        }
        dns.is_asked(SHOP).await;
    }
    dns.mood(None);
    publish(&dns, 0, &[("shop-1", &one), ("shop-2", &two)]);
    let mut expected = [(named("az-a", &one), "healthy"), (named("az-a", &two), "healthy")];
    expected.sort();
    has(&edge, &expected).await;
    nobody_moved(&shoppers.come_home().await);
}

#[tokio::test]
async fn all_instances_are_replaced_one_by_one_and_nobody_notices() {
    const SHOPPERS: usize = 50;
    const DRAIN: Duration = Duration::from_millis(1500);
    let dns = Dns::start().await;
    let mut present = BTreeMap::new();
    for number in 1..=4 {
        present.insert(format!("old-{number}"), Origin::named(&format!("old-{number}")).await);
    }
    let say = |present: &BTreeMap<String, Origin>| {
        publish(&dns, 1, &present.iter().map(|(name, origin)| (&**name, origin)).collect::<Vec<_>>());
    };
    say(&present);
    let edge = setup(&dns, "", &format!("drain.deadline = \"{}ms\"", DRAIN.as_millis())).start().await;
    edge.counts("selvedge_target_status{status=\"healthy\"}", 4).await;
    let shoppers = Shoppers::start(&edge, SHOPPERS);
    let mut gone_at = BTreeMap::new();
    for number in 1..=4 {
        let new = format!("new-{number}");
        present.insert(new.clone(), Origin::named(&new).await);
        let mut old = present.remove(&format!("old-{number}")).unwrap();
        say(&present);
        let name = named("az-a", &old);
        eventually("the old instance to drain", async || {
            targets(&edge).await.contains(&(name.clone(), "draining".into()))
        })
        .await;
        gone_at.insert(format!("old-{number}"), Instant::now());
        eventually("the old instance to leave", async || {
            !targets(&edge).await.iter().any(|(target, _)| *target == name)
        })
        .await;
        old.stop().await;
    }
    assert!(answering(&edge, 60).await.iter().all(|name| name.starts_with("new-")));
    let trips = shoppers.come_home().await;
    let mut moves = 0;
    for trip in trips.iter().filter(|trip| trip.keeps_session) {
        for step in trip.path.windows(2) {
            let ((from, _), (_, at)) = (&step[0], &step[1]);
            let gone =
                gone_at.get(from).unwrap_or_else(|| panic!("a session left {from}, which was never gone"));
            let stayed = at.saturating_duration_since(*gone);
            // Seen to drain a moment after it began to.
            assert!(stayed + Duration::from_millis(500) > DRAIN, "a session left {from} after {stayed:?}");
            moves += 1;
        }
    }
    assert!(moves > 0, "some sessions had to move");
}
