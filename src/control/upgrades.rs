//! What the control plane knows of upgrades: the way to ask for one, how far it is, what came of the last, and what is left of
//! the process before. How it is done: see `crate::handover`.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};

use super::reloads::Trigger;

/// Somebody asks for another program in the place of this one.
pub struct Request {
    /// The program; `None` for the file that this one was started from, as it is now.
    pub binary: Option<PathBuf>,
    /// Where the answer goes; nobody may be waiting for it any more.
    pub reply: oneshot::Sender<Result<Successor, Refused>>,
}

/// The process that serves now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// Its number.
    pub pid: u32,
    /// Its version.
    pub version: String,
}

/// Why this process goes on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// The new program finds the configuration wrong, a line for each mistake.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    /// It cannot be started, or has failed, ended or hung.
    #[error("{0}")]
    Program(String),
    /// Not now.
    #[error("{0}")]
    NotNow(String),
}

/// What can come of an upgrade, as metrics call it, in the order of [`Upgrades::counts`].
pub const RESULTS: [&str; 3] = ["done", "refused", "failed"];

impl Refused {
    /// Index into [`RESULTS`].
    fn result(&self) -> usize {
        match self {
            Self::Config(_) | Self::NotNow(_) => 1,
            Self::Program(_) => 2,
        }
    }

    /// Every reason in a line of its own.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Config(lines) => lines.clone(),
            other => vec![other.to_string()],
        }
    }
}

/// How far an upgrade is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The new process starts, with this one's sockets, and reads its configuration.
    Starting,
    /// It is ready, and takes over what is known.
    TakingOver,
}

impl Stage {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::TakingOver => "taking_over",
        }
    }
}

/// An upgrade under way.
#[derive(Debug, Clone, Copy)]
pub struct UnderWay {
    /// Since when.
    pub since: SystemTime,
    /// Who wanted it.
    pub trigger: Trigger,
    /// How far it is.
    pub stage: Stage,
}

/// An upgrade that was refused.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// When.
    pub at: SystemTime,
    /// Who wanted it.
    pub trigger: Trigger,
    /// Why, a line for each reason.
    pub refused: Vec<String>,
}

/// What is left of the process before this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predecessor {
    /// Its number.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When this process took its place.
    pub since: SystemTime,
    /// When it cuts what it still serves; `None` if it has not said so.
    pub until: Option<SystemTime>,
    /// Connections that it still serves; 0 once it has ended.
    pub connections: u64,
    /// Of these, tunnels.
    pub tunnels: u64,
    /// It has not ended.
    pub drains: bool,
}

/// See the module's documentation.
pub struct Upgrades {
    asking: mpsc::Sender<Request>,
    asked: RefCell<Option<mpsc::Receiver<Request>>>,
    under_way: Cell<Option<UnderWay>>,
    last: RefCell<Option<Outcome>>,
    counts: Cell<[u64; 3]>,
    predecessor: RefCell<Option<Predecessor>>,
}

impl Default for Upgrades {
    fn default() -> Self {
        let (asking, asked) = mpsc::channel(1);
        Self {
            asking,
            asked: RefCell::new(Some(asked)),
            under_way: Cell::new(None),
            last: RefCell::default(),
            counts: Cell::default(),
            predecessor: RefCell::default(),
        }
    }
}

impl Upgrades {
    /// Asks for an upgrade and waits for what comes of it.
    pub async fn ask(&self, binary: Option<PathBuf>) -> Result<Successor, Refused> {
        let not_now = |why: &str| Refused::NotNow(why.to_owned());
        if self.under_way.get().is_some() {
            return Err(not_now("another upgrade is under way"));
        }
        let (reply, answer) = oneshot::channel();
        let asked = self.asking.try_send(Request { binary, reply });
        asked.map_err(|_| not_now("another upgrade is under way"))?;
        answer.await.unwrap_or_else(|_| Err(not_now("the node is stopping")))
    }

    /// The requests, for the one who does upgrades; `None` when somebody has them already.
    pub fn requests(&self) -> Option<mpsc::Receiver<Request>> {
        self.asked.take()
    }

    /// An upgrade begins, or is so far.
    pub fn reach(&self, trigger: Trigger, stage: Stage) {
        let since = self.under_way.get().map_or_else(SystemTime::now, |present| present.since);
        self.under_way.set(Some(UnderWay { since, trigger, stage }));
    }

    /// Remembers that nothing came of it, and why.
    pub fn refuse(&self, trigger: Trigger, why: &Refused) {
        self.under_way.set(None);
        self.count(why.result());
        self.last.replace(Some(Outcome { at: SystemTime::now(), trigger, refused: why.lines() }));
    }

    fn count(&self, result: usize) {
        let mut counts = self.counts.get();
        counts[result] += 1;
        self.counts.set(counts);
    }

    /// The one under way.
    pub fn under_way(&self) -> Option<UnderWay> {
        self.under_way.get()
    }

    /// The last that was refused; `None` if none was.
    pub fn last(&self) -> Option<Outcome> {
        self.last.borrow().clone()
    }

    /// Upgrades by result, as in [`RESULTS`]: those of the processes before included.
    pub fn counts(&self) -> [u64; 3] {
        self.counts.get()
    }

    /// Goes on with the counts of the process before.
    pub fn inherit(&self, counts: [u64; 3]) {
        self.counts.set(counts);
    }

    /// This process has taken the place of another: remembers that one, as it is now.
    pub fn succeed(&self, predecessor: Predecessor) {
        self.count(0);
        self.predecessor.replace(Some(predecessor));
    }

    /// Changes what is known of it.
    pub fn update_predecessor(&self, change: impl FnOnce(&mut Predecessor)) {
        self.predecessor.borrow_mut().as_mut().map(change);
    }

    /// The process whose place this one took.
    pub fn predecessor(&self) -> Option<Predecessor> {
        self.predecessor.borrow().clone()
    }
}
