//! What the control plane knows of reloads: the way to ask for one, and what came of the last. How it is done: see
//! `crate::reload`.

use std::cell::{Cell, RefCell};
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};

use crate::config::{Changes, ConfigErrors};

/// Requests that wait for the one under way.
const WAITING_MAX: usize = 8;

/// What made a node look at its configuration again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// SIGHUP.
    Signal,
    /// A file that it was read from is another.
    File,
    /// `POST /v1/reload`, which is also what `selvedge reload` sends.
    Api,
}

/// Somebody asks for a reload, or what one would do.
pub struct Request {
    /// What is asked for.
    pub wanted: Wanted,
    /// Where the answer goes; nobody may be waiting for it any more.
    pub reply: oneshot::Sender<Result<Report, Refused>>,
}

/// What is asked for.
pub enum Wanted {
    /// Take on what the files say now.
    Reload,
    /// Say what that would change, if the configuration file said this instead; `None` for what it says.
    Preview(Option<String>),
}

/// A reload that was done, or could be.
#[derive(Debug)]
pub struct Report {
    /// Number of the configuration that runs now; the one that the node started with is 1.
    pub generation: u64,
    /// What it changes of the one before.
    pub changes: Changes,
    /// See [`crate::config::Config::warnings`].
    pub warnings: Vec<String>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The files are wrong.
    #[error("{0}")]
    Config(ConfigErrors),
    /// An address cannot be had.
    #[error("{0}")]
    Listener(String),
    /// The access log cannot be opened.
    #[error("{0}")]
    AccessLog(String),
    /// Not now.
    #[error("{0}")]
    NotNow(String),
}

impl Refused {
    /// Every reason in a line of its own.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(errors) => errors.lines().collect(),
            other => vec![other.to_string()],
        }
    }
}

/// What came of a reload.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// When.
    pub at: SystemTime,
    /// Who wanted it.
    pub trigger: Trigger,
    /// Why it was refused, a line for each reason; empty if it was done.
    pub refused: Vec<String>,
}

/// See the module's documentation.
pub struct Reloads {
    asking: mpsc::Sender<Request>,
    asked: RefCell<Option<mpsc::Receiver<Request>>>,
    under_way: Cell<Option<(SystemTime, Trigger)>>,
    last: RefCell<Option<Outcome>>,
    done: Cell<u64>,
    refused: Cell<u64>,
}

impl Default for Reloads {
    fn default() -> Self {
        let (asking, asked) = mpsc::channel(WAITING_MAX);
        Self {
            asking,
            asked: RefCell::new(Some(asked)),
            under_way: Cell::new(None),
            last: RefCell::default(),
            done: Cell::new(0),
            refused: Cell::new(0),
        }
    }
}

impl Reloads {
    /// Asks for a reload and waits for what comes of it.
    pub async fn ask(&self, wanted: Wanted) -> Result<Report, Refused> {
        let (reply, answer) = oneshot::channel();
        let not_now = |why: &str| Refused::NotNow(why.to_owned());
        self.asking
            .try_send(Request { wanted, reply })
            .map_err(|_| not_now("other reloads are waiting already; try again"))?;
        answer.await.unwrap_or_else(|_| Err(not_now("the node is stopping")))
    }

    /// The requests, for the one who does reloads; `None` when somebody has them already.
    pub fn requests(&self) -> Option<mpsc::Receiver<Request>> {
        self.asked.take()
    }

    /// A reload begins; [`Reloads::note`] ends it.
    pub fn begin(&self, trigger: Trigger) {
        self.under_way.set(Some((SystemTime::now(), trigger)));
    }

    /// The reload under way: since when, and who wanted it.
    pub fn under_way(&self) -> Option<(SystemTime, Trigger)> {
        self.under_way.get()
    }

    /// Remembers what came of a reload.
    pub fn note(&self, outcome: Outcome) {
        self.under_way.set(None);
        let count = if outcome.refused.is_empty() { &self.done } else { &self.refused };
        count.set(count.get() + 1);
        self.last.replace(Some(outcome));
    }

    /// The last one; `None` before the first.
    pub fn last(&self) -> Option<Outcome> {
        self.last.borrow().clone()
    }

    /// Reloads done, and reloads refused.
    pub fn counts(&self) -> [u64; 2] {
        [self.done.get(), self.refused.get()]
    }
}

impl Trigger {
    /// As the API and the log write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::File => "file",
            Self::Api => "api",
        }
    }
}
