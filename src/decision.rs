//! What was decided about a request, and why: in words, for whoever asks.
//!
//! `proxy` fills a [`Trace`] in while it decides; for a [`Query`] it decides without sending anything. `control` hands that on,
//! `cli` prints it. Nothing is decided here. The same in codes, for every line of the access log, is a
//! [`Decision`](crate::pool::Decision).

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A request that somebody asks about.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// Value of `Host`.
    pub host: String,
    /// Path, and query if there is one. Default `/`.
    #[serde(default = "root")]
    pub path: String,
    /// Default `GET`.
    #[serde(default = "get")]
    pub method: String,
    /// Further fields, each a name and a value.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The session cookie's value, or a whole `Cookie` field.
    #[serde(default)]
    pub cookie: Option<String>,
    /// The client's address. Default 127.0.0.1.
    #[serde(default)]
    pub source: Option<IpAddr>,
    /// The listener that it comes to. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
}

fn root() -> String {
    "/".to_owned()
}

fn get() -> String {
    "GET".to_owned()
}

/// A query that is no request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {what}")]
pub struct Wrong {
    /// What of it.
    pub field: &'static str,
    /// What is wrong, and what to write.
    pub what: String,
}

/// The decision about one request, step by step.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Trace {
    /// What the listener does by itself, before any route is asked.
    pub listener: Option<String>,
    /// The route that matches, by its host and path; `None` if none does.
    pub route: Option<String>,
    /// What the route does; empty if none was asked.
    pub action: String,
    /// Name of the pool.
    pub pool: Option<String>,
    /// What the session's cookie says.
    pub session: Option<SessionStep>,
    /// Picks, in their order.
    pub rounds: Vec<Round>,
    /// How it ends.
    pub end: Option<String>,
}

/// Reading the session's cookie.
#[derive(Debug, Clone, Serialize)]
pub struct SessionStep {
    /// The verdict, as a code.
    pub verdict: &'static str,
    /// What that means.
    pub words: String,
    /// What is in the cookie, if it can be opened.
    pub cookie: Option<CookieStep>,
}

/// An opened session cookie. Times are RFC 3339.
#[derive(Debug, Clone, Serialize)]
pub struct CookieStep {
    /// The pool that it was sealed for.
    pub pool: String,
    /// Where its requests go; `None` if that is no target of the pool any more.
    pub target: Option<String>,
    /// Where its first ones went.
    pub home: Option<String>,
    /// The session's number, in hexadecimal.
    pub session: String,
    /// When it began.
    pub born: String,
    /// When it was last told to the client.
    pub last_seen: String,
    /// When it ends unless it is used.
    pub idle_expiry: String,
    /// When it ends in any case.
    pub absolute_expiry: Option<String>,
}

/// One pick, and what came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Round {
    /// What the decision is called in the access log.
    pub code: String,
    /// What zones have to do with it.
    pub zones: String,
    /// Those that could have it.
    pub candidates: Vec<Candidate>,
    /// The others, and why.
    pub left_out: Vec<LeftOut>,
    /// Who has it; of a query that leaves a choice, who would have it at this moment.
    pub pick: Option<String>,
    /// Whether there was no choice.
    pub certain: bool,
    /// Why that one.
    pub why: String,
    /// What came of the attempt.
    pub attempt: Option<String>,
}

/// A target that could have the request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// `zone/address`.
    pub target: String,
    /// Its share of those who have a choice, in percent.
    pub percent: f64,
}

/// A target that could not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// `zone/address`.
    pub target: String,
    /// Why not, in words.
    pub why: String,
}

/// Targets that are named in a line; more are counted.
const NAMED: usize = 12;

impl Trace {
    /// The steps as sentences, in their order.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        lines.extend(self.listener.iter().map(|listener| format!("listener: {listener}")));
        lines.extend(match &self.route {
            Some(route) => Some(format!("route: {route}, {}", self.action)),
            None if self.action.is_empty() => None,
            None => Some(format!("route: {}", self.action)),
        });
        lines.extend(self.session.iter().map(|session| format!("session: {}", session.words)));
        lines.extend(self.session.iter().filter_map(|session| session.cookie.as_ref()).map(CookieStep::line));
        for (number, round) in (1..).zip(&self.rounds) {
            lines.push(format!("zone: {}", round.zones));
            if !round.candidates.is_empty() {
                let share = |one: &Candidate| format!("{} ({:.0} %)", one.target, one.percent);
                lines.push(format!("candidates: {}", listed(&round.candidates, share)));
            }
            if !round.left_out.is_empty() {
                let reason = |one: &LeftOut| format!("{} ({})", one.target, one.why);
                lines.push(format!("left out: {}", listed(&round.left_out, reason)));
            }
            let pick = round.pick.as_deref().unwrap_or("nobody");
            lines.push(format!("pick: {pick}, {} [{}]", round.why, round.code));
            lines.extend(round.attempt.iter().map(|attempt| format!("attempt {number}: {attempt}")));
        }
        lines.extend(self.end.iter().map(|end| format!("end: {end}")));
        lines
    }

    /// The same in one line of printable ASCII, cut at `max` bytes.
    pub fn in_one_line(&self, max: usize) -> String {
        let mut line: String = self
            .lines()
            .join("; ")
            .chars()
            .map(|char| if (' '..='~').contains(&char) { char } else { '?' })
            .collect();
        if line.len() > max {
            line.truncate(max - 4);
            line.push_str(" ...");
        }
        line
    }
}

impl CookieStep {
    fn line(&self) -> String {
        let gone = || "a target that is gone".to_owned();
        let mut line = format!(
            "cookie: session {} of pool {}, bound to {}",
            self.session,
            self.pool,
            self.target.clone().unwrap_or_else(gone)
        );
        if self.home != self.target {
            line += &format!(", at first to {}", self.home.clone().unwrap_or_else(gone));
        }
        line += &format!(", born {}, last seen {}, expires {}", self.born, self.last_seen, self.idle_expiry);
        match &self.absolute_expiry {
            Some(end) => line + " unless it is used, and " + end + " in any case",
            None => line + " unless it is used",
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines().iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn listed<T>(all: &[T], name: impl Fn(&T) -> String) -> String {
    let mut named: Vec<_> = all.iter().take(NAMED).map(name).collect();
    if all.len() > NAMED {
        named.push(format!("and {} more", all.len() - NAMED));
    }
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_printable_and_bounded_whatever_is_in_it() {
        let trace = Trace {
            route: Some("caf\u{e9}.test/\r\nx: y".to_owned()),
            rounds: vec![Round {
                left_out: (0..1000)
                    .map(|number| LeftOut { target: format!("-/{number}"), why: "down".to_owned() })
                    .collect(),
                ..Round::default()
            }],
            ..Trace::default()
        };
        let line = trace.in_one_line(4096);
        assert!(line.starts_with("route: caf?.test/??x: y,"), "{line}");
        assert!(line.contains("-/11 (down), and 988 more; pick: nobody"), "{line}");
        assert!(trace.in_one_line(64).len() <= 64 && line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
}
