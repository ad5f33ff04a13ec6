//! The lab's own process: starts everything on the machines, keeps it alive, and does to it what it is asked to.
//!
//! It runs in the namespace `control`, from where the nodes' admin API can be reached and nothing else but what everybody reaches. Processes
//! on other machines are started through their namespaces, as a cloud starts machines: not over the network.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::folder;
use super::link::Fault;
use super::plan::{self, DNS, PLACES, SHOP, ZONES, postgres, router};
use super::postgres::{Postgres, watch_primary};
use super::process::{Processes, own};
use super::reading::Reading;
use super::step::Step;
use super::{nodes, redis};
use crate::asg::fleet::{Alive, Fleet, Site};
use crate::asg::{self, command};
use crate::dns::{Member, write_members};
use crate::socket::{self, Asked};
use crate::supervise::{Part, Ready, say};
use crate::trouble::Trouble;

/// Options of `myclothes lab run`, which `lab up` gives.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// The step of the architecture
    #[arg(long)]
    step: Step,
    #[command(flatten)]
    reading: Reading,
    #[command(flatten)]
    group: asg::Sizes,
}

/// What the lab can be asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wish {
    Status,
    /// Do something to the links of a zone; no fault repairs them.
    Link {
        zone: usize,
        fault: Fault,
    },
    /// Kill a process, and leave it dead.
    Kill {
        name: String,
    },
    /// Start a process again that was killed. A PostgreSQL becomes a replica of the one that is the primary then.
    Restore {
        name: String,
    },
    Stop,
}

/// The lab as it is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) step: Step,
    pub(crate) reading: Reading,
    /// Process ids by name, 0 for those that are not there.
    pub(crate) processes: BTreeMap<String, u32>,
    pub(crate) faults: Vec<Fault>,
    /// The zone of the primary.
    pub(crate) postgres_primary: Option<usize>,
}

/// Runs the lab until it is asked to stop. The network is there already.
pub(crate) async fn run(options: Options) -> Result<(), Trouble> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| Trouble::new(error.to_string()))?;
    if options.group.most() >= PLACES {
        return Err(Trouble::new(format!("a zone has room for {} instances at most", PLACES - 1)));
    }
    let mut lab = Lab::new(options.step, options.reading);
    let (wishes, mut asked) = mpsc::channel::<Asked<Wish, Status>>(4);
    let (gone_sender, mut gone) = mpsc::channel(1);
    let fleet = tokio::select! {
        fleet = lab.start(&options, gone_sender) => fleet?,
        _ = terminate.recv() => return Ok(()),
    };
    socket::listen(&socket_path(), wishes).map_err(Trouble::new)?;
    socket::listen(&command::socket_in(folder::path()), fleet.wishes.clone()).map_err(Trouble::new)?;
    say("ready");
    let stopper = loop {
        tokio::select! {
            Some((wish, reply)) = asked.recv() => {
                if matches!(wish, Wish::Stop) {
                    break Some(reply);
                }
                let done = lab.grant(wish).await.map_err(|trouble| trouble.to_string());
                // Whoever asked may have gone.
                let _ = reply.send(done.map(|()| lab.status()));
            }
            Some(zone) = gone.recv() => {
                if let Err(trouble) = lab.fail_over(zone).await {
                    say(format_args!("the primary in {} cannot be replaced: {trouble}", ZONES[zone]));
                }
            }
            _ = terminate.recv() => break None,
        }
    };
    // From the outside in: instances finish what is in flight while there is a network.
    lab.processes.stop(|name| name.ends_with("-edge")).await;
    fleet.stop().await;
    lab.processes.stop(|_| true).await;
    if let Some(reply) = stopper {
        let _ = reply.send(Ok(lab.status()));
    }
    Ok(())
}

/// Where the lab takes commands.
pub(crate) fn socket_path() -> std::path::PathBuf {
    folder::path().join("lab.sock")
}

/// Asks the lab that is up.
pub(crate) async fn ask(wish: &Wish) -> Result<Status, Trouble> {
    socket::ask(&socket_path(), "is a lab up? `myclothes lab up` starts one", wish).await
}

struct Lab {
    step: Step,
    reading: Reading,
    processes: Processes,
    faults: watch::Sender<String>,
    zones: Vec<Fault>,
    postgres: Option<(Postgres, watch::Sender<usize>)>,
}

impl Lab {
    fn new(step: Step, reading: Reading) -> Self {
        let zones = vec![Fault::default(); ZONES.len()];
        let faults = watch::Sender::new(serde_json::json!(zones).to_string());
        Self { step, reading, processes: Processes::default(), faults, zones, postgres: None }
    }

    /// The order: the links; data; names; instances; nodes.
    async fn start(&mut self, options: &Options, gone: mpsc::Sender<usize>) -> Result<Fleet, Trouble> {
        let control = plan::control();
        let mut link = own(&control, "link", ["lab", "link"].map(OsString::from).into(), Ready::WritesLine)?;
        link.feed = Some(self.faults.subscribe());
        self.processes.start(vec![link]).await?;
        if self.step.has_redis() {
            let (servers, sentinels) = redis::parts(self.step.is_replicated())?;
            self.processes.start(servers).await?;
            self.processes.start(sentinels).await?;
        }
        if self.step.is_replicated() {
            self.start_postgres(gone).await?;
        }
        let alive: Alive = Arc::new(watch::Sender::new(BTreeMap::new()));
        let (feed_sender, feed) = watch::channel("[]".to_owned());
        tokio::spawn(write_members(alive.subscribe(), feed_sender));
        let mut resolvers = Vec::new();
        for zone in 0..ZONES.len() {
            let machine = router(zone);
            let args = ["dns", "--address", &machine.at(DNS).to_string()].map(OsString::from);
            let mut part = own(&machine, &format!("{}-dns", machine.name), args.into(), Ready::WritesLine)?;
            part.feed = Some(feed.clone());
            resolvers.push(part);
        }
        self.processes.start(resolvers).await?;
        let started = Fleet::start(&options.group, self.site()?, alive).await.map_err(Trouble::new)?;
        let (parts, nodes) = nodes::parts(self.step.is_sticky())?;
        self.processes.start(parts).await?;
        Ok(started.run(nodes))
    }

