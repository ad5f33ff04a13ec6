//! Whether the node has room: looked at once a second, told to the workers, and to people when it has none.
//!
//! Memory is what the kernel says is resident: everything counts, whoever holds it, and it costs one read of a small file. From
//! nine tenths of `limits.memory` on, idle connections are closed; at the limit, requests are refused. Room for connections is
//! found out by those who want one (`proxy::place`). The log has a line when it begins, and one every ten seconds while it lasts.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Control;
use crate::pool::{Lanes, Overload, WorkerLane};
use crate::telemetry::process;

/// Between two looks.
const STEP: Duration = Duration::from_secs(1);
/// Between two lines of the log.
const TELLING: Duration = Duration::from_secs(10);

/// How much of its memory a node uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    Fine,
    /// Idle connections are closed.
    Tight,
    /// Requests are refused.
    Full,
}

impl Memory {
    fn of(resident: u64, limit: Option<u64>) -> Self {
        match limit {
            Some(limit) if resident >= limit => Self::Full,
            Some(limit) if resident >= limit - limit / 10 => Self::Tight,
            _ => Self::Fine,
        }
    }
}

/// What was given up and refused so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    shed_clients: u64,
    shed_targets: u64,
    accept_errors: u64,
    overloads: [u64; Overload::COUNT],
}

impl Sums {
    fn of(lanes: &Lanes<WorkerLane>) -> Self {
        Self {
            shed_clients: lanes.sum(|lane| &lane.shed_clients),
            shed_targets: lanes.sum(|lane| &lane.shed_targets),
            accept_errors: lanes.sum(|lane| &lane.accept_errors),
            overloads: std::array::from_fn(|why| lanes.sum(|lane| &lane.overloads[why])),
        }
    }

    fn tell(&self, before: &Self) {
        let refused = |why: Overload| self.overloads[why as usize] - before.overloads[why as usize];
        warn!(
            idle_clients_closed = self.shed_clients - before.shed_clients,
            idle_targets_closed = self.shed_targets - before.shed_targets,
            failed_accepts = self.accept_errors - before.accept_errors,
            refused_by_requests = refused(Overload::Requests),
            refused_by_memory = refused(Overload::Memory),
            refused_by_descriptors = refused(Overload::Descriptors),
            "the node has no room for all that is asked of it"
        );
    }
}

/// Looks for as long as it is polled.
pub async fn watch(control: Rc<Control>) {
    let pools = &control.node.pools;
    let (mut told, mut told_at) = (Sums::of(&pools.workers), None::<Instant>);
    let mut memory = Memory::Fine;
    loop {
        tokio::time::sleep(STEP).await;
        memory = look_at_memory(&control, memory);
        let now = Sums::of(&pools.workers);
        if now != told && told_at.is_none_or(|at| at.elapsed() >= TELLING) {
            now.tell(&told);
            (told, told_at) = (now, Some(Instant::now()));
        }
    }
}

fn look_at_memory(control: &Control, before: Memory) -> Memory {
    let (room, limit) = (&control.node.pools.room, control.running().config.limits.memory);
    let Some(resident) = limit.and_then(|_| process::resident_bytes()) else {
        room.set_memory_is_full(false);
        return Memory::Fine;
    };
    let memory = Memory::of(resident, limit);
    room.set_memory_is_full(memory == Memory::Full);
    if memory != Memory::Fine {
        room.press();
    }
    match (before, memory) {
        (Memory::Fine | Memory::Tight, Memory::Full) => {
            warn!(resident, limit, "memory is full: requests are refused")
        }
        (Memory::Fine, Memory::Tight) => {
            warn!(resident, limit, "memory is nearly full: idle connections are closed");
        }
        (Memory::Full, Memory::Fine | Memory::Tight) => info!(resident, limit, "memory is no longer full"),
        _ => {}
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_tight_before_it_is_full() {
        let of = |resident| Memory::of(resident, Some(1000));
        assert_eq!([of(0), of(899)], [Memory::Fine; 2]);
        assert_eq!([of(900), of(999)], [Memory::Tight; 2]);
        assert_eq!([of(1000), of(5000)], [Memory::Full; 2]);
        assert_eq!(Memory::of(u64::MAX, None), Memory::Fine);
    }
}
