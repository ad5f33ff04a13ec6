//! The access log: one line for each request, written by a thread of its own.
//!
//! ```text
//! worker:  Entry ──encode──▶ Lane's buffer ──full, or old──▶ ┐
//! worker:  Entry ──encode──▶ Lane's buffer ──full, or old──▶ ┴ writer: decode ▶ Lines ▶ Output
//!             ▲                    ▲                                     │
//!             └── reused           └──────── empty again ◀───────────────┘
//! ```
//!
//! Each worker has so many buffers and no more, which go round between it and the writer. When none is left (the disk stands
//! still, nobody reads the pipe) its lines are dropped and counted: a request never waits for its line. Bytes that come from
//! clients are made harmless where lines are made: see `line`.

mod entry;
mod line;
mod output;
mod writer;

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;

use crate::config::{AccessField, AccessLog};
use crate::pool::{Counter, Pools};
pub use entry::{Entry, Piece, Tls};
use output::Output;
use writer::Writer;

/// Bytes of a buffer, and from where on it is on its way: the largest entry still fits behind that.
const BUFFER: usize = 64 * 1024;
const FULL: usize = BUFFER - entry::MAX;

/// Longest time between a request's end and its line's way to the writer.
const FLUSH: Duration = Duration::from_millis(100);

/// Entries kept for the next requests.
const SPARE: usize = 256;

/// Longest wait for the writer at the end.
const GRACE: Duration = Duration::from_secs(1);

/// Between two looks at what was dropped, and between two words about it.
const LOOK: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(10);

/// What the writer is sent.
enum Message {
    /// Requests that have ended at a worker.
    Batch(Batch),
    /// Look whether the file is to be opened again.
    Look,
    /// Write what has been sent, and end.
    End,
}

/// Encoded entries of one worker, and the moments that their times are counted from.
struct Batch {
    worker: usize,
    bytes: Vec<u8>,
    lines: u64,
    anchor: (Instant, SystemTime),
}

/// The log that a node has at present, if it has one. A reload puts another in its place.
pub struct Current {
    log: RefCell<Option<Log>>,
    workers: usize,
    shared: Arc<Pools>,
}

/// A log that is open and not yet used, or that there is to be none.
pub struct Opened {
    log: Option<Log>,
    /// The workers' ends, in their order.
    pub lanes: Vec<Option<Lane>>,
}

impl Current {
    /// The first one: none without a configuration. An error says what is wrong with the file.
    pub fn start(
        config: Option<&AccessLog>,
        workers: usize,
        shared: &Arc<Pools>,
    ) -> io::Result<(Self, Vec<Option<Lane>>)> {
        let this = Self { log: RefCell::default(), workers, shared: shared.clone() };
        let Opened { log, lanes } = this.open(config)?;
        this.log.replace(log);
        Ok((this, lanes))
    }

    /// Opens another one; the present one goes on.
    pub fn open(&self, config: Option<&AccessLog>) -> io::Result<Opened> {
        let Some(config) = config else {
            return Ok(Opened { log: None, lanes: (0..self.workers).map(|_| None).collect() });
        };
        let mut log = Log::start(config, self.workers, &self.shared)?;
        let lanes = log.take_lanes().into_iter().map(Some).collect();
        Ok(Opened { log: Some(log), lanes })
    }

    /// Has that one from now on. The workers have taken their ends of it, and let go of those of the one before, which writes what
    /// it has, but not for long.
    pub async fn become_opened(&self, opened: Opened) {
        let before = self.log.replace(opened.log);
        if let Some(before) = before {
            before.finish().await;
        }
    }

    /// Has the file at its path opened again, after somebody has moved it away; `false` if there is no log.
    pub fn reopen(&self) -> bool {
        self.log.borrow().as_ref().map(Log::reopen).is_some()
    }

    /// Waits for the last lines to be written, but not for long: what cannot be written is lost.
    pub async fn finish(&self) {
        let log = self.log.take();
        if let Some(log) = log {
            log.finish().await;
        }
    }
}

