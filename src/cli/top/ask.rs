//! The question before a change: what it would do, by the dry run, and whether it is meant. Pure.

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::super::admin_client::segment;
use super::super::outlook::{TargetOutlook, ZoneOutlook};
use super::node::Asked;

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Drain,
    Up,
    Down,
    Shift,
    Restore,
}

/// To whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    Target { pool: String, target: String },
    Zone(String),
}

/// What the dry run has said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outlook {
    Awaited,
    Known { enough: bool, words: String },
    Refused(String),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Question {
    verb: Verb,
    subject: Subject,
    /// How long, as typed; not of every verb.
    pub(super) lasts: String,
    pub(super) number: u64,
    pub(super) outlook: Outlook,
    /// Do it although too little is left.
    pub(super) force: bool,
    /// It is being done.
    pub(super) is_sent: bool,
}

impl Question {
    pub(super) fn new(verb: Verb, subject: Subject, number: u64) -> Self {
        let lasts = if verb == Verb::Shift { "1h" } else { "" }.to_owned();
        Self { verb, subject, lasts, number, outlook: Outlook::Awaited, force: false, is_sent: false }
    }

    /// What is asked.
    pub(super) fn title(&self) -> String {
        match (&self.subject, self.verb) {
            (Subject::Zone(zone), Verb::Restore) => format!("Restore zone {zone}?"),
            (Subject::Zone(zone), _) => format!("Shift zone {zone}?"),
            (Subject::Target { pool, target }, Verb::Drain) => format!("Drain {target} of {pool}?"),
            (Subject::Target { pool, target }, Verb::Up) => format!("Bring up {target} of {pool}?"),
            (Subject::Target { pool, target }, _) => format!("Take down {target} of {pool}?"),
        }
    }

    /// What was done, once it is.
    pub(super) fn done(&self) -> String {
        match (&self.subject, self.verb) {
            (Subject::Zone(zone), Verb::Restore) => format!("zone {zone} is restored"),
            (Subject::Zone(zone), _) => format!("zone {zone} is shifted for {}", self.lasts),
            (Subject::Target { target, .. }, Verb::Drain) => format!("{target} drains"),
            (Subject::Target { target, .. }, Verb::Up) => format!("{target} is up"),
            (Subject::Target { target, .. }, _) => format!("{target} is down"),
        }
    }

    /// What it means, in a sentence.
    pub(super) fn meaning(&self) -> &'static str {
        match self.verb {
            Verb::Drain => "It gets no new session, and keeps those bound to it until the time is over.",
            Verb::Up => "It gets its share of new sessions again, if its checks pass.",
            Verb::Down => "It gets nothing more, at once: the sessions bound to it move.",
            Verb::Shift => "No new session goes there, in any pool, and its sessions move.",
            Verb::Restore => "It gets its share of new sessions again; who moved stays.",
        }
    }

    /// Of what the typed time is, if one can be typed.
    pub(super) fn asks_for(&self) -> Option<&'static str> {
        match self.verb {
            Verb::Shift => Some("For (1m to 72h)"),
            Verb::Drain => Some("For (empty: the pool's own deadline)"),
            _ => None,
        }
    }

    /// Whether it has to be forced.
    pub(super) fn is_short(&self) -> bool {
        let concerns = matches!(self.verb, Verb::Drain | Verb::Down | Verb::Shift);
        concerns && matches!(self.outlook, Outlook::Known { enough: false, .. })
    }

    /// Whether it may be done.
    pub(super) fn may(&self) -> bool {
        !self.is_sent && matches!(self.outlook, Outlook::Known { .. }) && (self.force || !self.is_short())
    }

    /// The request that does it, or that of its dry run.
    pub(super) fn request(&self, dry: bool) -> Asked {
        let lasts = (!self.lasts.is_empty()).then_some(self.lasts.as_str());
        let (method, path, body) = match (&self.subject, self.verb) {
            (Subject::Zone(zone), Verb::Restore) => {
                let query = if dry { "?dry_run=true" } else { "" };
                (Method::DELETE, format!("/v1/zones/{}/shift{query}", segment(zone)), json!({}))
            }
            (Subject::Zone(zone), _) => {
                let body = json!({ "for": self.lasts, "force": self.force, "dry_run": dry });
                (Method::PUT, format!("/v1/zones/{}/shift", segment(zone)), body)
            }
            (Subject::Target { pool, target }, verb) => {
                let state = match verb {
                    Verb::Drain => "drain",
                    Verb::Up => "up",
                    _ => "down",
                };
                let body = json!({ "state": state, "deadline": lasts, "dry_run": dry });
                (Method::PUT, format!("/v1/pools/{}/targets/{}/state", segment(pool), segment(target)), body)
            }
        };
        Asked { number: self.number, method, path, body, dry }
    }

    /// Takes the answer to the dry run.
    pub(super) fn hear(&mut self, answer: Result<Bytes, String>) {
        let known = answer.and_then(|body| match self.subject {
            Subject::Zone(_) => of::<ZoneOutlook>(&body).map(|figures| (figures.enough, figures.words())),
            Subject::Target { .. } => {
                of::<TargetOutlook>(&body).map(|figures| (figures.enough, figures.words()))
            }
        });
        self.outlook = match known {
            Ok((enough, words)) => Outlook::Known { enough, words },
            Err(why) => Outlook::Refused(why),
        };
    }
}

/// The figures in an answer.
fn of<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, String> {
    #[derive(Deserialize)]
    struct Planned<T> {
        figures: T,
    }
    let planned = serde_json::from_slice::<Planned<T>>(body);
    planned.map(|planned| planned.figures).map_err(|error| format!("the answer is not understood: {error}"))
}
