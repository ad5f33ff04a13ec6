//! Where a session goes whose target is gone: same zone first, then the others, by rendezvous hash of the session.
//!
//! All nodes compute the same order from the session's id, so a session that changes nodes while it moves still arrives
//! at one place, and the sessions of a lost target spread over the others by weight.

use super::{Choice, Pick};
use crate::pool::Status;
use crate::proxy::session::Bond;

pub(super) fn pick(choice: &Choice<'_>, bond: &Bond) -> Pick {
    let rank = |index: u32| {
        let target = choice.target(index);
        (index, target.state.id.rank(bond.session, choice.weight(target)))
    };
    // The best of the zone is decided before anybody is asked whether it is full: nodes must not disagree because one
    // of them was busy. A full target is waited for like the session's own.
    let best = candidates(choice, bond).map(rank).max_by(|a, b| a.1.total_cmp(&b.1));
    let Some((index, _)) = best else { return choice.none_began() };
    let target = choice.target(index);
    let index = index as usize;
    if choice.take(target, 0) { Pick::Target { index, rehomed: true } } else { Pick::OwnIsFull { index } }
}

/// Those that the session may move to: in its own zone if there are any.
pub(super) fn candidates(choice: &Choice<'_>, bond: &Bond) -> impl Iterator<Item = u32> {
    let zone = choice.snapshot.index_of(bond.target).map(|at| choice.snapshot.targets[at].zone_number);
    // Not into a zone that is taken out, though it may get a trickle of new requests.
    let is_out = |index: u32| choice.target(index).status == Status::Shifted;
    let may = move |index: &u32| !is_out(*index) && !choice.was_tried(*index as usize);
    let is_near = move |index: &u32| zone == Some(choice.target(*index).zone_number);
    let open = choice.snapshot.open.iter().copied().filter(may);
    let any_near = open.clone().any(|index| is_near(&index));
    open.filter(move |index| is_near(index) == any_near)
}
