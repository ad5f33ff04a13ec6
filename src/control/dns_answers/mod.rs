//! DNS answers: an authority for the balancer's own names, which leads clients to the nodes that are in service.
//!
//! ```text
//! control thread   nodes: checks, zones ─▶ View ──┐ (ArcSwap)
//! thread "dns"     udp, tcp ─▶ answerer: query ─▶ limiter ─▶ authority ─▶ choice, nearest ─▶ reply
//!                              bytes     what     may they?  which       who, in what       bytes
//!                                        came                records     order
//! ```
//!
//! Messages are read and written here, not by a library: a query is a header, one question and perhaps EDNS, and an
//! answer repeats the question byte for byte. Everything but the sockets and the checks is pure. It never asks anybody
//! else, keeps nothing about a client but the rate limit's table, and transfers no domain.

mod answerer;
mod authority;
mod choice;
mod counters;
mod limiter;
mod listen;
pub mod metrics;
mod name;
mod nearest;
mod nodes;
mod query;
mod reply;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;
mod view;

pub use authority::Rcode;
pub use counters::{Counters, LIMITED, Transport};
pub use listen::{Answers, BindError, DnsListener};
pub use nodes::{LeftNode, Nodes, Watched};
pub use view::View;
