//! Where a node is between start and stop; both planes watch it.

/// Phase of a node's life; it only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Sockets are bound, workers are starting.
    Starting,
    /// Requests are taken.
    Serving,
    /// `/readyz` fails; listeners still accept, so that nobody is refused while the news spreads.
    Leaving,
    /// Listeners are closed; what is in flight finishes.
    Stopping,
    /// The same, and another process has the sockets: it serves whoever comes.
    Succeeded,
}