    async fn start_postgres(&mut self, gone: mpsc::Sender<usize>) -> Result<(), Trouble> {
        let postgres = Postgres::new()?;
        let first = 0;
        self.processes.start(vec![postgres.create(first).await?]).await?;
        postgres.fill(first).await?;
        let mut copying = JoinSet::new();
        for zone in 1..ZONES.len() {
            let postgres = postgres.clone();
            copying.spawn(async move { postgres.copy(zone, first).await });
        }
        let mut replicas = Vec::new();
        while let Some(copied) = copying.join_next().await {
            replicas.push(copied.map_err(|panic| Trouble::new(panic.to_string()))??);
        }
        self.processes.start(replicas).await?;
        let (sender, primary) = watch::channel(first);
        tokio::spawn(watch_primary(postgres.clone(), primary, gone));
        self.postgres = Some((postgres, sender));
        Ok(())
    }

    fn site(&self) -> Result<Site, Trouble> {
        let root = folder::User::root();
        let data = folder::of("shop", &root)?;
        let mut args: Vec<OsString> = vec!["--data".into(), data.into()];
        args.extend(
            self.step.instance_args(self.reading, self.postgres.as_ref().map(|(postgres, _)| postgres)),
        );
        let program = std::env::current_exe().map_err(|error| Trouble::new(error.to_string()))?;
        Ok(Site {
            zones: ZONES.map(str::to_owned).into(),
            member: Box::new(|zone, number| {
                let machine = plan::instance(zone, number);
                Member { name: machine.name.clone(), zone: ZONES[zone].to_owned(), address: machine.at(SHOP) }
            }),
            part: Box::new(move |member| instance(member, &program, &args)),
        })
    }

    async fn grant(&mut self, wish: Wish) -> Result<(), Trouble> {
        match wish {
            Wish::Status | Wish::Stop => Ok(()),
            Wish::Link { zone, fault } => {
                let place = self.zones.get_mut(zone).ok_or_else(|| Trouble::new("there is no such zone"))?;
                *place = fault;
                self.faults.send_replace(serde_json::json!(self.zones).to_string());
                Ok(())
            }
            Wish::Kill { name } => self.processes.kill(&name).await,
            Wish::Restore { name } => {
                let zone = (0..ZONES.len()).find(|zone| postgres(*zone).name == name);
                if let (Some(zone), Some((postgres, primary))) = (zone, &self.postgres) {
                    let primary = *primary.borrow();
                    if zone != primary && self.processes.pids().get(&name) == Some(&0) {
                        postgres.copy(zone, primary).await?;
                    }
                }
                self.processes.restore(&name).await
            }
        }
    }

    /// The primary in this zone is gone: see [`super::postgres`].
    async fn fail_over(&mut self, zone: usize) -> Result<(), Trouble> {
        let Some((postgres, primary)) = &self.postgres else { return Ok(()) };
        if *primary.borrow() != zone {
            return Ok(());
        }
        say(format_args!("PostgreSQL's primary in {} is gone", ZONES[zone]));
        self.processes.kill(&plan::postgres(zone).name).await?;
        let pids = self.processes.pids();
        let lives = |zone: &usize| pids.get(&plan::postgres(*zone).name).is_some_and(|pid| *pid > 0);
        let left: Vec<_> = (0..ZONES.len()).filter(|other| *other != zone && lives(other)).collect();
        let next = postgres.foremost(&left).await.ok_or_else(|| Trouble::new("no replica answers"))?;
        let others: Vec<_> = left.into_iter().filter(|other| *other != next).collect();
        postgres.promote(next, &others).await?;
        primary.send_replace(next);
        say(format_args!("PostgreSQL's primary is in {} now", ZONES[next]));
        Ok(())
    }

    fn status(&self) -> Status {
        Status {
            step: self.step,
            reading: self.reading,
            processes: self.processes.pids(),
            faults: self.zones.clone(),
            postgres_primary: self.postgres.as_ref().map(|(_, primary)| *primary.borrow()),
        }
    }
}

fn instance(member: &Member, program: &std::path::Path, more: &[OsString]) -> Part {
    let mut args: Vec<OsString> = ["netns", "exec", &member.name].map(OsString::from).into();
    args.push(program.into());
    let address = member.address.to_string();
    args.extend(["instance", "--supervised", "--name", &member.name].map(OsString::from));
    args.extend(["--zone", &member.zone, "--address", &address].map(OsString::from));
    args.extend(more.iter().cloned());
    Part { name: member.name.clone(), program: "ip".into(), args, ready: Ready::WritesLine, feed: None }
}

/// The machine on which the process of this name runs.
pub(crate) fn machine_of(process: &str) -> Option<String> {
    if process == "link" {
        return Some(plan::CONTROL.to_owned());
    }
    let zone = ZONES.iter().find(|zone| process.starts_with(**zone))?;
    match process.strip_prefix(*zone)? {
        "-dns" => Some((*zone).to_owned()),
        "-sentinel" => Some(format!("{zone}-redis")),
        _ => Some(process.to_owned()),
    }
}
