//! Where a session goes whose target is gone: same zone first, then the others, by rendezvous hash of the session.
//!
//! All nodes compute the same order from the session's id, so a session that changes nodes while it moves still arrives
//! at one place, and the sessions of a lost target spread over the others by weight.

use super::{Choice, Pick};
use crate::pool::Status;
use crate::proxy::session::Bond;

pub(super) fn pick(choice: &Choice<'_>, bond: &Bond) -> Pick {
    let zone = choice.snapshot.index_of(bond.target).map(|at| choice.snapshot.targets[at].zone_number);
    // Not into a zone that is taken out, though it may get a trickle of new requests.
    let is_out = |index: u32| choice.target(index).status == Status::Shifted;
    let best = |same_zone: bool| {
        choice
            .snapshot
            .open
            .iter()
            .copied()
            .filter(|index| !is_out(*index))
            .filter(|index| (zone == Some(choice.target(*index).zone_number)) == same_zone)
            .filter(|index| !choice.was_tried(*index as usize))
            .map(|index| (index, choice.target(index)))
            .map(|(index, target)| (index, target.state.id.rank(bond.session, choice.weight(target))))
            .max_by(|a, b| a.1.total_cmp(&b.1))
    };
    // The best of the zone is decided before anybody is asked whether it is full: nodes must not disagree because one
    // of them was busy. A full target is waited for like the session's own.
    let Some((index, _)) = best(true).or_else(|| best(false)) else { return choice.none_began() };
    let target = choice.target(index);
    let index = index as usize;
    if target.state.begin(target.max_connections, 0) {
        Pick::Target { index, rehomed: true }
    } else {
        Pick::OwnIsFull { index }
    }
}
