//! How a process notices that the one that started it is gone: its standard input ends.
//!
//! The parent holds the other end of the pipe and never closes it while the child is wanted. When the parent exits, however
//! violently, the kernel closes it. So nothing is left running, and no signal can be missed.

use std::io::{BufRead as _, Read as _};
use std::pin::Pin;

use tokio::sync::{mpsc, oneshot};

/// Completes when standard input ends; never, when this process is not supervised.
pub(crate) fn gone(supervised: bool) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    if !supervised {
        return Box::pin(std::future::pending());
    }
    let (sender, receiver) = oneshot::channel::<()>();
    // A thread of its own: a blocking read cannot be called back, and must not keep the runtime from ending.
    std::thread::spawn(move || {
        wait_for_end();
        drop(sender);
    });
    Box::pin(async move {
        let _ = receiver.await;
    })
}

/// Blocks until standard input ends.
pub(crate) fn wait_for_end() {
    let mut bytes = [0u8; 64];
    let mut input = std::io::stdin().lock();
    while !matches!(input.read(&mut bytes), Ok(0) | Err(_)) {}
}

/// The lines that the parent writes; the channel closes when standard input ends.
pub(crate) fn lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || each_line(|line| sender.blocking_send(line).is_ok()));
    receiver
}

/// Hands on the lines that the parent writes until they end or `take` wants no more. Blocks.
pub(crate) fn each_line(mut take: impl FnMut(String) -> bool) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        if !take(line) {
            return;
        }
    }
}
