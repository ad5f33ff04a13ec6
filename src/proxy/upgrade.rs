//! Tunnels: after a 101, bytes go both ways untouched until both sides have ended, or one was silent for too long.
//!
//! One side's end is passed on while the other still speaks. What is in the tunnel is not looked at, but for where frames
//! end: a tunnel whose target or node leaves is ended in the way of WebSocket, with a Close to both sides at the end of a
//! frame, some time for their answers, and the end of both connections. When that is, is decided in [`super::tunnels`].

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};

use super::http1::outgoing::Outgoing;
use super::io::Io;
use super::tunnels::Window;
use super::upstream::{self, Connection};
use super::websocket::{Frames, going_away};
use super::{Worker, http2};
use crate::pool::TunnelEnd;

/// Bytes under way in each direction.
const PIPE: usize = 16 * 1024;

/// A tunnel between a client and a target.
pub(crate) struct Tunnel<'a> {
    pub(crate) client: Side<'a>,
    /// What the client has said already.
    pub(crate) input: BytesMut,
    /// The head of the 101, not yet written; nothing where it is not bytes of this connection.
    pub(crate) outgoing: Outgoing,
    pub(crate) target: Box<upstream::Tunnel>,
    pub(crate) worker: &'static Worker,
}

/// One end of a tunnel.
#[derive(Clone, Copy)]
pub(crate) enum Side<'a> {
    /// A connection of its own.
    Socket(&'a Io),
    /// A stream of an HTTP/2 connection (RFC 8441).
    Stream(&'a http2::TunnelStream),
}

impl Side<'_> {
    fn poll_readable(self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(io) => io.poll_readable(cx),
            Self::Stream(stream) => stream.poll_readable(cx),
        }
    }

    fn poll_read(self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            Self::Socket(io) => io.poll_read(cx, buffer),
            Self::Stream(stream) => stream.poll_read(cx, buffer),
        }
    }

    fn poll_write(self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Socket(io) => io.poll_write(cx, bytes),
            Self::Stream(stream) => stream.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self, cx: &mut Context<'_>, outgoing: &mut Outgoing) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(io) => outgoing.poll_flush(cx, io),
            Self::Stream(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(io) => io.poll_shutdown(cx),
            Self::Stream(stream) => Poll::Ready(stream.end()),
        }
    }
}

/// What a tunnel was, in the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Carried {
    /// Bytes from the client to the target.
    pub(crate) up: u64,
    /// Bytes from the target to the client.
    pub(crate) down: u64,
    /// Why it is over.
    pub(crate) why: TunnelEnd,
}

impl Tunnel<'_> {
    /// Runs until the tunnel is over.
    pub(crate) async fn run(mut self) -> Carried {
        let upstream::Tunnel { mut connection, idle, in_flight, .. } = *self.target;
        let entered = self.worker.tunnels.enter(self.worker, in_flight.upstream());
        let mut up = Pipe::new(std::mem::take(&mut self.input));
        let mut down = Pipe::new(connection.take_input());
        let (client, outgoing) = (self.client, &mut self.outgoing);
        connection.deadline.set(idle);
        let why = std::future::poll_fn(|cx| {
            let moved = poll_both(cx, client, outgoing, &connection, &mut up, &mut down);
            match moved {
                Moved::Nothing => {}
                Moved::Some => connection.deadline.set(idle),
                Moved::Over(why) => return Poll::Ready(Over::Already(why)),
            }
            if let Poll::Ready(window) = entered.poll_told(cx) {
                return Poll::Ready(Over::Soon(window));
            }
            connection.deadline.poll(cx).map(|_| Over::Already(TunnelEnd::Idle))
        })
        .await;
        let (why, up, down) = match why {
            Over::Already(why) => (why, up.moved, down.moved),
            Over::Soon(window) => {
                let target = Side::Socket(&connection.io);
                let mask = (self.worker.random.next() as u32).to_ne_bytes();
                let mut both = [
                    Farewell {
                        pipe: up,
                        from: client,
                        to: target,
                        step: Step::Finish,
                        word: going_away(Some(mask)),
                    },
                    Farewell {
                        pipe: down,
                        from: target,
                        to: client,
                        step: Step::Finish,
                        word: going_away(None),
                    },
                ];
                say_goodbye(&connection, window, outgoing, client, &mut both).await;
                (window.why, both[0].pipe.moved, both[1].pipe.moved)
            }
        };
        entered.end(why);
        drop(in_flight);
        Carried { up, down, why }
    }
}

enum Over {
    Already(TunnelEnd),
    Soon(Window),
}

/// What one look at a tunnel has moved.
enum Moved {
    Nothing,
    Some,
    Over(TunnelEnd),
}

/// Moves what can be moved now.
fn poll_both(
    cx: &mut Context<'_>,
    client: Side<'_>,
    outgoing: &mut Outgoing,
    connection: &Connection,
    up: &mut Pipe,
    down: &mut Pipe,
) -> Moved {
    match client.poll_flush(cx, outgoing) {
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(_)) => return Moved::Over(TunnelEnd::Broken),
        Poll::Pending => return Moved::Nothing,
    }
    let target = Side::Socket(&connection.io);
    let (Ok(one), Ok(other)) = (up.poll(cx, client, target), down.poll(cx, target, client)) else {
        return Moved::Over(TunnelEnd::Broken);
    };
    if up.state == State::Ended && down.state == State::Ended {
        return Moved::Over(TunnelEnd::Ended);
    }
    if one || other { Moved::Some } else { Moved::Nothing }
}

