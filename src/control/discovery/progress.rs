//! What people are shown of a name: its last answer, when it is asked again, what went wrong. Kept, not decided, here.

use std::cell::{Ref, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use super::knowledge::{Decision, Outcome};
use super::resolver::{FailureKind, Lack};

/// Results of a lookup, as the metrics name them.
pub const RESULTS: [&str; 7] = ["found", "empty", "nxdomain", "servfail", "refused", "timeout", "error"];

/// One name of a pool, as it is shown.
pub struct Progress {
    /// What is asked: see [`crate::config::Discover::question`].
    pub question: Arc<str>,
    shown: RefCell<Shown>,
}

/// What there is to show.
#[derive(Debug, Default, Clone)]
pub struct Shown {
    /// Lookups that have ended, by result.
    pub lookups: [u64; RESULTS.len()],
    /// The last good answer; `None` before the first.
    pub good: Option<Good>,
    /// When the next lookup begins; past while one is under way.
    pub next: Option<Instant>,
    /// What the last lookup lacked, and when; `None` after a good answer.
    pub lack: Option<(SystemTime, Lack)>,
    /// Since when there is said to be nothing, while that is not believed.
    pub doubted_since: Option<Instant>,
}

/// A good answer.
#[derive(Debug, Clone, Copy)]
pub struct Good {
    /// When it came.
    pub at: Instant,
    /// Targets in it.
    pub targets: usize,
    /// How long it may be kept, as its records say.
    pub ttl: Duration,
}

impl Progress {
    /// A name that nobody has asked for yet.
    pub fn new(question: Arc<str>) -> Self {
        Self { question, shown: RefCell::default() }
    }

    /// What there is to show. Not to be held across an await.
    pub fn shown(&self) -> Ref<'_, Shown> {
        self.shown.borrow()
    }

    /// Whether a lookup has ended, well or not.
    pub fn is_tried(&self) -> bool {
        self.shown.borrow().lookups.iter().any(|count| *count > 0)
    }

    /// Takes what a lookup of this name in `pool` brought.
    pub(super) fn note(&self, pool: &str, outcome: &Outcome) {
        let mut shown = self.shown.borrow_mut();
        shown.lookups[index(outcome)] += 1;
        let name = &*self.question;
        match outcome {
            Ok((list, ttl)) => {
                shown.good = Some(Good { at: Instant::now(), targets: list.len(), ttl: *ttl });
                if shown.lack.take().is_some() {
                    info!(pool, name, targets = list.len(), ?ttl, "a name is answered again");
                }
            }
            Err(lack) => {
                if shown.lack.as_ref().is_none_or(|(_, before)| index_of(before) != index_of(lack)) {
                    warn!(pool, name, reason = %lack, "a name in DNS brings no targets; known ones are kept");
                }
                shown.lack = Some((SystemTime::now(), lack.clone()));
            }
        }
    }

    /// Takes what was decided at `now`.
    pub(super) fn plan(&self, pool: &str, decision: &Decision, doubted_since: Option<Instant>, now: Instant) {
        let mut shown = self.shown.borrow_mut();
        let believed = shown.doubted_since.is_some() && doubted_since.is_none() && shown.lack.is_some();
        if believed && decision.list.is_some() {
            warn!(
                pool,
                name = &*self.question,
                "a name in DNS has had no targets for long enough to believe it"
            );
        }
        shown.doubted_since = doubted_since;
        shown.next = Some(now + decision.wait);
    }
}

/// Where in [`RESULTS`] this result stands.
fn index(outcome: &Outcome) -> usize {
    outcome.as_ref().map_or_else(index_of, |_| 0)
}

fn index_of(lack: &Lack) -> usize {
    match lack {
        Lack::Empty => 1,
        Lack::NoName => 2,
        Lack::Failed(failure) => match failure.kind {
            FailureKind::ServFail => 3,
            FailureKind::Refused => 4,
            FailureKind::Timeout => 5,
            FailureKind::Error => 6,
        },
    }
}
