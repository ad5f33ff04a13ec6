//! The disasters: what is done to a lab that runs, and how it is repaired.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::folder;
use super::link::Fault;
use super::plan::{ZONES, edge, postgres};
use super::postgres::Programs;
use super::run::{Status, Wish, ask};
use super::step::Step;
use super::{network, redis};
use crate::asg::command as group;
use crate::trouble::Trouble;

/// How long something is away that is not replaced by itself.
const AWAY: Duration = Duration::from_secs(10);
/// Farther away by so many milliseconds.
const SLOW_MS: u64 = 300;
/// Between two looks whether the group is as it should be.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// For a rolling deploy, and for a lab to be whole again.
const LONG: Duration = Duration::from_secs(120);

/// One disaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Disaster {
    /// An instance is killed
    InstanceKilled,
    /// An instance hangs
    InstanceHung,
    /// The zone with the primaries is cut off for ten seconds
    ZoneCut,
    /// The zone with the primaries is 300 ms farther away for ten seconds
    ZoneSlow,
    /// A node of Selvedge is killed, and is away for ten seconds
    NodeKilled,
    /// Redis' primary is killed, and comes back after ten seconds
    RedisKilled,
    /// PostgreSQL's primary is killed, and comes back as a replica after ten seconds
    PostgresKilled,
    /// All instances are replaced, one after the other
    Deploy,
    /// Half of the instances are taken away
    ScaleIn,
}

impl Disaster {
    pub(crate) const ALL: [Self; 9] = [
        Self::InstanceKilled,
        Self::InstanceHung,
        Self::ZoneCut,
        Self::ZoneSlow,
        Self::NodeKilled,
        Self::RedisKilled,
        Self::PostgresKilled,
        Self::Deploy,
        Self::ScaleIn,
    ];

    /// In two words.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::InstanceKilled => "instance killed",
            Self::InstanceHung => "instance hung",
            Self::ZoneCut => "zone cut off",
            Self::ZoneSlow => "zone slow (300 ms)",
            Self::NodeKilled => "node killed",
            Self::RedisKilled => "Redis primary killed",
            Self::PostgresKilled => "PostgreSQL primary killed",
            Self::Deploy => "rolling deploy",
            Self::ScaleIn => "scale in",
        }
    }

    /// Why it cannot happen in this step; `None` if it can.
    pub(crate) fn missing(self, step: Step) -> Option<&'static str> {
        match self {
            Self::RedisKilled if !step.has_redis() => Some("no Redis"),
            Self::PostgresKilled if !step.is_replicated() => Some("no PostgreSQL"),
            _ => None,
        }
    }

    /// Lets it happen, and repairs what does not repair itself. Returns when the disaster is over.
    pub(crate) async fn happen(self) -> Result<(), Trouble> {
        let status = ask(&Wish::Status).await?;
        let zone = status.postgres_primary.unwrap_or_default();
        match self {
            Self::InstanceKilled => signal_instance(zone, Signal::KILL).await?,
            Self::InstanceHung => signal_instance(zone, Signal::STOP).await?,
            Self::ZoneCut => link(zone, Fault { cut: true, slow_ms: 0 }).await?,
            Self::ZoneSlow => link(zone, Fault { cut: false, slow_ms: SLOW_MS }).await?,
            Self::NodeKilled => away(edge(zone).name).await?,
            Self::RedisKilled => away(redis_primary(&status)?).await?,
            Self::PostgresKilled => away(postgres(zone).name).await?,
            Self::Deploy => {
                group::ask(folder::path(), &group::Wish::Refresh).await?;
                return until_steady().await;
            }
            Self::ScaleIn => {
                resize(ZONES.len()).await?;
                return until_steady().await;
            }
        }
        Ok(())
    }
}

