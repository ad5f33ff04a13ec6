//! The lab's network, made and removed: namespaces, the links between machines and routers, security groups.
//!
//! Each machine has one link, to its zone's router, and knows nobody else: also two machines of a zone talk through the router, and so
//! through the security groups. Routers, the shoppers and the lab itself hang on `wan`. Where the kernel has netem, that is a link to
//! the namespace `between`, and the distance is made by [`super::netem`]; where it has not, it is a device whose other end is
//! [`super::link`]. What is made is made by one shell script, kept in the lab's folder for whoever wants to read it.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::plan::{Machine, ZONES, machines, machines_of, router, uplinks};
use super::{groups, netem};
use crate::trouble::Trouble;

/// All addresses of the lab.
pub(crate) const NETWORK: &str = "10.77.0.0/16";
/// The device that leads to the other zones.
pub(crate) const WAN: &str = "wan";
/// Where the links of all zones meet, if the kernel makes the distance between them. Each is called like whose it is.
pub(crate) const BETWEEN: &str = "between";
/// Its address.
const MIDDLE: &str = "10.77.0.1";
/// From the killing of the processes in a namespace to their end.
const END: Duration = Duration::from_secs(10);

/// Makes everything. What exists of it already is in the way, and said.
pub(crate) fn make(folder: &Path) -> Result<(), Trouble> {
    if let Some(name) = existing().first() {
        return Err(Trouble::new(format!(
            "the network namespace {name} exists already; if it is from a lab, `myclothes lab down` removes it"
        )));
    }
    let script = folder.join("network.sh");
    let text = script_text(folder, netem::is_there()?);
    let written =
        [("router.nft", groups::of_router()), ("outsider.nft", groups::of_outsider()), ("network.sh", text)];
    for (name, text) in written {
        let file = folder.join(name);
        std::fs::write(&file, text)
            .map_err(|error| Trouble::new(format!("{} cannot be written: {error}", file.display())))?;
    }
    run(Command::new("sh").arg("-eu").arg(script)).map(drop)
}

/// Ends every process in the lab's namespaces, and removes these; what is not there is no error.
pub(crate) fn remove() -> Result<(), Trouble> {
    for name in existing() {
        let start = Instant::now();
        loop {
            let pids = pids_in(&name)?;
            for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                // Fails only for one that has just ended.
                let _ = kill_process(pid, Signal::KILL);
            }
            if pids.is_empty() {
                break;
            }
            if start.elapsed() > END {
                return Err(Trouble::new(format!("processes {pids:?} in the namespace {name} do not end")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        run(Command::new("ip").args(["netns", "delete", &name]))?;
    }
    Ok(())
}

/// Those of the lab's namespaces that exist.
pub(crate) fn existing() -> Vec<String> {
    let names = machines().into_iter().map(|machine| machine.name).chain([BETWEEN.to_owned()]);
    names.filter(|name| exists(name)).collect()
}

/// Whether the distance between the zones of the lab that is up is made by the kernel.
pub(crate) fn has_kernel_distance() -> bool {
    exists(BETWEEN)
}

fn exists(namespace: &str) -> bool {
    Path::new("/run/netns").join(namespace).exists()
}

fn pids_in(namespace: &str) -> Result<Vec<i32>, Trouble> {
    let output = run(Command::new("ip").args(["netns", "pids", namespace]))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

fn script_text(folder: &Path, kernel_distance: bool) -> String {
    let mut script = String::from(
        "# The network of the lab. Made by `myclothes lab up`; `myclothes lab down` removes it.\n",
    );
    let mut line = |text: String| script += &format!("{text}\n");
    let nft =
        |name: &str, rules: &str| format!("ip netns exec {name} nft -f '{}'", folder.join(rules).display());
    if kernel_distance {
        line(format!("ip netns add {BETWEEN}"));
        line(format!("ip -n {BETWEEN} link set lo up"));
        line(format!("ip -n {BETWEEN} addr add {MIDDLE}/32 dev lo"));
        line(format!("ip netns exec {BETWEEN} sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'"));
    }
    for machine in uplinks() {
        let Machine { name, ip, .. } = &machine;
        line(format!("ip netns add {name}"));
        line(format!("ip -n {name} link set lo up"));
        line(format!("ip -n {name} addr add {ip}/32 dev lo"));
        if !kernel_distance {
            line(format!("ip -n {name} tuntap add dev {WAN} mode tun"));
            line(format!("ip -n {name} link set {WAN} up"));
            line(format!("ip -n {name} route add {NETWORK} dev {WAN} src {ip}"));
            continue;
        }
        line(format!("ip -n {name} link add {WAN} type veth peer name {name} netns {BETWEEN}"));
        line(format!("ip -n {name} link set {WAN} up"));
        line(format!("ip -n {BETWEEN} link set {name} up"));
        line(format!("ip -n {BETWEEN} route add {ip}/32 dev {name}"));
        let [first, second, third, _] = ip.octets();
        line(format!("ip -n {BETWEEN} route add {first}.{second}.{third}.0/24 via {ip} dev {name} onlink"));
        line(format!("ip -n {name} route add {MIDDLE} dev {WAN} src {ip}"));
        line(format!("ip -n {name} route add {NETWORK} via {MIDDLE} dev {WAN} src {ip}"));
    }
    for zone in 0..ZONES.len() {
        let gate = router(zone);
        line(format!("ip netns exec {} sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'", gate.name));
        for Machine { name, ip, .. } in machines_of(zone) {
            line(format!("ip netns add {name}"));
            line(format!("ip -n {name} link set lo up"));
            line(format!("ip -n {name} link add eth0 type veth peer name v-{name} netns {}", gate.name));
            line(format!("ip -n {name} addr add {ip}/32 dev eth0"));
            line(format!("ip -n {name} link set eth0 up"));
            line(format!("ip -n {} link set v-{name} up", gate.name));
            line(format!("ip -n {} route add {ip}/32 dev v-{name} src {}", gate.name, gate.ip));
            line(format!("ip -n {name} route add {} dev eth0", gate.ip));
            line(format!("ip -n {name} route add default via {} dev eth0", gate.ip));
        }
        line(nft(&gate.name, "router.nft"));
    }
    for machine in uplinks().iter().filter(|machine| machine.zone.is_none()) {
        line(nft(&machine.name, "outsider.nft"));
    }
    script
}

/// Runs a command to its end; an error says what it said.
pub(crate) fn run(command: &mut Command) -> Result<Output, Trouble> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Trouble::new(format!("`{shown}` cannot be run: {error}")))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Trouble::new(format!("`{shown}` failed: {}", said.trim().replace('\n', "; "))))
}
