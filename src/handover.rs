//! An upgrade: another process, of the same program or a newer one, takes the place of this one, and no client notices.
//!
//! ```text
//! old: successor::replace                          new: predecessor::Predecessor
//!   starts the program, a socket as its stdin ───▶   takes the sockets (the very same, not new ones), reads the
//!   Offer: sockets, session key                      configuration, starts its workers
//!                                             ◀───   Ready, or Failed and why
//!   Take: all that is known and counted       ───▶   takes it on, accepts, answers
//!                                             ◀───   Serving
//!   closes its own copies, drains             ───▶
//!   Report: once a second, and at the end            adds what was counted meanwhile
//! ```
//!
//! Until `Serving` the old process serves as if nothing were going on, and whatever goes wrong before that leaves it so: the
//! new one fails, hangs or dies. Both accept from the same sockets for a moment; no connection is lost, because the kernel's
//! queue of completed connections belongs to the socket and not to a process. Every message is JSON, in which what is unknown
//! is ignored: versions may differ.

pub mod passed;
pub mod predecessor;
pub mod successor;
mod wire;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::control::inheritance::{Inheritance, Tallies};

/// Set for a process that is to take the place of another: its standard input is the socket to that.
const VARIABLE: &str = "SELVEDGE_HANDOVER";

/// Of the messages: raised only by what an older version would misunderstand.
const VERSION: u32 = 1;

/// From the old process to the new one.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ToSuccessor {
    Offer(Offer),
    Take(Box<Inheritance>),
    Report(Report),
}

/// What there is to take over. The sockets follow it, in this order.
#[derive(Debug, Serialize, Deserialize)]
struct Offer {
    version: u32,
    program: String,
    pid: u32,
    listeners: Vec<OfferedListener>,
    /// As the configuration writes it.
    #[serde(default)]
    admin: Option<String>,
    /// Over UDP and TCP each.
    #[serde(default)]
    dns: Vec<SocketAddr>,
    /// What it gives itself to end, from the moment that the other one serves, in milliseconds.
    #[serde(default)]
    drain_ms: Option<u64>,
    /// The line of a session key that was made at start.
    #[serde(default)]
    session_key: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct OfferedListener {
    name: String,
    /// As the configuration writes it; port 0 for any.
    address: SocketAddr,
    sockets: usize,
}

/// How the old process ends.
#[derive(Serialize, Deserialize)]
struct Report {
    /// What it has counted since its last word.
    tallies: Tallies,
    connections: u64,
    tunnels: u64,
}

/// From the new process to the old one.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ToPredecessor {
    /// Everything that could go wrong has not.
    Ready { version: String },
    /// It accepts and answers.
    Serving,
    /// It ends.
    Failed(Failed),
}

#[derive(Serialize, Deserialize)]
struct Failed {
    /// The configuration is wrong.
    config: bool,
    lines: Vec<String>,
}
