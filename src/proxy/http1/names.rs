//! Field names, and what each of them means for this hop.
//!
//! A name that comes with every request costs a comparison instead of a parse: names read lately are in a fixed table per
//! thread, in which each spelling has one place and the newest stays. Long names, which are rare, are not remembered.

use std::cell::RefCell;

use http::header::{self, HeaderName};

use crate::proxy::tls;

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Passed on.
    EndToEnd,
    /// Passed on, once.
    Host,
    /// Says where the request comes from, or from whom: passed on if that is believed.
    Origin,
    ContentLength,
    TransferEncoding,
    Connection,
    Te,
    Upgrade,
    Expect,
    /// Belongs to the connection whether or not `Connection` names it, and is of no interest.
    Hop,
}

impl Role {
    /// What becomes of fields of this name.
    pub(crate) fn of(name: &HeaderName) -> Self {
        match *name {
            header::HOST => Self::Host,
            header::FORWARDED => Self::Origin,
            header::CONTENT_LENGTH => Self::ContentLength,
            header::TRANSFER_ENCODING => Self::TransferEncoding,
            header::CONNECTION => Self::Connection,
            header::TE => Self::Te,
            header::UPGRADE => Self::Upgrade,
            header::EXPECT => Self::Expect,
            _ if matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings") => Self::Hop,
            _ if name.as_str().starts_with("x-forwarded-") => Self::Origin,
            _ if name.as_str().starts_with(tls::FAMILY) => Self::Origin,
            _ => Self::EndToEnd,
        }
    }
}

/// Places in the table, and the longest spelling in it.
const PLACES: usize = 128;
const LONGEST: usize = 40;

struct Known {
    /// As it was sent, in upper or lower case.
    spelling: Box<[u8]>,
    name: HeaderName,
    role: Role,
}

/// See the module's documentation.
pub(super) struct Names([Option<Known>; PLACES]);

thread_local! {
    static NAMES: RefCell<Names> = RefCell::default();
}

impl Default for Names {
    fn default() -> Self {
        Self([const { None }; PLACES])
    }
}

impl Names {
    /// Runs `read` with the names of this thread.
    pub(super) fn with<T>(read: impl FnOnce(&mut Self) -> T) -> T {
        NAMES.with_borrow_mut(read)
    }

    /// The name that is spelled like this, and its role; `None` if it is none.
    pub(super) fn read(&mut self, spelling: &[u8]) -> Option<(HeaderName, Role)> {
        let place = &mut self.0[place(spelling)];
        if let Some(known) = place
            && *known.spelling == *spelling
        {
            return Some((known.name.clone(), known.role));
        }
        let name = HeaderName::from_bytes(spelling).ok()?;
        let role = Role::of(&name);
        if spelling.len() <= LONGEST {
            *place = Some(Known { spelling: spelling.into(), name: name.clone(), role });
        }
        Some((name, role))
    }
}

/// Names that differ in length, beginning, middle or end have different places, or nearly always.
fn place(spelling: &[u8]) -> usize {
    let letter = |at: usize| spelling.get(at).copied().map_or(0, usize::from);
    let length = spelling.len();
    let letters = [letter(0), letter(length / 2), letter(length.wrapping_sub(1))];
    letters.iter().fold(length, |sum, letter| sum * 31 + letter) % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_the_same_the_first_time_and_later() {
        let mut names = Names::default();
        for _ in 0..2 {
            for spelling in ["Host", "host", "HOST", "TE", "X", "x-a", "x-b", "X-Forwarded-For"] {
                let (name, role) = names.read(spelling.as_bytes()).unwrap();
                assert_eq!(name, *spelling.to_ascii_lowercase());
                assert_eq!(role, Role::of(&name), "{spelling}");
            }
            for bad in ["", " ", "a b", "a:", "\r", "x\r"] {
                assert!(names.read(bad.as_bytes()).is_none(), "{bad:?}");
            }
        }
    }
}
