//! What the kernel says of this process, from `/proc/self`.
//!
//! Every figure is optional: where `/proc` is not there or is hidden, the figure is left out instead of being wrong.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Figures of this process at one moment.
#[derive(Debug, Default)]
pub struct Process {
    /// Memory that is really there, in bytes.
    pub resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// File descriptors that may be open.
    pub max_fds: Option<u64>,
    /// CPU time used, user and system.
    pub cpu: Option<Duration>,
}

impl Process {
    /// Reads the figures now.
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        Self {
            resident_bytes: stat_field(&stat, 24).map(|pages| pages * sysconf(libc::_SC_PAGESIZE)),
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count() as u64),
            max_fds: soft_limit(&limits, "Max open files"),
            cpu: stat_field(&stat, 14).zip(stat_field(&stat, 15)).map(|(user, system)| {
                Duration::from_secs_f64((user + system) as f64 / sysconf(libc::_SC_CLK_TCK) as f64)
            }),
        }
    }
}

/// Memory that is really there, in bytes: the cheapest way to know it.
pub fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * sysconf(libc::_SC_PAGESIZE))
}

/// Seconds between 1970 and the moment `elapsed` before now.
pub fn start_time_seconds(elapsed: Duration) -> f64 {
    let start = SystemTime::now().checked_sub(elapsed).unwrap_or(UNIX_EPOCH);
    start.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Field `number` of proc(5)'s `stat`, counted from 1. The second is a name in parentheses that may hold spaces.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

/// Soft limit in the line of proc(5)'s `limits` that begins with `name`.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn sysconf(name: libc::c_int) -> u64 {
    // SAFETY: sysconf reads a constant of the system; it takes no pointer and has no precondition.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 70 30 13 14 15 16 17 18 19 20 4096 22";
        assert_eq!(stat_field(stat, 14), Some(70));
        assert_eq!(stat_field(stat, 15), Some(30));
        assert_eq!(stat_field(stat, 99), None);
        assert_eq!(stat_field("", 14), None);
    }

    #[test]
    fn limits_that_are_not_numbers_are_left_out() {
        assert_eq!(
            soft_limit("Max open files            1024     4096     files", "Max open files"),
            Some(1024)
        );
        assert_eq!(soft_limit("Max open files            unlimited  unlimited", "Max open files"), None);
    }

    #[test]
    fn this_very_process_has_memory_and_descriptors() {
        let process = Process::read();
        assert!(process.resident_bytes.unwrap() > 100_000, "{process:?}");
        assert!(resident_bytes().unwrap() > 100_000);
        assert!(process.open_fds.unwrap() >= 3, "{process:?}");
    }
}
