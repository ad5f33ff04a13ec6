//! What this instance is loading: whoever wants the same waits for it, so that many who miss something at the same time ask the
//! database once.
//!
//! Nothing is handed over here: who has waited looks into the cache, and sees there whether something has changed meanwhile.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::entries::Key;

/// All that is being loaded.
#[derive(Default)]
pub(super) struct Loads(Mutex<HashMap<Key, watch::Receiver<()>>>);

/// Who loads some of it. When this is dropped, also half way, nobody waits any more.
pub(super) struct Turn<'a> {
    loads: &'a Loads,
    pub(super) keys: Vec<Key>,
    _end: watch::Sender<()>,
}

/// Something that somebody else loads.
pub(super) struct Other {
    pub(super) key: Key,
    end: watch::Receiver<()>,
}

impl Loads {
    /// What of this nobody loads yet, which is the caller's turn now, and what somebody does.
    pub(super) fn divide(&self, keys: &[Key]) -> (Turn<'_>, Vec<Other>) {
        let (end_sender, end) = watch::channel(());
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        let mut under_way = self.under_way();
        for &key in keys {
            match under_way.get(&key) {
                Some(_) if mine.contains(&key) => {}
                Some(other) => others.push(Other { key, end: other.clone() }),
                None => {
                    under_way.insert(key, end.clone());
                    mine.push(key);
                }
            }
        }
        (Turn { loads: self, keys: mine, _end: end_sender }, others)
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut under_way = self.loads.under_way();
        for key in &self.keys {
            under_way.remove(key);
        }
    }
}

impl Other {
    /// Waits until it is loaded or given up: as long as whoever loads it waits for the database, which has a deadline.
    pub(super) async fn end(mut self) {
        while self.end.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_loads_and_the_others_wait_until_that_one_is_done() {
        let loads = Loads::default();
        let (first, others) = loads.divide(&[Key::Product(1), Key::Product(2)]);
        assert_eq!((first.keys.len(), others.len()), (2, 0));
        let (second, mut others) = loads.divide(&[Key::Product(2), Key::Product(3), Key::All]);
        assert_eq!((&second.keys[..], others.len()), (&[Key::Product(3), Key::All][..], 1));
        let other = others.remove(0);
        assert_eq!(other.key, Key::Product(2));
        let mut waiting = std::pin::pin!(other.end());
        let early = tokio::time::timeout(std::time::Duration::from_millis(1), &mut waiting).await;
        assert!(early.is_err(), "it is still being loaded");
        drop(first);
        waiting.await;
        let (third, others) = loads.divide(&[Key::Product(2), Key::Product(3)]);
        assert_eq!((&third.keys[..], others.len()), (&[Key::Product(2)][..], 1));
    }
}
