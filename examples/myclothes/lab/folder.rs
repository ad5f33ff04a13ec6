//! The lab's folder: configurations, logs, data of Redis and PostgreSQL, and the sockets for commands. Removed with the lab.

use std::fs::{DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};

use crate::trouble::Trouble;

/// There is one lab on a machine, as its namespaces have fixed names.
const FOLDER: &str = "/var/lib/myclothes-lab";

/// The folder, wherever a command is run.
pub(crate) fn path() -> &'static Path {
    Path::new(FOLDER)
}

/// Makes the folder; one that exists belongs to another lab.
pub(crate) fn make() -> Result<(), Trouble> {
    // Redis and PostgreSQL have users of their own, who must get to their folders in it.
    match DirBuilder::new().mode(0o711).create(FOLDER) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Trouble::new(format!(
            "{FOLDER} exists already; if it is from a lab, `myclothes lab down` removes it"
        ))),
        Err(error) => Err(Trouble::new(format!("{FOLDER} cannot be made: {error}"))),
    }
}

/// Removes the folder; it may be gone already.
pub(crate) fn remove() -> Result<(), Trouble> {
    match std::fs::remove_dir_all(FOLDER) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Trouble::new(format!("{FOLDER} cannot be removed: {error}")))
        }
        _ => Ok(()),
    }
}

/// A fresh folder in it that belongs to this user, for the data of a process.
pub(crate) fn of(name: &str, user: &User) -> Result<PathBuf, Trouble> {
    let folder = path().join(name);
    let failed = |error| Trouble::new(format!("{} cannot be made: {error}", folder.display()));
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&folder).map_err(failed)?;
    chown(&folder, Some(user.uid), Some(user.gid)).map_err(failed)?;
    Ok(folder)
}

/// Writes a file that only its user can read.
pub(crate) fn write(file: &Path, text: &str, user: &User) -> Result<(), Trouble> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut written = options.open(file).and_then(|mut opened| opened.write_all(text.as_bytes()));
    if written.is_ok() {
        written = chown(file, Some(user.uid), Some(user.gid));
    }
    written.map_err(|error| Trouble::new(format!("{} cannot be written: {error}", file.display())))
}

/// A user of the system.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// The user of this name. Debian's packages make one for each service.
    pub(crate) fn called(name: &str) -> Result<Self, Trouble> {
        let users = std::fs::read_to_string("/etc/passwd")
            .map_err(|error| Trouble::new(format!("/etc/passwd cannot be read: {error}")))?;
        let found = users.lines().find_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [user, _, uid, gid, ..] = fields[..] else { return None };
            (user == name).then(|| Some((uid.parse().ok()?, gid.parse().ok()?)))?
        });
        let (uid, gid) = found.ok_or_else(|| Trouble::new(format!("there is no user {name}")))?;
        Ok(Self { name: name.to_owned(), uid, gid })
    }

    /// The one that runs the lab.
    pub(crate) fn root() -> Self {
        Self { name: "root".to_owned(), uid: 0, gid: 0 }
    }
}
