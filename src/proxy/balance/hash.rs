//! By hash of a part of the request: rendezvous hashing, so that a target that comes or goes moves only its own part.
//!
//! Every node computes the same. Costs one hash for each open target; a target that is full passes its requests on to those
//! that rank next for them.

use std::net::IpAddr;

use http::header;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::Choice;
use crate::config::{Balance, HashOn};
use crate::pool::Tier;
use crate::proxy::request::Head;
use crate::proxy::session;

pub(super) fn pick(choice: &Choice<'_>, tier: &Tier, key: u64) -> Option<u32> {
    let rank = |index: u32| {
        let target = choice.target(index);
        target.state.id.rank(key, choice.weight(target))
    };
    let best = tier.open.iter().map(|index| (rank(*index), *index)).max_by(|a, b| a.0.total_cmp(&b.0))?.1;
    if choice.begin_well(best) {
        return Some(best);
    }
    let mut ranked: Vec<(f64, u32)> = tier.open.iter().map(|index| (rank(*index), *index)).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.into_iter().map(|(_, index)| index).find(|index| choice.begin_well(*index))
}

/// What the policy hashes of this request; `None` when the request does not have it, or the policy does not hash.
pub(crate) fn key(balance: &Balance, head: &Head, source: IpAddr) -> Option<u64> {
    let Balance::Hash(on) = balance else { return None };
    match on {
        HashOn::Path => Some(xxh3_64(head.path.as_str().as_bytes())),
        HashOn::Source => match source {
            IpAddr::V4(address) => Some(xxh3_64(&address.octets())),
            IpAddr::V6(address) => Some(xxh3_64(&address.octets())),
        },
        HashOn::Cookie(name) => session::find(&head.headers, name).next().map(xxh3_64),
        HashOn::Header(name) if *name == header::HOST => head.host().map(|host| xxh3_64(host.as_bytes())),
        HashOn::Header(name) => {
            let mut hash = Xxh3::new();
            let mut fields = head.headers.get_all(name).peekable();
            fields.peek()?;
            for field in fields {
                hash.update(field.as_bytes());
                hash.update(b",");
            }
            Some(hash.digest())
        }
    }
}
