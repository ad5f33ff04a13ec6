//! Where lines go: a file that is begun anew when it is large, or standard output.
//!
//! Used by the writer's thread only, which may wait; still it never waits in `open`: a pipe without a reader is no output until
//! there is one. What cannot be written is given up, and the next lines are tried again.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::config::{AccessLog, AccessOutput};

/// Between two tries of a pipe that takes nothing, and between two tries to open a file.
const STALL: Duration = Duration::from_millis(10);
const AGAIN: Duration = Duration::from_millis(500);

/// See the module's documentation.
pub(super) struct Output {
    /// `None` for standard output.
    path: Option<PathBuf>,
    file: Option<File>,
    /// Bytes in the file.
    size: u64,
    /// Whether it can be renamed and begun anew, and when that is done.
    max_size: Option<u64>,
    keep: u32,
    /// The last line was cut: the next bytes begin on a new one.
    is_cut: bool,
    tried: Instant,
    /// Somebody has moved the file.
    moved: Arc<AtomicBool>,
    /// Nobody waits for what is not written yet.
    given_up: Arc<AtomicBool>,
}

impl Output {
    /// Opens it. A pipe that nobody reads is opened later.
    pub(super) fn open(
        config: &AccessLog,
        moved: Arc<AtomicBool>,
        given_up: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let mut output = Self {
            path: None,
            file: None,
            size: 0,
            max_size: config.max_size,
            keep: config.keep,
            is_cut: false,
            tried: Instant::now(),
            moved,
            given_up,
        };
        match &config.output {
            AccessOutput::Stdout => {
                output.file = Some(File::from(io::stdout().as_fd().try_clone_to_owned()?));
                output.max_size = None;
            }
            AccessOutput::File(path) => {
                output.path = Some(path.clone());
                match output.open_file() {
                    Err(error) if is_unread(&error) => {}
                    Err(error) => {
                        let what = format!("access_log.output: cannot open {}: {error}", path.display());
                        return Err(io::Error::new(error.kind(), what));
                    }
                    Ok(()) => {}
                }
            }
        }
        Ok(output)
    }

    /// Whether nobody waits any more.
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Relaxed)
    }

    fn open_file(&mut self) -> io::Result<()> {
        self.tried = Instant::now();
        let Some(path) = &self.path else { return Ok(()) };
        self.file = None;
        // Without O_NONBLOCK, opening a pipe would wait for its reader.
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK);
        let file = options.open(path)?;
        let about = file.metadata()?;
        if !about.file_type().is_file() && !about.file_type().is_fifo() && !about.file_type().is_char_device()
        {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is no file and no pipe"));
        }
        if !about.file_type().is_file() {
            self.max_size = None;
        }
        (self.size, self.is_cut) = (about.len(), false);
        self.file = Some(file);
        Ok(())
    }

    /// If somebody has moved the file: closes it, and opens the one at its path.
    pub(super) fn follow(&mut self) {
        if !self.moved.swap(false, Relaxed) || self.path.is_none() {
            return;
        }
        match self.open_file() {
            Ok(()) => tracing::info!("access log: opened again"),
            Err(error) => tracing::warn!("access log: cannot be opened again, lines are dropped: {error}"),
        }
    }

    /// Writes whole lines. An error says how many bytes were written before it.
    pub(super) fn write(&mut self, text: &[u8]) -> Result<(), (usize, io::Error)> {
        if self.file.is_none() {
            if self.tried.elapsed() < AGAIN {
                return Err((0, ErrorKind::NotConnected.into()));
            }
            self.open_file().map_err(|error| (0, error))?;
        }
        if self.max_size.is_some_and(|max| self.size > 0 && self.size + text.len() as u64 > max) {
            self.rotate();
        }
        if self.is_cut {
            self.write_all(b"\n").map_err(|(_, error)| (0, error))?;
            self.is_cut = false;
        }
        let written = self.write_all(text);
        if let Err((count, _)) = &written {
            self.is_cut = *count > 0 && text[count - 1] != b'\n';
        }
        written
    }

    fn write_all(&mut self, text: &[u8]) -> Result<(), (usize, io::Error)> {
        let Some(file) = &mut self.file else { return Err((0, ErrorKind::NotConnected.into())) };
        let mut count = 0;
        while count < text.len() {
            match file.write(&text[count..]) {
                Ok(0) => return Err((count, ErrorKind::WriteZero.into())),
                Ok(some) => {
                    count += some;
                    self.size += some as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // A pipe is full: whoever reads it is slow.
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock
                        && !self.moved.load(Relaxed)
                        && !self.given_up.load(Relaxed) =>
                {
                    std::thread::sleep(STALL);
                }
                Err(error) => {
                    // The reader of a pipe is gone: the next one is another.
                    if self.path.is_some() && error.kind() == ErrorKind::BrokenPipe {
                        self.file = None;
                    }
                    return Err((count, error));
                }
            }
        }
        Ok(())
    }

    /// Moves the file to `.1`, that one to `.2` and so on, and begins another.
    fn rotate(&mut self) {
        let Some(path) = self.path.clone() else { return };
        let moved = match self.keep {
            0 => std::fs::remove_file(&path),
            keep => {
                for number in (1..keep).rev() {
                    let from = numbered(&path, number);
                    if from.exists() {
                        // If it fails, one of the old files is lost; the new lines are not.
                        let _ = std::fs::rename(from, numbered(&path, number + 1));
                    }
                }
                std::fs::rename(&path, numbered(&path, 1))
            }
        };
        let opened = moved.and_then(|()| self.open_file());
        if let Err(error) = opened {
            tracing::warn!("access log: cannot begin another file, the old one goes on: {error}");
            // Not again with every line.
            self.size = 0;
        }
    }
}

/// `access.log.1`
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Whether this is what opening a pipe without a reader says.
fn is_unread(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENXIO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AccessField, AccessFormat};

    fn log(path: &Path, keep: u32) -> AccessLog {
        AccessLog {
            output: AccessOutput::File(path.to_owned()),
            format: AccessFormat::Json,
            fields: AccessField::ALL.to_vec(),
            max_size: Some(100),
            keep,
            buffer: 128 << 10,
        }
    }

    #[test]
    fn a_file_that_is_large_is_moved_away_and_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut output = Output::open(&log(&path, 2), Arc::default(), Arc::default()).unwrap();
        for number in 0..5 {
            output.write(format!("{number}{}\n", "x".repeat(70)).as_bytes()).unwrap();
        }
        let begins = |path: &Path| std::fs::read_to_string(path).unwrap().remove(0);
        assert_eq!(
            [begins(&path), begins(&numbered(&path, 1)), begins(&numbered(&path, 2))],
            ['4', '3', '2']
        );
        assert!(!numbered(&path, 3).exists());
    }

    #[test]
    fn what_cannot_be_opened_says_what_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let open = |path: &Path| Output::open(&log(path, 1), Arc::default(), Arc::default());
        let error = open(&folder.path().join("none/access.log")).err().unwrap();
        assert!(error.to_string().contains("access_log.output: cannot open"), "{error}");
        assert!(open(folder.path()).is_err());
    }
}
