//! Redis in the lab: one alone, or a primary in the first zone with a replica in each other and a Sentinel in all.
//!
//! Data is written to disk only where there are replicas: one that is alone has what its memory has. Nobody waits for the disk: what a machine
//! loses with its memory, a replica in another zone has, and a slow disk would stop all carts. Sentinels find a primary that
//! is gone after two seconds, and two of them decide. A primary that has lost all replicas takes no more writes, so that what it
//! says yes to is not lost when the others have gone on without it.

use std::path::{Path, PathBuf};

use super::folder::{self, User};
use super::plan::{Machine, REDIS, SENTINEL, ZONES, redis};
use super::process::other;
use crate::supervise::{Part, Ready};
use crate::trouble::Trouble;

/// The name that Sentinels know the primary by.
const PRIMARY: &str = "shop";

/// The servers, and the Sentinels, which need them: a server alone in the first zone, or all of it.
pub(crate) fn parts(replicated: bool) -> Result<(Vec<Part>, Vec<Part>), Trouble> {
    let user = User::called("redis")?;
    let zones = if replicated { ZONES.len() } else { 1 };
    let machines: Vec<_> = (0..zones).map(redis).collect();
    let (mut servers, mut sentinels) = (Vec::new(), Vec::new());
    for machine in &machines {
        let folder = folder::of(&machine.name, &user)?;
        let config = folder.join("redis.conf");
        folder::write(&config, &server(machine, &machines, &folder), &user)?;
        let ready = Ready::AcceptsAt(folder.join("redis.sock"));
        servers.push(other(machine, &machine.name, &user, vec!["redis-server".into(), config.into()], ready));
        if !replicated {
            break;
        }
        let config = folder.join("sentinel.conf");
        folder::write(&config, &sentinel(machine, &machines[0], &folder), &user)?;
        let name = format!("{}-sentinel", ZONES[machine.zone.unwrap_or_default()]);
        let ready = Ready::AcceptsAt(folder.join("sentinel.sock"));
        let command = vec!["redis-sentinel".into(), config.into()];
        sentinels.push(other(machine, &name, &user, command, ready));
    }
    Ok((servers, sentinels))
}

/// How instances find one that is alone.
pub(crate) fn url() -> String {
    format!("redis://{}", redis(0).at(REDIS))
}

/// How instances find the primary by Sentinels.
pub(crate) fn sentinel_url() -> String {
    let sentinels: Vec<_> = (0..ZONES.len()).map(|zone| redis(zone).at(SENTINEL).to_string()).collect();
    format!("redis+sentinel://{}/{PRIMARY}", sentinels.join(","))
}

/// The socket of the server on this machine.
pub(crate) fn socket(machine: &str) -> PathBuf {
    folder::path().join(machine).join("redis.sock")
}

fn server(machine: &Machine, all: &[Machine], folder: &Path) -> String {
    let (ip, folder) = (machine.ip, folder.display());
    let mut text = format!(
        "bind {ip}\nport {REDIS}\nprotected-mode no\nunixsocket {folder}/redis.sock\ndir {folder}\nsave \"\"\n\
         repl-diskless-sync-delay 0\nrepl-timeout 5\nrepl-ping-replica-period 1\nmaxmemory 256mb\n\
         maxmemory-policy noeviction\ntcp-keepalive 5\n"
    );
    if all.len() > 1 {
        text += "appendonly yes\nappendfsync no\nmin-replicas-to-write 1\nmin-replicas-max-lag 3\n";
        if machine != &all[0] {
            text += &format!("replicaof {} {REDIS}\n", all[0].ip);
        }
    }
    text
}

fn sentinel(machine: &Machine, primary: &Machine, folder: &Path) -> String {
    let (ip, folder) = (machine.ip, folder.display());
    format!(
        "bind {ip}\nport {SENTINEL}\nprotected-mode no\nunixsocket {folder}/sentinel.sock\ndir {folder}\n\
         sentinel monitor {PRIMARY} {} {REDIS} 2\nsentinel down-after-milliseconds {PRIMARY} 2000\n\
         sentinel failover-timeout {PRIMARY} 6000\nsentinel parallel-syncs {PRIMARY} 2\n",
        primary.ip
    )
}
