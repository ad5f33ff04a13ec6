//! Carts in the memory of one instance: what stickiness alone gives.
//!
//! No other instance knows them, and they end with the process. Bounded: when there are too many, those that were not written to for the
//! longest time are forgotten.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{CartStore, Held, Version, Written};
use crate::failure::Failure;
use crate::sessions::{self, Visitor};

/// Sessions of one instance, at most.
const MOST: usize = 100_000;

/// The sessions of this instance.
#[derive(Default)]
pub(crate) struct Memory(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    by_key: HashMap<String, Held>,
    /// The same keys, by when they were written.
    by_age: BTreeSet<(i64, String)>,
}

impl Memory {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn take_out(&mut self, key: &str) {
        if let Some((key, old)) = self.by_key.remove_entry(key) {
            self.by_age.remove(&(old.session.written, key));
        }
    }

    fn put(&mut self, key: String, held: Held) {
        self.take_out(&key);
        self.by_age.insert((held.session.written, key.clone()));
        self.by_key.insert(key, held);
        while self.by_key.len() > MOST {
            let Some((_, oldest)) = self.by_age.pop_first() else { return };
            self.by_key.remove(&oldest);
        }
    }
}

impl CartStore for Memory {
    async fn load(&self, visitor: &Visitor) -> Result<Option<Held>, Failure> {
        Ok(self.kept().by_key.get(&visitor.sid.hash()).cloned())
    }

    async fn save(
        &self,
        visitor: &Visitor,
        expected: Option<Version>,
        new: &Held,
    ) -> Result<Written, Failure> {
        let (mut kept, key) = (self.kept(), visitor.sid.hash());
        if kept.by_key.get(&key).map(|held| held.version) != expected {
            return Ok(Written::Changed);
        }
        kept.put(key, new.clone());
        Ok(Written::Kept)
    }

    async fn remove(&self, visitor: &Visitor, expected: Version) -> Result<Written, Failure> {
        let (mut kept, key) = (self.kept(), visitor.sid.hash());
        if kept.by_key.get(&key).map(|held| held.version) != Some(expected) {
            return Ok(Written::Changed);
        }
        kept.take_out(&key);
        Ok(Written::Kept)
    }

    async fn forget_old(&self, now: i64) -> Result<(), Failure> {
        let mut kept = self.kept();
        while let Some((written, key)) = kept.by_age.first().cloned()
            && written < now - sessions::LIFETIME
        {
            kept.take_out(&key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sessions::Session;

    #[test]
    fn too_many_push_out_those_that_were_not_written_to_for_longest() {
        let held = |written| Held { version: Version(1), session: Session { written, ..Session::fresh() } };
        let mut kept = Kept::default();
        for number in 0..=MOST as i64 {
            kept.put(number.to_string(), held(number));
        }
        assert_eq!((kept.by_key.len(), kept.by_age.len()), (MOST, MOST));
        assert!(!kept.by_key.contains_key("0") && kept.by_key.contains_key("1"));
        kept.put("1".into(), held(i64::MAX));
        kept.put("new".into(), held(i64::MAX));
        assert!(kept.by_key.contains_key("1") && !kept.by_key.contains_key("2"));
    }
}
