//! What operators decided at run time and want to find again after a restart, in one file.
//!
//! ```text
//! {"version":1,"targets":{"shop":{"az-a/127.0.1.1:9001":{"weight":1,"max_connections":null}}},
//!  "out":{"shop":{"az-b/127.0.2.1:9001":{"state":"drain","until":1800000000}}},
//!  "shifts":{"az-c":{"since":1799990000,"until":1800000000,"comment":"power work"}}}
//! ```
//!
//! The file is small and written as a whole at each change: into a second file, forced to the disk, and renamed, so that it
//! is always the old one or the new one. What this version does not know of it is kept as it is. A file that cannot be
//! read is put aside, one that cannot be written is reported, and neither stops a node. A new kind of decision is one
//! more field of [`Kept`].

use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{error, info};

use super::durable::{beside, replace};

/// Of the form of the file: a file of another version is not read.
const VERSION: u32 = 1;

/// Bytes of a file that is read.
const FILE_MAX: u64 = 16 << 20;

/// For one change to reach the disk.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// The contents of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    version: u32,
    /// Targets registered through the API: by pool, then by name (`zone/address`).
    #[serde(default)]
    pub targets: BTreeMap<String, BTreeMap<String, KeptTarget>>,
    /// Targets that the operator has taken out: by pool, then by name. Those that are up are not listed.
    #[serde(default)]
    pub out: BTreeMap<String, BTreeMap<String, KeptOut>>,
    /// Zones that the operator has taken out.
    #[serde(default)]
    pub shifts: BTreeMap<String, KeptShift>,
    /// What another version keeps here.
    #[serde(flatten)]
    others: serde_json::Map<String, serde_json::Value>,
}

impl Default for Kept {
    fn default() -> Self {
        let (targets, out, shifts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { version: VERSION, targets, out, shifts, others: serde_json::Map::new() }
    }
}

/// A target registered through the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeptTarget {
    /// Share relative to the others.
    pub weight: u32,
    /// Requests in flight at most.
    #[serde(default)]
    pub max_connections: Option<u32>,
}

/// A target that the operator has taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptOut {
    /// How.
    pub state: OutState,
    /// When the bound sessions of one that drains have to leave, in seconds since 1970; nothing for the pool's deadline.
    #[serde(default)]
    pub until: Option<u64>,
}

/// How a target is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutState {
    /// Bound sessions only.
    Drain,
    /// Nothing.
    Down,
}

/// A zone that the operator has taken out; times in seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptShift {
    /// Since when.
    pub since: u64,
    /// Until when.
    pub until: u64,
    /// Why, in the operator's words.
    #[serde(default)]
    pub comment: Option<String>,
}

/// The file and what is in it.
pub struct State {
    file: Option<PathBuf>,
    kept: RefCell<Kept>,
    problem: RefCell<Option<String>>,
    /// Held while a file is being written, also by one that takes too long.
    writing: Arc<Mutex<()>>,
}

impl State {
    /// What `file` keeps; nothing is kept without one.
    /// `inherited` is what the process before this one kept, if it has left it: that is never older.
    pub fn open(file: Option<&Path>, inherited: Option<&Kept>) -> Self {
        let (mut kept, mut problem) = (inherited.cloned().unwrap_or_default(), None);
        if let (Some(file), None) = (file, inherited) {
            match read(file) {
                Ok(read) => kept = read,
                Err(wrong) => {
                    let wrong = format!("{} {wrong}; {}", file.display(), put_aside(file));
                    error!(file = %file.display(), "state: {wrong}");
                    problem = Some(wrong);
                }
            }
        }
        Self {
            file: file.map(Path::to_owned),
            kept: RefCell::new(kept),
            problem: RefCell::new(problem),
            writing: Arc::default(),
        }
    }

    /// Where it is kept, if it is.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Why the file does not hold what it should; `None` when all is well.
    pub fn problem(&self) -> Option<String> {
        self.problem.borrow().clone()
    }

    /// Changes what is kept, for what holds also if nothing is written: a file that cannot be written is reported, and none is
    /// needed.
    pub async fn note(&self, change: impl FnOnce(&mut Kept)) {
        if self.file.is_some() {
            let _ = self.change(change).await;
        }
    }

