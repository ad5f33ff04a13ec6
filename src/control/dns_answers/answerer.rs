//! From the bytes of a message to the bytes of its answer: the one order in which everything else here is asked.

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};

use super::counters::{Counters, Transport};
use super::limiter::{Limiter, Ruling};
use super::query::{Query, receive};
use super::reply;
use super::view::View;
use crate::config::Dns;

/// All that the answering thread knows.
pub(super) struct Answerer {
    pub(super) counters: Arc<Counters>,
    view: RefCell<Cache<Arc<ArcSwap<View>>, Arc<View>>>,
    limits: RefCell<Limits>,
    dice: Dice,
    started: Instant,
}

/// The rate limit, and the configuration it is of.
struct Limits {
    config: Arc<Dns>,
    limiter: Option<Limiter>,
}

impl Answerer {
    pub(super) fn new(view: Arc<ArcSwap<View>>, counters: Arc<Counters>) -> Self {
        let limits = RefCell::new(Limits::of(&view.load().config));
        let view = RefCell::new(Cache::new(view));
        Self { counters, view, limits, dice: Dice::default(), started: Instant::now() }
    }

    /// What is answered now.
    pub(super) fn view(&self) -> Arc<View> {
        self.view.borrow_mut().load().clone()
    }

    /// Appends the answer to `message` to `out`; `false` when there is none to be sent.
    pub(super) fn answer(&self, message: &[u8], source: IpAddr, by: Transport, out: &mut Vec<u8>) -> bool {
        self.counters.received[by as usize].bump();
        let Some(query) = receive(message) else {
            self.counters.noise.bump();
            return false;
        };
        let view = self.view();
        let ruling = match by {
            Transport::Udp => self.limits.borrow_mut().rule(&view.config, source, self.started.elapsed()),
            Transport::Tcp => Ruling::Send,
        };
        match ruling {
            Ruling::Send => self.reply(&view, &query, source, by, out),
            Ruling::Truncate => {
                self.counters.limited[0].bump();
                reply::write_truncated(&query, &view.domain, out);
            }
            Ruling::Drop => self.counters.limited[1].bump(),
        }
        ruling != Ruling::Drop
    }

    fn reply(&self, view: &View, query: &Query<'_>, source: IpAddr, by: Transport, out: &mut Vec<u8>) {
        let reply = view.domain.reply(&view.names, query, source, |below| self.dice.below(below));
        let limit = match by {
            Transport::Udp => reply::udp_limit(query),
            Transport::Tcp => reply::TCP_MAX,
        };
        if reply::write(&reply, query, &view.domain, limit, out) {
            self.counters.truncated.bump();
        }
        self.counters.answered(reply.rcode);
    }
}

impl Limits {
    fn of(config: &Arc<Dns>) -> Self {
        Self { config: config.clone(), limiter: config.rate_limit.as_ref().map(Limiter::new) }
    }

    /// Decides about an answer, with a fresh table when the configuration has changed.
    fn rule(&mut self, config: &Arc<Dns>, source: IpAddr, now: Duration) -> Ruling {
        if !Arc::ptr_eq(&self.config, config) {
            *self = Self::of(config);
        }
        self.limiter.as_mut().map_or(Ruling::Send, |limiter| limiter.rule(source, now))
    }
}

/// Random numbers: a keyed hash of a count. Good for shares and orders, not for secrets.
#[derive(Default)]
struct Dice {
    key: foldhash::quality::RandomState,
    throws: Cell<u64>,
}

impl Dice {
    /// A number below `below`, which is above 0; each with the same probability, as good as (`below` is small).
    fn below(&self, below: usize) -> usize {
        self.throws.set(self.throws.get().wrapping_add(1));
        let random = self.key.hash_one(self.throws.get());
        ((u128::from(random) * below as u128) >> 64) as usize
    }
}
