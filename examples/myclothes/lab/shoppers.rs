//! Shoppers who check every answer: what a disaster is measured by.
//!
//! Each behaves as a browser does where it matters: it asks DNS, tries the addresses one after the other, keeps its connection and its
//! cookies, asks once more for a page when the connection breaks before the answer begins, and presses the button again when something
//! fails. It knows what must be in its cart; after an addition that
//! failed, both carts are right. An order is sent again with the same key until it is answered, under a name that no other order has, so
//! that what the database has in the end tells what was lost or doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, ETAG, HOST, SET_COOKIE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::names::Names;
use super::nodes::DOMAIN;
use super::times::Times;
use crate::parent;
use crate::trouble::Trouble;

/// From a request to the last byte of its answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Before the button is pressed again.
const AGAIN: Duration = Duration::from_millis(250);
/// Between two actions.
const THOUGHT: Duration = Duration::from_millis(900);
/// An action that has not succeeded after so long is given up, and with it the visit.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Things that a shopper puts into one cart.
const ITEMS: u64 = 3;
/// Products that are asked for.
const PRODUCTS: u64 = 30;
/// Most lines about what went wrong.
const TOLD: usize = 20;

/// Options of `myclothes lab crowd`, which [`super::crowd`] gives.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Shoppers at the same time
    #[arg(long)]
    shoppers: usize,
    /// What the names of their orders begin with
    #[arg(long)]
    mark: String,
}

/// What they have seen.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) requests: usize,
    /// No answer, or a status of 500 and more.
    pub(crate) failed_gets: usize,
    pub(crate) failed_posts: usize,
    /// GETs whose connection broke before the answer began, and which were asked once more at once, as HTTP allows (RFC 9110, 9.2.2)
    /// and browsers do. No failures, if the answer came then.
    pub(crate) repeated_gets: usize,
    pub(crate) carts: usize,
    /// Carts in which something was missing, or was twice.
    pub(crate) lost_carts: usize,
    /// Names of orders that were confirmed.
    pub(crate) orders: BTreeSet<String>,
    /// From pressing a button to the answer that was wanted, however often it was pressed; the longest.
    pub(crate) longest_ms: u64,
    /// Visits that were given up.
    pub(crate) given_up: usize,
    /// How long the answers took that were no failures, by what was asked for.
    pub(crate) times: BTreeMap<String, Times>,
    /// The first things that went wrong.
    pub(crate) told: Vec<String>,
}

/// Shops until standard input ends, or a line comes there; then says what was seen.
pub(crate) async fn run(crowd: Options) -> Result<(), Trouble> {
    let (stop, stopped) = watch::channel(false);
    let names = Arc::new(Names::default());
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut shopping = JoinSet::new();
    for number in 0..crowd.shoppers {
        let shopper = Shopper {
            mark: format!("{}-{number}", crowd.mark),
            number: number as u64,
            names: Arc::clone(&names),
            seen: Arc::clone(&seen),
            connection: None,
            cookies: BTreeMap::new(),
            tag: String::new(),
        };
        // Not all at once: nobody could answer that.
        let wait = THOUGHT * number as u32 / crowd.shoppers.max(1) as u32;
        let stopped = stopped.clone();
        shopping.spawn(async move {
            sleep(wait).await;
            shopper.shop(stopped).await;
        });
    }
    println!("ready");
    // A closed channel is the end of standard input.
    let _ = parent::lines().recv().await;
    stop.send_replace(true);
    while shopping.join_next().await.is_some() {}
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    println!("{}", json!(seen));
    Ok(())
}

/// One shopper, visit after visit.
struct Shopper {
    mark: String,
    number: u64,
    names: Arc<Names>,
    seen: Arc<Mutex<Seen>>,
    connection: Option<SendRequest<Full<Bytes>>>,
    cookies: BTreeMap<String, String>,
    /// Of the cart that was seen last.
    tag: String,
}

/// Products and how many of each.
type Cart = BTreeMap<u64, u64>;

