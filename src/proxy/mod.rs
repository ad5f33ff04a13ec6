//! The data plane. Files in the order a request meets them:
//!
//! 1. [`listener`] accepts a connection on the worker's own socket and finds it a [`place`], [`proxy_protocol`] hears from a
//!    proxy in front whose it is, [`tls`] shakes hands if there is TLS,
//! 2. [`http1`] or [`http2`] reads a request head strictly,
//! 3. [`exchange`] takes the worker's [`plan`], lets [`shed`] refuse what there is no room for, and knows
//!    the whole order of what follows:
//! 4. [`route`] finds what to do with it, [`session`] reads the cookie, [`headers`] readies the fields, [`traceparent`] among them,
//! 5. [`balance`] picks a target, [`upstream`] sends the attempt, [`retry`] decides about a failure,
//! 6. [`session`] stamps the answer, [`body`] carries it back, [`upgrade`] if it is a tunnel ([`tunnels`],
//!    [`websocket`]), [`error`] if there is none,
//! 7. [`record`] counts it and writes its line; [`explain`](mod@explain) says in words what was decided, if somebody asks.
//!
//! When the node stops, [`leaving`] says when each client is asked to go. A request never leaves its worker's thread, and never waits for the control plane.

mod announced;
pub mod balance;
mod body;
mod deadline;
mod error;
mod exchange;
mod explain;
pub mod fields;
mod grpc;
mod headers;
mod http1;
mod http2;
mod inform;
mod io;
mod leaving;
pub mod listener;
mod patience;
mod place;
mod plan;
mod proxy_protocol;
mod record;
pub mod request;
mod retry;
pub mod route;
pub mod session;
mod shed;
mod stickiness;
mod tcp_info;
mod tls;
mod traceparent;
mod tunnels;
mod upgrade;
mod upstream;
mod websocket;
mod worker;
mod workers;

pub use explain::explain;
pub use listener::{BindError, BoundListener};
use worker::{Random, Worker};
pub use workers::{Unprepared, Workers};
