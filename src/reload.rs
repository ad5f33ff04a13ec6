//! Reload: another configuration in the place of the one that runs, without anybody noticing who need not.
//!
//! Read, compile, compare with what runs, bind what is not bound yet; only then swap, which cannot fail. So a reload is done
//! as a whole or not at all, and if not, the reasons are in the log, in the answer to whoever asked, in `/v1/pools`, on
//! the dashboard and in the metrics. What lives on by itself (sockets, health, sessions, tunnels) is not touched here:
//! this file only decides the order.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use xxhash_rust::xxh3::Xxh3;

use crate::config::{Changes, Config, ConfigErrors};
use crate::control::reloads::{Outcome, Refused, Report, Request, Trigger, Wanted};
use crate::control::tended::Tended;
use crate::control::{Control, Phase, Running};
use crate::proxy::{Unprepared, Workers};
use crate::systemd::Notify;
use crate::telemetry::{self, access_log};

/// Between two looks at the files. A change counts when two looks have seen the same, so a file that is being written
/// is left alone.
const LOOK: Duration = Duration::from_millis(500);

/// Longest wait for workers to take up a configuration before it is called a success all the same: they will, unless
/// the machine stands still.
const TAKING: Duration = Duration::from_secs(5);

/// Changes that a log line is written for; more are counted.
const LOGGED_MAX: usize = 50;

/// Does the reloads of a node, one after the other.
pub struct Reloader {
    control: Rc<Control>,
    workers: Rc<Workers>,
    files: Files,
    notify: Rc<Notify>,
    log: Rc<access_log::Current>,
}

impl Reloader {
    /// For a node that runs what its files say now.
    pub fn new(
        control: Rc<Control>,
        workers: Rc<Workers>,
        notify: Rc<Notify>,
        log: Rc<access_log::Current>,
    ) -> Self {
        let files = Files::new(control.running().config.source.read.iter().map(|file| &**file));
        Self { control, workers, files, notify, log }
    }

