//! What the catalogue costs the database: read from the primary alone, from replicas, and through a cache.
//!
//! Readers ask for the whole catalogue, each again as soon as it is answered, through the nodes. The CPU time of a server is that of its
//! process and all its children. How often it was read is its own count of scans of the table, to which its processes add theirs
//! only every [`COUNTED`].

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::names::Names;
use super::nodes::DOMAIN;
use super::packages;
use super::plan::{CLIENT, ZONES, postgres};
use super::postgres::{Programs, SHOP};
use super::reading::Reading;
use super::run::{Wish, ask};
use super::step::Step;
use super::table::Build;
use crate::cache::Mode;
use crate::trouble::Trouble;

/// From a request to the last byte of its answer.
const ANSWER: Duration = Duration::from_secs(5);
/// After which PostgreSQL's processes have added what they have counted: ten seconds, and some. Before the readers come, it also
/// tells what the primary does while nobody reads.
const COUNTED: Duration = Duration::from_secs(12);
/// How often each variant is measured, in turn with the others.
const ROUNDS: usize = 2;
/// What is compared.
const VARIANTS: [Reading; 5] = [
    Reading { replicas: 0, cache: Mode::Off },
    Reading { replicas: 1, cache: Mode::Off },
    Reading { replicas: 2, cache: Mode::Off },
    Reading { replicas: 2, cache: Mode::CacheAside },
    Reading { replicas: 2, cache: Mode::WriteThrough },
];
const SCANS: &str = "SELECT coalesce(sum(coalesce(seq_scan, 0) + coalesce(idx_scan, 0)), 0)
                     FROM pg_stat_user_tables WHERE relname = 'products'";

/// Options of `myclothes lab reads`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// With 0, 1 and 2 replicas and with both kinds of cache, each twice in a lab of its own: takes seven minutes
    #[arg(long)]
    table: bool,
    /// Where the table is written to
    #[arg(long, value_name = "FILE", default_value = "examples/myclothes/lab/reads.md", requires = "table")]
    output: PathBuf,
    #[command(flatten)]
    crowd: Readers,
}

/// Who reads.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Readers {
    /// Readers at the same time
    #[arg(long, value_name = "N", default_value_t = 16)]
    readers: usize,
    /// For how long they read
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

/// What the readers have seen.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    answers: u64,
    failures: u64,
}

/// One measurement.
#[derive(Debug)]
struct Measured {
    answers: u64,
    seconds: f64,
    /// CPU time of the primary meanwhile, and what it takes in a second when nobody reads.
    cpu_ms: f64,
    idle_ms: f64,
    /// How often each server was read, the primary first.
    reads: Vec<u64>,
}

/// Measures in the lab that is up, or all variants.
pub(crate) fn run(options: &Options) -> Result<(), Trouble> {
    packages::check()?;
    if options.table {
        return all(options);
    }
    let (reading, measured) = crate::block_on(async {
        let reading = ask(&Wish::Status).await?.reading;
        Ok((reading, measure(reading, &options.crowd).await?))
    })?;
    print!("{}", table(&[(reading, vec![measured])], &options.crowd));
    Ok(())
}

fn all(options: &Options) -> Result<(), Trouble> {
    let begin = Instant::now();
    let mut rows: Vec<(Reading, Vec<Measured>)> = VARIANTS.map(|reading| (reading, Vec::new())).into();
    for _ in 0..ROUNDS {
        for (reading, measured) in &mut rows {
            super::up(Step::Full, *reading)?;
            let one = crate::block_on(measure(*reading, &options.crowd));
            // Also when something went wrong: the next lab needs the place.
            super::down()?;
            let one = one?;
            println!("{}: {one:?}", reading.title());
            measured.push(one);
        }
    }
    let file = &options.output;
    std::fs::write(file, format!("{PREFACE}\n{}", table(&rows, &options.crowd)))
        .map_err(|error| Trouble::new(format!("{} cannot be written: {error}", file.display())))?;
    println!("Written to {}, after {} s.", file.display(), begin.elapsed().as_secs());
    Ok(())
}

