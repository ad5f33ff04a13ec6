//! The Auto Scaling group from outside: instances that die or hang are replaced, their number follows the load, all are replaced
//! on demand; and shoppers, who check every answer, notice nothing.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::browser::Browser;
use crate::processes::{SOON, System, program, run_to_end, send_signal, until_within};
use http::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// For what takes several checks, cooldowns and drains, on a machine that has other things to do.
const LONG: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_half_of_the_instances_are_killed_capacity_is_back_in_ten_seconds_and_no_cart_is_lost() {
    let system = System::start().await;
    let before = steady(&system).await;
    let mut shoppers: Vec<_> = (0..30).map(|number| Shopper::new(system.proxy, number)).collect();
    for shopper in &mut shoppers {
        shopper.shop().await.unwrap();
    }
    let killed = Instant::now();
    // A whole zone, and one of another.
    let victims = ["az-a-1", "az-a-2", "az-b-1"].map(|name| before[name]);
    for pid in victims {
        send_signal(pid, Signal::KILL);
    }
    for shopper in &mut shoppers {
        shopper.check().await.unwrap();
    }
    let after = until_within(LONG, "all are back", async || {
        let pids = pids(&status(&system).await)?;
        (pids.len() == 6 && !pids.values().any(|pid| victims.contains(pid))).then_some(pids)
    })
    .await;
    println!("capacity was back after {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    assert!(after.keys().eq(before.keys()), "{after:?}");
    for shopper in &mut shoppers {
        shopper.check().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_hangs_is_replaced() {
    let system = System::start_with(&["--unhealthy-after", "1"]).await;
    let hung = steady(&system).await["az-b-2"];
    send_signal(hung, Signal::STOP);
    until_within(LONG, "another takes its place", async || {
        pids(&status(&system).await)?.get("az-b-2").filter(|pid| **pid != hung).copied()
    })
    .await;
    let status = status(&system).await;
    assert!(status["log"].to_string().contains("az-b-2 is killed: it fails its checks"), "{status}");
}

/// Shoppers in front of three instances that should get twenty requests a second each.
const FEW: usize = 4;
/// What one of them asks for, in a second.
const EACH: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_group_follows_the_load_and_is_refreshed_without_a_failed_request() {
    let sizes = ["--instances-per-zone", "1", "--max-per-zone", "3", "--drain", "3"];
    let scaling = ["--target-requests", "20", "--scaling-window", "2", "--scale-out-cooldown", "2"];
    let options = [&sizes[..], &scaling, &["--scale-in-cooldown", "3"]].concat();
    let system = System::start_with(&options).await;
    let first = steady(&system).await;
    assert_eq!(first.keys().collect::<Vec<_>>(), ["az-a-1", "az-b-1", "az-c-1"]);
    let (stop, stopped) = watch::channel(());
    let (stop_others, others_stopped) = watch::channel(());
    let mut shoppers = JoinSet::new();
    for number in 0..FEW {
        shoppers.spawn(shop_until(system.proxy, number, stopped.clone()));
    }
    let mut others = JoinSet::new();
    until_within(LONG, "the load is measured", async || {
        status(&system).await["requests_per_second"].as_f64().filter(|rate| *rate > 15.0)
    })
    .await;
    assert_eq!(status(&system).await["desired"], 3);

    // The load is doubled.
    for number in FEW..2 * FEW {
        others.spawn(shop_until(system.proxy, number, others_stopped.clone()));
    }
    let doubled = Instant::now();
    let grown = until_within(LONG, "there are more instances", async || {
        let pids = pids(&status(&system).await)?;
        (pids.len() > 3).then_some(pids)
    })
    .await;
    println!("{} instances, {:?} after the load had doubled", grown.len(), doubled.elapsed());
    let zones = grown.keys().fold(BTreeMap::new(), |mut zones, name| {
        *zones.entry(&name[..4]).or_insert(0) += 1;
        zones
    });
    assert!(zones.len() == 3 && zones.values().max() <= zones.values().min().map(|least| least + 1).as_ref());

    // And halved.
    stop_others.send_replace(());
    let halved = Instant::now();
    assert!(finish(others).await > 0);
    until_within(LONG, "there are as many as before", async || {
        let pids = pids(&status(&system).await)?;
        (pids.len() == 3).then_some(())
    })
    .await;
    println!("3 instances, {:?} after the load was halved", halved.elapsed());

    // Everything new, under the same shoppers.
    let before = steady(&system).await;
    asg(&system, &["refresh", "--wait", "120"]).await;
    let after = steady(&system).await;
    assert_eq!(after.len(), 3);
    assert!(!after.values().any(|pid| before.values().any(|old| old == pid)), "{before:?} {after:?}");

    stop.send_replace(());
    let asked = finish(shoppers).await;
    println!("{asked} requests, and none failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sets_the_number_and_is_told_what_cannot_be() {
    let system = System::start_with(&["--max-per-zone", "3", "--drain", "1"]).await;
    steady(&system).await;
    asg(&system, &["set", "--desired", "8", "--wait", "60"]).await;
    assert_eq!(steady(&system).await.len(), 8);
    asg(&system, &["set", "--min", "1", "--desired", "4", "--wait", "60"]).await;
    let names = steady(&system).await.into_keys().collect::<Vec<_>>();
    assert_eq!(names, ["az-a-1", "az-a-2", "az-b-1", "az-c-1"]);
    let data = system.data.path().to_str().unwrap();
    for (args, text) in [
        (&["set", "--desired", "10", "--data", data][..], "3 to 9"),
        (&["set", "--min", "4", "--data", data], "above its maximum"),
        (&["set", "--max", "101", "--data", data], "100"),
        (&["status", "--data", "/nowhere"], "/nowhere/asg.sock"),
    ] {
        let output = run_to_end(&[&["asg"][..], args].concat()).await;
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.contains(text), "{args:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    }
    let output = run_to_end(&["--max-per-zone", "1"]).await;
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("--max-per-zone 1"));
}

/// Runs `myclothes asg` on the system, which must succeed; gives what it printed.
async fn asg(system: &System, args: &[&str]) -> String {
    let mut command = Command::new(program());
    command.arg("asg").args(args).arg("--data").arg(system.data.path()).kill_on_drop(true);
    let output = tokio::time::timeout(LONG + SOON, command.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

async fn status(system: &System) -> Value {
    serde_json::from_str(&asg(system, &["status", "--json"]).await).unwrap()
}

/// Process ids by name, when all is as it should be.
fn pids(status: &Value) -> Option<BTreeMap<String, u32>> {
    let instances = status["instances"].as_array()?.iter();
    let pid = |instance: &Value| {
        let pid = u32::try_from(instance["pid"].as_u64()?).ok()?;
        Some((instance["name"].as_str()?.to_owned(), pid))
    };
    (status["steady"] == true).then(|| instances.map(pid).collect::<Option<_>>())?
}

/// Waits until nothing is on its way.
async fn steady(system: &System) -> BTreeMap<String, u32> {
    until_within(LONG, "all is steady", async || pids(&status(system).await)).await
}

/// A shopper who knows what must be in the cart.
struct Shopper {
    browser: Browser,
    number: usize,
    cart: BTreeMap<u64, u64>,
    /// Requests, all answered.
    asked: usize,
}

impl Shopper {
    fn new(proxy: SocketAddr, number: usize) -> Self {
        Self { browser: Browser::new(proxy), number, cart: BTreeMap::new(), asked: 0 }
    }

    /// Puts something into the cart and looks at it.
    async fn shop(&mut self) -> Result<(), String> {
        let product = 1 + (self.number as u64 * 7 + self.asked as u64) % 31;
        let item = json!({ "product_id": product, "quantity": 1 });
        self.asked += 1;
        let answer = self.browser.try_post("/api/cart/items", item).await?;
        if answer.status == StatusCode::OK {
            *self.cart.entry(product).or_default() += 1;
        } else {
            return Err(format!("POST: {} {}", answer.status, answer.text()));
        }
        self.check().await
    }

    /// Looks whether the cart is what it must be.
    async fn check(&mut self) -> Result<(), String> {
        self.asked += 1;
        let answer = self.browser.try_send(Method::GET, "/api/cart", &[], "").await?;
        if answer.status != StatusCode::OK {
            return Err(format!("GET: {} {}", answer.status, answer.text()));
        }
        let cart = answer.json();
        let items = cart["items"].as_array().ok_or("no items")?.iter();
        let number = |item: &Value, key: &str| item[key].as_u64().ok_or_else(|| format!("no {key}"));
        let items = items.map(|item| Ok((number(item, "product_id")?, number(item, "quantity")?)));
        let found: BTreeMap<u64, u64> = items.collect::<Result<_, String>>()?;
        if found == self.cart { Ok(()) } else { Err(format!("the cart is {found:?}, not {:?}", self.cart)) }
    }
}

/// Shops at a steady pace; gives the number of requests, or what went wrong first. Now and then it is somebody else who
/// shops, as it is in life: only newcomers can go to instances that are new.
async fn shop_until(
    proxy: SocketAddr,
    number: usize,
    mut stop: watch::Receiver<()>,
) -> Result<usize, String> {
    stop.mark_unchanged();
    let mut pace = tokio::time::interval(Duration::from_secs(1) * 2 / EACH as u32);
    let (mut asked, mut shopper) = (0, Shopper::new(proxy, number));
    loop {
        tokio::select! {
            _ = pace.tick() => shopper.shop().await?,
            _ = stop.changed() => return Ok(asked + shopper.asked),
        }
        if shopper.asked >= 5 * EACH {
            asked += shopper.asked;
            shopper = Shopper::new(proxy, number);
        }
    }
}

/// Waits for shoppers who were told to stop, none of whom may have had a failure.
async fn finish(mut shoppers: JoinSet<Result<usize, String>>) -> usize {
    let mut asked = 0;
    while let Some(outcome) = shoppers.join_next().await {
        asked += outcome.unwrap().unwrap();
    }
    asked
}
