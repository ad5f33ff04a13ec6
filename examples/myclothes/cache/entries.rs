//! What the cache keeps, under which name, and for how long. Pure.
//!
//! An entry is one string: a version, a space, and what there is to say. Whoever has the same database has the same names, so that two
//! shops in one Redis do not mix; all names have one part in braces, so that a cluster keeps them on one server and one command can be
//! about several of them.

use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::catalogue::Product;

/// For how long an entry counts, at most. A write that the cache could not be told of is seen after that.
pub(super) const LONGEST: Duration = Duration::from_secs(60);
/// The same for "there is no such product": somebody may ask for every number there is.
const NOTHING: Duration = Duration::from_secs(5);

/// One thing that is loaded at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Which products there are.
    All,
    Product(i64),
}

impl Key {
    /// The product's id.
    pub(super) fn product(self) -> Option<i64> {
        match self {
            Self::All => None,
            Self::Product(id) => Some(id),
        }
    }
}

/// What the cache says of a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Product(Product),
    /// There is no such product.
    Nothing,
    /// It was changed, and the database has this version or a newer one.
    Changed(i64),
}

impl Entry {
    /// As it is kept. The end tells the script that writes whether there is anything to see: a space, if not.
    pub(super) fn encode(&self) -> String {
        match self {
            Self::Product(product) => format!("{} {}", product.version, serde_json::json!(product)),
            Self::Nothing => "-1 null".to_owned(),
            Self::Changed(version) => format!("{version} "),
        }
    }

    /// The other way round. `None` for what was written by a program that knew products of another kind.
    pub(super) fn decode(kept: &[u8]) -> Option<Self> {
        let (version, content) = std::str::from_utf8(kept).ok()?.split_once(' ')?;
        let version = version.parse().ok()?;
        match content {
            "" => Some(Self::Changed(version)),
            "null" => Some(Self::Nothing),
            content => {
                let product: Product = serde_json::from_str(content).ok()?;
                Some(Self::Product(Product { version, ..product }))
            }
        }
    }

    /// For how long it counts; `random` makes it a little less, so that what was loaded at the same time is not loaded again at the
    /// same time. That something was changed is remembered for as long as anybody may have older news.
    pub(super) fn lifetime(&self, random: i64) -> Duration {
        match self {
            Self::Product(_) => jittered(LONGEST, random),
            Self::Nothing => jittered(NOTHING, random),
            Self::Changed(_) => LONGEST,
        }
    }
}

/// Up to a quarter less.
pub(super) fn jittered(longest: Duration, random: i64) -> Duration {
    let share = f64::from(random as u16) / f64::from(u16::MAX);
    longest - longest.mul_f64(share / 4.0)
}

/// The ids of all products, as they are kept.
pub(super) fn encode_ids(products: &[Product]) -> String {
    let ids: Vec<i64> = products.iter().map(|product| product.id).collect();
    format!("0 {}", serde_json::json!(ids))
}

/// The other way round.
pub(super) fn decode_ids(kept: &[u8]) -> Option<Vec<i64>> {
    serde_json::from_slice(kept.strip_prefix(b"0 ")?).ok()
}

/// The names of one shop's entries.
pub(super) struct Names {
    /// The part in braces.
    pub(super) tag: String,
}

impl Names {
    /// `secret` is what all instances with the same database share.
    pub(super) fn new(secret: &[u8]) -> Self {
        let shop = digest::digest(&digest::SHA256, &[b"the catalogue of ", secret].concat());
        let shop = BASE64_URL_SAFE_NO_PAD.encode(&shop.as_ref()[..9]);
        Self { tag: format!("{{myclothes:catalogue:{shop}}}") }
    }

    /// The name of an entry.
    pub(super) fn entry(&self, key: Key) -> String {
        match key {
            Key::All => format!("{}:all", self.tag),
            Key::Product(id) => format!("{}:{id}", self.tag),
        }
    }

    /// The name under which whoever loads it says so.
    pub(super) fn lease(&self, key: Key) -> String {
        format!("{}:loading", self.entry(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let product = Product { version: 7, ..catalogue::data_file().remove(0) };
        for entry in [Entry::Product(product), Entry::Nothing, Entry::Changed(8)] {
            assert_eq!(Entry::decode(entry.encode().as_bytes()), Some(entry));
        }
        for other in ["", "7", "x {}", "7 {}", "7 {\"id\":1,\"size\":\"L\"}"] {
            assert_eq!(Entry::decode(other.as_bytes()), None, "{other}");
        }
        let ids = encode_ids(&catalogue::data_file());
        assert_eq!(decode_ids(ids.as_bytes()).unwrap()[..3], [1, 2, 3]);
        assert_eq!(decode_ids(b"1 2 3"), None);
    }

    #[test]
    fn what_is_loaded_together_does_not_end_together() {
        let of = |random| Entry::Nothing.lifetime(random).as_millis();
        assert_eq!((of(0), of(0xffff), of(-1)), (5000, 3750, 3750));
        assert!((3750..5000).contains(&of(0x1234_5678)));
        assert_eq!(Entry::Changed(1).lifetime(-1), LONGEST);
    }

    #[test]
    fn names_belong_to_one_database_and_one_slot() {
        let (one, other) = (Names::new(b"one"), Names::new(b"other"));
        let key = Key::Product(13);
        assert_ne!(one.entry(key), other.entry(key));
        assert!(one.entry(key).starts_with("{myclothes:catalogue:") && one.entry(key).ends_with("}:13"));
        assert!(one.lease(Key::All).starts_with(&one.tag));
    }
}
