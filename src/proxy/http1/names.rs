//! Field names, and what each of them means for this hop.
//!
//! A name that comes with every request costs a comparison instead of a parse: names read lately are in a fixed table per
//! thread, in which each spelling has one place and the newest stays. Long names, which are rare, are not remembered.

use std::cell::RefCell;

use http::header::{self, HeaderName};

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Passed on.
    EndToEnd,
    /// Passed on, once.
    Host,
    /// Passed on if the client is trusted: it says where the request comes from.
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
    fn of(name: &HeaderName) -> Self {
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

thread_local! {
    static KNOWN: RefCell<Vec<Option<Known>>> = RefCell::new((0..PLACES).map(|_| None).collect());
}

/// The name that is spelled like this, and its role; `None` if it is none.
pub(super) fn read(spelling: &[u8]) -> Option<(HeaderName, Role)> {
    let [first, .., last] = spelling else {
        let name = HeaderName::from_bytes(spelling).ok()?;
        let role = Role::of(&name);
        return Some((name, role));
    };
    // Names that differ in length, beginning, middle or end have different places, or nearly always.
    let middle = spelling[spelling.len() / 2];
    let mixed =
        [*first, middle, *last].iter().fold(spelling.len(), |sum, byte| sum * 31 + usize::from(*byte));
    KNOWN.with_borrow_mut(|known| {
        let place = &mut known[mixed % PLACES];
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_the_same_the_first_time_and_later() {
        for _ in 0..2 {
            for spelling in ["Host", "host", "HOST", "TE", "X", "x-a", "x-b", "X-Forwarded-For"] {
                let (name, role) = read(spelling.as_bytes()).unwrap();
                assert_eq!(name, *spelling.to_ascii_lowercase());
                assert_eq!(role, Role::of(&name), "{spelling}");
            }
            for bad in ["", " ", "a b", "a:", "\r", "x\r"] {
                assert!(read(bad.as_bytes()).is_none(), "{bad:?}");
            }
        }
    }
}