/// Waits until everything is as it was before: all processes, all instances, all replicas.
pub(crate) async fn heal() -> Result<(), Trouble> {
    resize(2 * ZONES.len()).await?;
    let start = std::time::Instant::now();
    loop {
        let away = ask(&Wish::Status).await?.processes.into_iter().find(|(_, pid)| *pid == 0);
        let Some((name, _)) = away else { break };
        if let Err(trouble) = ask(&Wish::Restore { name }).await
            && start.elapsed() > LONG
        {
            return Err(trouble);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    until_steady().await?;
    until_replicated().await
}

async fn link(zone: usize, fault: Fault) -> Result<(), Trouble> {
    ask(&Wish::Link { zone, fault }).await?;
    tokio::time::sleep(AWAY).await;
    ask(&Wish::Link { zone, fault: Fault::default() }).await.map(drop)
}

async fn away(name: String) -> Result<(), Trouble> {
    ask(&Wish::Kill { name: name.clone() }).await?;
    tokio::time::sleep(AWAY).await;
    // A primary whose successor is not found yet is restored by `heal`.
    let _ = ask(&Wish::Restore { name }).await;
    Ok(())
}

/// Does it to the first instance of a zone, and waits as long as other disasters take.
async fn signal_instance(zone: usize, signal: Signal) -> Result<(), Trouble> {
    let status = group::ask(folder::path(), &group::Wish::Status).await?;
    let pid = status.instances.iter().filter(|one| one.zone == ZONES[zone]).find_map(|one| one.pid);
    let pid = pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let pid = pid.ok_or_else(|| Trouble::new(format!("no instance runs in {}", ZONES[zone])))?;
    kill_process(pid, signal)
        .map_err(|error| Trouble::new(format!("an instance takes no signal: {error}")))?;
    tokio::time::sleep(AWAY).await;
    Ok(())
}

async fn resize(desired: usize) -> Result<(), Trouble> {
    let wish = group::Wish::Set { min: None, max: None, desired: Some(desired), target: None };
    group::ask(folder::path(), &wish).await.map(drop)
}

/// Waits until the group is as it should be.
pub(crate) async fn until_steady() -> Result<(), Trouble> {
    let start = std::time::Instant::now();
    loop {
        if group::ask(folder::path(), &group::Wish::Status).await?.steady {
            return Ok(());
        }
        if start.elapsed() > LONG {
            return Err(Trouble::new(format!("the instances are not as they should be after {LONG:?}")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Waits until all replicas follow the primaries. A former primary of Redis is told so by the Sentinels some ten seconds after it came back.
async fn until_replicated() -> Result<(), Trouble> {
    let start = std::time::Instant::now();
    loop {
        let status = ask(&Wish::Status).await?;
        if !status.step.is_replicated() {
            return Ok(());
        }
        let primaries = redis_primaries(&status)?;
        let followed = |said: &String| said.contains(&format!("connected_slaves:{}", ZONES.len() - 1));
        let redis_is_whole = matches!(&primaries[..], [(_, said)] if followed(said));
        if redis_is_whole && postgres_is_whole(status.postgres_primary).await {
            return Ok(());
        }
        if start.elapsed() > LONG {
            return Err(Trouble::new(format!("not every replica follows its primary after {LONG:?}")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn postgres_is_whole(primary: Option<usize>) -> bool {
    let (Some(primary), Ok(programs)) = (primary, Programs::find()) else { return false };
    let question = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'".to_owned();
    let replicas = programs.ask("postgres", primary, &[question]).await.ok();
    replicas.and_then(|said| said.trim().parse().ok()) == Some(ZONES.len() - 1)
}

/// The process that is Redis' primary.
fn redis_primary(status: &Status) -> Result<String, Trouble> {
    let primaries = redis_primaries(status)?;
    primaries.into_iter().next().map(|(name, _)| name).ok_or_else(|| Trouble::new("no Redis is the primary"))
}

/// Those that say of themselves that they are the primary, with all that they say of their replicas.
fn redis_primaries(status: &Status) -> Result<Vec<(String, String)>, Trouble> {
    let mut primaries = Vec::new();
    for (name, _) in status.processes.iter().filter(|(name, pid)| name.ends_with("-redis") && **pid > 0) {
        let mut command = std::process::Command::new("redis-cli");
        command.arg("-s").arg(redis::socket(name)).args(["info", "replication"]);
        let said = String::from_utf8_lossy(&network::run(&mut command)?.stdout).into_owned();
        if said.contains("role:master") {
            primaries.push((name.clone(), said));
        }
    }
    Ok(primaries)
}
