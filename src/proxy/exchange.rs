//! One request, start to finish: the only place that knows the whole order.
//!
//! Find the route, read the session cookie, load the snapshot; then pick a target, send the attempt, try again or stop;
//! then stamp the session cookie and record. Every stage is a call into the file of its name. Speaks the `http` crate's
//! types: which protocol brought the request, and which one takes it on, is not known here.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{Method, StatusCode, Version};

use super::balance::{self, Choice, Pick};
use super::body::{Answer, Body, RequestBody};
use super::error::{ProxyError, Reader};
use super::fields::Fields;
use super::inform::Inform;
use super::patience::Patience;
use super::place::Occupancy;
use super::plan::PoolPlan;
use super::proxy_protocol::Ends;
use super::record::{Record, note};
use super::request::Head;
use super::retry::{Again, Retries};
use super::session;
use super::stickiness::{Landed, Session};
use super::tls::Identity;
use super::upstream::{self, Attempt, InFlight, Upload};
use super::worker::View;
use super::{Worker, explain, headers, traceparent};
use crate::config::{self, Action, StickinessMode, ZoneName};
use crate::pool::Refusal;
use crate::telemetry::access_log::Tls;

/// The client of a connection.
pub(crate) struct Peer {
    pub(crate) origin: headers::Origin,
    /// Both ends of its connection.
    ends: Rc<Ends>,
    /// What the configuration said of the listener when the connection was accepted.
    listener: Rc<config::Listener>,
    tls: Tls,
    /// What is known of the listener's clients.
    occupancy: Arc<Occupancy>,
}

impl Peer {
    /// The client at the source of `ends`, and who it is if it was asked.
    pub(crate) fn new(
        listener: Rc<config::Listener>,
        occupancy: Arc<Occupancy>,
        ends: Ends,
        tls: Tls,
        identity: Option<Rc<Identity>>,
    ) -> Self {
        let origin = headers::Origin::new(&listener, ends.source, identity);
        Self { origin, ends: Rc::new(ends), listener, tls, occupancy }
    }

    /// Whether the client asks why its request goes where it goes, and may. The field that asks is taken out, if there is
    /// anybody at all who may ask.
    fn asks_for_trace(&self, headers: &mut Fields) -> bool {
        let sources = &self.listener.trace_sources;
        if sources.is_empty() || !headers.contains(headers::TRACE) {
            return false;
        }
        let source = self.origin.source(headers);
        headers.retain(|name, _| *name != headers::TRACE);
        sources.iter().any(|net| net.contains(&source))
    }

    /// What the connection is encrypted with.
    pub(crate) fn tls(&self) -> Tls {
        self.tls
    }

    /// Counts a request of the client at `source`, if it may ask.
    fn may_ask(&self, worker: &Worker, source: IpAddr) -> Result<(), ProxyError> {
        let Some(rules) = &self.listener.per_client else { return Ok(()) };
        let asked = self.occupancy.ask(worker, rules, source);
        asked.map_err(|wait| ProxyError::RateLimited { retry_after: wait.as_secs() + 1 })
    }

    /// Value of `Strict-Transport-Security` for answers that do not bring one.
    fn hsts(&self) -> Option<&HeaderValue> {
        self.listener.tls.as_ref()?.hsts.as_ref()
    }
}

/// Answers a request, by a target or else by a page of our own; `None` if the client has left.
pub(crate) async fn exchange(
    worker: &'static Worker,
    peer: &Peer,
    inform: &Inform<'_>,
    mut head: Head,
    body: RequestBody,
) -> Option<Answer> {
    let id = headers::request_id(&peer.origin, &head.headers, &worker.random);
    let reader = Reader::of(&head.headers);
    let mut record = Record::start(worker);
    record.sample(&peer.origin, &mut head.headers);
    record.note(|entry| note::head(entry, peer, &head, &id));
    if peer.asks_for_trace(&mut head.headers) {
        record.begin_trace();
    }
    let result = forward(worker, peer, inform, &mut head, body, &id, &mut record).await;
    worker.keep_fields(head.headers);
    let mut answer = match result {
        Ok(answer) => answer,
        Err(error) => {
            worker.report(&error, &id);
            let code = error.code();
            record.note(|entry| entry.reason = Some(code));
            if matches!(error, ProxyError::ClientGone) {
                return None;
            }
            let answer = error.into_answer(&reader, &id);
            record.tell(|trace| trace.end = Some(explain::end(answer.status, Some(code))));
            answer
        }
    };
    if let Some(trace) = record.take_trace() {
        answer.headers.insert(headers::TRACE, headers::trace(&trace));
    }
    if let Some(hsts) = peer.hsts()
        && !answer.headers.contains(header::STRICT_TRANSPORT_SECURITY)
    {
        answer.headers.append(header::STRICT_TRANSPORT_SECURITY, hsts.clone());
    }
    answer.record = Some(record.answered(answer.status));
    Some(answer)
}

