//! `myclothes asg …`: asks a system that runs, over the socket in its data folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::parse_rate;
use crate::socket;
use crate::trouble::Trouble;

/// Between two looks whether what was wished has come about.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Options of `myclothes asg`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What to do with the Auto Scaling group of a system that runs.
#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Show the instances and what happened lately
    Status {
        #[command(flatten)]
        place: Place,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Change how many instances there are
    Set {
        #[command(flatten)]
        place: Place,
        /// Fewest instances of a zone
        #[arg(long, value_name = "N")]
        min: Option<usize>,
        /// Most instances of a zone
        #[arg(long, value_name = "N")]
        max: Option<usize>,
        /// Instances of all zones together
        #[arg(long, value_name = "N")]
        desired: Option<usize>,
        /// Requests a second that each instance should get, or "off"
        #[arg(long, value_name = "N", value_parser = parse_target)]
        target_requests: Option<Target>,
        #[command(flatten)]
        patience: Patience,
    },
    /// Replace all instances, one after the other, by new processes of the program as it is on disk now
    Refresh {
        #[command(flatten)]
        place: Place,
        /// Give up a refresh that is under way: what is replaced stays so
        #[arg(long)]
        cancel: bool,
        #[command(flatten)]
        patience: Patience,
    },
}

#[derive(Debug, Clone, clap::Args)]
struct Place {
    /// Data folder of the system
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

#[derive(Debug, Clone, clap::Args)]
struct Patience {
    /// Wait until it is done, for so many seconds at most; exit with 1 if it is not
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u32>,
}

/// A target for the scaling; `None` for off.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Target(pub(crate) Option<f64>);

fn parse_target(text: &str) -> Result<Target, String> {
    match text {
        "off" => Ok(Target(None)),
        _ => parse_rate(text).map(|rate| Target(Some(rate))).map_err(|error| format!("{error}, or off")),
    }
}

/// What is asked of the group.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wish {
    Status,
    Set { min: Option<usize>, max: Option<usize>, desired: Option<usize>, target: Option<Target> },
    Refresh,
    Cancel,
}

/// The group as it is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) min_per_zone: usize,
    pub(crate) max_per_zone: usize,
    pub(crate) desired: usize,
    /// Requests a second that each instance should get.
    pub(crate) target_requests: Option<f64>,
    /// Of all instances together, lately.
    pub(crate) requests_per_second: Option<f64>,
    pub(crate) refreshing: bool,
    /// Everything is as it is wanted, and nothing on its way.
    pub(crate) steady: bool,
    pub(crate) instances: Vec<InstanceView>,
    /// What happened lately, and how many seconds ago.
    pub(crate) log: Vec<(u64, String)>,
}

/// One instance as it is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InstanceView {
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) address: SocketAddr,
    pub(crate) pid: Option<u32>,
    /// "waiting" (to be started again), "starting", "serving", "draining", "killed" or "ending".
    pub(crate) phase: String,
    /// In this phase.
    pub(crate) seconds: u64,
    /// In the eyes of the balancers.
    pub(crate) healthy: bool,
    /// From before the last refresh.
    pub(crate) outdated: bool,
}

/// Asks, and shows the answer.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Trouble> {
    match arguments.command {
        Command::Status { place, json } => {
            let status = ask(&place.data, &Wish::Status).await?;
            match json {
                true => {
                    println!("{:#}", serde_json::json!(status))
                }
                false => print(&status),
            }
            Ok(())
        }
        Command::Set { place, min, max, desired, target_requests, patience } => {
            let wish = Wish::Set { min, max, desired, target: target_requests };
            ask(&place.data, &wish).await?;
            until_steady(&place.data, patience).await
        }
        Command::Refresh { place, cancel, patience } => {
            ask(&place.data, if cancel { &Wish::Cancel } else { &Wish::Refresh }).await?;
            until_steady(&place.data, patience).await
        }
    }
}

async fn until_steady(data: &Path, patience: Patience) -> Result<(), Trouble> {
    let Some(seconds) = patience.wait else { return Ok(()) };
    let end = Instant::now() + Duration::from_secs(seconds.into());
    loop {
        if ask(data, &Wish::Status).await?.steady {
            return Ok(());
        }
        if Instant::now() >= end {
            let text =
                format!("it is not done after {seconds} s; `myclothes asg status` shows how far it is");
            return Err(Trouble::new(text));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Asks the system whose data folder this is.
pub(crate) async fn ask(data: &Path, wish: &Wish) -> Result<Status, Trouble> {
    let whose = "--data must be the data folder of a system that runs";
    socket::ask(&socket_in(data), whose, wish).await
}

/// Where a system with this data folder takes commands for its group.
pub(crate) fn socket_in(data: &Path) -> PathBuf {
    data.join("asg.sock")
}

fn print(status: &Status) {
    let Status { min_per_zone, max_per_zone, desired, instances, .. } = status;
    println!("{desired} instances are wanted, {min_per_zone} to {max_per_zone} in each zone.");
    match (status.target_requests, status.requests_per_second) {
        (Some(target), Some(rate)) => {
            let serving = instances.iter().filter(|instance| instance.phase == "serving").count();
            let each = rate / serving.max(1) as f64;
            println!("{rate:.1} requests a second, {each:.1} for each instance; wanted are {target}.");
        }
        (Some(target), None) => println!("{target} requests a second are wanted for each; not measured yet."),
        (None, _) => {}
    }
    if status.refreshing {
        let left = instances.iter().filter(|instance| instance.outdated).count();
        println!("A refresh is under way: {left} are left.");
    }
    println!(
        "\n{:<11}{:<7}{:<18}{:<9}{:<10}{:<10}seconds",
        "", "zone", "address", "process", "phase", "health"
    );
    for InstanceView { name, zone, address, pid, phase, seconds, healthy, .. } in instances {
        let pid = pid.map_or_else(String::new, |pid| pid.to_string());
        let health = if *healthy { "healthy" } else { "-" };
        println!("{name:<11}{zone:<7}{:<18}{pid:<9}{phase:<10}{health:<10}{seconds}", address.to_string());
    }
    if !status.log.is_empty() {
        println!();
    }
    for (ago, line) in &status.log {
        println!("{ago:>5} s ago  {line}");
    }
}
