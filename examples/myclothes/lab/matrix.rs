//! Who reaches whom: every machine probes every port of every other that anything in the lab listens on, and some more.
//!
//! A port counts as open as soon as an answer comes, also one that says that nobody listens: the packet got through. What is refused
//! by the security groups is not answered at all. All pairs are compared with what [`super::plan`] allows.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::names::lookup;
use super::plan::{DNS, Group, Machine, is_allowed, machines, probed_ports};
use crate::trouble::Trouble;

/// For an answer; twice, as a packet may get lost.
const DEADLINE: Duration = Duration::from_millis(900);
/// Machines that probe at the same time.
const AT_ONCE: usize = 6;

/// One probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Probe {
    to: SocketAddr,
    udp: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Outcome {
    /// Somebody listens there.
    Open,
    /// The packet got through, but nobody listens.
    Refused,
    /// No answer.
    Silent,
}

/// Probes everything, prints the matrix, and fails if it is not as it should be.
pub(crate) fn run() -> Result<(), Trouble> {
    let machines = machines();
    let mut wrong = Vec::new();
    let mut groups: BTreeMap<(Group, Group), BTreeMap<String, Tally>> = BTreeMap::new();
    let mut count = 0;
    for some in machines.chunks(AT_ONCE) {
        let probing: Vec<_> = some.iter().map(|from| start(from, &machines)).collect::<Result<_, _>>()?;
        for (from, (child, probes)) in some.iter().zip(probing) {
            for (probe, outcome) in finish(from, child, &probes)? {
                let Some(to) = machines.iter().find(|machine| IpAddr::from(machine.ip) == probe.to.ip())
                else {
                    continue;
                };
                count += 1;
                let port = port_name(probe);
                let allowed = is_allowed(from, to, probe.to.port(), probe.udp);
                let got_through = outcome != Outcome::Silent;
                let tally =
                    groups.entry((from.group, to.group)).or_default().entry(port.clone()).or_default();
                tally.all += 1;
                tally.through += usize::from(got_through);
                if allowed != got_through {
                    let what =
                        if got_through { "is open and must not be" } else { "must be open and is not" };
                    wrong.push(format!("{} to {} {port} {what} ({outcome:?})", from.name, to.name));
                }
            }
        }
    }
    print(&groups);
    println!("\n{count} probes between {} machines.", machines.len());
    if wrong.is_empty() {
        println!("Exactly what the security groups allow is open.");
        return Ok(());
    }
    for line in wrong.iter().take(40) {
        println!("WRONG: {line}");
    }
    Err(Trouble::new(format!("{} pairs are not as the security groups say", wrong.len())))
}

/// Probes that got through, of all between two groups.
#[derive(Debug, Default)]
struct Tally {
    all: usize,
    through: usize,
}

/// From whom, to whom, and which ports.
fn print(groups: &BTreeMap<(Group, Group), BTreeMap<String, Tally>>) {
    let all = [
        Group::Outside,
        Group::Control,
        Group::Edge,
        Group::Instances,
        Group::Redis,
        Group::Postgres,
        Group::Router,
    ];
    println!("from \\ to: ports that are open; in brackets of how many pairs of machines, if not of all\n");
    for from in all {
        println!("{}", from.name());
        for to in all {
            let Some(ports) = groups.get(&(from, to)) else { continue };
            let open = ports.iter().filter(|(_, tally)| tally.through > 0).map(|(port, tally)| {
                match tally.through == tally.all {
                    true => port.clone(),
                    false => format!("{port} ({} of {})", tally.through, tally.all),
                }
            });
            let open: Vec<_> = open.collect();
            let open = if open.is_empty() { "-".to_owned() } else { open.join(" ") };
            println!("    {:<11}{open}", to.name());
        }
    }
}

fn port_name(probe: Probe) -> String {
    format!("{}{}", probe.to.port(), if probe.udp { "/udp" } else { "" })
}

fn probes_from(from: &Machine, machines: &[Machine]) -> Vec<Probe> {
    let others = machines.iter().filter(|to| *to != from);
    let mut probes: Vec<_> = others
        .clone()
        .flat_map(|to| probed_ports().into_iter().map(|port| Probe { to: to.at(port), udp: false }))
        .collect();
    probes.extend(others.map(|to| Probe { to: to.at(DNS), udp: true }));
    probes
}

fn start(from: &Machine, machines: &[Machine]) -> Result<(std::process::Child, Vec<Probe>), Trouble> {
    let trouble = |error: std::io::Error| Trouble::new(format!("{} cannot probe: {error}", from.name));
    let probes = probes_from(from, machines);
    let program = std::env::current_exe().map_err(trouble)?;
    let mut child = Command::new("ip")
        .args(["netns", "exec", &from.name])
        .arg(program)
        .args(["lab", "probe"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(trouble)?;
    let input = child.stdin.take().ok_or_else(|| Trouble::new("no standard input"))?;
    serde_json::to_writer(input, &probes).map_err(|error| trouble(error.into()))?;
    Ok((child, probes))
}

fn finish(
    from: &Machine,
    child: std::process::Child,
    probes: &[Probe],
) -> Result<Vec<(Probe, Outcome)>, Trouble> {
    let output = child.wait_with_output().map_err(|error| Trouble::new(error.to_string()))?;
    let outcomes: Vec<Outcome> = serde_json::from_slice(&output.stdout)
        .map_err(|error| Trouble::new(format!("{} could not probe ({error}); is a lab up?", from.name)))?;
    match outcomes.len() == probes.len() {
        true => Ok(probes.iter().copied().zip(outcomes).collect()),
        false => Err(Trouble::new(format!("{} has not made all probes", from.name))),
    }
}

/// Makes the probes that come on standard input, all at once, and writes what came of them.
pub(crate) async fn probe() -> Result<(), Trouble> {
    let mut text = String::new();
    let read = std::io::stdin().lock().read_to_string(&mut text);
    read.map_err(|error| Trouble::new(error.to_string()))?;
    let probes: Vec<Probe> = serde_json::from_str(&text).map_err(|error| Trouble::new(error.to_string()))?;
    let mut probing = JoinSet::new();
    for (place, probe) in probes.iter().copied().enumerate() {
        probing.spawn(async move {
            let outcome = match ask(probe).await {
                Outcome::Silent => ask(probe).await,
                heard => heard,
            };
            (place, outcome)
        });
    }
    let mut outcomes = vec![Outcome::Silent; probes.len()];
    while let Some(probed) = probing.join_next().await {
        let (place, outcome) = probed.map_err(|panic| Trouble::new(panic.to_string()))?;
        outcomes[place] = outcome;
    }
    println!("{}", serde_json::json!(outcomes));
    Ok(())
}

async fn ask(probe: Probe) -> Outcome {
    let outcome = match probe.udp {
        false => timeout(DEADLINE, TcpStream::connect(probe.to)).await.map(|tried| tried.map(drop)),
        true => timeout(DEADLINE, lookup(probe.to)).await.map(|tried| tried.map(drop)),
    };
    match outcome {
        Ok(Ok(())) => Outcome::Open,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => Outcome::Refused,
        _ => Outcome::Silent,
    }
}
