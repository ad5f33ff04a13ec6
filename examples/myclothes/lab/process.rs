//! Processes on the lab's machines: how one is started there, kept alive, and taken away to see what happens.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::task::JoinSet;

use super::folder::User;
use super::plan::Machine;
use crate::supervise::{Event, Kept, Part, Ready, ending, keep, say};
use crate::trouble::Trouble;

/// A process for this machine: a part of this very program.
pub(crate) fn own(machine: &Machine, name: &str, args: Vec<OsString>, ready: Ready) -> Result<Part, Trouble> {
    let program = std::env::current_exe()
        .map_err(|error| Trouble::new(format!("this program cannot find itself: {error}")))?;
    let mut all: Vec<OsString> = inside(machine);
    all.push(program.into());
    all.extend(args);
    Ok(Part { name: name.to_owned(), program: PathBuf::from("ip"), args: all, ready, feed: None })
}

/// A process of another program for this machine, run by `user`. It dies when the lab does, as it does not watch its standard input.
pub(crate) fn other(
    machine: &Machine,
    name: &str,
    user: &User,
    command: Vec<OsString>,
    ready: Ready,
) -> Part {
    let mut all = inside(machine);
    all.extend(as_user(user));
    all.extend(["--pdeathsig", "KILL", "--"].map(OsString::from));
    all.extend(command);
    Part { name: name.to_owned(), program: PathBuf::from("ip"), args: all, ready, feed: None }
}

/// The start of a command line for `ip` that runs something on the machine.
pub(crate) fn inside(machine: &Machine) -> Vec<OsString> {
    ["netns", "exec", &machine.name].map(OsString::from).into()
}

/// The start of a command line that gives up root for this user.
pub(crate) fn as_user(user: &User) -> Vec<OsString> {
    let user = &user.name;
    let ids = [format!("--reuid={user}"), format!("--regid={user}")];
    let mut all: Vec<OsString> = vec!["setpriv".into(), "--init-groups".into()];
    all.extend(ids.map(OsString::from));
    all
}

/// All processes but the instances, by name.
#[derive(Default)]
pub(crate) struct Processes(BTreeMap<String, Process>);

struct Process {
    part: Part,
    /// `None` while it is taken away.
    kept: Option<Kept>,
    /// 0 while there is none.
    pid: Arc<AtomicU32>,
}

impl Processes {
    /// Starts these at the same time, and keeps them alive from then on.
    pub(crate) async fn start(&mut self, parts: Vec<Part>) -> Result<(), Trouble> {
        let mut starting = JoinSet::new();
        for part in parts {
            starting.spawn(async move { (part.start().await, part) });
        }
        while let Some(started) = starting.join_next().await {
            let (running, part) = started.map_err(|panic| Trouble::new(panic.to_string()))?;
            let running = running.map_err(Trouble::new)?;
            let pid = Arc::new(AtomicU32::new(running.pid));
            let (name, changing) = (part.name.clone(), Arc::clone(&pid));
            let kept = keep(part.clone(), running, move |event| note(&name, &event, &changing));
            self.0.insert(part.name.clone(), Process { part, kept: Some(kept), pid });
        }
        Ok(())
    }

    /// Kills a process, and does not start it again.
    pub(crate) async fn kill(&mut self, name: &str) -> Result<(), Trouble> {
        let process = self.find(name)?;
        if let Some(kept) = process.kept.take() {
            say(format_args!("{name} is killed"));
            kept.kill().await;
        }
        process.pid.store(0, Relaxed);
        Ok(())
    }

    /// Starts a process again that was killed.
    pub(crate) async fn restore(&mut self, name: &str) -> Result<(), Trouble> {
        let process = self.find(name)?;
        if process.kept.is_some() {
            return Ok(());
        }
        let part = process.part.clone();
        say(format_args!("{name} is started again"));
        self.start(vec![part]).await
    }

    /// Replaces what a process is started with, from its next start on.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// Process ids by name; 0 for those that are not there.
    pub(crate) fn pids(&self) -> BTreeMap<String, u32> {
        self.0.iter().map(|(name, process)| (name.clone(), process.pid.load(Relaxed))).collect()
    }

    /// Stops these, all at the same time.
    pub(crate) async fn stop(&mut self, which: impl Fn(&str) -> bool) {
        let names: Vec<_> = self.0.keys().filter(|name| which(name)).cloned().collect();
        let kept = names.iter().filter_map(|name| self.0.remove(name)).filter_map(|process| process.kept);
        let mut stopping: JoinSet<()> = kept.map(Kept::kill).collect();
        while stopping.join_next().await.is_some() {}
    }

    fn find(&mut self, name: &str) -> Result<&mut Process, Trouble> {
        let known = self.names().join(", ");
        self.0
            .get_mut(name)
            .ok_or_else(|| Trouble::new(format!("there is no process {name}; there are {known}")))
    }
}

fn note(name: &str, event: &Event, pid: &AtomicU32) {
    match event {
        Event::Died(status) => {
            pid.store(0, Relaxed);
            say(format_args!("{name} ended: {}", ending(*status)));
        }
        Event::Replaced { pid: next, after } => {
            pid.store(*next, Relaxed);
            say(format_args!("{name} is back after {} ms as process {next}", after.as_millis()));
        }
        Event::StartFailed(reason) => say(format_args!("{reason}; it will be tried again")),
    }
}
