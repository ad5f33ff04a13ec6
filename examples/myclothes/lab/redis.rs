//! Redis in the lab: a primary in the first zone, a replica in each other, a Sentinel in all.
//!
//! Sentinels find a primary that
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

/// The servers, and the Sentinels, which need them.
pub(crate) fn parts() -> Result<(Vec<Part>, Vec<Part>), Trouble> {
    let user = User::called("redis")?;
    let machines: Vec<_> = (0..ZONES.len()).map(redis).collect();
    let (mut servers, mut sentinels) = (Vec::new(), Vec::new());
    for machine in &machines {
        let folder = folder::of(&machine.name, &user)?;
        let config = folder.join("redis.conf");
        folder::write(&config, &server(machine, &machines[0], &folder), &user)?;
        let ready = Ready::AcceptsAt(folder.join("redis.sock"));
        servers.push(other(machine, &machine.name, &user, vec!["redis-server".into(), config.into()], ready));
        let config = folder.join("sentinel.conf");
        folder::write(&config, &sentinel(machine, &machines[0], &folder), &user)?;
        let name = format!("{}-sentinel", ZONES[machine.zone.unwrap_or_default()]);
        let ready = Ready::AcceptsAt(folder.join("sentinel.sock"));
        let command = vec!["redis-sentinel".into(), config.into()];
        sentinels.push(other(machine, &name, &user, command, ready));
    }
    Ok((servers, sentinels))
}

/// The socket of the server on this machine.
pub(crate) fn socket(machine: &str) -> PathBuf {
    folder::path().join(machine).join("redis.sock")
}

fn server(machine: &Machine, primary: &Machine, folder: &Path) -> String {
    let (ip, folder) = (machine.ip, folder.display());
    let mut text = format!(
        "bind {ip}\nport {REDIS}\nprotected-mode no\nunixsocket {folder}/redis.sock\ndir {folder}\nsave \"\"\n\
         repl-diskless-sync-delay 0\nrepl-timeout 5\nrepl-ping-replica-period 1\nmaxmemory 256mb\n\
         maxmemory-policy noeviction\ntcp-keepalive 5\nappendonly yes\nappendfsync everysec\n\
         min-replicas-to-write 1\nmin-replicas-max-lag 3\n"
    );
    if machine != primary {
        text += &format!("replicaof {} {REDIS}\n", primary.ip);
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
