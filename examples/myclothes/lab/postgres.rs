//! PostgreSQL in the lab: a primary in the first zone, a streaming replica in each other, and what happens when the primary dies.
//!
//! Every commit waits for one replica, whichever is first, so that a promoted replica lacks nothing that a shopper was told is done, and a
//! primary that is cut off commits nothing. It counts as gone when both replicas cannot reach it three times in a row; then it is killed
//! (whatever it does, it must not go on), and the replica that has received most is promoted by `promote.sh`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::folder::{self, User};
use super::packages::postgres_programs;
use super::plan::{Machine, POSTGRES, ZONES, postgres};
use super::process::{as_user, inside, other};
use crate::supervise::{Part, Ready};
use crate::trouble::Trouble;

/// The database of the shop, and the role that owns it.
pub(crate) const SHOP: &str = "shop";
/// The role of replicas.
const REPLICATOR: &str = "replicator";
/// Between two looks at the primary.
const RHYTHM: Duration = Duration::from_millis(500);
/// Between two looks whether a server is up.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// So many looks in a row must fail.
const FAILED_LOOKS: u32 = 3;
/// For one of PostgreSQL's programs.
const DEADLINE: Duration = Duration::from_secs(30);

const PROMOTE: &str = include_str!("promote.sh");

/// PostgreSQL's programs, run by its user.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    folder: PathBuf,
    user: User,
}

/// What all of it has in common.
#[derive(Debug, Clone)]
pub(crate) struct Postgres {
    programs: Programs,
    /// Of both roles.
    password: String,
}

impl Postgres {
    pub(crate) fn new() -> Result<Self, Trouble> {
        let programs = Programs::find()?;
        let mut secret = [0; 16];
        crate::sessions::fill_random(&mut secret);
        let password = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let script = folder::path().join("promote.sh");
        std::fs::write(&script, PROMOTE)
            .map_err(|error| Trouble::new(format!("{} cannot be written: {error}", script.display())))?;
        Ok(Self { programs, password })
    }

    /// Where the shop finds its data: the first primary and so many replicas; which of them is the primary by now is for the client to
    /// find out.
    pub(crate) fn url(&self, replicas: usize) -> String {
        let servers = ZONES.len().min(1 + replicas);
        let hosts: Vec<_> = (0..servers).map(|zone| postgres(zone).at(POSTGRES).to_string()).collect();
        format!("postgres://{SHOP}:{}@{}/{SHOP}", self.password, hosts.join(","))
    }

    /// Makes the data of the primary of this zone.
    pub(crate) async fn create(&self, zone: usize) -> Result<Part, Trouble> {
        let machine = postgres(zone);
        let folder = folder::of(&machine.name, &self.programs.user)?;
        let data = folder.join("data");
        let args = [
            "--no-sync",
            "--wal-segsize=1",
            "--auth-local=peer",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
        ];
        let mut args: Vec<OsString> = args.map(OsString::from).into();
        args.extend(["--locale=C", "--pgdata"].map(OsString::from));
        args.push(data.clone().into());
        self.programs.run(&machine, "initdb", args).await?;
        let network = super::network::NETWORK;
        let access = data.join("pg_hba.conf");
        let lines = format!(
            "local all all peer\nhost all all {network} scram-sha-256\nhost replication {REPLICATOR} {network} scram-sha-256\n"
        );
        folder::write(&access, &lines, &self.programs.user)?;
        Ok(self.part(&machine))
    }

    /// Makes the roles and the shop's database on the primary, which runs.
    pub(crate) async fn fill(&self, primary: usize) -> Result<(), Trouble> {
        self.is_up(primary).await?;
        let password = &self.password;
        // No replica is there yet that a commit could wait for.
        let statements = [
            "SET synchronous_commit = local".to_owned(),
            format!("CREATE ROLE {SHOP} LOGIN PASSWORD '{password}'"),
            format!("CREATE ROLE {REPLICATOR} LOGIN REPLICATION PASSWORD '{password}'"),
            format!("CREATE DATABASE {SHOP} OWNER {SHOP}"),
        ];
        self.programs.ask("postgres", primary, &statements).await.map(drop)
    }

