//! What the lab needs of the system, looked for before anything is made.

use std::path::{Path, PathBuf};

use crate::trouble::Trouble;

/// Programs, and the Debian packages that bring them.
const NEEDED: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("setpriv", "util-linux"),
    ("redis-server", "redis-server"),
    ("redis-sentinel", "redis-sentinel"),
    ("redis-cli", "redis-tools"),
    ("initdb", "postgresql"),
];

/// Where programs are.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Nothing is missing, or a text that says what, and what to do.
pub(crate) fn check() -> Result<(), Trouble> {
    if !rustix::process::geteuid().is_root() {
        return Err(Trouble::new("the lab makes network namespaces, which only root may: run it as root"));
    }
    for (device, module) in [("/dev/net/tun", "tun"), ("/proc/self/ns/net", "network namespaces")] {
        if !Path::new(device).exists() {
            return Err(Trouble::new(format!("there is no {device}: this kernel has no {module}")));
        }
    }
    let missing = NEEDED.iter().filter(|(program, _)| match *program {
        "initdb" => postgres_programs().is_none(),
        program => !FOLDERS.iter().any(|folder| Path::new(folder).join(program).exists()),
    });
    let packages: Vec<_> = missing.map(|(_, package)| *package).collect();
    match packages.is_empty() {
        true => Ok(()),
        false => Err(Trouble::new(format!(
            "programs are missing; on Debian: apt-get install --no-install-recommends {}",
            packages.join(" ")
        ))),
    }
}

/// The folder with PostgreSQL's programs, of the newest version that is installed. Debian has them in no PATH.
pub(crate) fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(|version| {
        let number: u32 = version.as_ref().ok()?.file_name().to_str()?.parse().ok()?;
        Some((number, version.ok()?.path().join("bin")))
    });
    folders.filter(|(_, folder)| folder.join("initdb").exists()).max().map(|(_, folder)| folder)
}
