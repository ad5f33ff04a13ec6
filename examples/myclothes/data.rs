//! The data folder: the shop's database, the session keys and the proxy's configuration.

use std::fmt::Display;
use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::trouble::Trouble;

/// A folder that this system may write to, and no other does.
pub(crate) struct Data {
    pub(crate) folder: PathBuf,
    /// Removes a temporary folder when dropped.
    pub(crate) temporary: Option<tempfile::TempDir>,
    /// Held so that no other system uses the folder.
    _lock: File,
}

impl Data {
    /// Makes the folder if need be, or a temporary one if none is wanted, and locks it.
    pub(crate) fn prepare(wanted: Option<&Path>) -> Result<Self, Trouble> {
        let (folder, temporary) = match wanted {
            Some(folder) => (std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("myclothes-").tempdir();
                let temporary = temporary.map_err(|error| {
                    Trouble::new(format!("no temporary folder can be made: {error}; name one with --data"))
                })?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let unusable = |error: &dyn Display| {
            let folder = folder.display();
            Trouble::new(format!(
                "the data folder {folder} cannot be written: {error}; name another with --data"
            ))
        };
        // There will be password hashes and keys in it.
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| unusable(&error))?;
        let lock = File::create(folder.join("lock")).map_err(|error| unusable(&error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder, temporary, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Trouble::new(format!(
                "the data folder {} is in use by another myclothes; name another with --data",
                folder.display()
            ))),
            Err(TryLockError::Error(error)) => Err(unusable(&error)),
        }
    }
}
