//! Shopping in a lab in which nothing happens: how long pages take, what fails, and whether anything grows.
//!
//! Memory is read after the first minute, when caches are warm, and at the end. The shop's processes and Selvedge's nodes may not have
//! grown meanwhile; Redis keeps what every shopper has left there, and may grow by as much.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::sleep;

use super::crowd::Crowd;
use super::memory::{Processes, Tree};
use super::run::{Wish, ask};
use super::shoppers::Seen;
use super::table::{Build, Cell};
use super::{disaster, folder};
use crate::asg::command as group;
use crate::trouble::Trouble;

/// From the beginning to the first look at memory; or half of the time, if that is shorter.
const WARM: Duration = Duration::from_secs(60);
/// What is shorter says nothing about memory.
const LONG_ENOUGH: Duration = Duration::from_secs(180);
/// Growth that is none, in KiB: and a tenth.
const SLACK_KIB: u64 = 3 * 1024;
/// What one visit may leave in Redis, in KiB: a session, and its traces in the backlog for replicas.
const VISIT_KIB: u64 = 1;

/// Options of `myclothes lab shop`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Shoppers at the same time
    #[arg(long, value_name = "N", default_value_t = 300)]
    shoppers: usize,
    /// How long: 30s, 10m, 1h
    #[arg(long = "for", value_name = "DURATION", default_value = "10m", value_parser = duration)]
    lasts: Duration,
}

/// Shops, and says what it was like; an error if anything failed, was lost, or has grown.
pub(crate) async fn run(options: Options) -> Result<(), Trouble> {
    let Options { shoppers, lasts } = options;
    disaster::heal().await?;
    let step = ask(&Wish::Status).await?.step;
    let built = Build::of_this().title();
    println!("{shoppers} shoppers for {} s; {}; {built}.", lasts.as_secs(), step.title());
    let mut crowd = Crowd::start(shoppers).await?;
    let warm = WARM.min(lasts / 2);
    sleep(warm).await;
    let before = look(&crowd).await?;
    sleep(lasts - warm).await;
    let after = look(&crowd).await?;
    let mut seen = crowd.stop().await?;
    print_times(&seen);
    let times = std::mem::take(&mut seen.times);
    let visits = seen.carts as u64;
    let cell = Cell::of(seen, &crowd.placed().await?);
    println!("\n{cell}");
    cell.told.iter().for_each(|line| println!("    {line}"));
    let mut wrong = cell.flaws();
    if times.is_empty() {
        wrong.push("nobody was answered".to_owned());
    }
    wrong.extend(print_memory(&before, &after, warm, lasts, visits));
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(Trouble::new(format!("not as it should be: {}", wrong.join("; ")))),
    }
}

/// The memory of every process of the lab.
async fn look(crowd: &Crowd) -> Result<BTreeMap<String, Tree>, Trouble> {
    let status = ask(&Wish::Status).await?;
    let group = group::ask(folder::path(), &group::Wish::Status).await?;
    let instances = group.instances.into_iter().filter_map(|one| Some((one.name, one.pid?)));
    let shoppers = crowd.pid().map(|pid| ("shoppers".to_owned(), pid));
    let all = status.processes.into_iter().chain(instances).chain(shoppers);
    let processes = Processes::now();
    Ok(all.filter_map(|(name, pid)| Some((name, processes.tree(pid)?))).collect())
}

fn print_times(seen: &Seen) {
    println!("\n{:<28}{:>9}{:>8}{:>8}{:>8}{:>8}", "", "answers", "p50", "p90", "p99", "most");
    for (kind, times) in &seen.times {
        let [median, most_of, nearly, all] = [0.5, 0.9, 0.99, 1.0].map(|share| times.within(share));
        println!(
            "{kind:<28}{:>9}{:>8}{:>8}{:>8}{:>8}",
            times.count(),
            format!("{median} ms"),
            format!("{most_of} ms"),
            format!("{nearly} ms"),
            format!("{all} ms")
        );
    }
}

/// Prints what each process had and has; gives what has grown.
fn print_memory(
    before: &BTreeMap<String, Tree>,
    after: &BTreeMap<String, Tree>,
    warm: Duration,
    lasts: Duration,
    visits: u64,
) -> Vec<String> {
    let long_enough = lasts >= LONG_ENOUGH;
    println!("\n{:<20}{:>14}{:>14}", "memory (RSS, MiB)", format!("{} s", warm.as_secs()), "end");
    let mut grown = Vec::new();
    for (name, now) in after {
        let then = before.get(name);
        let verdict = match then {
            _ if !long_enough => "",
            Some(then) if then.pid != now.pid => "another process",
            Some(then) if now.kib <= allowed(name, then.kib, visits) => "flat",
            Some(_) => "GROWN",
            None => "another process",
        };
        if verdict == "GROWN" || verdict == "another process" {
            grown.push(format!("{name}: {verdict}"));
        }
        let shown = then.map_or_else(|| "-".to_owned(), |then| mib(then.kib));
        println!("{name:<20}{shown:>14}{:>14}  {verdict}", mib(now.kib));
    }
    if !long_enough {
        println!("What grows shows in {} s or more.", LONG_ENOUGH.as_secs());
    }
    grown
}

/// What a process may have, in KiB, that had `then`.
fn allowed(name: &str, then: u64, visits: u64) -> u64 {
    let data = if name.ends_with("-redis") { visits * VISIT_KIB } else { 0 };
    then + then / 10 + SLACK_KIB + data
}

fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

/// `30s`, `10m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let number = |unit: &str| text.strip_suffix(unit)?.parse::<u32>().ok();
    let seconds = match (number("s"), number("m"), number("h")) {
        (Some(seconds), ..) => u64::from(seconds),
        (_, Some(minutes), _) => 60 * u64::from(minutes),
        (.., Some(hours)) => 3600 * u64::from(hours),
        _ => 0,
    };
    match seconds {
        2..=86_400 => Ok(Duration::from_secs(seconds)),
        _ => Err("write 2s to 24h, such as 30s or 10m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        for wrong in ["", "10", "s", "1s", "25h", "-1m", "1.5h"] {
            assert!(duration(wrong).unwrap_err().contains("such as"), "{wrong}");
        }
    }

    #[test]
    fn what_has_grown_is_named() {
        let tree = |pid, kib| Tree { pid, kib };
        let all = |nodes: Tree, redis| -> BTreeMap<_, _> {
            [("az-a-edge", nodes), ("az-a-redis", tree(2, redis))]
                .map(|(name, tree)| (name.to_owned(), tree))
                .into()
        };
        let (before, minutes) = (all(tree(1, 20_000), 10_000), Duration::from_secs(600));
        let judge = |after: &BTreeMap<_, _>, lasts| print_memory(&before, after, WARM, lasts, 20_000);
        assert_eq!(judge(&all(tree(1, 22_000), 30_000), minutes), Vec::<String>::new());
        assert_eq!(judge(&all(tree(1, 40_000), 60_000), minutes), ["az-a-edge: GROWN", "az-a-redis: GROWN"]);
        assert_eq!(judge(&all(tree(7, 20_000), 10_000), minutes), ["az-a-edge: another process"]);
        assert_eq!(judge(&all(tree(1, 40_000), 60_000), WARM), Vec::<String>::new(), "too short to tell");
    }
}
