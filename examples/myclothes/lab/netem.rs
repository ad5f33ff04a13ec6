//! The distance between the zones, made by the kernel: a queue of netem at each end of each link.
//!
//! Every end delays what leaves it, a zone by the distance between zones; what is more for the shoppers and the lab is added on their own
//! links. A zone that is cut off loses everything in both directions, and nobody is told.

use std::process::Command;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::link::{DISTANCE, Fault, MAX_QUEUE, OUTER_DISTANCE};
use super::network::{BETWEEN, WAN, run as run_to_end};
use super::plan::{Machine, ZONES, router, uplinks};
use crate::trouble::Trouble;

/// Whether this kernel has it: tried in a namespace that is made for that. An error is a system without `tc` or namespaces.
pub(crate) fn is_there() -> Result<bool, Trouble> {
    let name = "netem-probe";
    let ip = |args: &[&str]| run_to_end(Command::new("ip").args(args));
    // A probe that was killed may have left it.
    let _ = ip(&["netns", "delete", name]);
    ip(&["netns", "add", name])?;
    let tried = run_to_end(
        Command::new("tc").args(["-n", name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]),
    );
    ip(&["netns", "delete", name])?;
    Ok(tried.is_ok())
}

/// Makes the distance, and what `orders` say until they end: each is the faults of all zones. Prints a line when it is ready.
pub(crate) fn run(orders: &Receiver<String>) -> Result<(), Trouble> {
    for machine in uplinks().iter().filter(|machine| machine.zone.is_none()) {
        set(&leaving(machine, OUTER_DISTANCE, false))?;
        set(&reaching(machine, OUTER_DISTANCE.saturating_sub(DISTANCE), false))?;
    }
    set_zones(&[Fault::default(); ZONES.len()])?;
    crate::supervise::say("ready");
    while let Ok(line) = orders.recv() {
        let faults: Vec<Fault> = serde_json::from_str(&line)
            .map_err(|error| Trouble::new(format!("no list of faults: {error}")))?;
        set_zones(&faults)?;
    }
    Ok(())
}

fn set_zones(faults: &[Fault]) -> Result<(), Trouble> {
    for (zone, fault) in faults.iter().enumerate().take(ZONES.len()) {
        let (machine, slow) = (router(zone), Duration::from_millis(fault.slow_ms));
        set(&leaving(&machine, DISTANCE + slow, fault.cut))?;
        set(&reaching(&machine, Duration::ZERO, fault.cut))?;
    }
    Ok(())
}

fn set(args: &[String]) -> Result<(), Trouble> {
    run_to_end(Command::new("tc").args(args)).map(drop)
}

/// What leaves the machine by its link.
fn leaving(machine: &Machine, delay: Duration, cut: bool) -> Vec<String> {
    queue(&machine.name, WAN, delay, cut)
}

/// What comes to the machine by its link.
fn reaching(machine: &Machine, delay: Duration, cut: bool) -> Vec<String> {
    queue(BETWEEN, &machine.name, delay, cut)
}

/// The queue of a device, whatever it was before.
fn queue(namespace: &str, device: &str, delay: Duration, cut: bool) -> Vec<String> {
    let mut args: Vec<String> =
        ["-n", namespace, "qdisc", "replace", "dev", device, "root", "handle", "1:", "netem"]
            .map(str::to_owned)
            .into();
    args.extend(["limit".to_owned(), MAX_QUEUE.to_string()]);
    args.extend(["delay".to_owned(), format!("{}us", delay.as_micros())]);
    if cut {
        args.extend(["loss", "100%"].map(str::to_owned));
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::plan::client;

    #[test]
    fn a_zone_is_as_far_from_another_and_from_the_shoppers_as_with_the_process_that_carries_packets() {
        let zone = leaving(&router(0), DISTANCE, false).join(" ");
        assert_eq!(zone, "-n az-a qdisc replace dev wan root handle 1: netem limit 8192 delay 500us");
        let back = reaching(&client(), OUTER_DISTANCE.saturating_sub(DISTANCE), false).join(" ");
        assert_eq!(back, "-n between qdisc replace dev client root handle 1: netem limit 8192 delay 1500us");
    }

    #[test]
    fn what_is_cut_off_loses_everything() {
        let cut = reaching(&router(1), Duration::ZERO, true).join(" ");
        assert!(cut.ends_with(" dev az-b root handle 1: netem limit 8192 delay 0us loss 100%"), "{cut}");
    }
}
