//! Tunnels: after a 101, bytes go both ways untouched until both sides have ended, or one was silent for too long.
//!
//! One side's end is passed on while the other still speaks. What is in the tunnel is not looked at.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};

use super::Worker;
use super::http1::Client;
use super::http1::outgoing::Outgoing;
use super::io::Io;
use super::upstream;
use crate::pool::WorkerLane;

/// Bytes under way in each direction.
const PIPE: usize = 16 * 1024;

/// A tunnel between a client and a target.
pub(crate) struct Tunnel<'a> {
    pub(crate) client: &'a Rc<Client>,
    /// The head of the 101, not yet written.
    pub(crate) outgoing: Outgoing,
    pub(crate) target: Box<upstream::Tunnel>,
    pub(crate) worker: &'static Worker,
}

impl Tunnel<'_> {
    /// Runs until the tunnel is over.
    pub(crate) async fn run(mut self) {
        let upstream::Tunnel { mut connection, idle, in_flight, .. } = *self.target;
        let _open = Open::count(self.worker.lane());
        let mut up = Pipe { buffer: self.client.take_input(), state: State::Open };
        let mut down = Pipe { buffer: connection.take_input(), state: State::Open };
        connection.deadline.set(idle);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = self.outgoing.poll_flush(cx, &self.client.io) {
                let (client, target) = (&self.client.io, &connection.io);
                let moved = match result {
                    Ok(()) => [up.poll(cx, client, target), down.poll(cx, target, client)],
                    Err(_) => return Poll::Ready(()),
                };
                if moved.iter().any(|moved| matches!(moved, Moved::Broken))
                    || (up.state == State::Ended && down.state == State::Ended)
                {
                    return Poll::Ready(());
                }
                if moved.iter().any(|moved| matches!(moved, Moved::Some)) {
                    connection.deadline.set(idle);
                }
            }
            connection.deadline.poll(cx).map(|_| ())
        })
        .await;
        drop(in_flight);
    }
}

/// Counts a tunnel as open.
struct Open<'a>(&'a WorkerLane);

impl<'a> Open<'a> {
    fn count(lane: &'a WorkerLane) -> Self {
        lane.tunnels.bump();
        Self(lane)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.tunnels.drop_one();
    }
}

/// One direction.
struct Pipe {
    buffer: BytesMut,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Open,
    /// The source has ended; the sink has to be told.
    Ending,
    Ended,
}

enum Moved {
    Nothing,
    Some,
    Broken,
}

impl Pipe {
    /// Moves what can be moved now.
    fn poll(&mut self, cx: &mut Context<'_>, from: &Io, to: &Io) -> Moved {
        let mut moved = Moved::Nothing;
        loop {
            while !self.buffer.is_empty() {
                match to.poll_write(cx, &self.buffer) {
                    Poll::Ready(Ok(count)) => {
                        self.buffer.advance(count);
                        moved = Moved::Some;
                    }
                    Poll::Ready(Err(_)) => return Moved::Broken,
                    Poll::Pending => return moved,
                }
            }
            match self.state {
                State::Ended => return moved,
                State::Ending => match to.poll_shutdown(cx) {
                    Poll::Ready(_) => self.state = State::Ended,
                    Poll::Pending => return moved,
                },
                State::Open => {
                    match from.poll_readable(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(_)) => return Moved::Broken,
                        Poll::Pending => {
                            // A silent tunnel holds no buffer.
                            self.buffer = BytesMut::new();
                            return moved;
                        }
                    }
                    self.buffer.reserve(PIPE);
                    match from.poll_read(cx, &mut self.buffer) {
                        Poll::Ready(Ok(0)) => self.state = State::Ending,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(_)) => return Moved::Broken,
                        Poll::Pending => return moved,
                    }
                }
            }
        }
    }
}