/// The answer to a request whose head was refused.
pub(crate) fn refuse(worker: &'static Worker, peer: &Peer, refusal: Refusal, reader: &Reader) -> Answer {
    let id = headers::fresh_request_id(&worker.random);
    let error = ProxyError::Refused(refusal);
    worker.report(&error, &id);
    let mut record = Record::start(worker);
    record.note(|entry| note::refusal(entry, peer, refusal, &id));
    let answer = error.into_answer(reader, &id);
    Answer { record: Some(record.answered(answer.status)), ..answer }
}

async fn forward(
    worker: &'static Worker,
    peer: &Peer,
    inform: &Inform<'_>,
    head: &mut Head,
    body: RequestBody,
    id: &HeaderValue,
    record: &mut Record,
) -> Result<Answer, ProxyError> {
    if head.path.as_str() == "*" || is_last_hop(head) {
        return Ok(options());
    }
    if let Some(proof) = worker.managed().http_proof(head.path.path()) {
        return Ok(own(StatusCode::OK, HeaderValue::from_static("application/octet-stream"), proof));
    }
    if let Some(port) = peer.listener.redirect_to_https
        && !peer.origin.is_secure(&head.headers)
    {
        record.tell(|trace| trace.listener = Some(explain::at_redirect(port, head)));
        return to_https(port, head);
    }
    let plan = &*worker.plan();
    let source = peer.origin.source(&head.headers);
    peer.may_ask(worker, source)?;
    if let Some(why) = worker.has_no_room(plan) {
        return Err(ProxyError::NoRoom(why));
    }
    let route = plan.routes.find(head, source);
    record.tell(|trace| explain::at_route(trace, route));
    let Some(route) = route else { return Err(ProxyError::Refused(Refusal::NoRoute)) };
    record.note(|entry| note::route(entry, route));
    let pools = match &route.action {
        Action::Pools(pools) => pools,
        Action::Redirect(redirect) => return redirected(redirect, head, peer),
        Action::Respond(respond) => return Ok(responded(respond)),
    };
    let session = Session::read(worker, plan, pools, head);
    let pool = plan.pool(session.pool);
    record.enter(&pool.pool);
    record.note(|entry| note::pool(entry, pool, &session));
    record.tell(|trace| {
        explain::at_session(trace, &plan.config, &session, head, |pool| {
            plan.pool(pool).view().snapshot.clone()
        });
    });
    if pool.config.max_requests.is_some_and(|most| pool.shared.live() > most) {
        pool.lane().overloaded.bump();
        return Err(ProxyError::Overloaded);
    }
    let key = balance::key(&pool.config.balance, head, source);
    let calls_for =
        CallsFor { session: &session, key, client: &peer.ends, id, here: plan.config.zone.as_ref() };
    let secure = peer.origin.is_secure(&head.headers);
    for choice in pools {
        let stickiness = &plan.config.pools[choice.pool].stickiness;
        if stickiness.mode != StickinessMode::Off {
            session::hide(&mut head.headers, &stickiness.cookie);
        }
    }
    headers::forward(&peer.origin, &plan.config.forwarding, head, id);
    // Of a request that is sampled, each attempt has a span of its own, which its target is told of.
    let sampled = record.is_sampled();
    if plan.config.forwarding.traceparent && sampled != Some(true) {
        traceparent::pass_on(&mut head.headers, sampled == Some(false), &worker.random);
    }

    let mut upload = Upload::new(body, pool.config.retry.max_body);
    let (mut answer, landed) = attempts(worker, pool, inform, head, &mut upload, &calls_for, record).await?;

    headers::backward(&plan.config.forwarding, answer.version, &mut answer.headers);
    record.note(|entry| entry.moved = landed.rehomed);
    session.stamp(worker, plan, pool, &landed, secure, &mut answer.headers);
    Ok(answer)
}

