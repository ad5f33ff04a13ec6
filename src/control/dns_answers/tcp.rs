//! Connections: any number of queries on each, answered in their order.
//!
//! Every wait has the same deadline, and the number of connections a bound. Not obvious: at the bound a new connection is
//! let in and the one unused for longest is closed (RFC 7766, section 6.1), so that nobody can keep others out by
//! holding connections. At the end a client that has not asked yet still may, for a moment: it connected in order to.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::answerer::Answerer;
use super::counters::Transport;

/// Bytes of a query; a longer one ends the connection.
const QUERY_MAX: usize = 4096;

/// For the last queries when the node stops.
const LAST: Duration = Duration::from_secs(2);

/// Pause after a failed accept, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// The connections of all sockets.
pub(super) struct Connections {
    answerer: Rc<Answerer>,
    open: RefCell<HashMap<u64, Open>>,
    accepted: Cell<u64>,
    /// It is time to end.
    closing: watch::Sender<bool>,
}

struct Open {
    /// When it was last asked something.
    used: Rc<Cell<Instant>>,
    task: AbortHandle,
}

impl Connections {
    pub(super) fn new(answerer: Rc<Answerer>) -> Self {
        let closing = watch::Sender::new(false);
        Self { answerer, open: RefCell::default(), accepted: Cell::new(0), closing }
    }

    /// Ends all: at once those that wait for another query, the others when they have their answer, but within [`LAST`].
    pub(super) async fn finish(&self) {
        self.closing.send_replace(true);
        let all_ended = async {
            while !self.open.borrow().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(LAST, all_ended).await;
    }

    /// Serves what connects to `listener`, until dropped.
    pub(super) async fn run(self: Rc<Self>, listener: Rc<TcpListener>) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => self.admit(stream, from.ip()),
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, source: IpAddr) {
        let counters = &self.answerer.counters;
        counters.accepted.bump();
        let bound = self.answerer.view().config.max_connections;
        while self.open.borrow().len() >= bound {
            self.displace();
        }
        let number = self.accepted.get();
        self.accepted.set(number + 1);
        let used = Rc::new(Cell::new(Instant::now()));
        let place = Place { connections: self.clone(), number };
        let closing = self.closing.subscribe();
        let connection =
            Connection { place, stream: BufReader::new(stream), source, used: used.clone(), closing };
        let task = tokio::task::spawn_local(connection.run()).abort_handle();
        counters.open.bump();
        self.open.borrow_mut().insert(number, Open { used, task });
    }

    /// Closes the connection that was unused for longest.
    fn displace(&self) {
        let longest =
            self.open.borrow().iter().min_by_key(|(_, open)| open.used.get()).map(|(number, _)| *number);
        let open = longest.and_then(|number| self.open.borrow_mut().remove(&number));
        if let Some(open) = open {
            open.task.abort();
            self.answerer.counters.displaced.bump();
        }
    }
}

/// A place among the connections, given back when dropped.
struct Place {
    connections: Rc<Connections>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.borrow_mut().remove(&self.number);
        self.connections.answerer.counters.open.drop_one();
    }
}

struct Connection {
    place: Place,
    stream: BufReader<TcpStream>,
    source: IpAddr,
    used: Rc<Cell<Instant>>,
    closing: watch::Receiver<bool>,
}

impl Connection {
    /// Serves until the client leaves, breaks the rules or keeps a deadline waiting.
    async fn run(mut self) {
        let (mut query, mut answer) = (Vec::new(), Vec::new());
        // For each query to arrive, and for each to be answered.
        let deadline = self.place.connections.answerer.view().config.idle;
        // Without it an answer would wait for the acknowledgement of the one before.
        let no_delay = self.stream.get_ref().set_nodelay(true);
        drop(no_delay);
        let mut is_first = true;
        while is_first || self.is_asked_again(deadline).await {
            is_first = false;
            let Ok(Ok(())) = timeout(deadline, self.read(&mut query)).await else { break };
            self.used.set(Instant::now());
            answer.clear();
            answer.extend([0, 0]);
            let answerer = &self.place.connections.answerer;
            if !answerer.answer(&query, self.source, Transport::Tcp, &mut answer) {
                break;
            }
            let length = (answer.len() - 2) as u16;
            answer[..2].copy_from_slice(&length.to_be_bytes());
            let Ok(Ok(())) = timeout(deadline, self.stream.get_mut().write_all(&answer)).await else { break };
        }
    }

    /// Waits for the first byte of another query; `false` when there will be none.
    async fn is_asked_again(&mut self, deadline: Duration) -> bool {
        let Self { stream, closing, .. } = self;
        tokio::select! {
            biased;
            read = timeout(deadline, stream.fill_buf()) => matches!(read, Ok(Ok(bytes)) if !bytes.is_empty()),
            _ = closing.wait_for(|closing| *closing) => false,
        }
    }

    /// Reads the next query.
    async fn read(&mut self, query: &mut Vec<u8>) -> io::Result<()> {
        let length = usize::from(self.stream.read_u16().await?);
        if length > QUERY_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        query.resize(length, 0);
        self.stream.read_exact(query).await?;
        Ok(())
    }
}
