//! The writer: the only thread that makes lines, and the only one that may have to wait for a disk.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use super::entry::Read;
use super::line::Lines;
use super::output::Output;
use super::{Batch, Message};
use crate::config::AccessLog;
use crate::pool::Pools;

/// Bytes of lines that are gathered for one write.
const GATHER: usize = 64 * 1024;

pub(super) struct Writer {
    lines: Lines,
    output: Output,
    text: Vec<u8>,
    /// Empty buffers go back here, to each worker its own.
    returns: Vec<SyncSender<Vec<u8>>>,
    shared: Arc<Pools>,
    /// The last write failed, and that was said.
    is_failing: bool,
}

impl Writer {
    pub(super) fn new(
        config: &AccessLog,
        output: Output,
        returns: Vec<SyncSender<Vec<u8>>>,
        shared: Arc<Pools>,
    ) -> Self {
        let lines = Lines::new(config.format, &config.fields);
        Self { lines, output, text: Vec::with_capacity(2 * GATHER), returns, shared, is_failing: false }
    }

    /// Writes until it is told to end.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        for message in messages {
            if self.output.is_given_up() {
                return;
            }
            self.output.follow();
            match message {
                Message::Batch(batch) => self.write(batch),
                Message::Look => {}
                Message::End => return,
            }
        }
    }

    fn write(&mut self, batch: Batch) {
        let mut entries = &batch.bytes[..];
        let mut lines = 0;
        while let Some(entry) = Read::take(&mut entries) {
            self.lines.add(&entry, batch.anchor, &mut self.text);
            lines += 1;
            if self.text.len() >= GATHER {
                self.put(std::mem::take(&mut lines));
            }
        }
        self.put(lines);
        // Its worker may have ended.
        let _ = self.returns[batch.worker].try_send(batch.bytes);
    }

    /// Writes what has been gathered, `lines` of them.
    fn put(&mut self, lines: u64) {
        if lines == 0 {
            return;
        }
        let written = match self.output.write(&self.text) {
            Ok(()) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("access log: lines are written again");
                }
                lines
            }
            Err((count, error)) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!("access log: lines are dropped, they cannot be written: {error}");
                }
                memchr::memchr_iter(b'\n', &self.text[..count]).count() as u64
            }
        };
        self.text.clear();
        let counts = &self.shared.access_log;
        counts.written.add_beside(written);
        counts.failed.add_beside(lines - written);
    }
}
