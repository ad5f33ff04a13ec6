//! Privileges given up: who started as root to bind its sockets is another user from then on.
//!
//! That is for starts without systemd, whose unit needs no root at all. Not obvious: configuration, keys and certificates are
//! read again later (at a reload, by the new process of an upgrade), and by that user, so it is tried at once whether that
//! user can: what starts can be reloaded. Nothing comes back: a listener below port 1024 that a reload adds cannot be bound.

use std::fs::{self, File};
use std::path::Path;

use nix::sys::prctl;
use nix::unistd::{
    AccessFlags, Gid, Uid, User, access, chown, getegid, geteuid, initgroups, setgroups, setresgid, setresuid,
};

use crate::config::{Config, RunAs};

/// Why the process does not become the user of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum NotGivenUp {
    /// It is nobody who may.
    #[error(
        "user: this process runs as user {uid} and group {gid} and cannot become {wanted}, as only root can: start it as \
         root, or as that user, or leave user out"
    )]
    NotRoot {
        /// Who it is.
        uid: Uid,
        /// Its group.
        gid: Gid,
        /// Who it should be.
        wanted: String,
    },
    /// The system refuses a step.
    #[error("user: cannot become {wanted}: {step}: {error}")]
    Refused {
        /// Who it should be.
        wanted: String,
        /// Which step.
        step: &'static str,
        /// Why.
        error: nix::Error,
    },
    /// Root would be left.
    #[error(
        "user: what root may is not gone from this process, as whoever starts it keeps capabilities (securebits); it does not \
         go on with them"
    )]
    NotGone,
    /// What is needed later is out of reach.
    #[error("{}", .0.join("\n"))]
    OutOfReach(Vec<String>),
}

/// Becomes the user of the configuration, if it names one: this thread, and all that it starts. Call it when the sockets
/// are bound, and before anything else is opened or started. `socket` is the file of the admin API's, which becomes that user's.
pub fn give_up(config: &Config, socket: Option<&Path>) -> Result<(), NotGivenUp> {
    let Some(run_as) = &config.run_as else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(run_as.uid), Gid::from_raw(run_as.gid));
    // The process of an upgrade is born so, and a service of systemd, too.
    if (geteuid(), getegid()) == (uid, gid) {
        return Ok(());
    }
    if !geteuid().is_root() {
        let wanted = run_as.to_string();
        return Err(NotGivenUp::NotRoot { uid: geteuid(), gid: getegid(), wanted });
    }
    let step = |step| move |error| NotGivenUp::Refused { wanted: run_as.to_string(), step, error };
    if let Some(socket) = socket {
        chown(socket, Some(uid), Some(gid)).map_err(step("the socket of the admin API"))?;
    }
    groups(uid, gid).map_err(step("its groups"))?;
    setresgid(gid, gid, gid).map_err(step("its group"))?;
    // With the last user id that is root's the kernel takes all capabilities.
    setresuid(uid, uid, uid).map_err(step("its user"))?;
    if setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok() {
        return Err(NotGivenUp::NotGone);
    }
    prctl::set_no_new_privs().map_err(step("no new privileges"))?;
    try_out(config, run_as)?;
    tracing::info!(user = %run_as.user, uid = run_as.uid, gid = run_as.gid, "privileges are given up");
    Ok(())
}

/// Those that the system lists for the user beside `gid`; that one alone for a number without a name.
fn groups(uid: Uid, gid: Gid) -> nix::Result<()> {
    match User::from_uid(uid)?.and_then(|user| std::ffi::CString::new(user.name).ok()) {
        Some(name) => initgroups(&name, gid),
        None => setgroups(&[gid]),
    }
}

/// Whether this process, as it is now, can reach what a reload and an upgrade need.
fn try_out(config: &Config, run_as: &RunAs) -> Result<(), NotGivenUp> {
    let mut lines = Vec::new();
    for file in &config.source.read {
        if let Err(error) = File::open(file) {
            let file = file.display();
            lines.push(format!(
                "user: {run_as} cannot read {file}, as a reload and an upgrade have to: {error}; \
                 let it, such as by: chgrp {} {file} && chmod g+r {file}",
                run_as.gid
            ));
        }
    }
    if let Some(state) = config.state.as_deref().filter(|state| state.exists())
        && access(state, AccessFlags::R_OK).is_err()
    {
        let state = state.display();
        lines.push(format!(
            "state: {run_as} cannot read {state}; run: chown {}:{} {state}",
            run_as.uid, run_as.gid
        ));
    }
    let folders = config.state.as_deref().map(|state| ("state", folder_of(state)));
    let folders =
        folders.into_iter().chain(config.acme.as_ref().map(|acme| ("acme.storage", &*acme.storage)));
    for (key, folder) in folders.filter(|(_, folder)| fs::exists(folder).unwrap_or(true)) {
        let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
        if access(folder, all).is_err() {
            let folder = folder.display();
            lines.push(format!(
                "{key}: {run_as} cannot write into {folder}; run: chown {}:{} {folder}, or write a folder of its own",
                run_as.uid, run_as.gid
            ));
        }
    }
    if let Ok(program) = std::env::current_exe()
        && access(&program, AccessFlags::X_OK).is_err()
    {
        let program = program.display();
        tracing::warn!(
            "{run_as} cannot start {program}, so there can be no upgrade: put it where everybody can"
        );
    }
    if lines.is_empty() { Ok(()) } else { Err(NotGivenUp::OutOfReach(lines)) }
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