    /// Reloads at SIGHUP, when a file has changed, and when the admin API asks, for as long as it is polled. Needs a
    /// `LocalSet`.
    pub async fn run(mut self, mut hangup: Signal) {
        let (_nobody, silence) = mpsc::channel(1);
        let mut requests = self.control.reloads.requests().unwrap_or(silence);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => drop(self.reload(Trigger::Signal).await),
                Some(Request { wanted, reply }) = requests.recv() => {
                    let result = match wanted {
                        Wanted::Reload => self.reload(Trigger::Api).await,
                        Wanted::Preview(text) => self.preview(text.as_deref()),
                    };
                    // Whoever asked may have left.
                    let _ = reply.send(result);
                }
                _ = look.tick() => {
                    let serves = self.control.phase() == Phase::Serving;
                    if serves && self.files.have_settled_on_something_new() && self.control.running().config.watch {
                        drop(self.reload(Trigger::File).await);
                    }
                }
            }
        }
    }

    /// What a reload would do, if the configuration file said `text`, or what it does say.
    fn preview(&self, text: Option<&str>) -> Result<Report, Refused> {
        let running = self.control.running();
        let next = match text {
            Some(text) => running.config.load_instead(text),
            None => running.config.load_again(),
        };
        let next = next.map_err(Refused::Config)?;
        let changes = self.changes(&running, &next);
        Ok(Report { generation: running.generation, changes, warnings: next.warnings })
    }

    /// Tries it, and tells what came of it.
    async fn reload(&mut self, trigger: Trigger) -> Result<Report, Refused> {
        self.control.reloads.begin(trigger);
        self.notify.reloading();
        let result = self.swap().await;
        match &result {
            Ok(report) => self.notify.ready(&format!("configuration {} runs", report.generation)),
            Err(Refused::NotNow(why)) => self.notify.ready(&format!("no reload now: {why}")),
            Err(_) => self.notify.ready("the last reload was refused, see the log; what ran before goes on"),
        }
        let refused = match &result {
            Ok(report) => {
                tell(report, trigger);
                Vec::new()
            }
            Err(refused) => {
                let lines = refused.lines();
                for line in &lines {
                    tracing::error!(
                        trigger = trigger.as_str(),
                        "reload refused, nothing was changed: {line}"
                    );
                }
                lines
            }
        };
        self.control.reloads.note(Outcome { at: SystemTime::now(), trigger, refused });
        result
    }

    /// The reload itself.
    async fn swap(&mut self) -> Result<Report, Refused> {
        if self.control.phase() != Phase::Serving {
            return Err(Refused::NotNow("the node is stopping".to_owned()));
        }
        if self.control.upgrades.under_way().is_some() {
            let why = "an upgrade is under way, and reads the configuration anew";
            return Err(Refused::NotNow(why.to_owned()));
        }
        let running = self.control.running();
        self.files.remember();
        let mut next = match running.config.load_again() {
            Ok(next) => next,
            Err(errors) => return Err(self.wrong(errors)),
        };
        self.files.watch(next.source.read.iter().map(|file| &**file));
        let changes = self.changes(&running, &next);
        next.keep_until_restart(&running.config);
        let mut prepared = self.workers.prepare(&next.listeners, TAKING).await?;
        let mut opened = None;
        if next.access_log != running.config.access_log {
            let log = self.log.open(next.access_log.as_ref());
            let mut log = log.map_err(|error| Refused::AccessLog(error.to_string()))?;
            prepared = prepared.with_access_log(std::mem::take(&mut log.lanes));
            opened = Some(log);
        }
        // From here on nothing can fail.
        let warnings = next.warnings.clone();
        let next = Arc::new(next);
        tell_listeners(&running.listeners, &prepared.listeners());
        self.control.adopt(next.clone(), prepared.listeners(), changes.restart.clone());
        let taking = prepared.commit(&next, &self.control.shared_pools());
        telemetry::set_level(next.log.level);
        if !taking.wait(TAKING).await {
            tracing::warn!(
                "a worker has not taken up the configuration within {TAKING:?}; it will when it can"
            );
        }
        if let Some(opened) = opened {
            self.log.become_opened(opened).await;
        }
        Ok(Report { generation: self.control.running().generation, changes, warnings })
    }

    /// What `next` changes, with the number of sessions that it concerns.
    fn changes(&self, running: &Running, next: &Config) -> Changes {
        let mut changes = Changes::between(&running.config, next);
        for change in &mut changes.sessions {
            let Some(pool) = change.pool.as_ref().and_then(|name| running.pool(name)) else { continue };
            let concerned = |target: &&Tended| {
                let (zone, address) = (&target.state.zone, target.state.address);
                change.target.as_ref().is_none_or(|(z, a)| z == zone && *a == address)
            };
            let targets = pool.targets();
            let seen =
                targets.iter().filter(concerned).filter_map(|target| Some(target.state.bound()?.count()));
            change.seen = Some(seen.sum());
        }
        changes
    }

    /// Also looks at the files that could not be used: they may be mended.
    fn wrong(&mut self, errors: ConfigErrors) -> Refused {
        self.files.watch(errors.read.iter().map(|file| &**file));
        Refused::Config(errors)
    }
}

impl From<Unprepared> for Refused {
    fn from(why: Unprepared) -> Self {
        match why {
            Unprepared::Listener(error) => Self::Listener(error.to_string()),
            Unprepared::Busy => Self::NotNow(why.to_string()),
        }
    }
}

fn tell_listeners(before: &[(Arc<str>, SocketAddr)], after: &[(Arc<str>, SocketAddr)]) {
    for (name, address) in after.iter().filter(|listener| !before.contains(listener)) {
        tracing::info!(%name, %address, "listening");
    }
    let stays = |address: &SocketAddr| after.iter().any(|(_, other)| other == address);
    for (name, address) in before.iter().filter(|(_, address)| !stays(address)) {
        tracing::info!(%name, %address, "no longer listening");
    }
}

