//! Why did my request go there: a [`Trace`] of a request as it goes its way, or of one that nobody sends.
//!
//! [`explain`] takes the same steps as [`exchange`](super::exchange), by the same functions on the same snapshots: the route
//! table, the session's verdict, the pick; only that the pick counts nothing. Where a real request has a choice, so has this
//! one: then it names the candidates and picks one of them. Nothing of this runs for requests that nobody asks about.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode};

use super::balance::{self, Choice, Pick, Place};
use super::exchange::https_location;
use super::headers::Origin;
use super::http1::target::is_host;
use super::request::Head;
use super::route::RouteTable;
use super::session::{self, Bond};
use super::stickiness::{Scene, Session};
use super::worker::Random;
use crate::config::{Action, Config, Listener, Route, StickinessMode};
use crate::decision::{CookieStep, Query, SessionStep, Trace, Wrong};
use crate::pool::{Pool, Snapshot, Verdict};
use crate::telemetry::time::rfc3339;

/// Decides about a request without sending it. `pools` are those of `config`, in its order.
pub fn explain(query: &Query, config: &Config, pools: &[Arc<Pool>]) -> Result<Trace, Wrong> {
    let head = head(query, config)?;
    let source = query.source.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)).to_canonical();
    let listeners = listeners(query, config)?;
    let trace = at_listeners(&listeners, &head, source);
    if trace.end.is_some() {
        return Ok(trace);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let live = Live { config, snapshots: pools.iter().map(|pool| pool.snapshot()).collect(), now };
    let decided = live.decide(
        &head,
        source,
        &Random::from_system(),
        |index| pools[index].live(),
        |index| pools[index].queue.line.waiting() as u32,
    );
    Ok(Trace { listener: trace.listener, ..decided })
}

/// Those that the request may come to.
fn listeners<'c>(query: &Query, config: &'c Config) -> Result<Vec<&'c Listener>, Wrong> {
    let Some(wanted) = &query.listener else { return Ok(config.listeners.iter().collect()) };
    let found = config.listeners.iter().find(|listener| *listener.name == **wanted);
    found.map(|listener| vec![listener]).ok_or_else(|| {
        let names: Vec<_> = config.listeners.iter().map(|listener| &*listener.name).collect();
        Wrong { field: "listener", what: format!("there is no {wanted:?}; there is {}", names.join(", ")) }
    })
}

/// Notes what they do by themselves, and the end if that is all.
fn at_listeners(listeners: &[&Listener], head: &Head, source: IpAddr) -> Trace {
    let redirects =
        |listener: &&&Listener| !Origin::new(listener, (source, 0).into(), None).is_secure(&head.headers);
    let redirecting: Vec<_> = listeners
        .iter()
        .filter(redirects)
        .filter_map(|listener| Some((&*listener.name, listener.redirect_to_https?)))
        .collect();
    let mut trace = Trace::default();
    let Some((_, port)) = redirecting.first() else { return trace };
    let told = at_redirect(*port, head);
    if redirecting.len() == listeners.len() {
        trace.listener = Some(told);
        trace.end = Some(end(StatusCode::PERMANENT_REDIRECT, None));
    } else {
        let names: Vec<_> = redirecting.iter().map(|(name, _)| *name).collect();
        trace.listener = Some(format!("{told}, if it comes to {}; what follows if not", names.join(", ")));
    }
    trace
}

/// What a listener does that redirects to HTTPS.
pub(crate) fn at_redirect(port: u16, head: &Head) -> String {
    let location = https_location(port, head).unwrap_or_default();
    format!("redirects to {} (redirect_to_https)", String::from_utf8_lossy(&location))
}

/// What is decided on: everything that changes, at one moment.
struct Live<'a> {
    config: &'a Config,
    snapshots: Vec<Arc<Snapshot>>,
    /// In seconds since 1970.
    now: u64,
}

impl Scene for Live<'_> {
    fn open(&self, pool: usize, text: &[u8]) -> Result<Bond, Verdict> {
        session::open(&self.config.session_keys.ring, &self.config.pools[pool].name, text)
    }

    fn look<R>(&self, pool: usize, at: impl FnOnce(&Snapshot) -> R) -> R {
        at(&self.snapshots[pool])
    }
}

