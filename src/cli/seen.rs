//! What commands read of the admin API: the part of `/v1/pools` and `/v1/events` that is shown.
//!
//! There is more in the answers, and may be more still in later versions; what an older node does not say is empty.

use serde::Deserialize;

use super::colours::Mood;

/// `GET /v1/pools`, and one event of `GET /v1/events`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Picture {
    pub(super) node: Option<Node>,
    pub(super) pools: Vec<Pool>,
    pub(super) dns: Option<Dns>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Node {
    pub(super) zone: Option<String>,
    #[serde(default)]
    pub(super) phase: String,
    pub(super) not_ready: Option<String>,
    #[serde(default)]
    pub(super) uptime_seconds: f64,
    #[serde(default)]
    pub(super) connections_open: u64,
    pub(super) config: Option<Config>,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) state: Option<StateFile>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    pub(super) generation: u64,
    pub(super) restart_needed: Vec<String>,
    pub(super) reloading: Option<Reloading>,
    pub(super) last_reload: Option<Reload>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Reloading {
    pub(super) since: String,
    pub(super) trigger: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Reload {
    pub(super) at: String,
    pub(super) problems: Vec<String>,
}

/// Upgrades: one under way, the last that came to nothing, and what is left of the process before.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Upgrade {
    pub(super) under_way: Option<Upgrading>,
    pub(super) last_refused: Option<Reload>,
    pub(super) predecessor: Option<Predecessor>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Upgrading {
    pub(super) since: String,
    pub(super) trigger: String,
    pub(super) stage: String,
}

/// The process whose place this one took.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Predecessor {
    pub(super) pid: u32,
    pub(super) version: String,
    pub(super) connections: u64,
    pub(super) tunnels: u64,
    pub(super) drains: bool,
    pub(super) left_seconds: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct StateFile {
    pub(super) problem: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) balance: String,
    pub(super) panic: bool,
    pub(super) waiting: u64,
    #[serde(default)]
    pub(super) live: u64,
    #[serde(default)]
    pub(super) requests: u64,
    #[serde(default)]
    pub(super) responses: Responses,
    #[serde(default)]
    pub(super) duration_ms: Times,
    #[serde(default)]
    pub(super) zones: Vec<Zone>,
    pub(super) targets: Vec<Target>,
    #[serde(default)]
    pub(super) discovery: Vec<Name>,
    #[serde(default)]
    pub(super) decisions: Vec<Decision>,
}

/// Answers to clients.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Responses {
    #[serde(rename = "5xx", default)]
    pub(super) server_errors: u64,
}

/// Of the last minute, in milliseconds.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Times {
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Zone {
    pub(super) name: String,
    #[serde(default)]
    pub(super) requests: u64,
    pub(super) share: f64,
    pub(super) state: String,
    pub(super) until: Option<String>,
    pub(super) left_seconds: Option<f64>,
    pub(super) reason: Option<String>,
    pub(super) evacuated: Option<f64>,
    #[serde(default)]
    pub(super) sessions: u64,
    #[serde(default)]
    pub(super) in_flight: u64,
    #[serde(default)]
    pub(super) first_byte_ms: Times,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) zone: String,
    pub(super) address: String,
    pub(super) weight: u32,
    pub(super) status: String,
    pub(super) in_flight: u64,
    pub(super) takes_new: bool,
    pub(super) keeps_bound: bool,
    /// The status in words.
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) attempts: u64,
    #[serde(default)]
    pub(super) sessions: u64,
    #[serde(default)]
    pub(super) safe_to_remove: bool,
    pub(super) drain: Option<Drain>,
    #[serde(default)]
    pub(super) ejections: u64,
    #[serde(default)]
    pub(super) first_byte_ms: Times,
}

/// It leaves on purpose.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Drain {}