fn tell(report: &Report, trigger: Trigger) {
    let Report { generation, changes, warnings } = report;
    let trigger = trigger.as_str();
    tracing::info!(trigger, generation, changes = changes.keys.len(), "configuration reloaded");
    for change in changes.keys.iter().take(LOGGED_MAX) {
        tracing::info!("reloaded: {change}");
    }
    if changes.keys.len() > LOGGED_MAX {
        tracing::info!("reloaded: and {} more", changes.keys.len() - LOGGED_MAX);
    }
    changes.sessions.iter().take(LOGGED_MAX).for_each(|line| tracing::info!("reloaded: {line}"));
    changes.restart.iter().for_each(|line| tracing::warn!("needs a restart: {line}"));
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
}

/// The files of a configuration, to notice when they are others.
///
/// Their contents are compared, not their times: that is right for a file written in place, for another one renamed over
/// it, and for a link that is swapped (as Kubernetes does), and a file that was only touched is no change.
struct Files {
    /// With what was read there.
    files: Vec<PathBuf>,
    /// What they were at the last attempt to use them.
    used: u64,
    /// What they were at the last look.
    seen: u64,
}

impl Files {
    fn new<'a>(files: impl Iterator<Item = &'a Path>) -> Self {
        let mut files = Self { files: files.map(Path::to_owned).collect(), used: 0, seen: 0 };
        files.remember();
        files
    }

    /// Looks at these from now on; they are being used.
    fn watch<'a>(&mut self, files: impl Iterator<Item = &'a Path>) {
        let files: Vec<_> = files.map(Path::to_owned).collect();
        if files != self.files {
            *self = Self::new(files.iter().map(|file| &**file));
        }
    }

    /// They are about to be used as they are.
    fn remember(&mut self) {
        self.used = digest(&self.files);
        self.seen = self.used;
    }

    /// Whether they differ from what was used last, and have done so for two looks in the same way.
    fn have_settled_on_something_new(&mut self) -> bool {
        let now = digest(&self.files);
        std::mem::replace(&mut self.seen, now) == now && now != self.used
    }
}

/// A number that stands for the contents of all these files.
fn digest(files: &[PathBuf]) -> u64 {
    let mut hash = Xxh3::new();
    for file in files {
        match std::fs::read(file) {
            Ok(content) => {
                hash.update(&(content.len() as u64).to_le_bytes());
                hash.update(&content);
            }
            Err(_) => hash.update(&u64::MAX.to_le_bytes()),
        }
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_when_it_has_settled() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("one");
        let mut files = Files::new([&*file].into_iter());
        assert!(!files.have_settled_on_something_new());
        write("tw");
        assert!(!files.have_settled_on_something_new(), "it may still be being written");
        write("two");
        assert!(!files.have_settled_on_something_new());
        assert!(files.have_settled_on_something_new());
        files.remember();
        assert!(!files.have_settled_on_something_new(), "it was used, with whatever result");
        write("two");
        assert!(!files.have_settled_on_something_new() && !files.have_settled_on_something_new());
    }

    #[test]
    fn renamed_and_linked_files_are_noticed_and_a_change_taken_back_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("v1")).unwrap();
        std::fs::create_dir_all(path("v2")).unwrap();
        std::fs::write(path("v1/a"), "one").unwrap();
        std::fs::write(path("v2/a"), "two").unwrap();
        std::os::unix::fs::symlink("v1", path("data")).unwrap();
        let linked = path("data/a");
        let mut files = Files::new([&*linked].into_iter());
        let swap = |to: &str| {
            std::os::unix::fs::symlink(to, path("new")).unwrap();
            std::fs::rename(path("new"), path("data")).unwrap();
        };
        swap("v2");
        assert!(!files.have_settled_on_something_new() && files.have_settled_on_something_new());
        swap("v1");
        assert!(!files.have_settled_on_something_new() && !files.have_settled_on_something_new());
        std::fs::write(path("other"), "three").unwrap();
        std::fs::rename(path("other"), path("v1/a")).unwrap();
        assert!(!files.have_settled_on_something_new() && files.have_settled_on_something_new());
        std::fs::remove_file(&linked).unwrap();
        assert!(!files.have_settled_on_something_new() && files.have_settled_on_something_new());
    }
}