impl Shopper {
    async fn shop(mut self, stopped: watch::Receiver<bool>) {
        for visit in 0.. {
            if *stopped.borrow() {
                return;
            }
            self.cookies.clear();
            self.connection = None;
            let outcome = self.visit(visit, &stopped).await;
            let mut seen = self.seen();
            seen.carts += 1;
            match outcome {
                Ok(()) => {}
                Err(Lost::Cart(what)) => {
                    seen.lost_carts += 1;
                    // Before all that only failed.
                    seen.told.insert(0, what);
                    seen.told.truncate(TOLD);
                }
                Err(Lost::Patience(what)) => {
                    seen.given_up += 1;
                    seen.tell(what);
                }
            }
        }
    }

    /// Looks around, fills a cart, buys it.
    async fn visit(&mut self, visit: u64, stopped: &watch::Receiver<bool>) -> Result<(), Lost> {
        self.get("/").await?;
        let mut cart = self.check(&[&Cart::new()]).await?;
        for step in 0..ITEMS {
            self.think().await;
            let product = 1 + (self.number * 7 + visit * 3 + step * 11) % PRODUCTS;
            cart = self.add(product, cart).await?;
            self.think().await;
            self.check(&[&cart]).await?;
            if *stopped.borrow() {
                return Ok(());
            }
        }
        self.think().await;
        // People look at it before they buy.
        self.get("/cart").await?;
        self.order(visit).await
    }

