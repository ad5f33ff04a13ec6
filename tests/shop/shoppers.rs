//! Shoppers who know what must be in their carts, and somebody who kills the instances under them.
//!
//! What is forbidden: a GET that fails; a cart that lacks something or has something twice; a session that changes its
//! instance although that one was not killed. A POST that was on its way to an instance when that was killed may
//! fail: its cart may have it or not, but not twice.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::json;

use crate::browser::{Answer, Browser};
use crate::processes::{System, runs, send_signal, until};

const SHOPPERS: usize = 50;
/// Additions to a cart by shoppers in a hurry.
const HURRIED: u64 = 6;
/// Additions to a cart by shoppers who take their time, so that their sessions outlive what happens to a zone.
const LEISURELY: u64 = 30;
/// What these take between two additions.
const THOUGHT: Duration = Duration::from_millis(100);
/// Between two kills. An instance so lives longer than the supervisor's idea of "died at once".
const RHYTHM: Duration = Duration::from_millis(500);
/// Every so many turns, all instances of a zone die together, and stay dead for a while.
const ZONE_EVERY: usize = 8;
/// The first of these turns.
const ZONE_FIRST: usize = 3;
/// How long a zone stays dead: long enough for the proxy's health checks to see it.
const DEAD_ZONE: Duration = Duration::from_millis(2500);

/// What happened.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) carts: usize,
    pub(crate) requests: usize,
    /// POSTs that failed because their instance was killed.
    pub(crate) failed_posts: usize,
    pub(crate) kills: usize,
    /// Answers that came from another instance, because the session's own had been killed.
    pub(crate) elsewhere: usize,
    /// Of these, those that came with a new cookie.
    pub(crate) moves: usize,
    /// Everything that must not happen.
    pub(crate) problems: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { carts, requests, failed_posts, kills, elsewhere, moves, problems } = self;
        write!(
            f,
            "{carts} carts, {requests} requests, {kills} kills, {elsewhere} answers from elsewhere, {moves} moves, "
        )?;
        write!(f, "{failed_posts} failed POSTs, {} problems", problems.len())
    }
}

/// Which instance was killed, and when it was dead: until that is known, it may still answer and may not.
type Deaths = Arc<Mutex<BTreeMap<String, Vec<Option<Instant>>>>>;

/// Whether a death may have happened after this moment.
fn is_after(moment: Instant) -> impl Fn(&Option<Instant>) -> bool {
    move |death| death.is_none_or(|at| at >= moment)
}

/// Shops for this long.
pub(crate) async fn shop(system: &System, duration: Duration) -> Report {
    let deaths = Deaths::default();
    let end = Instant::now() + duration;
    let shoppers: Vec<_> = (0..SHOPPERS)
        .map(|number| tokio::spawn(fill_carts(system.proxy, number as u64, end, Arc::clone(&deaths))))
        .collect();
    let mut total = Report { kills: kill_until(system, end, &deaths).await, ..Report::default() };
    for shopper in shoppers {
        let part = shopper.await.unwrap();
        total.carts += part.carts;
        total.requests += part.requests;
        total.failed_posts += part.failed_posts;
        total.elsewhere += part.elsewhere;
        total.moves += part.moves;
        total.problems.extend(part.problems);
    }
    total
}

/// Kills one instance after the other, each when the one before is back, and now and then a whole zone for a while.
async fn kill_until(system: &System, end: Instant, deaths: &Deaths) -> usize {
    let instances = system.instances();
    let supervisor = system.child.id().unwrap();
    let mut rhythm = tokio::time::interval(RHYTHM);
    let mut kills = 0;
    for turn in 0.. {
        rhythm.tick().await;
        if Instant::now() >= end {
            break;
        }
        let (first, _) = &instances[turn % instances.len()];
        let zone = &first[..4];
        let whole_zone = turn % ZONE_EVERY == ZONE_FIRST;
        let victims =
            instances.iter().filter(|(name, _)| name == first || (whole_zone && name.starts_with(zone)));
        let mut killed = Vec::new();
        for (name, address) in victims {
            let pid = until("the instance is there", async || system.pid_of(*address).await).await;
            killed.push((name, *address, pid));
        }
        if whole_zone {
            // A supervisor that is stopped replaces nobody.
            send_signal(supervisor, Signal::STOP);
        }
        for (name, _, pid) in &killed {
            deaths.lock().unwrap().entry((*name).clone()).or_default().push(None);
            send_signal(*pid, Signal::KILL);
            kills += 1;
        }
        for (name, _, pid) in &killed {
            until("the instance is dead", async || (!runs(*pid)).then_some(())).await;
            let mut deaths = deaths.lock().unwrap();
            *deaths.get_mut(*name).unwrap().last_mut().unwrap() = Some(Instant::now());
        }
        if whole_zone {
            tokio::time::sleep(DEAD_ZONE).await;
            send_signal(supervisor, Signal::CONT);
        }
        for (_, address, pid) in killed {
            until("the instance is back", async || system.pid_of(address).await.filter(|next| *next != pid))
                .await;
        }
    }
    kills
}

