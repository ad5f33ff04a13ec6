//! What a worker gives up and refuses when the node has no room: idle connections first, then requests.
//!
//! A connection that waits for a request can be closed at any time: its client opens another. Those that have waited for longest
//! go first, a few at a time, and connections to targets only if no client's was found. A request is refused before any work is
//! done for it. How much room there is, is found out elsewhere: see `pool::room`.

use super::Worker;
use super::plan::Plan;
use crate::pool::Overload;

/// Connections that one worker gives up at a time.
const AT_ONCE: usize = 16;
/// Ticks that a connection must have been idle for.
const LEAST: u64 = 10;
/// Requests that a worker takes however full the memory is: memory comes back late, and a node must not shut itself for ever.
const ALWAYS: u64 = 16;

impl Worker {
    /// Gives up idle connections whenever anybody finds no room, for as long as the worker lives.
    pub(crate) async fn give_way(&self) {
        loop {
            // One that is rung before we listen again is rung again if it matters.
            self.room().pressed.notified().await;
            let clients = self.deadlines.shed(AT_ONCE, LEAST) as u64;
            self.lane().shed_clients.add(clients);
            if clients == 0 {
                self.close_idle_upstreams();
            }
        }
    }

    /// Finds room for a connection to a target: at once, out of this worker's own.
    pub(crate) fn make_room_for_target(&self) {
        self.close_idle_upstreams();
        self.room().press();
    }

    fn close_idle_upstreams(&self) {
        let mut closed = 0;
        for pool in &self.plan().pools {
            closed += pool.view().upstreams.iter().map(|upstream| upstream.close_idle()).sum::<usize>();
        }
        self.lane().shed_targets.add(closed as u64);
    }

    /// Why there is no room for one more request, if there is none.
    pub(crate) fn has_no_room(&self, plan: &Plan) -> Option<Overload> {
        let own = self.lane().live.get();
        if self.room().memory_is_full() && own >= ALWAYS {
            return Some(Overload::Memory);
        }
        let most = plan.config.limits.max_requests? as u64;
        // Whoever is within its share need not ask what the others have.
        let lanes = self.all_lanes();
        let full = own >= most / lanes.iter().count() as u64 && lanes.sum(|lane| &lane.live) >= most;
        full.then_some(Overload::Requests)
    }
}
