//! What is counted of questions and answers. Written by the one thread that answers, read by whoever asks.

use super::authority::Rcode;
use crate::pool::Counter;

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Messages received over UDP and over TCP, whatever they are.
    pub received: [Counter; 2],
    /// Messages that are no query and got no answer.
    pub noise: Counter,
    /// Answers by [`Rcode`], in the order of [`Rcode::ALL`].
    pub rcodes: [Counter; Rcode::ALL.len()],
    /// Of these, answers that were longer than the client can take over UDP.
    pub truncated: Counter,
    /// Queries beyond the rate limit that were told to come over TCP, and those that were dropped.
    pub limited: [Counter; 2],
    /// Answers that could not be sent.
    pub unsent: Counter,
    /// TCP connections accepted.
    pub accepted: Counter,
    /// TCP connections open now.
    pub open: Counter,
    /// TCP connections closed to make room for another.
    pub displaced: Counter,
    /// Sockets that had to start again after a panic: a defect.
    pub panics: Counter,
}

/// How a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// One datagram; its sender may be forged.
    Udp,
    /// A connection.
    Tcp,
}

impl Transport {
    /// Both, in the order of [`Counters::received`].
    pub const ALL: [Self; 2] = [Self::Udp, Self::Tcp];

    /// As metrics and the API write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// What happened to queries beyond the rate limit, in the order of [`Counters::limited`].
pub const LIMITED: [&str; 2] = ["truncated", "dropped"];

impl Counters {
    /// Counts an answer.
    pub(super) fn answered(&self, rcode: Rcode) {
        if let Some(index) = Rcode::ALL.iter().position(|other| *other == rcode) {
            self.rcodes[index].bump();
        }
    }
}