/// One shopper: fills a cart, looks whether it is right, starts anew as somebody else.
async fn fill_carts(proxy: SocketAddr, number: u64, end: Instant, deaths: Deaths) -> Report {
    let mut report = Report::default();
    while Instant::now() < end {
        let mut shopper = Shopper {
            browser: Browser::new(proxy),
            expected: BTreeMap::new(),
            home: None,
            deaths: &deaths,
            report: &mut report,
        };
        let leisurely = number % 2 == 1;
        for step in 0..if leisurely { LEISURELY } else { HURRIED } {
            shopper.add(1 + (number * 7 + step * 5) % 31, 1 + step % 3).await;
            shopper.check_cart().await;
            if leisurely {
                tokio::time::sleep(THOUGHT).await;
            }
        }
        shopper.get("/").await;
        shopper.get("/cart").await;
        report.carts += 1;
    }
    report
}

struct Shopper<'a> {
    browser: Browser,
    /// Quantity of each product that the cart must have.
    expected: BTreeMap<u64, u64>,
    home: Option<Home>,
    deaths: &'a Deaths,
    report: &'a mut Report,
}

/// Where a session belongs.
struct Home {
    instance: String,
    /// When the last request was sent that this instance answered.
    seen: Instant,
    /// The balancer's cookie.
    bond: String,
}

impl Shopper<'_> {
    /// Adds to the cart. When the answer is missing, the cart itself tells whether it counted.
    async fn add(&mut self, product: u64, quantity: u64) {
        let sent = Instant::now();
        self.report.requests += 1;
        let item = json!({ "product_id": product, "quantity": quantity });
        let failure = match self.browser.try_post("/api/cart/items", item).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                self.note_home(&answer, sent);
                *self.expected.entry(product).or_default() += quantity;
                return;
            }
            Ok(answer) => format!("{} {}", answer.status, answer.text()),
            Err(error) => error,
        };
        self.report.failed_posts += 1;
        if !self.somebody_died_since(sent) {
            self.report.problems.push(format!("POST failed although nobody was killed: {failure}"));
        }
        if let Some(cart) = self.cart().await {
            let mut with = self.expected.clone();
            *with.entry(product).or_default() += quantity;
            if cart == with {
                self.expected = with;
            } else if cart != self.expected {
                self.report.problems.push(format!("after a failed POST: {cart:?}, not {:?}", self.expected));
                self.expected = cart;
            }
        }
    }

    async fn check_cart(&mut self) {
        if let Some(cart) = self.cart().await
            && cart != self.expected
        {
            self.report.problems.push(format!("the cart is {cart:?}, not {:?}", self.expected));
            self.expected = cart;
        }
    }

    async fn cart(&mut self) -> Option<BTreeMap<u64, u64>> {
        let answer = self.get("/api/cart").await?;
        let cart = answer.json();
        let items = cart["items"].as_array().unwrap().iter();
        Some(
            items
                .map(|item| (item["product_id"].as_u64().unwrap(), item["quantity"].as_u64().unwrap()))
                .collect(),
        )
    }

    /// A GET, which must not fail.
    async fn get(&mut self, path: &str) -> Option<Answer> {
        let sent = Instant::now();
        self.report.requests += 1;
        match self.browser.try_send(Method::GET, path, &[], "").await {
            Ok(answer) if answer.status == StatusCode::OK => {
                self.note_home(&answer, sent);
                Some(answer)
            }
            Ok(answer) => {
                let problem = format!("GET {path}: {} {}", answer.status, answer.text());
                self.report.problems.push(problem);
                None
            }
            Err(error) => {
                self.report.problems.push(error);
                None
            }
        }
    }

    /// Another instance than the session's own may answer only when that one was killed since it last answered. The
    /// session belongs to the other from then on if it got a new cookie, and else still to its own, which may be back.
    fn note_home(&mut self, answer: &Answer, sent: Instant) {
        let name = answer.served_by();
        let bond = self.browser.cookies.get("SELVEDGE").cloned().unwrap_or_default();
        if let Some(home) = &self.home
            && home.instance != name
        {
            let died = self.deaths.lock().unwrap().get(&home.instance).and_then(|all| all.last().copied());
            if died.as_ref().is_some_and(is_after(home.seen)) {
                self.report.elsewhere += 1;
            } else {
                // To be compared with the log.
                let ago = |moment: Instant| format!("{:.1?}", moment.elapsed());
                let second = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
                self.report.problems.push(format!(
                    "at {:.3} s: {name} answered for {}, which was killed {} ago; it was last asked with success {} ago, \
                     this request was sent {} ago",
                    second.as_secs_f64() % 60.0,
                    home.instance,
                    died.flatten().map_or("never".to_owned(), ago),
                    ago(home.seen),
                    ago(sent),
                ));
            }
            if home.bond == bond {
                return;
            }
            self.report.moves += 1;
        }
        self.home = Some(Home { instance: name.to_owned(), seen: sent, bond });
    }

    /// Whether an instance was killed after this moment, or so shortly before that its connections were still dying.
    fn somebody_died_since(&self, moment: Instant) -> bool {
        let moment = moment - Duration::from_secs(1);
        self.deaths.lock().unwrap().values().flatten().any(is_after(moment))
    }
}