impl Live<'_> {
    fn decide(
        &self,
        head: &Head,
        source: IpAddr,
        random: &Random,
        live: impl Fn(usize) -> u64,
        waiting: impl Fn(usize) -> u32,
    ) -> Trace {
        let mut trace = Trace::default();
        let routes = RouteTable::new(&self.config.routes);
        let route = routes.find(head, source);
        at_route(&mut trace, route);
        let Some(Action::Pools(choices)) = route.map(|route| &route.action) else { return trace };
        let session = Session::decide(self, &self.config.pools, choices, head, self.now, || random.next());
        at_session(&mut trace, self.config, &session, head, |pool| self.snapshots[pool].clone());
        let pool = &*self.config.pools[session.pool];
        if pool.max_requests.is_some_and(|most| live(session.pool) >= most) {
            trace.end = Some("answered 503: the pool has as many requests under way as it may".to_owned());
            return trace;
        }
        let choice = Choice {
            snapshot: &self.snapshots[session.pool],
            balance: &pool.balance,
            key: balance::key(&pool.balance, head, source),
            bond: session.bond.as_ref(),
            may_return: session.may_return,
            tried: &[],
            may_hesitate: false,
            ahead: waiting(session.pool),
            counts: false,
        };
        let turn = random.next();
        let pick = choice.pick(turn as usize, random.next());
        let mut round = choice.round(pick, Place::new(pool, self.config.zone.as_ref()));
        let drawn = session.bond.is_none() && choices.len() > 1;
        round.certain &= !drawn;
        if !round.certain {
            round.why += "; another of the candidates may have the next one";
        }
        trace.rounds.push(round);
        if matches!(pick, Pick::NoneLeft) && pool.queue.length == 0 {
            trace.end = Some("answered 503: no target takes requests".to_owned());
        }
        trace
    }
}

/// What the request would be like.
fn head(query: &Query, config: &Config) -> Result<Head, Wrong> {
    let wrong = |field, what: String| Wrong { field, what };
    let host = HeaderValue::from_str(&query.host).ok().filter(|host| is_host(host.as_bytes()));
    let host = host.ok_or_else(|| {
        wrong("host", format!("{:?} is not a host; write one such as shop.test", query.host))
    })?;
    let path =
        query.path.starts_with('/').then(|| PathAndQuery::try_from(query.path.as_str()).ok()).flatten();
    let path =
        path.ok_or_else(|| wrong("path", format!("{:?} is not a path; it begins with /", query.path)))?;
    let mut head = Head::get(host, path);
    let method = Method::from_bytes(query.method.as_bytes()).ok();
    let method = method.filter(|method| *method != Method::CONNECT && *method != Method::TRACE);
    head.method = method
        .ok_or_else(|| wrong("method", format!("{:?} is not a method that is served", query.method)))?;
    for (name, value) in &query.headers {
        let field = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
        let (name, value) =
            field.ok_or_else(|| wrong("headers", format!("\"{name}: {value}\" is not a field")))?;
        head.headers.append(name, value);
    }
    if let Some(cookie) = &query.cookie {
        let value =
            HeaderValue::from_str(cookie).and_then(|_| HeaderValue::from_str(&cookie_field(cookie, config)));
        let value = value.map_err(|_| wrong("cookie", "has bytes that no cookie may have".to_owned()))?;
        head.headers.append(header::COOKIE, value);
    }
    Ok(head)
}

/// A whole field as it is; a value alone as the session cookie of every pool.
fn cookie_field(cookie: &str, config: &Config) -> String {
    if cookie.contains('=') {
        return cookie.to_owned();
    }
    let sticky = config.pools.iter().filter(|pool| pool.stickiness.mode != StickinessMode::Off);
    let mut names: Vec<_> = sticky.map(|pool| &*pool.stickiness.cookie).collect();
    names.sort_unstable();
    names.dedup();
    names.iter().map(|name| format!("{name}={cookie}")).collect::<Vec<_>>().join("; ")
}

