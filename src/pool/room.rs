//! What a whole node has room for: how many connections its file descriptors allow, and whether its memory is full.
//!
//! The control thread measures and writes; workers read one atomic. Whoever finds no room *presses*: every worker then gives up
//! idle connections (see `proxy::shed`). What the bounds are is decided elsewhere.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

/// See the module's documentation.
pub struct Room {
    connections: AtomicU64,
    memory_is_full: AtomicBool,
    /// Rung by whoever finds no room.
    pub pressed: Notify,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            connections: AtomicU64::new(u64::MAX),
            memory_is_full: AtomicBool::new(false),
            pressed: Notify::new(),
        }
    }
}

impl Room {
    /// Client connections that may be open over all listeners, so that there are file descriptors left for targets and checks.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Sets that bound.
    pub fn set_connections(&self, most: u64) {
        self.connections.store(most, Relaxed);
    }

    /// Whether the node has as much memory as it may.
    pub fn memory_is_full(&self) -> bool {
        self.memory_is_full.load(Relaxed)
    }

    /// Says whether it has.
    pub fn set_memory_is_full(&self, full: bool) {
        self.memory_is_full.store(full, Relaxed);
    }

    /// Asks every worker to give up idle connections.
    pub fn press(&self) {
        self.pressed.notify_waiters();
    }
}

/// Whether an operation failed because the process or the machine has no room: neither the peer's fault nor the target's.
pub fn is_want_of_room(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}