/// Tells both sides, and waits for both answers, but not for long.
async fn say_goodbye(
    connection: &Connection,
    window: Window,
    outgoing: &mut Outgoing,
    client: Side<'_>,
    both: &mut [Farewell<'_>; 2],
) {
    // A drain without any length leaves no time, but what fits into the socket goes out.
    connection.deadline.set(window.goodbye.max(LEAST_GOODBYE));
    std::future::poll_fn(|cx| {
        if matches!(client.poll_flush(cx, outgoing), Poll::Ready(Ok(()))) {
            let done = both.each_mut().map(|farewell| farewell.poll(cx).is_ready());
            if done == [true, true] {
                return Poll::Ready(());
            }
        }
        connection.deadline.poll(cx).map(|_| ())
    })
    .await;
    // An orderly end, for as far as that goes without waiting.
    std::future::poll_fn(|cx| {
        let _ = both.each_ref().map(|farewell| farewell.to.poll_shutdown(cx).is_ready());
        Poll::Ready(())
    })
    .await;
}

/// What any tunnel has for its answers.
const LEAST_GOODBYE: Duration = Duration::from_millis(50);

/// One direction.
struct Pipe {
    buffer: BytesMut,
    state: State,
    /// Of what has been written.
    frames: Frames,
    /// Bytes that have been written.
    moved: u64,
}

#[derive(PartialEq, Eq)]
enum State {
    Open,
    /// The source has ended; the sink has to be told.
    Ending,
    Ended,
}

struct Broken;

impl Pipe {
    fn new(buffer: BytesMut) -> Self {
        Self { buffer, state: State::Open, frames: Frames::default(), moved: 0 }
    }

    /// Moves what can be moved now; whether that was anything.
    fn poll(&mut self, cx: &mut Context<'_>, from: Side<'_>, to: Side<'_>) -> Result<bool, Broken> {
        let mut moved = false;
        loop {
            while !self.buffer.is_empty() {
                match self.poll_write(cx, to, self.buffer.len()) {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(broken)) => return Err(broken),
                    Poll::Pending => return Ok(moved),
                }
            }
            match self.state {
                State::Ended => return Ok(moved),
                State::Ending => match to.poll_shutdown(cx) {
                    Poll::Ready(_) => self.state = State::Ended,
                    Poll::Pending => return Ok(moved),
                },
                State::Open => match self.poll_read(cx, from) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(broken)) => return Err(broken),
                    Poll::Pending => return Ok(moved),
                },
            }
        }
    }

    /// Writes some of the first `count` bytes that are there.
    fn poll_write(&mut self, cx: &mut Context<'_>, to: Side<'_>, count: usize) -> Poll<Result<(), Broken>> {
        match ready!(to.poll_write(cx, &self.buffer[..count])) {
            Ok(written) => {
                self.frames.pass(&self.buffer[..written]);
                self.buffer.advance(written);
                self.moved += written as u64;
                Poll::Ready(Ok(()))
            }
            Err(_) => Poll::Ready(Err(Broken)),
        }
    }

    /// Reads into the buffer, which is empty, or notes the end. A silent tunnel holds no buffer.
    fn poll_read(&mut self, cx: &mut Context<'_>, from: Side<'_>) -> Poll<Result<(), Broken>> {
        match from.poll_readable(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken)),
            Poll::Pending => {
                self.buffer = BytesMut::new();
                return Poll::Pending;
            }
        }
        self.buffer.reserve(PIPE);
        match ready!(from.poll_read(cx, &mut self.buffer)) {
            Ok(0) => self.state = State::Ending,
            Ok(_) => {}
            Err(_) => return Poll::Ready(Err(Broken)),
        }
        Poll::Ready(Ok(()))
    }
}

/// One direction on its way to the end.
struct Farewell<'a> {
    pipe: Pipe,
    from: Side<'a>,
    to: Side<'a>,
    step: Step,
    /// The Close frame, or what is left of it.
    word: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The frame that has begun goes on to its end.
    Finish,
    /// Our Close goes out.
    Say,
    /// What still comes is read for its Close, and goes no further.
    Listen,
}

impl Farewell<'_> {
    /// Ready when the sink has been told and the source has answered, or cannot any more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let pipe = &mut self.pipe;
            match self.step {
                Step::Finish if pipe.frames.is_between() => {
                    if pipe.frames.is_closed() || pipe.state == State::Ended {
                        // Its source has said goodbye already.
                        self.word.clear();
                    }
                    self.step = Step::Say;
                    continue;
                }
                Step::Finish if !pipe.buffer.is_empty() => {
                    let rest = pipe.frames.rest_in(&pipe.buffer);
                    match ready!(pipe.poll_write(cx, self.to, rest)) {
                        Ok(()) => continue,
                        Err(Broken) => return Poll::Ready(()),
                    }
                }
                Step::Say if self.word.is_empty() => {
                    self.step = Step::Listen;
                    continue;
                }
                Step::Say => match ready!(self.to.poll_write(cx, &self.word)) {
                    Ok(count) => {
                        self.word.drain(..count);
                        continue;
                    }
                    Err(_) => return Poll::Ready(()),
                },
                Step::Finish | Step::Listen => {}
            }
            if self.step == Step::Listen {
                pipe.frames.pass(&pipe.buffer);
                pipe.buffer.clear();
            }
            if pipe.state != State::Open || (self.step == Step::Listen && pipe.frames.is_closed()) {
                return Poll::Ready(());
            }
            if let Err(Broken) = ready!(pipe.poll_read(cx, self.from)) {
                return Poll::Ready(());
            }
        }
    }
}
