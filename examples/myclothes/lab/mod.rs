//! The lab: the case study in three zones that are three networks, on one machine. Needs root.
//!
//! ```text
//! plan.rs     machines, groups, who may ask whom (pure)         run.rs       the lab's process: order of start, faults, fail-over
//! groups.rs   security groups as nftables' rules (pure)         process.rs   a process on a machine
//! network.rs  namespaces and links, made and removed            nodes.rs redis.rs postgres.rs   what runs there
//! link.rs     the distance between zones, carried by a process  step.rs      the steps of the architecture
//! netem.rs    the same, by the kernel                           chaos.rs     a disaster under shoppers, measured
//! matrix.rs   who reaches whom, probed                          disaster.rs promise.rs table.rs chart.rs   its parts
//! folder.rs packages.rs   what is needed of the system          shop.rs memory.rs   shoppers, and nothing happens
//! reading.rs reads.rs     what reading the catalogue costs      crowd.rs shoppers.rs names.rs times.rs   the shoppers
//! ```
//!
//! `up` makes the network and starts [`run`] in it, in the background. `down` removes whatever is there of it, also after a crash.

mod chaos;
mod chart;
mod crowd;
mod disaster;
mod folder;
mod groups;
mod link;
mod matrix;
mod memory;
mod names;
mod netem;
mod network;
mod nodes;
mod packages;
mod plan;
mod postgres;
mod process;
mod promise;
mod reading;
mod reads;
mod redis;
mod run;
mod shop;
mod shoppers;
mod step;
mod table;
mod times;

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Command as Process, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use reading::Reading;
use run::{Wish, ask};
use step::Step;

use crate::asg::command as group;
use crate::parent;
use crate::trouble::Trouble;

/// From the start of the lab's process to all being in service.
const UP: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Options of `myclothes lab`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// The case study in three zones that are three networks. Needs root.
#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Make the network, and start everything in it
    Up {
        /// The step of the architecture
        #[arg(long, default_value = "full")]
        step: Step,
        #[command(flatten)]
        reading: Reading,
    },
    /// Stop everything, and remove all of it
    Down,
    /// Show what runs where
    Status,
    /// Probe from every machine what it reaches of every other, and compare with the security groups; exit with 1 if they differ
    Matrix,
    /// Let a disaster happen under shoppers who check every answer, and say what it cost
    Chaos(chaos::Options),
    /// Let shoppers shop in the lab that is up, and say how long pages took, what failed, and what has grown
    Shop(shop::Options),
    /// Ask for the catalogue as fast as it is answered, and say what that costs PostgreSQL's primary
    Reads(reads::Options),
    /// The lab's own process
    #[command(hide = true)]
    Run(run::Options),
    /// What lies between the zones
    #[command(hide = true)]
    Link,
    /// Probe from this machine; what to probe comes on standard input
    #[command(hide = true)]
    Probe,
    /// Readers
    #[command(hide = true)]
    Read(reads::Readers),
    /// Shoppers
    #[command(hide = true)]
    Crowd(shoppers::Options),
}

/// Runs a command of the lab.
pub(crate) fn run(arguments: Arguments) -> Result<(), Trouble> {
    match arguments.command {
        Command::Up { step, reading } => {
            packages::check()?;
            reading.check(step)?;
            let start = Instant::now();
            up(step, reading)?;
            println!("The lab is up after {:.1} s.", start.elapsed().as_secs_f64());
            crate::block_on(status())
        }
        Command::Down => {
            let start = Instant::now();
            match down()? {
                true => println!("The lab is gone after {:.1} s.", start.elapsed().as_secs_f64()),
                false => println!("There was no lab."),
            }
            Ok(())
        }
        Command::Status => crate::block_on(status()),
        Command::Matrix => matrix::run(),
        Command::Chaos(options) => chaos::run(&options),
        Command::Reads(options) => reads::run(&options),
        Command::Read(crowd) => crate::block_on(reads::read(crowd)),
        Command::Run(options) => crate::block_on(run::run(options)),
        Command::Link => {
            let (sender, orders) = mpsc::channel();
            std::thread::spawn(move || parent::each_line(|line| sender.send(line).is_ok()));
            match network::has_kernel_distance() {
                true => netem::run(&orders),
                false => link::run(&orders).map_err(Trouble::new),
            }
        }
        Command::Shop(options) => crate::block_on(shop::run(options)),
        Command::Crowd(options) => crate::block_on(shoppers::run(options)),
        Command::Probe => crate::block_on(matrix::probe()),
    }
}