/// The log as whoever started it sees it.
struct Log {
    to_writer: SyncSender<Message>,
    thread: JoinHandle<()>,
    /// The file at its path is to be opened again.
    moved: Arc<AtomicBool>,
    /// Nobody waits for the writer any more.
    given_up: Arc<AtomicBool>,
    /// Not yet taken by their workers.
    lanes: Vec<Lane>,
}

impl Log {
    /// Opens the output and starts the writer. An error says what is wrong with the file.
    fn start(config: &AccessLog, workers: usize, shared: &Arc<Pools>) -> io::Result<Self> {
        let count = (config.buffer / BUFFER).max(2);
        // Room for all there can be: sending never fails because of it.
        let (to_writer, from_workers) = sync_channel(workers * count + 8);
        let (mut lanes, mut returns) = (Vec::new(), Vec::new());
        for worker in 0..workers {
            let (back, returned) = sync_channel(count);
            (0..count).for_each(|_| drop(back.try_send(Vec::new())));
            returns.push(back);
            lanes.push(Lane::new(worker, &config.fields, to_writer.clone(), returned));
        }
        let (moved, given_up) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let output = Output::open(config, moved.clone(), given_up.clone())?;
        let writer = Writer::new(config, output, returns, shared.clone());
        let thread = std::thread::Builder::new().name("access-log".into());
        let thread = thread.spawn(move || writer.run(&from_workers))?;
        Ok(Self { to_writer, thread, moved, given_up, lanes })
    }

    /// The workers' ends, in their order; none the second time.
    fn take_lanes(&mut self) -> Vec<Lane> {
        std::mem::take(&mut self.lanes)
    }

    /// Has the file at its path opened again, after somebody has moved it away.
    fn reopen(&self) {
        self.moved.store(true, Relaxed);
        // If there is no room, enough is on its way for it to look soon.
        let _ = self.to_writer.try_send(Message::Look);
    }

    /// Waits for the last lines to be written, but not for long: what cannot be written is lost.
    async fn finish(&self) {
        let end = Instant::now() + GRACE;
        let mut told = false;
        while !self.thread.is_finished() && Instant::now() < end {
            told = told || self.to_writer.try_send(Message::End).is_ok();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.given_up.store(true, Relaxed);
    }
}

/// Says in the node's log when lines are dropped, for as long as it is polled.
pub async fn tell_of_losses(shared: &Pools) {
    let (mut told, mut again) = (0, Instant::now());
    loop {
        tokio::time::sleep(LOOK).await;
        let lost = shared.workers.sum(|lane| &lane.access_dropped) + shared.access_log.failed.get();
        if lost > told && Instant::now() >= again {
            tracing::warn!(
                lines = lost - told,
                "access log: lines were dropped, its output does not keep up"
            );
            (told, again) = (lost, Instant::now() + SILENCE);
        }
    }
}

/// One worker's end of the log. Nothing in here waits for anything.
pub struct Lane {
    worker: usize,
    /// What to gather, as a set of [`Piece`]s.
    pieces: u16,
    batch: RefCell<Option<Batch>>,
    to_writer: SyncSender<Message>,
    returned: Receiver<Vec<u8>>,
    #[expect(clippy::vec_box, reason = "a request holds on to a pointer, not to all of it")]
    spare: RefCell<Vec<Box<Entry>>>,
    begun: Notify,
    closed: Cell<bool>,
}

impl Lane {
    fn new(
        worker: usize,
        fields: &[AccessField],
        to_writer: SyncSender<Message>,
        returned: Receiver<Vec<u8>>,
    ) -> Self {
        Self {
            worker,
            pieces: Piece::set_of(fields),
            batch: RefCell::default(),
            to_writer,
            returned,
            spare: RefCell::default(),
            begun: Notify::new(),
            closed: Cell::new(false),
        }
    }

    /// An entry with nothing in it.
    pub fn entry(&self) -> Box<Entry> {
        let mut entry = self.spare.borrow_mut().pop().unwrap_or_default();
        entry.begin(self.pieces);
        entry
    }

