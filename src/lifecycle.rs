//! What a node is doing with its life: the one fact that every part of it may read.
//!
//! Written by `server` only. Both planes watch it, which is why it stands outside both. How a stop is carried out is
//! not known here.

/// Where a node stands between its start and its end; it only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing is accepted yet.
    Starting,
    /// Clients are served.
    Serving,
    /// A stop was asked for: requests in flight finish, whoever sends traffic here should stop.
    Stopping,
}

impl Phase {
    /// As the API and the metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Stopping => "stopping",
        }
    }
}