/// Makes and starts everything; what was made is removed again when something fails.
fn up(step: Step, reading: Reading) -> Result<(), Trouble> {
    folder::make()?;
    let made = network::make(folder::path()).and_then(|()| start(step, reading));
    if made.is_err() {
        // The first trouble is the one to be told.
        let _ = down();
    }
    made
}

fn start(step: Step, reading: Reading) -> Result<(), Trouble> {
    let trouble =
        |error: std::io::Error| Trouble::new(format!("the lab's process cannot be started: {error}"));
    let log_file = folder::path().join("log");
    let log = File::create(&log_file).map_err(trouble)?;
    let program = std::env::current_exe().map_err(trouble)?;
    let mut child = Process::new("ip")
        .args(["netns", "exec", plan::CONTROL])
        .arg(program)
        .args(["lab", "run", "--step", step.word()])
        .args(reading.options())
        .args(["--min-per-zone", "1", "--max-per-zone", "3", "--drain", "5", "--unhealthy-after", "10"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(trouble)?)
        .stderr(log)
        .current_dir("/")
        // Of a group of its own, so that Ctrl-C in this terminal does not reach it.
        .process_group(0)
        .spawn()
        .map_err(trouble)?;
    let begin = Instant::now();
    loop {
        if crate::block_on(group::ask(folder::path(), &group::Wish::Status)).is_ok_and(|status| status.steady)
        {
            return Ok(());
        }
        let why = match child.try_wait().map_err(trouble)? {
            Some(status) => format!("the lab's process ended ({status})"),
            None if begin.elapsed() > UP => format!("the lab was not in service within {UP:?}"),
            None => {
                std::thread::sleep(LOOK_AGAIN);
                continue;
            }
        };
        let log = std::fs::read_to_string(&log_file).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(3).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        return Err(Trouble::new(format!("{why}; it said last: {}", last.join(" | "))));
    }
}

/// Stops and removes everything; says whether there was anything.
fn down() -> Result<bool, Trouble> {
    let there = !network::existing().is_empty() || folder::path().exists();
    if there {
        // Whatever does not stop by itself is killed below.
        let _ = crate::block_on(ask(&Wish::Stop));
        network::remove()?;
        folder::remove()?;
    }
    Ok(there)
}

async fn status() -> Result<(), Trouble> {
    let status = ask(&Wish::Status).await?;
    let group = group::ask(folder::path(), &group::Wish::Status).await?;
    println!("{:<20}{:<18}{:<14}process", "", "address", "group");
    for machine in plan::machines() {
        let mut pids: Vec<_> = status
            .processes
            .iter()
            .filter(|(name, _)| run::machine_of(name).is_some_and(|one| one == machine.name))
            .map(|(name, pid)| (name.clone(), Some(*pid).filter(|pid| *pid > 0)))
            .collect();
        pids.extend(
            group
                .instances
                .iter()
                .filter(|one| one.name == machine.name)
                .map(|one| (one.name.clone(), one.pid)),
        );
        let shown = pids.iter().map(|(name, pid)| {
            let pid = pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            if *name == machine.name { pid } else { format!("{name} {pid}") }
        });
        let shown: Vec<_> = shown.collect();
        println!(
            "{:<20}{:<18}{:<14}{}",
            machine.name,
            machine.ip.to_string(),
            machine.group.name(),
            shown.join(", ")
        );
    }
    if let Some(zone) = status.postgres_primary {
        println!("\nPostgreSQL's primary is in {}.", plan::ZONES[zone]);
    }
    for (zone, fault) in plan::ZONES.iter().zip(&status.faults) {
        match fault {
            link::Fault { cut: true, .. } => println!("{zone} is cut off."),
            link::Fault { slow_ms: 0, .. } => {}
            link::Fault { slow_ms, .. } => println!("{zone} is {slow_ms} ms farther away."),
        }
    }
    println!(
        "\nThe shop, for the machine `client`: http://{}/ and the other zones' nodes.",
        plan::edge(0).ip
    );
    println!("  ip netns exec client curl http://{}/api/whoami", plan::edge(0).ip);
    let by = if network::has_kernel_distance() { "netem" } else { "a process that carries the packets" };
    println!("The distance between the zones is made by {by}.");
    println!("What happens is written to {}/log.", folder::path().display());
    Ok(())
}
