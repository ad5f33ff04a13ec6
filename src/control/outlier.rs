//! Which targets are ejected for how they answer, and for how long. Pure: what is known of a pool's targets goes in, decisions
//! come out.
//!
//! Not obvious: what becomes of the bound sessions depends on the cause. A target that cannot be reached may be back in a
//! moment with all its carts: its sessions try it first and stay bound, and a passed check ends the ejection. One that hangs
//! keeps its bonds but is spared the requests. One that answers with errors loses its sessions. One that is slow serves them.
//! Never are more out than `max_ejected` allows, and never the last one.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::inheritance::{ahead, millis};
use super::window::Tally;
use crate::config::{Outlier, ZoneName};
use crate::pool::Stay;

/// After an ejection a target is on trial for this long.
pub const TRIAL: Duration = Duration::from_secs(10);

/// Failures in a row that eject a target on trial.
const TRIAL_LIMIT: u32 = 2;

/// Part of its share that a target on trial gets.
pub const TRIAL_SHARE: f64 = 0.1;

/// Requests without any answer, and for how long, that make a silent target suspicious.
const SILENT_REQUESTS: u32 = 3;
const SILENT_SECONDS: f64 = 3.0;

/// A target is not called slow for less than this.
const SLOWER_MS: f64 = 100.0;

/// What one target has done.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Where it stands.
    pub zone: ZoneName,
    /// It takes new sessions, as far as everything but its conduct is concerned.
    pub in_service: bool,
    /// It is ejected already.
    pub ejected: bool,
    /// Failures in a row.
    pub failures: u32,
    /// Of these, the last ones without any connection or with one that broke.
    pub unreachable: u32,
    /// The last of these was refused.
    pub refused: bool,
    /// It was ejected more than once lately, and has hardly answered a request well since it came back.
    pub repeated: bool,
    /// Failures in a row that eject it.
    pub limit: u32,
    /// Deadlines that passed while it answered nothing at all.
    pub silences: u32,
    /// Requests sent since it last answered.
    pub unanswered: u32,
    /// Since when it has not answered.
    pub silent_for: Duration,
    /// Its last seconds.
    pub recent: Tally,
}

/// A target is to be ejected.
#[derive(Debug, Clone, PartialEq)]
pub struct Sentence {
    /// Which, by its place in the evidence.
    pub index: usize,
    /// What becomes of its sessions.
    pub stay: Stay,
    /// A passed check ends it early.
    pub until_checked: bool,
    /// In words, with the numbers.
    pub reason: String,
}

/// Looks at all targets of a pool together.
pub fn judge(rules: &Outlier, targets: &[Evidence]) -> Vec<Sentence> {
    if !rules.enabled {
        return Vec::new();
    }
    // When most are unreachable nobody stands out, and there is nowhere else to go.
    let unreachable = |target: &&Evidence| target.limit < u32::MAX && target.unreachable >= target.limit;
    let most_unreachable = targets.iter().filter(unreachable).count() * 2 > targets.len();
    let total = targets.iter().fold(Tally::default(), |sum, target| sum.plus(target.recent));
    let mut sentences: Vec<Sentence> = Vec::new();
    let on_trial = |target: &Evidence| target.in_service && !target.ejected;
    for (index, target) in targets.iter().enumerate().filter(|(_, target)| on_trial(target)) {
        let sentence = offence(rules, index, target, total.minus(target.recent));
        sentences.extend(sentence.filter(|sentence| !(sentence.until_checked && most_unreachable)));
    }
    accomplices(targets, &mut sentences);
    // The worst first, in case not all can be ejected.
    sentences.sort_by_key(|sentence| (sentence.stay != Stay::Moves, sentence.stay == Stay::Here));
    let out = targets.iter().filter(|target| target.ejected).count();
    let well = targets.iter().filter(|target| on_trial(target)).count();
    let most = ((targets.len() as f64 * rules.max_ejected) as usize).max(1);
    sentences.truncate(most.saturating_sub(out).min(well.saturating_sub(1)));
    sentences
}

