//! What the last step of the architecture promises of each disaster. Pure.
//!
//! In all of them: no cart is lost, no order is lost or doubled, and nobody gives up. What fails or hangs may be noticed for so long as it
//! takes to be found and replaced, and the bounds below are the sums of what that takes at most.

use std::time::Duration;

use super::disaster::Disaster;
use super::step::Step;

/// A Redis that takes writes again: 2 s until its Sentinels miss it, 1 s until two agree, 1 s for the election, 1 s until the promotion is
/// seen, 1.5 s for a question of the shop that is still out, and the shopper's second press.
const REDIS: Duration = Duration::from_secs(7);
/// A PostgreSQL that takes writes again: three looks half a second apart, 1.5 s for the promotion, half a second until the
/// instances have seen it; a checkout that waits for it is cut by the node after 3 s and pressed again, and is then done.
const POSTGRES: Duration = Duration::from_secs(8);
/// Both, and nobody says no: each look at PostgreSQL takes a second longer, and a shopper waits five seconds for an answer that never
/// comes before asking elsewhere.
const ZONE: Duration = Duration::from_secs(12);

/// What shoppers may feel of a disaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Every page comes.
    pub(crate) every_get: bool,
    /// From pressing a button for the first time to the answer that was wanted.
    pub(crate) at_most: Option<Duration>,
}

/// What this step promises of this disaster, if anything.
pub(crate) fn of(step: Step, disaster: Disaster) -> Option<Promise> {
    if step != Step::Full {
        return None;
    }
    let (every_get, at_most) = match disaster {
        Disaster::InstanceKilled | Disaster::InstanceHung | Disaster::NodeKilled => (true, None),
        Disaster::Deploy | Disaster::ScaleIn => (true, None),
        Disaster::ZoneSlow => (false, None),
        Disaster::ZoneCut => (false, Some(ZONE)),
        Disaster::RedisKilled => (false, Some(REDIS)),
        Disaster::PostgresKilled => (true, Some(POSTGRES)),
    };
    Some(Promise { every_get, at_most })
}