    /// Waits until the server of this zone takes questions. It accepts connections some time before.
    pub(crate) async fn is_up(&self, zone: usize) -> Result<(), Trouble> {
        let start = Instant::now();
        loop {
            match self.programs.ask("postgres", zone, &["SELECT 1".to_owned()]).await {
                Ok(_) => return Ok(()),
                Err(trouble) if start.elapsed() > DEADLINE => return Err(trouble),
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Makes the data of a replica of this zone from that of the primary, which runs.
    pub(crate) async fn copy(&self, zone: usize, primary: usize) -> Result<Part, Trouble> {
        let machine = postgres(zone);
        let data = folder::of(&machine.name, &self.programs.user)?.join("data");
        let mut args: Vec<OsString> = vec!["--dbname".into(), self.conninfo(primary).into()];
        let options =
            ["--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf", "--no-sync", "--pgdata"];
        args.extend(options.map(OsString::from));
        args.push(data.into());
        self.programs.run(&machine, "pg_basebackup", args).await?;
        Ok(self.part(&machine))
    }

    /// Promotes the replica of this zone; those of `others` follow it.
    pub(crate) async fn promote(&self, zone: usize, others: &[usize]) -> Result<(), Trouble> {
        let machine = postgres(zone);
        let folder = folder::path();
        let mut args: Vec<OsString> = vec![folder.join("promote.sh").into()];
        args.extend([self.programs.folder.clone().into(), folder.into()]);
        args.extend([self.conninfo(zone), machine.name.clone()].map(OsString::from));
        args.extend(others.iter().map(|other| postgres(*other).name.into()));
        self.programs.run(&machine, "/bin/sh", args).await.map(drop)
    }

    /// The one of these replicas that has received most.
    pub(crate) async fn foremost(&self, zones: &[usize]) -> Option<usize> {
        let question = ["SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')::bigint".to_owned()];
        let mut best = None;
        for zone in zones {
            let answer = self.programs.ask("postgres", *zone, &question).await.ok();
            let Some(received) = answer.and_then(|answer| answer.trim().parse::<u64>().ok()) else {
                continue;
            };
            if best.is_none_or(|(most, _)| received > most) {
                best = Some((received, *zone));
            }
        }
        best.map(|(_, zone)| zone)
    }

    /// Whether the machine of this zone reaches the primary.
    async fn reaches(&self, zone: usize, primary: usize) -> bool {
        let mut args: Vec<OsString> = ["--quiet", "--timeout", "1", "--host"].map(OsString::from).into();
        args.push(postgres(primary).ip.to_string().into());
        self.programs.run(&postgres(zone), "pg_isready", args).await.is_ok()
    }

    fn conninfo(&self, primary: usize) -> String {
        let (ip, password) = (postgres(primary).ip, &self.password);
        format!("host={ip} port={POSTGRES} user={REPLICATOR} password={password} connect_timeout=2")
    }

    fn part(&self, machine: &Machine) -> Part {
        let folder = folder::path().join(&machine.name);
        let names: Vec<_> = ZONES.iter().map(|zone| zone.replace('-', "_")).collect();
        let zone = &names[machine.zone.unwrap_or_default()];
        let settings = [
            format!("listen_addresses={}", machine.ip),
            format!("unix_socket_directories={}", folder.display()),
            // Replicas call themselves so.
            format!("cluster_name={zone}"),
            format!("synchronous_standby_names=ANY 1 ({})", names.join(", ")),
            "max_connections=200".to_owned(),
            "shared_buffers=32MB".to_owned(),
            "wal_keep_size=64MB".to_owned(),
            "wal_sender_timeout=3s".to_owned(),
            "wal_receiver_timeout=3s".to_owned(),
            "wal_retrieve_retry_interval=500ms".to_owned(),
            "tcp_keepalives_idle=5".to_owned(),
        ];
        let mut command: Vec<OsString> = vec![self.programs.folder.join("postgres").into(), "-D".into()];
        command.push(folder.join("data").into());
        command.extend(settings.iter().flat_map(|setting| ["-c", setting].map(OsString::from)));
        let ready = Ready::AcceptsAt(folder.join(format!(".s.PGSQL.{POSTGRES}")));
        other(machine, &machine.name, &self.programs.user, command, ready)
    }
}

impl Programs {
    pub(crate) fn find() -> Result<Self, Trouble> {
        let folder = postgres_programs().ok_or_else(|| Trouble::new("PostgreSQL is not installed"))?;
        Ok(Self { folder, user: User::called("postgres")? })
    }

    /// What the server of this zone answers to the last of these statements.
    pub(crate) async fn ask(
        &self,
        database: &str,
        zone: usize,
        statements: &[String],
    ) -> Result<String, Trouble> {
        let machine = postgres(zone);
        let mut args: Vec<OsString> =
            ["-XAtq", "--set", "ON_ERROR_STOP=1", "--dbname"].map(OsString::from).into();
        args.extend([database.into(), "--host".into(), folder::path().join(&machine.name).into()]);
        args.extend(
            statements
                .iter()
                .flat_map(|statement| ["--command".to_owned(), statement.clone()].map(OsString::from)),
        );
        self.run(&machine, "psql", args).await
    }

    /// Runs one of PostgreSQL's programs on a machine, and gives what it wrote.
    async fn run(&self, machine: &Machine, program: &str, args: Vec<OsString>) -> Result<String, Trouble> {
        let mut all = inside(machine);
        all.extend(as_user(&self.user));
        all.push("--".into());
        all.push(self.folder.join(program).into());
        all.extend(args);
        let mut command = Command::new("ip");
        command.args(all).current_dir("/").stdin(std::process::Stdio::null()).kill_on_drop(true);
        let trouble = |why: String| Trouble::new(format!("{program} on {}: {why}", machine.name));
        match timeout(DEADLINE, command.output()).await {
            Ok(Ok(output)) if output.status.success() => {
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Ok(Ok(output)) => {
                Err(trouble(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")))
            }
            Ok(Err(error)) => Err(trouble(error.to_string())),
            Err(_) => Err(trouble(format!("not done within {DEADLINE:?}"))),
        }
    }
}

/// Looks at the primary, whose zone `primary` tells, from the other zones, and says when it is gone.
pub(crate) async fn watch_primary(
    postgres: Postgres,
    mut primary: watch::Receiver<usize>,
    gone: mpsc::Sender<usize>,
) {
    let mut rhythm = interval(RHYTHM);
    rhythm.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = 0;
    loop {
        rhythm.tick().await;
        if primary.has_changed().unwrap_or_default() {
            failed = 0;
        }
        let current = *primary.borrow_and_update();
        let mut looks = JoinSet::new();
        for zone in (0..ZONES.len()).filter(|zone| *zone != current) {
            let postgres = postgres.clone();
            looks.spawn(async move { postgres.reaches(zone, current).await });
        }
        let mut reached = false;
        while let Some(look) = looks.join_next().await {
            reached |= look.unwrap_or_default();
        }
        failed = if reached { 0 } else { failed + 1 };
        if failed >= FAILED_LOOKS {
            failed = 0;
            if gone.send(current).await.is_err() {
                return;
            }
        }
    }
}