/// What a request brings that speaks for one target, or one connection to it; and what it is called.
struct CallsFor<'a> {
    session: &'a Session,
    /// See [`Choice::key`].
    key: Option<u64>,
    client: &'a Rc<Ends>,
    /// For the log.
    id: &'a HeaderValue,
    /// Where the node stands, for the same.
    here: Option<&'a ZoneName>,
}

/// Pick, send, try again: until a target answers, or nothing is left to do.
async fn attempts(
    worker: &'static Worker,
    pool: &PoolPlan,
    inform: &Inform<'_>,
    head: &mut Head,
    upload: &mut Upload,
    calls_for: &CallsFor<'_>,
    record: &mut Record,
) -> Result<(Answer, Landed), ProxyError> {
    let mut retries = Retries::new(pool, head);
    let mut patience = Patience::new(worker, pool);
    let mut view = pool.view();
    let mut last_error = None;
    loop {
        let (index, rehomed) = match pick(worker, pool, &view, calls_for, &retries, &patience, record) {
            Pick::Target { index, rehomed } => (index, rehomed),
            full_or_none => {
                // One round has failed everywhere: wait for the pool to change, then look again with open eyes.
                patience.wait(&view, full_or_none, &retries.tried, &mut last_error).await?;
                let newer = pool.view();
                // What was tried is counted in places of the view that it was tried in.
                if full_or_none == Pick::NoneLeft || !Rc::ptr_eq(&newer, &view) {
                    retries.forgive();
                }
                view = newer;
                continue;
            }
        };
        let upstream = view.upstreams[index].clone();
        let in_flight = InFlight::begun(&pool.pool, &upstream);
        record.sent_to(&upstream, pool.config.tls.is_some(), &mut head.headers);
        let attempt = Attempt { worker, pool, upstream, head: &*head, inform, client: calls_for.client };
        pool.send();
        match upstream::send(&attempt, upload, in_flight).await {
            Ok(arrived) => {
                let again = retries.after_status(&view.snapshot, index, arrived.status(), upload);
                record.heard(arrived.status());
                if again != Again::Yes {
                    pool.count_refused(again);
                    return Ok((arrived.into_answer(&attempt, upload), Landed { view, index, rehomed }));
                }
                pool.lane().retries.bump();
                record.discarded();
                arrived.discard(&attempt, upload);
                upload.rewind();
            }
            Err(error) => {
                worker.report_attempt(&error, &attempt.upstream, calls_for.id);
                record.failed(&error);
                let again = retries.after_failure(index, &error, upload);
                if again != Again::Yes {
                    pool.count_refused(again);
                    return Err(error.into_error(&attempt.upstream));
                }
                pool.lane().retries.bump();
                last_error = error.touched().then(|| error.into_error(&attempt.upstream));
                upload.rewind();
            }
        }
    }
}

fn pick(
    worker: &Worker,
    pool: &PoolPlan,
    view: &View,
    calls_for: &CallsFor<'_>,
    retries: &Retries<'_>,
    patience: &Patience<'_>,
    record: &mut Record,
) -> Pick {
    let choice = Choice {
        snapshot: &view.snapshot,
        balance: &pool.config.balance,
        key: calls_for.key,
        bond: calls_for.session.bond.as_ref(),
        may_return: calls_for.session.may_return,
        tried: &retries.tried,
        may_hesitate: patience.may_hesitate(),
        counts: true,
        ahead: if patience.is_waiting() { 0 } else { pool.shared.queue.line.waiting() as u32 },
    };
    // Only picks without a session take a turn: an even number of requests per session would else send every new
    // session to the same of two targets.
    let random = worker.random.next();
    let turn = if calls_for.session.bond.is_none() { pool.turn() } else { random as usize };
    let pick = choice.pick(turn, random);
    record.picked(&choice, pick, &pool.config, calls_for.here);
    pick
}

