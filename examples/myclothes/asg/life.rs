//! The life of one process of the group: started, ready, ended, or told to end.

use std::process::ExitStatus;

use tokio::sync::mpsc;

use super::group::Slot;
use crate::supervise::{Part, Running};

/// What a process tells.
pub(super) enum Event {
    /// It is ready; its process id.
    Ready(u32),
    /// It did not get ready.
    Failed(String),
    /// It ended without being asked.
    Ended(ExitStatus),
    /// It ended as it was asked to.
    Gone,
}

/// What a process is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Fail the checks, finish what is in flight, end.
    Leave,
    /// End without a word to the balancers.
    Stop,
    Kill,
}

/// The life of one process.
pub(super) async fn live(
    part: Part,
    slot: Slot,
    events: mpsc::Sender<(Slot, Event)>,
    mut orders: mpsc::Receiver<Order>,
) {
    let started = tokio::select! {
        started = part.start() => started,
        // Whatever the order: it serves nobody yet, and dies with what is dropped here.
        _ = orders.recv() => {
            let _ = events.send((slot, Event::Gone)).await;
            return;
        }
    };
    let mut running: Running = match started {
        Ok(running) => running,
        Err(reason) => {
            let _ = events.send((slot, Event::Failed(reason))).await;
            return;
        }
    };
    // Nobody listens to these any more when the whole system has stopped.
    let _ = events.send((slot, Event::Ready(running.pid))).await;
    let event = tokio::select! {
        status = running.wait() => match status {
            Ok(status) => Event::Ended(status),
            Err(_) => Event::Gone,
        },
        order = orders.recv() => {
            match order {
                Some(Order::Leave) => running.leave().await,
                Some(Order::Kill) => running.kill().await,
                Some(Order::Stop) | None => running.stop().await,
            }
            Event::Gone
        }
    };
    let _ = events.send((slot, event)).await;
}