/// A name in DNS where targets are found.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Name {
    pub(super) question: String,
    pub(super) targets: Vec<String>,
    pub(super) answer: Option<Answer>,
    pub(super) error: Option<Lack>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Answer {
    pub(super) ttl_seconds: f64,
    pub(super) age_seconds: f64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Lack {
    pub(super) at: String,
    pub(super) what: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Decision {
    pub(super) at: String,
    pub(super) subject: String,
    pub(super) what: String,
    pub(super) reason: String,
}

/// What the node answers over DNS.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Dns {
    pub(super) domain: String,
    /// No node is good, so all of them are answered.
    #[serde(default)]
    pub(super) all_bad: bool,
    pub(super) names: Vec<DnsName>,
    pub(super) nodes: Vec<DnsNode>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct DnsName {
    pub(super) name: String,
    pub(super) policy: String,
    pub(super) answers: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct DnsNode {
    pub(super) zone: String,
    pub(super) ipv4: Option<String>,
    pub(super) ipv6: Option<String>,
    pub(super) good: bool,
    pub(super) reason: String,
}

impl DnsName {
    /// What it is answered with.
    pub(super) fn says(&self) -> String {
        if self.answers.is_empty() { "no address".to_owned() } else { self.answers.join(", ") }
    }
}

impl DnsNode {
    /// Its zone and its addresses.
    pub(super) fn place(&self) -> String {
        let addresses: Vec<&str> = self.ipv4.iter().chain(&self.ipv6).map(String::as_str).collect();
        format!("{} {}", self.zone, addresses.join(" "))
    }

    /// Whether clients are sent there, in words.
    pub(super) fn state(&self) -> (&'static str, Mood) {
        if self.good { ("answered", Mood::Good) } else { ("left out", Mood::Bad) }
    }
}

impl Upgrading {
    /// How far it is.
    pub(super) fn says(&self) -> &str {
        match self.stage.as_str() {
            "starting" => "the new process starts",
            "taking_over" => "the new process is ready and takes over",
            other => other,
        }
    }
}

impl Upgrade {
    /// What the process before still does, and for how long; nothing once it has ended.
    pub(super) fn leftovers(&self) -> Option<String> {
        let Predecessor { pid, version, connections, tunnels, left_seconds, .. } =
            self.predecessor.as_ref().filter(|predecessor| predecessor.drains)?;
        let mut text = format!(
            "process {pid} (version {version}), which served before, drains: {}",
            many(*connections, "connection")
        );
        if *tunnels > 0 {
            text += &format!(", {} among them", many(*tunnels, "tunnel"));
        }
        text += match connections {
            1 => " is left",
            _ => " are left",
        };
        if let Some(left) = left_seconds {
            text += &format!(", for {} at most", span(*left));
        }
        Some(text)
    }
}

impl Zone {
    /// Why it is not as it should be, and how far that has gone; nothing when it is.
    pub(super) fn trouble(&self) -> String {
        if self.state == "ok" {
            return String::new();
        }
        let mut text = self.state.clone();
        if let Some(until) = &self.until {
            text += &format!(" until {until}");
        }
        if let Some(left) = self.left_seconds {
            text += &format!(" ({} left)", span(left));
        }
        if let Some(moved) = self.evacuated.filter(|moved| *moved < 100.0) {
            text += &format!(", {moved:.0} % of its sessions moved");
        }
        match &self.reason {
            Some(reason) => text + ": " + reason,
            None => text,
        }
    }
}

impl Target {
    /// Its status in words, and how far a drain has gone.
    pub(super) fn why(&self) -> String {
        let mut parts = vec![self.reason.clone()];
        if self.safe_to_remove {
            parts.insert(0, "safe to remove".to_owned());
        } else if self.drain.is_some() {
            parts.push(many(self.sessions, "session") + " still bound");
        }
        match self.ejections {
            0 => {}
            1 => parts.push("ejected once".to_owned()),
            n => parts.push(format!("ejected {n} times")),
        }
        parts.retain(|part| !part.is_empty());
        parts.join("; ")
    }
}

impl Name {
    /// What it stands for, how old that is, and what is wrong.
    pub(super) fn says(&self) -> String {
        let mut text = match &self.answer {
            Some(Answer { ttl_seconds, age_seconds }) => {
                let (age, ttl) = (span(*age_seconds), span(*ttl_seconds));
                format!("{}, answered {age} ago for {ttl}", many(self.targets.len() as u64, "target"))
            }
            None => many(self.targets.len() as u64, "target"),
        };
        if let Some(Lack { at, what }) = &self.error {
            text += &format!("; {what} (at {at})");
        }
        text
    }
}

/// A number with its noun.
pub(super) fn many(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// A time that passes, in one or two units.
pub(super) fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=3599 => format!("{} min", seconds / 60),
        3600..=86_399 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
