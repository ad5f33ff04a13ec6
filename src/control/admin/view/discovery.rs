//! What the API shows of names in DNS, and of the file that keeps what operators decided.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Named, rounded};
use crate::control::discovery::{Good, Progress, RESULTS};
use crate::control::membership::PoolControl;
use crate::control::sources::Source;
use crate::control::state::State;
use crate::telemetry::time::rfc3339;

/// One name of a pool.
#[derive(Serialize)]
pub(super) struct DiscoveryView {
    /// What is asked: type and name, with the port for addresses.
    question: String,
    /// What counts now, as `zone/address`.
    targets: Vec<String>,
    /// The last good answer.
    answer: Option<AnswerView>,
    /// Until it is asked again; 0 while it is being asked.
    next_try_seconds: Option<f64>,
    /// What went wrong last; absent after a good answer.
    error: Option<LackView>,
    /// For how long the name has been said to have no targets, while that is not believed.
    doubted_seconds: Option<f64>,
    /// Lookups that have ended, by result.
    lookups: Named,
}

#[derive(Serialize)]
struct AnswerView {
    targets: usize,
    ttl_seconds: f64,
    age_seconds: f64,
}

#[derive(Serialize)]
struct LackView {
    at: String,
    what: String,
}

/// The state file.
#[derive(Serialize)]
pub(super) struct StateView {
    file: Option<String>,
    /// Why it does not hold what it should.
    problem: Option<String>,
}

impl DiscoveryView {
    /// The name as it is now.
    pub(super) fn of(name: &Progress, pool: &PoolControl) -> Self {
        let now = Instant::now();
        let shown = name.shown();
        let answer = |good: Good| AnswerView {
            targets: good.targets,
            ttl_seconds: seconds(good.ttl),
            age_seconds: seconds(now.saturating_duration_since(good.at)),
        };
        let sources = pool.sources();
        let listed = sources.of(&Source::Dns(name.question.clone()));
        let counts = RESULTS.into_iter().zip(shown.lookups);
        Self {
            question: name.question.to_string(),
            targets: listed.iter().map(|target| format!("{}/{}", target.zone, target.address)).collect(),
            answer: shown.good.map(answer),
            next_try_seconds: shown.next.map(|next| seconds(next.saturating_duration_since(now))),
            error: shown
                .lack
                .as_ref()
                .map(|(at, lack)| LackView { at: rfc3339(*at), what: lack.to_string() }),
            doubted_seconds: shown.doubted_since.map(|since| seconds(now.saturating_duration_since(since))),
            lookups: Named(counts.collect()),
        }
    }
}

impl StateView {
    /// The file as it is now.
    pub(super) fn of(state: &State) -> Self {
        Self { file: state.file().map(|file| file.display().to_string()), problem: state.problem() }
    }
}

fn seconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64())
}