/// Notes which route matches.
pub(crate) fn at_route(trace: &mut Trace, route: Option<&Route>) {
    trace.route = route.map(|route| route.name.to_string());
    trace.action = match route.map(|route| &route.action) {
        None => "none matches: answered 404".to_owned(),
        Some(Action::Pools(pools)) if pools.len() == 1 => "to one pool".to_owned(),
        Some(Action::Pools(pools)) => format!("to one of {} pools by weight", pools.len()),
        Some(Action::Redirect(redirect)) => format!("redirects with {}", redirect.status.as_u16()),
        Some(Action::Respond(respond)) => format!("answers {} itself", respond.status.as_u16()),
    };
}

/// Notes what the session's cookie says, and which pool serves.
pub(crate) fn at_session(
    trace: &mut Trace,
    config: &Config,
    session: &Session,
    head: &Head,
    snapshot: impl Fn(usize) -> Arc<Snapshot>,
) {
    let pool = &config.pools[session.pool];
    trace.pool = Some(pool.name.to_string());
    trace.action = format!("{}: {}", trace.action, pool.name);
    let Some(verdict) = session.verdict() else {
        trace.session =
            Some(SessionStep { verdict: "off", words: "this pool has no sessions".to_owned(), cookie: None });
        return;
    };
    let cookie = cookie(config, session.left.unwrap_or(session.pool), head, &snapshot);
    let mut words = words(verdict).to_owned();
    if let (Verdict::Forged, Some(cookie)) = (verdict, &cookie) {
        words = format!("its cookie is of another pool, {}: a new session", cookie.pool);
    }
    if let Some(left) = session.left {
        let left = &config.pools[left].name;
        words = format!("it leaves its pool {left}, in which no target takes requests: a new session");
    }
    trace.session = Some(SessionStep { verdict: verdict.as_str(), words, cookie });
}

fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::None => "no cookie: a new session",
        Verdict::Valid => "its cookie is in good order",
        Verdict::IdleExpired => "its cookie was unused for too long (stickiness.idle): a new session",
        Verdict::AbsoluteExpired => "its cookie is too old (stickiness.absolute): a new session",
        Verdict::Malformed => "its cookie is not one of ours, by length, alphabet or version: a new session",
        Verdict::UnknownKey => "its cookie was sealed with a key that this node has not: a new session",
        Verdict::Forged => "its cookie is forged, that is altered or made up: a new session",
    }
}

/// What is in the session's cookie, whatever it is worth: of this pool, or else of any other.
fn cookie(
    config: &Config,
    pool: usize,
    head: &Head,
    snapshot: &impl Fn(usize) -> Arc<Snapshot>,
) -> Option<CookieStep> {
    let ring = &config.session_keys.ring;
    let others = (0..config.pools.len()).filter(|other| *other != pool);
    let (of, bond) =
        session::find(&head.headers, &config.pools[pool].stickiness.cookie).find_map(|text| {
            let opened =
                |pool: usize| Some((pool, session::open(ring, &config.pools[pool].name, text).ok()?));
            std::iter::once(pool).chain(others.clone()).find_map(opened)
        })?;
    let (snapshot, stickiness) = (snapshot(of), &config.pools[of].stickiness);
    let name = |id| snapshot.index_of(id).map(|index| snapshot.targets[index].state.name.clone());
    let at = |since: u32, lasts: Duration| rfc3339(UNIX_EPOCH + Duration::from_secs(since.into()) + lasts);
    Some(CookieStep {
        pool: config.pools[of].name.to_string(),
        target: name(bond.target),
        home: name(bond.home),
        session: format!("{:016x}", bond.session),
        born: at(bond.born, Duration::ZERO),
        last_seen: at(bond.seen, Duration::ZERO),
        idle_expiry: at(bond.seen, stickiness.idle),
        absolute_expiry: stickiness.absolute.map(|lasts| at(bond.born, lasts)),
    })
}

/// The end of a request that was answered with `status`, in words.
pub(crate) fn end(status: StatusCode, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("answered {}: {reason}", status.as_u16()),
        None => format!("answered {}", status.as_u16()),
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
