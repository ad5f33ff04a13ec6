//! What it would do to drain a target, to take it down, or to bring it back: shown before it is done.
//!
//! Computed by building the very snapshot that the change would lead to. Changes nothing.

use serde::Serialize;

use super::membership::PoolControl;
use super::shift::ZoneFigures;
use crate::pool::{AdminState, Snapshot};

/// A pool before and after the change of one target.
#[derive(Debug, Serialize)]
pub struct TargetFigures {
    /// Whether some target of the pool would still take new sessions.
    enough: bool,
    /// Targets of the pool.
    targets: usize,
    /// Of these, how many take new sessions now.
    open_now: usize,
    /// The same after the change.
    open_then: usize,
    /// About how many sessions are bound to the target.
    sessions: u64,
    /// Of these, how many would move at once.
    sessions_move: u64,
    /// Requests under way at the target.
    in_flight: u32,
    /// How long bound sessions might stay, in seconds; only of a drain.
    deadline_seconds: Option<f64>,
    /// So few targets would be healthy that health would be ignored.
    panic: bool,
    zones: Vec<ZoneFigures>,
}

/// What `admin` would mean for the target called `name` (`zone/address`); `None` if there is none. `deadline` is for a
/// drain; `None` is that of the pool.
pub fn figures(
    pool: &PoolControl,
    name: &str,
    admin: AdminState,
    deadline: Option<std::time::Duration>,
) -> Option<TargetFigures> {
    let state = pool.targets().iter().find(|target| target.state.name == name)?.state.clone();
    let now = pool.pool().snapshot();
    let then = pool.snapshot_if(|member| {
        if member.state.id == state.id {
            member.admin = admin;
        }
    });
    let open = |snapshot: &Snapshot| snapshot.targets.iter().filter(|target| target.takes_new).count();
    let sessions = state.bound().map_or(0, |bound| bound.count());
    let stays = then.index_of(state.id).is_some_and(|index| then.targets[index].keeps.any());
    let deadline = deadline.unwrap_or(pool.config().drain.deadline);
    Some(TargetFigures {
        enough: open(&then) > 0,
        targets: now.targets.len(),
        open_now: open(&now),
        open_then: open(&then),
        sessions,
        sessions_move: if stays { 0 } else { sessions },
        in_flight: state.in_flight(),
        deadline_seconds: (admin == AdminState::Drain).then_some(deadline.as_secs_f64()),
        panic: then.panic,
        zones: ZoneFigures::of(&now, &then),
    })
}