/// Lets them read. An error if anything failed, or if the primary was read although there are replicas.
async fn measure(reading: Reading, crowd: &Readers) -> Result<Measured, Trouble> {
    let programs = Programs::find()?;
    let status = ask(&Wish::Status).await?;
    let primary =
        status.postgres_primary.ok_or_else(|| Trouble::new("the lab has no PostgreSQL: --step full"))?;
    let pid = status.processes.get(&postgres(primary).name).copied().unwrap_or_default();
    let cpu = || cpu_ms(pid).ok_or_else(|| Trouble::new("PostgreSQL's primary does not run"));
    let zones: Vec<usize> = (0..ZONES.len()).map(|place| (primary + place) % ZONES.len()).collect();

    let before = cpu()?;
    sleep(COUNTED).await;
    let idle_ms = (cpu()? - before) / COUNTED.as_secs_f64();
    let counted = reads(&programs, &zones).await?;
    let before = cpu()?;
    let seen = send_readers(crowd).await?;
    let cpu_ms = cpu()? - before;
    sleep(COUNTED).await;
    let reads = reads(&programs, &zones).await?.iter().zip(counted).map(|(now, then)| now - then).collect();
    let measured = Measured { answers: seen.answers, seconds: crowd.seconds as f64, cpu_ms, idle_ms, reads };
    if seen.failures > 0 || seen.answers == 0 {
        return Err(Trouble::new(format!("{} requests failed: {measured:?}", seen.failures)));
    }
    if reading.replicas > 0 && measured.reads[0] > 0 {
        return Err(Trouble::new(format!("the primary was read although there are replicas: {measured:?}")));
    }
    Ok(measured)
}

/// How often the servers of these zones were read so far.
async fn reads(programs: &Programs, zones: &[usize]) -> Result<Vec<u64>, Trouble> {
    let mut all = Vec::new();
    for zone in zones {
        let answer = programs.ask(SHOP, *zone, &[SCANS.to_owned()]).await?;
        let count = answer.trim().parse();
        all.push(count.map_err(|_| Trouble::new(format!("this is no count of reads: {answer}")))?);
    }
    Ok(all)
}

/// Readers on the machine `client`.
async fn send_readers(crowd: &Readers) -> Result<Seen, Trouble> {
    let trouble = |error: &dyn std::fmt::Display| Trouble::new(format!("the readers do not read: {error}"));
    let program = std::env::current_exe().map_err(|error| trouble(&error))?;
    let mut readers = Command::new("ip");
    readers.args(["netns", "exec", CLIENT]).arg(program);
    readers.args(["lab", "read", "--readers", &crowd.readers.to_string()]);
    readers.args(["--seconds", &crowd.seconds.to_string()]).stdin(Stdio::null()).kill_on_drop(true);
    let deadline = Duration::from_secs(crowd.seconds) + 2 * ANSWER;
    let output = timeout(deadline, readers.output()).await.map_err(|late| trouble(&late))?;
    let output = output.map_err(|error| trouble(&error))?;
    serde_json::from_slice(&output.stdout).map_err(|_| trouble(&String::from_utf8_lossy(&output.stderr)))
}

/// Reads as fast as there are answers, and says how many there were.
pub(crate) async fn read(crowd: Readers) -> Result<(), Trouble> {
    let names = Arc::new(Names::default());
    let end = Instant::now() + Duration::from_secs(crowd.seconds);
    let mut reading: JoinSet<Seen> = (0..crowd.readers).map(|_| reader(Arc::clone(&names), end)).collect();
    let mut total = Seen::default();
    while let Some(seen) = reading.join_next().await {
        let seen = seen.map_err(|panic| Trouble::new(panic.to_string()))?;
        total.answers += seen.answers;
        total.failures += seen.failures;
    }
    println!("{}", serde_json::json!(total));
    Ok(())
}

async fn reader(names: Arc<Names>, end: Instant) -> Seen {
    let mut seen = Seen::default();
    let mut connection = None;
    while Instant::now() < end {
        match timeout(ANSWER, catalogue(&names, &mut connection)).await {
            Ok(Ok(())) => seen.answers += 1,
            Ok(Err(_)) | Err(_) => {
                seen.failures += 1;
                connection = None;
            }
        }
    }
    seen
}

async fn catalogue(names: &Names, connection: &mut Option<SendRequest<Full<Bytes>>>) -> Result<(), String> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => names.connect().await?,
    };
    open.ready().await.map_err(|error| error.to_string())?;
    let request = Request::get("/api/products").header(HOST, DOMAIN).body(Full::default());
    let request = request.map_err(|error| error.to_string())?;
    let answer = open.send_request(request).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    if !status.is_success() || !body.starts_with(b"{\"products\":[{") {
        return Err(status.to_string());
    }
    *connection = Some(open);
    Ok(())
}

/// CPU time of a process, of those of its children that have ended, and of those that run.
fn cpu_ms(pid: u32) -> Option<f64> {
    let own = Times::of(pid)?;
    let folders = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok());
    let children = pids.filter_map(Times::of).filter(|times| times.parent == pid);
    let ticks = own.own + own.ended + children.map(|times| times.own + times.ended).sum::<u64>();
    Some(ticks as f64 * 1000.0 / rustix::param::clock_ticks_per_second() as f64)
}