/// Whether OPTIONS may not travel further; if it may, one hop less is left to it (RFC 9110 §7.6.2).
fn is_last_hop(head: &mut Head) -> bool {
    if head.method != Method::OPTIONS {
        return false;
    }
    let hops =
        head.headers.get(header::MAX_FORWARDS).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
    match hops {
        None => false,
        Some(0) => true,
        Some(hops) => {
            head.headers.insert(header::MAX_FORWARDS, HeaderValue::from(hops - 1));
            false
        }
    }
}

/// What is allowed at the balancer itself.
fn options() -> Answer {
    let mut headers = Fields::new();
    let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    headers.insert(header::ALLOW, allowed);
    Answer {
        version: Version::HTTP_11,
        status: StatusCode::NO_CONTENT,
        headers,
        body: Body::Empty,
        record: None,
    }
}

/// The same address with TLS.
fn to_https(port: u16, head: &Head) -> Result<Answer, ProxyError> {
    let location = https_location(port, head).ok_or(ProxyError::Refused(Refusal::Host))?;
    moved(StatusCode::PERMANENT_REDIRECT, &location)
}

/// Where a listener that redirects to this port sends a request; `None` without a host.
pub(crate) fn https_location(port: u16, head: &Head) -> Option<Vec<u8>> {
    let mut location = [b"https://", without_port(head.host()?.as_bytes())].concat();
    if port != 443 {
        location.extend_from_slice(format!(":{port}").as_bytes());
    }
    location.extend_from_slice(head.path.as_str().as_bytes());
    Some(location)
}

fn without_port(host: &[u8]) -> &[u8] {
    match memchr::memrchr(b':', host) {
        Some(colon) if !host.ends_with(b"]") => &host[..colon],
        _ => host,
    }
}

fn redirected(redirect: &config::Redirect, head: &Head, peer: &Peer) -> Result<Answer, ProxyError> {
    let scheme = redirect.scheme.as_deref().unwrap_or(match peer.origin.is_secure(&head.headers) {
        true => "https",
        false => "http",
    });
    let host = match &redirect.host {
        Some(host) => host.as_bytes(),
        None => head.host().ok_or(ProxyError::Refused(Refusal::Host))?.as_bytes(),
    };
    // The request's port belongs to its scheme: with another one it would lead nowhere.
    let host = match (&redirect.host, &redirect.scheme) {
        (None, Some(_)) => without_port(host),
        _ => host,
    };
    let mut location = [scheme.as_bytes(), b"://", host].concat();
    match &redirect.path {
        None => location.extend_from_slice(head.path.as_str().as_bytes()),
        Some(path) => {
            location.extend_from_slice(path.as_bytes());
            if let Some(query) = head.path.query() {
                location.push(b'?');
                location.extend_from_slice(query.as_bytes());
            }
        }
    }
    moved(redirect.status, &location)
}

fn moved(status: StatusCode, location: &[u8]) -> Result<Answer, ProxyError> {
    let location = HeaderValue::from_bytes(location).map_err(|_| ProxyError::Refused(Refusal::Host))?;
    let mut headers = Fields::new();
    headers.insert(header::LOCATION, location);
    let body = Body::Full(bytes::Bytes::new());
    Ok(Answer { version: Version::HTTP_11, status, headers, body, record: None })
}

fn responded(respond: &config::Respond) -> Answer {
    let mut answer = own(respond.status, respond.content_type.clone(), respond.body.clone());
    if matches!(respond.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        answer.body = Body::Empty;
    }
    answer
}

/// An answer that comes from no target.
fn own(status: StatusCode, content_type: HeaderValue, body: bytes::Bytes) -> Answer {
    let mut headers = Fields::new();
    headers.insert(header::CONTENT_TYPE, content_type);
    Answer { version: Version::HTTP_11, status, headers, body: Body::Full(body), record: None }
}
