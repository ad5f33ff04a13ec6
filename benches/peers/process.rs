//! The processes of a run: started on their core, stopped with the bench whatever happens, and their CPU time and
//! memory as the kernel counts them.
//!
//! `setpriv` and `taskset` (util-linux) do the two things that would otherwise need unsafe code between fork and exec:
//! a child dies with the thread that started it (all are started by the main thread), and stays on its core. Both
//! replace themselves by the program, so the process id is the program's own.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::Result;

/// Which core does what; `None` where there are not two of them.
pub(crate) struct Cores {
    /// The proxy under test.
    pub(crate) proxy: Option<usize>,
    /// wrk and the origin.
    pub(crate) load: Option<usize>,
}

impl Cores {
    /// The first two cores that this process may use.
    pub(crate) fn choose() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let list =
            status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
        let mut cores = list.split(',').filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.trim().parse::<usize>().ok()?..=last.trim().parse::<usize>().ok()?)
        });
        match cores.by_ref().flatten().take(2).collect::<Vec<_>>()[..] {
            [proxy, load] => Self { proxy: Some(proxy), load: Some(load) },
            _ => Self { proxy: None, load: None },
        }
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.proxy, self.load) {
            (Some(proxy), Some(load)) => write!(f, "proxy on core {proxy}, wrk and origin on core {load}"),
            _ => write!(f, "only one core: nothing is pinned, and load and proxy disturb each other"),
        }
    }
}

/// Raises this process's limit of open files, which its children inherit, as far as it may. Returns the limit.
pub(crate) fn raise_open_files() -> Result<u64> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(|error| format!("cannot raise the limit of open files: {error}"))?;
    Ok(maximum.unwrap_or(1 << 20))
}

/// A program by path, or by name from `PATH` and the folders of system programs, which a user's `PATH` may lack.
pub(crate) fn find_program(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    // `join` keeps an absolute name as it is; a relative one with a slash is looked up here first.
    std::iter::once(PathBuf::from("."))
        .filter(|_| name.components().count() > 1)
        .chain(folders)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// What a program prints about its version: its first line, on whichever stream.
pub(crate) fn version(program: &Path, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&text).lines().next()?.trim().to_owned())
}

/// A process of this run. Dropping it kills it.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

/// CPU time that a process has used since its start.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    /// In its own code, seconds.
    pub(crate) user: f64,
    /// In the kernel, seconds.
    pub(crate) sys: f64,
}

impl Process {
    /// Starts `program` on `core`; everything it prints goes to `log`.
    pub(crate) fn spawn<A: AsRef<OsStr>>(
        name: &'static str,
        program: &Path,
        arguments: &[A],
        core: Option<usize>,
        log: PathBuf,
    ) -> Result<Self> {
        let explain = |error: std::io::Error| {
            format!(
                "cannot start {name} ({}, through setpriv and taskset of util-linux): {error}",
                program.display()
            )
        };
        let output = File::create(&log).map_err(explain)?;
        let errors = output.try_clone().map_err(explain)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(core) = core {
            command.args(["taskset", "-c", &core.to_string()]);
        }
        command.arg(program).args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(explain)?;
        Ok(Self { name, child, log })
    }

    /// An error with the process's last output, if it has ended.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("{} ended ({status}):\n{}", self.name, self.last_output())),
            Err(error) => Err(format!("cannot watch {}: {error}", self.name)),
        }
    }

    /// What the process printed, once it has ended well; an error when it fails or takes longer than `limit`.
    pub(crate) fn output(mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => {
                    return fs::read_to_string(&self.log).map_err(|error| format!("{}: {error}", self.name));
                }
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                Ok(None) => return Err(format!("{} did not end within {limit:?}", self.name)),
                Ok(Some(_)) | Err(_) => {
                    self.check_alive()?;
                }
            }
        }
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let stat = self.read("stat")?;
        // Fields are counted behind the program's name, which may itself hold spaces and parentheses.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let seconds = |index: usize| {
            let ticks: u64 = fields.get(index).and_then(|field| field.parse().ok())?;
            Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
        };
        match (seconds(11), seconds(12)) {
            (Some(user), Some(sys)) => Ok(Cpu { user, sys }),
            _ => Err(format!("cannot read the CPU time of {}: {stat:?}", self.name)),
        }
    }

    /// Resident memory in bytes.
    pub(crate) fn rss(&self) -> Result<u64> {
        let status = self.read("status")?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.trim().parse::<u64>().ok())
            .map(|kib| kib * 1024)
            .ok_or_else(|| format!("cannot read the memory of {}", self.name))
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path)
            .map_err(|error| format!("{} is gone ({path}: {error}):\n{}", self.name, self.last_output()))
    }

    fn last_output(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Seconds that a core has been busy since the machine's start, whoever used it; `None` where the kernel doesn't say.
pub(crate) fn core_busy(core: usize) -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let name = format!("cpu{core} ");
    let fields: Vec<u64> = stat
        .lines()
        .find_map(|line| line.strip_prefix(&name))?
        .split_whitespace()
        .flat_map(str::parse)
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let ticks: u64 = [0, 1, 2, 5, 6, 7].into_iter().filter_map(|index| fields.get(index)).sum();
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
