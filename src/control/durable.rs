//! Files that are whole after a crash: written beside, brought to the disk, then renamed. Readable by their owner only.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Replaces the contents of `file`: nobody ever sees less than all of the old or all of the new. Blocks.
pub fn replace(file: &Path, text: &[u8]) -> io::Result<()> {
    let new = beside(file, "new");
    let mut opened = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    opened.write_all(text)?;
    opened.sync_all()?;
    fs::rename(&new, file)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// The path of `file` with another ending.
pub fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".");
    path.push(ending);
    path.into()
}
