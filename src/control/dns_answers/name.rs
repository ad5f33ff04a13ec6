//! Names in the form that messages have: labels, each behind its length, and a zero at the end.
//!
//! Only two kinds are needed: names of the configuration, in lower case, and the name of a question, which is compared
//! in lower case and sent back as it came. Compression is written (see `reply`), and never read: a question is the
//! first name of its message, so there is nothing before it that it could refer to.

use std::ops::Deref;

/// Bytes of a name, the final zero included (RFC 1035, section 2.3.4).
pub(super) const NAME_MAX: usize = 255;

/// Bytes of a label.
const LABEL_MAX: u8 = 63;

/// A name of the configuration, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(Box<[u8]>);

/// The name of a question, in lower case.
#[derive(Clone, Copy)]
pub(super) struct AskedName {
    bytes: [u8; NAME_MAX],
    len: u8,
}

impl Name {
    /// A name that the configuration has checked.
    pub(super) fn new(text: &str) -> Self {
        Self::of_labels(text.split('.'))
    }

    /// The name that stands for an e-mail address in a SOA record.
    pub(super) fn of_mailbox(address: &str) -> Self {
        let (local, domain) = address.rsplit_once('@').unwrap_or(("hostmaster", address));
        Self::of_labels(std::iter::once(local).chain(domain.split('.')))
    }

    fn of_labels<'l>(labels: impl Iterator<Item = &'l str>) -> Self {
        let mut wire = Vec::new();
        for label in labels {
            debug_assert!((1..=usize::from(LABEL_MAX)).contains(&label.len()), "{label:?} was checked");
            wire.push(label.len() as u8);
            wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
        }
        wire.push(0);
        Self(wire.into())
    }

    /// The name without its first label; the root has none.
    pub(super) fn parent(&self) -> Option<Self> {
        let (&length, rest) = self.0.split_first()?;
        (length > 0).then(|| Self(rest[usize::from(length)..].into()))
    }

    /// The labels before those of `domain`; `None` when the name is neither the domain nor in it.
    pub(super) fn before(&self, domain: &Self) -> Option<&[u8]> {
        before(self, domain)
    }
}

impl Deref for Name {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AskedName {
    /// Reads the name at the start of `bytes`; `None` when there is none, or a compressed one.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut name = Self { bytes: [0; NAME_MAX], len: 0 };
        let mut at = 0;
        loop {
            let length = *bytes.get(at)?;
            let end = at + 1 + usize::from(length);
            if length > LABEL_MAX || end > NAME_MAX {
                return None;
            }
            let label = bytes.get(at + 1..end)?;
            name.bytes[at] = length;
            for (to, from) in name.bytes[at + 1..end].iter_mut().zip(label) {
                *to = from.to_ascii_lowercase();
            }
            at = end;
            if length == 0 {
                name.len = at as u8;
                return Some(name);
            }
        }
    }

    /// Whether this is `domain` or a name in it.
    pub(super) fn is_in(&self, domain: &Name) -> bool {
        before(self, domain).is_some()
    }
}

impl Deref for AskedName {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// The part of `name` before `domain`, cut where a label begins.
fn before<'n>(name: &'n [u8], domain: &[u8]) -> Option<&'n [u8]> {
    let mut rest = name;
    loop {
        if rest == domain {
            return Some(&name[..name.len() - rest.len()]);
        }
        let (&length, after) = rest.split_first()?;
        rest = after.get(usize::from(length)..).filter(|_| length > 0)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(text: &str) -> AskedName {
        let mut wire: Vec<u8> = Vec::new();
        for label in text.split('.').filter(|label| !label.is_empty()) {
            wire.push(label.len() as u8);
            wire.extend(label.bytes());
        }
        wire.push(0);
        AskedName::read(&wire).unwrap()
    }

    #[test]
    fn a_name_is_in_its_domain_at_labels_only_and_in_any_case() {
        let domain = Name::new("lb.shop.test");
        for name in ["lb.shop.test", "LB.shop.Test", "www.lb.shop.test", "a.b.c.lb.SHOP.test"] {
            assert!(asked(name).is_in(&domain), "{name}");
        }
        for name in ["", "test", "shop.test", "xlb.shop.test", "lb.shop.test.org", "www.shop.test"] {
            assert!(!asked(name).is_in(&domain), "{name}");
        }
        assert_eq!(Name::new("a.lb.shop.test").before(&domain), Some(&b"\x01a"[..]));
        assert_eq!(domain.before(&domain), Some(&b""[..]));
    }

    #[test]
    fn parents_lead_to_the_root() {
        let name = Name::new("a.test");
        assert_eq!(name.parent(), Some(Name::new("test")));
        let root = name.parent().and_then(|name| name.parent()).unwrap();
        assert_eq!((&*root, root.parent()), (&b"\0"[..], None));
    }

    #[test]
    fn the_local_part_of_an_address_is_one_label() {
        assert_eq!(&*Name::of_mailbox("first.last@shop.test"), b"\x0afirst.last\x04shop\x04test\0");
    }

    #[test]
    fn names_that_are_cut_too_long_or_compressed_are_none() {
        let label = |length: u8| [vec![length], vec![b'a'; usize::from(length)]].concat();
        let four = [label(63), label(63), label(63), label(61), vec![0]].concat();
        assert_eq!(four.len(), NAME_MAX);
        assert!(AskedName::read(&four).is_some());
        let long = [label(63), label(63), label(63), label(62), vec![0]].concat();
        for wire in [&long[..], &four[..254], b"", b"\x01", b"\x40a\0", b"\xc0\x0c", b"\x01a\xc0\x0c"] {
            assert!(AskedName::read(wire).is_none(), "{wire:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_any_bytes_ends_in_a_name_within_them_or_in_none(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(name) = AskedName::read(&bytes) {
                prop_assert!(name.len() <= bytes.len() && name.len() <= NAME_MAX);
                prop_assert!(name.eq_ignore_ascii_case(&bytes[..name.len()]));
                prop_assert_eq!(name.last(), Some(&0));
            }
        }
    }
}
