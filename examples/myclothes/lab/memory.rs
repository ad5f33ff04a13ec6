//! The memory of all processes, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;

/// A process with all that it has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) pid: u32,
    /// Resident, in KiB. Memory that several of them share on purpose, as PostgreSQL's do, is left out: each would count it.
    pub(crate) kib: u64,
}

/// Parent and memory by process id.
pub(crate) struct Processes(BTreeMap<u32, (u32, u64)>);

impl Processes {
    /// As they are now.
    pub(crate) fn now() -> Self {
        let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse::<u32>().ok());
        // One that has just ended has no status any more, and threads of the kernel have no memory.
        Self(
            pids.filter_map(|pid| {
                Some((pid, read(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?))
            })
            .collect(),
        )
    }

    /// What a process has, with its children and theirs; `None` when there is none.
    pub(crate) fn tree(&self, pid: u32) -> Option<Tree> {
        let mut kib = self.0.get(&pid)?.1;
        let mut parents = vec![pid];
        while let Some(parent) = parents.pop() {
            for (child, (_, memory)) in self.0.iter().filter(|(_, (of, _))| *of == parent) {
                kib += memory;
                parents.push(*child);
            }
        }
        Some(Tree { pid, kib })
    }
}

/// Of `/proc/PID/status`: the parent, and what is resident without what is shared.
fn read(status: &str) -> Option<(u32, u64)> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let kib = field("VmRSS:")?.saturating_sub(field("RssShmem:").unwrap_or_default());
    Some((u32::try_from(field("PPid:")?).ok()?, kib))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_memory_is_left_out() {
        let status =
            "Name:\tpostgres\nPPid:\t7\nVmRSS:\t   30000 kB\nRssAnon:\t    8000 kB\nRssShmem:\t   20000 kB\n";
        assert_eq!(read(status), Some((7, 10_000)));
        assert_eq!(read("Name:\tkworker\nPPid:\t2\n"), None);
    }

    #[test]
    fn a_process_has_what_its_children_and_theirs_have() {
        let processes = Processes([(1, (0, 50)), (2, (1, 8)), (3, (2, 4)), (4, (1, 2))].into());
        assert_eq!(processes.tree(2), Some(Tree { pid: 2, kib: 12 }));
        assert_eq!(processes.tree(9), None);
        let mine = Processes::now().tree(std::process::id()).unwrap();
        assert!(mine.kib > 100, "{mine:?}");
    }
}
