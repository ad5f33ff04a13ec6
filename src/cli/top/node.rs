//! The node as the screen hears of it: a thread that follows its events, reconnects, and asks for changes.
//!
//! Not obvious: it never waits for the screen, and ends the process when that does not leave in time. What reads the keys
//! goes round in circles for ever once the terminal is gone, and hears of nothing.

use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::super::admin_client::AdminClient;
use super::super::seen::Picture;
use super::model::Said;

/// Between two tries to reach a node.
const RETRY: Duration = Duration::from_secs(1);

/// A node that says nothing for so long is away.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the screen may take to put the terminal back.
const GRACE: Duration = Duration::from_secs(1);

/// Of one event.
const EVENT_MAX: usize = 64 << 20;

/// News that wait for the screen; it looks ten times a second.
const WAITING: usize = 64;

/// What the screen hears.
pub(super) enum News {
    /// Something of the node.
    Of(Said),
    /// A signal asks for the end.
    Leave,
    /// The program was stopped, and goes on.
    Back,
}

/// A request that changes something, or says what it would do.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    /// Which question it is of: a late answer is that to an earlier one.
    pub(super) number: u64,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Value,
    pub(super) dry: bool,
}

/// The screen's end.
pub(super) struct Node(mpsc::Sender<Asked>);

impl Node {
    /// Sends a request. When many wait already this one is lost, as is what a key of an impatient operator says.
    pub(super) fn ask(&self, asked: Asked) {
        let _ = self.0.try_send(asked);
    }
}

/// Follows the node that `client` asks, until the screen's end is dropped.
pub(super) fn start(client: AdminClient) -> std::io::Result<(Node, Receiver<News>)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ((asking, asked), (news, heard)) = (mpsc::channel(8), sync_channel(WAITING));
    let all = async move {
        tokio::select! {
            () = follow(&client, &news) => {}
            () = change(&client, asked, &news) => {}
            () = signals(&news) => {}
            () = terminal_is_gone() => {}
        }
        let _ = news.try_send(News::Leave);
        sleep(GRACE).await;
        // The screen is stuck in its terminal, and there is nothing left to put back.
        std::process::exit(1);
    };
    std::thread::Builder::new().name("node".to_owned()).spawn(move || runtime.block_on(all))?;
    Ok((Node(asking), heard))
}

/// Completes when there is no terminal any more, which nobody may say by a signal.
async fn terminal_is_gone() {
    while std::io::stdin().is_terminal() {
        sleep(RETRY).await;
    }
}

async fn follow(client: &AdminClient, news: &SyncSender<News>) {
    loop {
        let mut events = Events::default();
        let read = client.follow("/v1/events", PATIENCE, |piece| {
            for event in events.take(piece) {
                let said = match serde_json::from_slice::<Picture>(&event) {
                    Ok(picture) => Said::Picture(Box::new(picture)),
                    Err(error) => Said::Away(format!("what it says is not understood: {error}")),
                };
                // A screen that does not keep up misses a picture, and sees the next.
                let _ = news.try_send(News::Of(said));
            }
        });
        if let Err(why) = read.await {
            let _ = news.try_send(News::Of(Said::Away(why)));
        }
        sleep(RETRY).await;
    }
}

async fn change(client: &AdminClient, mut asked: mpsc::Receiver<Asked>, news: &SyncSender<News>) {
    while let Some(Asked { number, method, path, body, dry }) = asked.recv().await {
        let answer = client.change(&method, &path, &body).await;
        let _ = news.try_send(News::Of(Said::Answer { number, dry, answer }));
    }
    // The screen has left, and the process with it.
    std::future::pending().await
}

/// Completes when a signal asks for the end.
async fn signals(news: &SyncSender<News>) {
    let listen = |kind| signal(kind).ok();
    let (mut term, mut int) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    let (mut hangup, mut resumed) =
        (listen(SignalKind::hangup()), listen(SignalKind::from_raw(libc::SIGCONT)));
    loop {
        tokio::select! {
            Some(Some(())) = next(&mut term) => return,
            Some(Some(())) = next(&mut int) => return,
            Some(Some(())) = next(&mut hangup) => return,
            Some(Some(())) = next(&mut resumed) => drop(news.try_send(News::Back)),
            else => std::future::pending().await,
        }
    }
}

async fn next(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<Option<()>> {
    Some(signal.as_mut()?.recv().await)
}

/// Puts events together out of pieces.
#[derive(Default)]
struct Events(Vec<u8>);

impl Events {
    /// The data of each event that is complete with this piece.
    fn take(&mut self, piece: &[u8]) -> Vec<Bytes> {
        let mut whole = Vec::new();
        // An end may be in two pieces.
        let mut from = self.0.len().saturating_sub(1);
        self.0.extend_from_slice(piece);
        while let Some(at) = self.0[from..].windows(2).position(|end| end == b"\n\n") {
            let event: Vec<u8> = self.0.drain(..from + at + 2).collect();
            from = 0;
            let lines = event.split(|byte| *byte == b'\n');
            whole.extend(lines.filter_map(|line| line.strip_prefix(b"data: ")).map(Bytes::copy_from_slice));
        }
        if self.0.len() > EVENT_MAX {
            self.0.clear();
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_wherever_they_are_cut() {
        let sent = b"retry: 1000\nevent: picture\ndata: {\"a\":1}\n\n: rest\n\ndata: {}\n\ndata: {";
        for size in 1..sent.len() {
            let mut events = Events::default();
            let seen: Vec<_> = sent.chunks(size).flat_map(|piece| events.take(piece)).collect();
            assert_eq!(seen, [&b"{\"a\":1}"[..], b"{}"], "in pieces of {size}");
        }
    }
}
