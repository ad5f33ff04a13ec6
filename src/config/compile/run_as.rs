//! `user` and `group`: who the process is once it has bound its sockets, looked up in the system's lists.

use nix::unistd::{Group, User};

use super::Compiler;
use crate::config::RunAs;
use crate::config::file::{At, Field, Place};

impl Compiler<'_> {
    pub(super) fn run_as(&mut self, user: Field<String>, group: Field<String>) -> Option<RunAs> {
        let Some(At { value: user, place }) = user.given() else {
            if let Some(At { place, .. }) = group.given() {
                let hint = "write user = \"selvedge\" too, or leave it out";
                self.problems.add(&place, "has no meaning without user", hint);
            }
            return None;
        };
        let (uid, own) = self.user(&user, &place)?;
        if uid == 0 {
            let hint = "write another user, or leave the key out for a process that stays who it is";
            self.problems.add(&place, format!("{user:?} is root, who would give nothing up"), hint);
            return None;
        }
        let gid = match (group.given(), own) {
            (Some(At { value, place }), _) => self.group(&value, &place)?,
            (None, Some(own)) => own,
            (None, None) => {
                let what = format!("user {uid} has no name here, and so no group");
                self.problems.add(&place, what, format!("write group = \"{uid}\" beside it"));
                return None;
            }
        };
        Some(RunAs { user: user.into(), uid, gid })
    }

    /// The number of a user, and of its own group if the system knows it.
    fn user(&mut self, user: &str, place: &Place) -> Option<(u32, Option<u32>)> {
        let number = user.parse::<u32>().ok();
        let found = match number {
            None => User::from_name(user),
            Some(uid) => User::from_uid(uid.into()),
        };
        match (found, number) {
            (Ok(Some(found)), _) => Some((found.uid.as_raw(), Some(found.gid.as_raw()))),
            (Ok(None), Some(uid)) => Some((uid, None)),
            (Ok(None), None) => {
                let hint =
                    "make it, such as by: useradd --system --shell /usr/sbin/nologin NAME; or write another";
                self.problems.add(place, format!("there is no user {user:?} on this machine"), hint);
                None
            }
            (Err(error), _) => {
                self.problems.add(
                    place,
                    format!("{user:?} cannot be looked up: {error}"),
                    "write its number",
                );
                None
            }
        }
    }

    fn group(&mut self, group: &str, place: &Place) -> Option<u32> {
        if let Ok(gid) = group.parse() {
            return Some(gid);
        }
        match Group::from_name(group) {
            Ok(Some(found)) => return Some(found.gid.as_raw()),
            Ok(None) => {
                let hint = "make it, such as by: groupadd --system NAME; or write another";
                self.problems.add(place, format!("there is no group {group:?} on this machine"), hint);
            }
            Err(error) => {
                self.problems.add(
                    place,
                    format!("{group:?} cannot be looked up: {error}"),
                    "write its number",
                );
            }
        }
        None
    }
}
