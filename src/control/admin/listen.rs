//! The admin API's socket: TCP, or a unix socket for this user alone.
//!
//! Not obvious: a unix socket leaves its file behind when its process dies. A file that nobody answers at is replaced;
//! one that somebody answers at, or that is no socket, is left alone and named in the error.

use std::cell::Cell;
use std::fmt;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::AdminAddress;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// A bound admin socket, not served yet.
pub struct AdminListener {
    pub(super) socket: AdminSocket,
    address: AdminAddress,
}

/// The socket itself.
pub(super) enum AdminSocket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The admin API cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("admin.address {address}: {what}; {hint}")]
pub struct BindError {
    address: AdminAddress,
    what: String,
    hint: &'static str,
}

impl AdminListener {
    /// Binds the address of the configuration. Nothing is answered before `control::run`.
    pub fn bind(address: &AdminAddress) -> Result<Self, BindError> {
        let (socket, address) = match address {
            AdminAddress::Tcp(address) => bind_tcp(*address)?,
            AdminAddress::Unix(path) => bind_unix(path)?,
        };
        Ok(Self { socket, address })
    }

    /// A socket that another process has bound to that address, and that has left its file to this one.
    pub fn adopt(address: &AdminAddress, socket: OwnedFd) -> io::Result<Self> {
        let (socket, address) = match address {
            AdminAddress::Tcp(_) => {
                let socket = TcpListener::from(socket);
                socket.set_nonblocking(true)?;
                let address = socket.local_addr()?;
                (AdminSocket::Tcp(socket), AdminAddress::Tcp(address))
            }
            AdminAddress::Unix(path) => {
                let socket = UnixListener::from(socket);
                socket.set_nonblocking(true)?;
                (AdminSocket::Unix(socket, SocketFile::at(path)), address.clone())
            }
        };
        Ok(Self { socket, address })
    }

    /// Its socket, for a process that is to answer there too; and its file, if it has one.
    pub fn share(&self) -> io::Result<(OwnedFd, Option<SocketFile>)> {
        Ok(match &self.socket {
            AdminSocket::Tcp(socket) => (socket.as_fd().try_clone_to_owned()?, None),
            AdminSocket::Unix(socket, file) => (socket.as_fd().try_clone_to_owned()?, Some(file.clone())),
        })
    }

    /// The path of its file, if it is a unix socket.
    pub fn file(&self) -> Option<&Path> {
        match &self.address {
            AdminAddress::Unix(path) => Some(path),
            AdminAddress::Tcp(_) => None,
        }
    }

    /// Where it is bound: with the port that was found, when 0 was asked for. Its `Display` is the form of the
    /// configuration.
    pub fn address(&self) -> &AdminAddress {
        &self.address
    }
}

fn bind_tcp(address: SocketAddr) -> Result<(AdminSocket, AdminAddress), BindError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((AdminSocket::Tcp(listener), AdminAddress::Tcp(address)))
    };
    bind().map_err(|error: io::Error| BindError {
        address: AdminAddress::Tcp(address),
        what: format!("cannot be bound: {error}"),
        hint: match error.kind() {
            io::ErrorKind::AddrInUse => "stop what listens there, or write another port",
            io::ErrorKind::AddrNotAvailable => "write an address of this machine, such as 127.0.0.1:9900",
            io::ErrorKind::PermissionDenied => "write a port above 1023, or run with CAP_NET_BIND_SERVICE",
            _ => "write another address",
        },
    })
}

fn bind_unix(path: &Path) -> Result<(AdminSocket, AdminAddress), BindError> {
    let failed =
        |what: String, hint| BindError { address: AdminAddress::Unix(path.to_path_buf()), what, hint };
    if let Ok(there) = fs::symlink_metadata(path) {
        if !there.file_type().is_socket() {
            return Err(failed("is there already, and is not a socket".into(), "write another path"));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(failed("another process answers there".into(), "stop it, or write another path"));
        }
        fs::remove_file(path).map_err(|error| {
            failed(format!("the file of a dead process cannot be removed: {error}"), "remove it")
        })?;
    }
    let bind = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Nobody can connect before `listen`, so the file never lets anybody else in.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(UnixListener::from(socket))
    };
    let listener = bind().map_err(|error: io::Error| {
        failed(format!("cannot be bound: {error}"), "write a path in a folder that exists and can be written")
    })?;
    Ok((AdminSocket::Unix(listener, SocketFile::at(path)), AdminAddress::Unix(path.to_path_buf())))
}

/// The file of a unix socket: removed when the last of its owners is gone.
#[derive(Clone)]
pub struct SocketFile(Rc<OwnedFile>);

struct OwnedFile {
    path: PathBuf,
    is_ours: Cell<bool>,
}

impl SocketFile {
    fn at(path: &Path) -> Self {
        Self(Rc::new(OwnedFile { path: path.to_path_buf(), is_ours: Cell::new(true) }))
    }

    /// It belongs to another process from now on, which removes it.
    pub fn leave(&self) {
        self.0.is_ours.set(false);
    }
}

impl Drop for OwnedFile {
    fn drop(&mut self) {
        if self.is_ours.get() {
            let gone_anyway = fs::remove_file(&self.path);
            drop(gone_anyway);
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> AdminAddress {
        AdminAddress::Unix(path.to_path_buf())
    }

    #[test]
    fn a_unix_socket_is_for_its_user_alone_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let listener = AdminListener::bind(&unix(&path)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(listener.address().to_string(), format!("unix:{}", path.display()));
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn the_socket_of_a_dead_process_is_replaced_and_one_in_use_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a closed socket leaves its file");
        let _listener = AdminListener::bind(&unix(&path)).unwrap();
        let error = AdminListener::bind(&unix(&path)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("another process answers there; stop it"), "{error}");
        assert!(UnixStream::connect(&path).is_ok(), "the first still stands");
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        let error = AdminListener::bind(&unix(&path)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("is not a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = AdminListener::bind(&AdminAddress::Tcp(address)).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("admin.address {address}: cannot be bound")), "{error}");
        assert!(error.contains("stop what listens there"), "{error}");
    }
}