/// What `/proc/PID/stat` says, in ticks of the clock.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    parent: u32,
    own: u64,
    /// Of children that have ended.
    ended: u64,
}

impl Times {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name, in parentheses, may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |place: usize| fields.get(place)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(field(1)?).ok()?,
            own: field(11)? + field(12)?,
            ended: field(13)? + field(14)?,
        })
    }
}

const PREFACE: &str = "\
# What the catalogue costs the database

Made by `myclothes lab reads --table` in the lab of three networks on one machine, each line in a lab of its own, and all lines twice, one
after the other: both results are shown. Readers ask for the whole catalogue (`/api/products`) through the nodes, each again as soon as it is answered.
Instances read it from PostgreSQL, or from Redis, which they find by its Sentinels.

The machine had two cores, which everything shared: readers, nodes, instances, all databases. So another server cannot answer more requests
here, and requests per second only tell how much work a request is for all of them together; how far the two results are apart says what else the
machine had to do. What a primary on a machine of its own is relieved of
is in the columns about the primary. Its CPU time is that of all its processes. Some of it they take anyway, as it is watched by every instance and
followed by its replicas: that was measured in the seconds before, and is not for reads. Reads are its own count of scans of the table.
";

fn table(rows: &[(Reading, Vec<Measured>)], crowd: &Readers) -> String {
    let Readers { readers, seconds } = crowd;
    let columns = [
        "the catalogue is read from",
        "requests/s",
        "to the first line",
        "CPU of the primary, ms per 1000 requests",
        "of that, for reads",
        "reads of the primary per 1000 requests",
        "of the replicas",
    ];
    let build = Build::of_this().title();
    let mut text = format!("{readers} readers, {seconds} s each; {build}.\n\n| {} |\n", columns.join(" | "));
    text += &format!("{}|\n", "| --- ".repeat(columns.len()));
    let rate = |one: &Measured| one.answers as f64 / one.seconds;
    let mean = |all: &[Measured]| all.iter().map(rate).sum::<f64>() / all.len().max(1) as f64;
    let first = rows.first().map_or(1.0, |(_, all)| mean(all));
    for (reading, all) in rows {
        let each = |of: &dyn Fn(&Measured) -> f64, digits: usize| {
            let shown: Vec<_> = all.iter().map(|one| format!("{:.digits$}", of(one))).collect();
            shown.join(", ")
        };
        let by_thousand = |one: &Measured| 1000.0 / one.answers as f64;
        let for_reads = |one: &Measured| (one.cpu_ms - one.idle_ms * one.seconds).max(0.0);
        let cells = [
            reading.title(),
            each(&rate, 0),
            format!("{:.2}", mean(all) / first),
            each(&|one| one.cpu_ms * by_thousand(one), 0),
            each(&|one| for_reads(one) * by_thousand(one), 0),
            each(&|one| one.reads[0] as f64 * by_thousand(one), 0),
            each(&|one| one.reads[1..].iter().sum::<u64>() as f64 * by_thousand(one), 1),
        ];
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "77 (post) gres) S 5 77 77 0 -1 4194560 900 10 0 0 120 30 7 3 20 0 1 0";
        assert_eq!(Times::parse(stat), Some(Times { parent: 5, own: 150, ended: 10 }));
        assert_eq!(Times::parse("77 (postgres"), None);
        assert!(cpu_ms(std::process::id()).is_some());
    }

    #[test]
    fn the_table_shows_both_results_and_compares_with_the_first_line() {
        let measured = |answers, primary| Measured {
            answers,
            seconds: 10.0,
            cpu_ms: 500.0,
            idle_ms: 4.0,
            reads: vec![primary, 1000, 1000],
        };
        let crowd = Readers { readers: 8, seconds: 10 };
        let rows = [
            (VARIANTS[0], vec![measured(1000, 1000), measured(3000, 3000)]),
            (VARIANTS[3], vec![measured(8000, 0), measured(8000, 0)]),
        ];
        let text = table(&rows, &crowd);
        assert!(
            text.contains("| the primary alone | 100, 300 | 1.00 | 500, 167 | 460, 153 | 1000, 1000 |"),
            "{text}"
        );
        let second = "| 2 replicas, cache-aside | 800, 800 | 4.00 | 62, 62 | 58, 58 | 0, 0 | 250.0, 250.0 |";
        assert!(text.contains(second), "{text}");
    }
}