    /// Puts something into the cart; gives what must be in it then.
    async fn add(&mut self, product: u64, cart: Cart) -> Result<Cart, Lost> {
        let mut with = cart.clone();
        *with.entry(product).or_default() += 1;
        let begin = Instant::now();
        let item = json!({ "product_id": product, "quantity": 1 });
        loop {
            // Only to the cart that was seen last: the network may still deliver an earlier try.
            let tag = self.tag.clone();
            match self.ask(Method::POST, "/api/cart/items", &[("if-match", &tag)], Some(&item)).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    self.took(begin);
                    return Ok(with);
                }
                // An earlier try has come through.
                Ok(answer)
                    if answer.status == StatusCode::PRECONDITION_FAILED && begin.elapsed() < GIVE_UP => {}
                Ok(answer) if !answer.status.is_server_error() => {
                    return Err(Lost::Cart(format!("an addition was answered with {}", answer.said())));
                }
                other => self.failed(&Method::POST, "/api/cart/items", other, begin).await?,
            }
            // It may have counted or not: the cart tells.
            if self.check(&[&cart, &with]).await? == with {
                self.took(begin);
                return Ok(with);
            }
        }
    }

    /// Looks into the cart, which must be one of these.
    async fn check(&mut self, right: &[&Cart]) -> Result<Cart, Lost> {
        let answer = self.get("/api/cart").await?;
        let found = answer.cart().ok_or_else(|| Lost::Cart(format!("no cart: {}", answer.said())))?;
        match right.contains(&&found) {
            true => Ok(found),
            false => Err(Lost::Cart(format!("{}: the cart is {found:?}, not {right:?}", self.mark))),
        }
    }

    /// Buys what is in the cart.
    async fn order(&mut self, visit: u64) -> Result<(), Lost> {
        let name = format!("{}-{visit}", self.mark);
        let delivery = json!({ "name": name, "address": "1 Loom Street" });
        let begin = Instant::now();
        loop {
            let key = [("idempotency-key", name.as_str())];
            match self.ask(Method::POST, "/api/checkout", &key, Some(&delivery)).await {
                Ok(answer) if answer.status.is_success() => {
                    self.took(begin);
                    self.seen().orders.insert(name);
                    return Ok(());
                }
                Ok(answer) if !answer.status.is_server_error() => {
                    return Err(Lost::Cart(format!("a checkout was answered with {}", answer.said())));
                }
                other => self.failed(&Method::POST, "/api/checkout", other, begin).await?,
            }
        }
    }

    /// A page, asked for until it comes.
    async fn get(&mut self, path: &str) -> Result<Answer, Lost> {
        let begin = Instant::now();
        loop {
            match self.ask(Method::GET, path, &[], None).await {
                Ok(answer) if !answer.status.is_server_error() => {
                    self.took(begin);
                    return Ok(answer);
                }
                other => self.failed(&Method::GET, path, other, begin).await?,
            }
        }
    }

    async fn think(&self) {
        sleep(THOUGHT).await;
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn took(&self, begin: Instant) {
        let mut seen = self.seen();
        seen.longest_ms = seen.longest_ms.max(begin.elapsed().as_millis() as u64);
    }

    /// Counts a failure, and waits before the next try; not for ever.
    async fn failed(
        &mut self,
        method: &Method,
        path: &str,
        what: Result<Answer, String>,
        begin: Instant,
    ) -> Result<(), Lost> {
        let what = match what {
            Ok(answer) => answer.said(),
            Err(error) => error,
        };
        let what = format!("{method} {path}: {what}");
        {
            let mut seen = self.seen();
            *(if method == Method::GET { &mut seen.failed_gets } else { &mut seen.failed_posts }) += 1;
            seen.longest_ms = seen.longest_ms.max(begin.elapsed().as_millis() as u64);
            seen.tell(what.clone());
        }
        if begin.elapsed() > GIVE_UP {
            return Err(Lost::Patience(format!("given up: {what}")));
        }
        sleep(AGAIN).await;
        Ok(())
    }

    /// One request, and its answer if there is one in time.
    async fn ask(
        &mut self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, String> {
        self.seen().requests += 1;
        let mut request = Request::builder().method(method).uri(path).header(HOST, DOMAIN);
        if !self.cookies.is_empty() {
            let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            request = request.header(COOKIE, pairs.join("; "));
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(json) => {
                request = request.header(CONTENT_TYPE, "application/json");
                json.to_string()
            }
            None => String::new(),
        };
        let request = request.body(Full::from(body)).map_err(|error| error.to_string())?;
        let kind = format!("{} {path}", request.method());
        let begin = Instant::now();
        let answer = match timeout(ANSWER, self.exchange(request)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(format!("no answer within {ANSWER:?}")),
        };
        if !answer.status.is_server_error() {
            self.seen().times.entry(kind).or_default().note(begin.elapsed());
        }
        if let Some(tag) = &answer.tag {
            self.tag.clone_from(tag);
        }
        for (name, value) in &answer.cookies {
            match value.is_empty() {
                true => self.cookies.remove(name),
                false => self.cookies.insert(name.clone(), value.clone()),
            };
        }
        Ok(answer)
    }

    async fn exchange(&mut self, mut request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let mut once_more = (request.method() == Method::GET).then(|| request.clone());
        loop {
            let (mut connection, fresh) = match self.connection.take() {
                Some(kept) => (kept, false),
                None => (self.names.connect().await?, true),
            };
            if connection.ready().await.is_err() && !fresh {
                continue;
            }
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
                    self.connection = Some(connection);
                    let set = head.headers.get_all(SET_COOKIE).iter().filter_map(|field| field.to_str().ok());
                    let pairs = set.filter_map(|field| field.split(';').next()?.split_once('='));
                    let cookies = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                    let tag = head.headers.get(ETAG).and_then(|field| field.to_str().ok()).map(str::to_owned);
                    return Ok(Answer { status: head.status, cookies, tag, body });
                }
                // A kept connection may be closed by the server at any moment; nothing was sent on it.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => match once_more.take() {
                        Some(same) => {
                            self.seen().repeated_gets += 1;
                            request = same;
                        }
                        None => return Err(error.into_error().to_string()),
                    },
                },
            }
        }
    }
}

/// Why a visit ended.
enum Lost {
    Cart(String),
    Patience(String),
}

impl Seen {
    fn tell(&mut self, what: String) {
        if self.told.len() < TOLD {
            self.told.push(what);
        }
    }
}

struct Answer {
    status: StatusCode,
    cookies: Vec<(String, String)>,
    /// Of the cart that it shows.
    tag: Option<String>,
    body: Bytes,
}

impl Answer {
    fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        format!("{} {}", self.status, text.chars().take(120).collect::<String>().replace('\n', " "))
    }

    fn cart(&self) -> Option<Cart> {
        let cart: Value = serde_json::from_slice(&self.body).ok()?;
        let items = cart["items"].as_array()?.iter();
        items.map(|item| Some((item["product_id"].as_u64()?, item["quantity"].as_u64()?))).collect()
    }
}