fn offence(rules: &Outlier, index: usize, target: &Evidence, others: Tally) -> Option<Sentence> {
    let sentence = |stay, until_checked, reason| Some(Sentence { index, stay, until_checked, reason });
    if target.silences > 0 {
        let reason = format!("{} requests waited in vain while it answered nothing", target.silences);
        // One alone may be a slow page that nobody else asked for meanwhile.
        let stay = if target.silences > 1 { Stay::Moves } else { Stay::Elsewhere };
        return sentence(stay, false, reason);
    }
    if target.failures >= target.limit {
        let reason = format!("{} failures in a row", target.failures);
        return match target.unreachable >= target.failures {
            true if target.refused => {
                sentence(Stay::Here, true, format!("{reason}, connections are refused"))
            }
            // Once may be a restart; again and again, before it was of any use, is a target that breaks on requests.
            true if !target.repeated => {
                sentence(Stay::Elsewhere, true, format!("{reason}, connections break"))
            }
            _ => sentence(Stay::Moves, false, reason),
        };
    }
    // Its sessions go on trying: it may only be starved for a while, and then they are where they were.
    let patience = Duration::from_secs_f64((others.mean_ms() / 100.0).max(SILENT_SECONDS));
    if target.unanswered >= SILENT_REQUESTS && target.silent_for >= patience && others.answers > 0 {
        let reason =
            format!("{} requests without an answer for {:.1?}", target.unanswered, target.silent_for);
        return sentence(Stay::Here, false, reason);
    }
    if target.recent.requests < u64::from(rules.min_requests)
        || others.requests < u64::from(rules.min_requests)
    {
        return None;
    }
    let (own, theirs) = (target.recent.failure_share(), others.failure_share());
    if own >= rules.failures && theirs < rules.failures / 2.0 {
        let reason =
            format!("{:.0} % of its requests failed, {:.0} % of the others'", own * 100.0, theirs * 100.0);
        return sentence(Stay::Moves, false, reason);
    }
    let (own, theirs) = (target.recent.mean_ms(), others.mean_ms());
    if rules.latency.is_some_and(|factor| own >= theirs * factor) && own >= theirs + SLOWER_MS {
        let reason = format!("{own:.0} ms to the first byte, the others {theirs:.0} ms");
        return sentence(Stay::Here, false, reason);
    }
    None
}

/// When a target is ejected for its answers, others of its zone that are half way there need no further failures, as long
/// as another zone has none of them.
fn accomplices(targets: &[Evidence], sentences: &mut Vec<Sentence>) {
    let convicted =
        |sentences: &[Sentence], index: usize| sentences.iter().any(|sentence| sentence.index == index);
    let zones: Vec<ZoneName> = sentences
        .iter()
        .filter(|sentence| sentence.stay == Stay::Moves)
        .map(|sentence| targets[sentence.index].zone.clone())
        .collect();
    let suspicious = |target: &Evidence| {
        target.limit < u32::MAX && target.failures * 2 >= target.limit && target.unreachable < target.failures
    };
    for zone in zones {
        let elsewhere_well = targets
            .iter()
            .any(|target| target.zone != zone && target.in_service && !target.ejected && !suspicious(target));
        for (index, target) in targets.iter().enumerate() {
            let joins = target.zone == zone && target.in_service && !target.ejected && suspicious(target);
            if elsewhere_well && joins && !convicted(sentences, index) {
                let reason = format!("{} failures in a row, like another target of {zone}", target.failures);
                sentences.push(Sentence { index, stay: Stay::Moves, until_checked: false, reason });
            }
        }
    }
}

/// What a target has been ejected for so far.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Ejections that still count.
    times: u32,
    /// All of them.
    ever: u64,
    /// The present one.
    pub ejected: Option<Ejection>,
    /// On trial until then.
    pub trial_until: Option<Instant>,
    /// If nothing happens until then, the record is clean.
    clean_at: Option<Instant>,
}

/// A target is out.
#[derive(Debug, Clone, PartialEq)]
pub struct Ejection {
    /// Until when.
    pub until: Instant,
    /// What becomes of its sessions.
    pub stay: Stay,
    /// A passed check ends it early.
    pub until_checked: bool,
    /// In words, with the numbers.
    pub reason: String,
}