    /// What is kept. Not to be held across an await.
    pub fn kept(&self) -> Ref<'_, Kept> {
        self.kept.borrow()
    }

    /// Changes what is kept, and writes it; says why if it is not on the disk then. The change itself holds in any case, and
    /// is written with the next one.
    pub async fn change(&self, change: impl FnOnce(&mut Kept)) -> Result<(), String> {
        change(&mut self.kept.borrow_mut());
        let Some(file) = self.file.clone() else {
            return Err("no file is configured to keep it: write state = \"selvedge.state.json\"".to_owned());
        };
        let written = timeout(WRITE_TIMEOUT, self.write(file.clone())).await;
        let written = written.unwrap_or_else(|_| Err(io::Error::from(ErrorKind::TimedOut)));
        let problem = written.err().map(|wrong| format!("{} cannot be written: {wrong}", file.display()));
        let before = self.problem.replace(problem.clone());
        match &problem {
            Some(problem) => error!("state: {problem}; it is kept until the node ends"),
            None if before.is_some() => info!(file = %file.display(), "state: the file is written again"),
            None => {}
        }
        problem.map_or(Ok(()), Err)
    }

    async fn write(&self, file: PathBuf) -> io::Result<()> {
        let turn = self.writing.clone().lock_owned().await;
        let mut text = serde_json::to_vec_pretty(&*self.kept.borrow())?;
        text.push(b'\n');
        let writing = spawn_blocking(move || {
            let written = replace(&file, &text);
            drop(turn);
            written
        });
        writing.await.map_err(io::Error::other)?
    }
}

/// What is in the file; nothing if there is none.
fn read(file: &Path) -> Result<Kept, String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    match fs::metadata(file) {
        Ok(metadata) if metadata.len() > FILE_MAX => return Err("is too large to be a state file".to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Kept::default()),
        Err(error) => return Err(unreadable(error)),
    }
    let text = fs::read(file).map_err(unreadable)?;
    let kept: Kept =
        serde_json::from_slice(&text).map_err(|error| format!("is not a state file: {error}"))?;
    if kept.version == VERSION {
        Ok(kept)
    } else {
        Err(format!("has version {}, and this program reads version {VERSION}", kept.version))
    }
}

/// Keeps a file that cannot be used from being overwritten; says what became of it.
fn put_aside(file: &Path) -> String {
    let aside = beside(file, "unusable");
    match fs::rename(file, &aside) {
        Ok(()) => format!("it was put aside as {}, and nothing of it is in force", aside.display()),
        Err(error) => {
            format!(
                "nothing of it is in force, and it could not be put aside as {}: {error}",
                aside.display()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: KeptTarget = KeptTarget { weight: 3, max_connections: Some(7) };

    fn add(kept: &mut Kept) {
        kept.targets.entry("shop".into()).or_default().insert("az-a/127.0.0.1:1".into(), TARGET);
    }

    #[tokio::test]
    async fn what_is_kept_is_there_after_a_restart_and_so_is_what_another_version_keeps() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.json");
        fs::write(&file, "{\"version\":1,\"moods\":{\"az-a\":\"good\"}}").unwrap();
        let state = State::open(Some(&file), None);
        assert_eq!(state.change(add).await, Ok(()));
        let reopened = State::open(Some(&file), None);
        assert_eq!(reopened.kept().targets["shop"]["az-a/127.0.0.1:1"], TARGET);
        assert!(fs::read_to_string(&file).unwrap().contains("\"good\""));
        assert_eq!((reopened.problem(), fs::read_dir(folder.path()).unwrap().count()), (None, 1));
    }

    #[test]
    fn a_file_that_cannot_be_used_is_put_aside_and_not_lost() {
        for (text, expected) in [
            ("", "is not a state file"),
            ("{\"version\":1,\"targets\":[]}", "is not a state file"),
            ("{\"version\":2}", "has version 2"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("state.json");
            fs::write(&file, text).unwrap();
            let state = State::open(Some(&file), None);
            assert!(state.problem().unwrap().contains(expected), "{:?}", state.problem());
            assert_eq!(*state.kept(), Kept::default());
            assert!(!file.exists());
            assert_eq!(fs::read_to_string(beside(&file, "unusable")).unwrap(), text);
        }
    }

    #[tokio::test]
    async fn a_change_that_cannot_be_written_holds_and_is_written_with_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("there").join("state.json");
        let state = State::open(Some(&file), None);
        let problem = state.change(add).await.unwrap_err();
        assert!(problem.contains("cannot be written: No such file or directory"), "{problem}");
        assert_eq!(state.problem(), Some(problem));
        assert_eq!(state.kept().targets.len(), 1);
        fs::create_dir(folder.path().join("there")).unwrap();
        assert_eq!(state.change(|_| ()).await, Ok(()));
        assert_eq!((State::open(Some(&file), None).kept().targets.len(), state.problem()), (1, None));
    }

    #[tokio::test]
    async fn without_a_file_nothing_is_kept_and_nothing_is_wrong() {
        let state = State::open(None, None);
        assert!(state.change(add).await.unwrap_err().starts_with("no file is configured"));
        assert_eq!(state.problem(), None);
    }
}
