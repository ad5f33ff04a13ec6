//! What black-box tests stand on: the built binary, scripted origins, and clients that send exact bytes.
//!
//! A test reads as prose: an [`Origin`] answers, an [`Edge`] (the real program, its own process) stands before it, a
//! [`Raw`] or a [`Client`] talks to the edge. Every wait has the deadline [`PATIENCE`] and says what it waited for; nothing
//! sleeps for time. HTTP is read and written here by hand, so that a mistake of the program is not shared by its tests.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "a module of several test binaries, each of which uses its own part"
)]

pub mod acme;
pub mod chromium;
pub mod client;
pub mod dns;
pub mod edge;
pub mod group;
pub mod h2_origin;
pub mod http2;
pub mod message;
pub mod origin;
pub mod tls;
pub mod tmux;
pub mod websocket;
pub mod wire;

use std::future::Future;
use std::time::Duration;

pub use client::{Client, Raw};
pub use dns::{Dns, Said};
pub use edge::{Edge, Setup};
pub use group::Group;
pub use h2_origin::{Call, H2Origin};
pub use message::Response;
pub use origin::{Conn, Gate, Origin, Refusing, Reply, Silent};
pub use tls::{Authority, Dialer, Issued};
pub use wire::{Cut, End, Wire};

/// Longest that any one thing may take before a test gives up: generous, because the machine that runs tests is busy.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// `future`'s output; panics after [`PATIENCE`] with what was waited for.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}

/// Waits until `holds` is true; panics after [`PATIENCE`] with what was waited for.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let mut tick = tokio::time::interval(Duration::from_millis(5));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    within(what, async {
        while !holds().await {
            tick.tick().await;
        }
    })
    .await;
}

/// Whether `future` is still not done after `span`: for what must not happen.
pub async fn still_waiting_after<F: Future>(span: Duration, future: F) -> bool {
    tokio::time::timeout(span, future).await.is_err()
}

/// Runs all of these at once; their outputs, in the same order.
pub async fn all<F>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut outputs = Vec::new();
    for task in tasks {
        match task.await {
            Ok(output) => outputs.push(output),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    outputs
}

/// Gathers what is wrong with each case of a table, so that one failure does not hide the others.
#[derive(Default)]
pub struct Findings(Vec<String>);

impl Findings {
    /// Notes `what` unless `holds`.
    pub fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }

    /// Panics with everything that was noted.
    pub fn report(self) {
        assert!(self.0.is_empty(), "{} findings:\n  {}", self.0.len(), self.0.join("\n  "));
    }
}