    /// Puts an entry on its way, or counts it as dropped. `started` is when its request did.
    pub fn push(&self, entry: Box<Entry>, started: Instant, dropped: &Counter) {
        if !self.encode(&entry, started) {
            dropped.bump();
        }
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE {
            spare.push(entry);
        }
    }

    fn encode(&self, entry: &Entry, started: Instant) -> bool {
        let mut present = self.batch.borrow_mut();
        if present.is_none() {
            let Ok(mut bytes) = self.returned.try_recv() else { return false };
            bytes.clear();
            bytes.reserve(BUFFER);
            let anchor = (Instant::now(), SystemTime::now());
            *present = Some(Batch { worker: self.worker, bytes, lines: 0, anchor });
            self.begun.notify_one();
        }
        let Some(batch) = &mut *present else { return false };
        entry.encode(started, batch.anchor.0, &mut batch.bytes);
        batch.lines += 1;
        if batch.bytes.len() < FULL && !self.closed.get() {
            return true;
        }
        present.take().is_some_and(|batch| self.send(batch))
    }

    fn send(&self, batch: Batch) -> bool {
        // It can only fail when the writer is gone, which ends with the node.
        self.to_writer.try_send(Message::Batch(batch)).is_ok()
    }

    /// Sends what has been there for a while, until it is closed.
    pub async fn flush_regularly(&self) {
        while !self.closed.get() {
            self.begun.notified().await;
            tokio::time::sleep(FLUSH).await;
            self.flush();
        }
    }

    fn flush(&self) {
        if let Some(batch) = self.batch.take() {
            self.send(batch);
        }
    }

    /// From now on everything is sent at once: the worker ends, or has another log.
    pub fn close(&self) {
        self.closed.set(true);
        self.begun.notify_one();
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AccessFormat, AccessOutput};

    #[test]
    fn with_a_writer_that_stands_still_lines_are_dropped_and_nothing_waits() {
        let (to_writer, held) = sync_channel(16);
        let (back, returned) = sync_channel(2);
        (0..2).for_each(|_| back.try_send(Vec::new()).unwrap());
        let lane = Lane::new(0, AccessField::ALL, to_writer, returned);
        let (dropped, now) = (Counter::default(), Instant::now());
        (0..10_000).for_each(|_| lane.push(lane.entry(), now, &dropped));
        assert!(dropped.get() > 0);
        let sent = |message| match message {
            Message::Batch(batch) => batch,
            Message::Look | Message::End => unreachable!("nobody asks for that here"),
        };
        let batches: Vec<_> = held.try_iter().map(sent).collect();
        let lines: u64 = batches.iter().map(|batch| batch.lines).sum();
        assert_eq!((batches.len(), lines + dropped.get()), (2, 10_000));
        // A buffer that comes back is used again.
        back.try_send(batches.into_iter().next().unwrap().bytes).unwrap();
        let before = dropped.get();
        lane.push(lane.entry(), now, &dropped);
        assert_eq!(dropped.get(), before);
    }

    #[test]
    fn what_was_sent_is_written_before_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let config = AccessLog {
            output: AccessOutput::File(path.clone()),
            format: AccessFormat::Json,
            fields: vec![AccessField::Status],
            max_size: None,
            keep: 1,
            buffer: 128 << 10,
        };
        let shared = Arc::new(Pools::new(1));
        let mut log = Log::start(&config, 1, &shared).unwrap();
        let lane = log.take_lanes().pop().unwrap();
        let dropped = Counter::default();
        for status in 200..300 {
            let mut entry = lane.entry();
            entry.status = status;
            lane.push(entry, Instant::now(), &dropped);
        }
        lane.close();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(log.finish());
        let expected: String = (200..300).map(|status| format!("{{\"status\":{status}}}\n")).collect();
        assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
        assert_eq!((shared.access_log.written.get(), dropped.get()), (100, 0));
    }
}
