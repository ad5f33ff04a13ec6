//! `GET /v1/events`: what `/v1/pools` shows, once a second, as server-sent events.
//!
//! Each event is a whole picture, rendered once for all streams, so a reader that misses some has lost nothing. A reader that
//! takes none for a while is cut, connection and all: it is the feed that notices, as nobody asks a body for more
//! while the one before is stuck in the socket.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, Method, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::{Either, Full};
use hyper::Response;
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;

use super::reply::{ApiError, Reply};
use super::view::NodeView;
use crate::control::Control;

/// Time between two pictures.
pub(super) const STEP: Duration = Duration::from_secs(1);

/// Streams at a time: the rest of the API's connections is for everybody else.
const STREAMS_MAX: usize = 16;

/// Pictures in a row that a reader may fail to take.
const MISSED_MAX: u32 = 10;

/// A stream that is older ends after a whole picture; its reader asks again.
const LIFE: Duration = Duration::from_secs(600);

/// How long a reader waits before it asks again, in milliseconds.
const RETRY_MS: u32 = 1000;

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/event-stream");

/// All streams of a node.
pub(super) struct Feed {
    step: Duration,
    streams: RefCell<Vec<Stream>>,
    latest: RefCell<Option<(Instant, Bytes)>>,
    /// The first stream has come.
    begun: Notify,
}

/// The sending end of one stream.
struct Stream {
    pictures: mpsc::Sender<Bytes>,
    missed: u32,
    since: Instant,
    hold: Rc<Hold>,
}

/// What a connection has been asked, and what a stream means for it.
#[derive(Default)]
pub(super) struct Hold {
    /// A request has come.
    pub(super) is_asked: Cell<bool>,
    /// Rung at the first.
    pub(super) first: Notify,
    /// A stream is on it: the life of other connections does not count.
    pub(super) streams: Cell<bool>,
    /// Rung when the reader has not taken anything for too long.
    pub(super) cut: Notify,
}

/// The body of an answer that goes on.
pub(super) struct Pictures(mpsc::Receiver<Bytes>);

impl Feed {
    /// One that sends a picture every `step`.
    pub(super) fn new(step: Duration) -> Self {
        Self { step, streams: RefCell::default(), latest: RefCell::default(), begun: Notify::new() }
    }

    /// Renders and sends for as long as it is polled; rests while nobody reads.
    pub(super) async fn run(&self, control: &Control) {
        let mut tick = tokio::time::interval(self.step);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.streams.borrow().is_empty() {
                self.begun.notified().await;
                tick.reset();
            }
            tick.tick().await;
            self.streams.borrow_mut().retain(|stream| !stream.pictures.is_closed());
            if !self.streams.borrow().is_empty() {
                let picture = self.picture(control);
                self.streams.borrow_mut().retain_mut(|stream| stream.takes(&picture));
            }
        }
    }

    /// Begins a stream on the connection with this hold.
    pub(super) fn begin(
        &self,
        control: &Control,
        method: &Method,
        hold: &Rc<Hold>,
    ) -> Result<Reply, ApiError> {
        if *method == Method::HEAD {
            return Ok(head(Either::Left(Full::default())));
        }
        let picture = self.picture(control);
        let mut streams = self.streams.borrow_mut();
        streams.retain(|stream| !stream.pictures.is_closed());
        if streams.len() >= STREAMS_MAX {
            let message = format!("{STREAMS_MAX} streams are open: close one, or read GET /v1/pools");
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", message));
        }
        let (pictures, body) = mpsc::channel(1);
        let mut stream = Stream { pictures, missed: 0, since: Instant::now(), hold: hold.clone() };
        hold.streams.set(true);
        stream.takes(&picture);
        streams.push(stream);
        self.begun.notify_one();
        Ok(head(Either::Right(Pictures(body))))
    }

    /// The picture of now; one of this very second is good enough.
    fn picture(&self, control: &Control) -> Bytes {
        let now = Instant::now();
        let mut latest = self.latest.borrow_mut();
        if let Some((at, picture)) = &*latest
            && now.duration_since(*at) < self.step / 2
        {
            return picture.clone();
        }
        let picture = render(&NodeView::of(control));
        *latest = Some((now, picture.clone()));
        picture
    }
}

impl Stream {
    /// Whether it goes on after this picture.
    fn takes(&mut self, picture: &Bytes) -> bool {
        match self.pictures.try_send(picture.clone()) {
            Ok(()) => self.missed = 0,
            Err(mpsc::error::TrySendError::Full(_)) => self.missed += 1,
            Err(mpsc::error::TrySendError::Closed(_)) => return false,
        }
        if self.missed > MISSED_MAX {
            self.hold.cut.notify_one();
            return false;
        }
        self.missed > 0 || self.since.elapsed() < LIFE
    }
}

impl Body for Pictures {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(cx).map(|picture| picture.map(|picture| Ok(Frame::data(picture))))
    }
}

/// An event: JSON holds no line break, so it is one line.
fn render(picture: &NodeView) -> Bytes {
    let mut event = BytesMut::new();
    event.extend_from_slice(format!("retry: {RETRY_MS}\nevent: picture\ndata: ").as_bytes());
    let mut writer = event.writer();
    if let Err(error) = serde_json::to_writer(&mut writer, picture) {
        tracing::error!(%error, "a picture of the node cannot be written as JSON");
        return Bytes::from_static(b": nothing to show\n\n");
    }
    let mut event = writer.into_inner();
    event.extend_from_slice(b"\n\n");
    event.freeze()
}

fn head(body: Either<Full<Bytes>, Pictures>) -> Reply {
    let mut reply = Response::new(body);
    let fields = reply.headers_mut();
    fields.insert(header::CONTENT_TYPE, CONTENT_TYPE);
    fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply
}