/// A [`Record`] as it is left to another process.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Left {
    times: u32,
    ever: u64,
    ejected: Option<LeftEjection>,
    trial_ms: Option<u64>,
    clean_ms: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeftEjection {
    until_ms: u64,
    /// `here`, `elsewhere` or `moves`.
    stay: String,
    until_checked: bool,
    reason: String,
}

impl Record {
    /// What it is at `now`, for another process.
    pub fn leave(&self, now: Instant) -> Left {
        let ahead = |at: Instant| millis(at.saturating_duration_since(now));
        let ejected = self.ejected.as_ref().map(|ejection| LeftEjection {
            until_ms: ahead(ejection.until),
            stay: match ejection.stay {
                Stay::Here => "here",
                Stay::Elsewhere => "elsewhere",
                Stay::Moves => "moves",
            }
            .to_owned(),
            until_checked: ejection.until_checked,
            reason: ejection.reason.clone(),
        });
        let (trial_ms, clean_ms) = (self.trial_until.map(ahead), self.clean_at.map(ahead));
        Left { times: self.times, ever: self.ever, ejected, trial_ms, clean_ms }
    }

    /// What another process has left.
    pub fn inherit(left: &Left, now: Instant) -> Self {
        let ejected = left.ejected.as_ref().map(|ejection| Ejection {
            until: ahead(now, ejection.until_ms),
            stay: match ejection.stay.as_str() {
                "here" => Stay::Here,
                "elsewhere" => Stay::Elsewhere,
                _ => Stay::Moves,
            },
            until_checked: ejection.until_checked,
            reason: ejection.reason.clone(),
        });
        Self {
            times: left.times,
            ever: left.ever,
            ejected,
            trial_until: left.trial_ms.map(|ms| ahead(now, ms)),
            clean_at: left.clean_ms.map(|ms| ahead(now, ms)),
        }
    }

    /// Ejects.
    pub fn eject(&mut self, rules: &Outlier, now: Instant, sentence: Sentence) -> &Ejection {
        self.times = self.times.saturating_add(1);
        self.ever += 1;
        let lasts = rules.ejection.saturating_mul(self.times).min(rules.max_ejection);
        self.trial_until = None;
        self.clean_at = Some(now + lasts * 2 + TRIAL);
        let Sentence { stay, until_checked, reason, .. } = sentence;
        self.ejected.insert(Ejection { until: now + lasts, stay, until_checked, reason })
    }

    /// How often it was ejected since it is known.
    pub fn ever(&self) -> u64 {
        self.ever
    }

    /// Its checks have failed: what comes back after that is another process, whose record is clean.
    pub fn forget(&mut self) {
        (self.times, self.clean_at) = (0, None);
    }

    /// Whether several ejections before this moment still count, for a target that has answered `well` since it came back: as
    /// often as it may fail, and it was another process that was killed. One more may be a process that was killed as it began.
    pub fn is_repeated(&self, rules: &Outlier, well: u64) -> bool {
        self.times > 1 && well < u64::from(rules.consecutive)
    }

    /// Whether something has changed by `now`: the ejection or the trial is over.
    pub fn pass_time(&mut self, now: Instant) -> bool {
        if self.clean_at.is_some_and(|at| now >= at) {
            (self.times, self.clean_at) = (0, None);
        }
        if self.ejected.as_ref().is_some_and(|ejection| now >= ejection.until) {
            self.ejected = None;
            self.trial_until = Some(now + TRIAL);
            return true;
        }
        if self.trial_until.is_some_and(|until| now >= until) {
            self.trial_until = None;
            return true;
        }
        false
    }

    /// A check that began after the ejection has passed; whether that ends it, as it does if enough have failed before for this
    /// to be `another` process.
    pub fn pass_check(&mut self, another: bool) -> bool {
        let ends = self.ejected.as_ref().is_some_and(|ejection| ejection.until_checked || another);
        if ends {
            self.ejected = None;
        }
        ends
    }

    /// Failures in a row that the workers should suspend it for.
    pub fn limit(&self, rules: &Outlier) -> u32 {
        match (rules.enabled, &self.ejected, self.trial_until) {
            (false, ..) | (_, Some(_), _) => u32::MAX,
            (_, _, Some(_)) => TRIAL_LIMIT.min(rules.consecutive),
            _ => rules.consecutive,
        }
    }
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
