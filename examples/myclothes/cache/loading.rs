//! What is missing in the cache is loaded: in an instance by one at a time ([`Loads`](super::loads::Loads)), over all instances by whoever
//! has the lease. The others look again until it is there.
//!
//! Only who has a lease keeps what was loaded. Who has waited in vain asks the database for themselves, and keeps nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::entries::{Entry, Key};
use super::shelf::{Away, Loaded};
use super::{Cache, Counts, Found, LOOK_AGAIN};
use crate::catalogue::Product;
use crate::databases::{Database as _, Databases, Seen};
use crate::failure::Failure;
use crate::sessions;

impl Cache {
    /// Loads which products there are, and with that all of them.
    pub(super) async fn load_all(&self, database: &Databases, seen: &Seen) -> Result<Vec<Product>, Failure> {
        let (turn, mut others) = self.loads.divide(&[Key::All]);
        let mut patience = self.shelf.times.loading;
        if let Some(other) = others.pop() {
            other.end().await;
            patience = Duration::ZERO;
        } else {
            let loader = sessions::random_text();
            let leased = self.shelf.lease(&loader, &turn.keys).await.unwrap_or_default();
            if !leased.is_empty() {
                return self.load_all_leased(database, seen, &loader, &leased).await;
            }
        }
        // Somebody else has loaded it, or is about to.
        let begin = Instant::now();
        loop {
            match self.shelf.ids().await {
                Ok(Some(ids)) => match self.look(&ids).await {
                    Ok(found) => return self.complete(database, seen, found).await,
                    Err(Away) => break,
                },
                Ok(None) if begin.elapsed() < patience => sleep(LOOK_AGAIN).await,
                Ok(None) | Err(Away) => break,
            }
        }
        Counts::add(&self.counts.loads);
        database.products(seen).await
    }

    async fn load_all_leased(
        &self,
        database: &Databases,
        seen: &Seen,
        loader: &str,
        leased: &[Key],
    ) -> Result<Vec<Product>, Failure> {
        // Somebody may have loaded it between the first look and the lease.
        if let Ok(Some(ids)) = self.shelf.ids().await
            && let Ok(found) = self.look(&ids).await
        {
            let _ = self.shelf.keep(loader, leased, &[]).await;
            return self.complete(database, seen, found).await;
        }
        Counts::add(&self.counts.loads);
        let products = database.products(seen).await?;
        let entries: Vec<(i64, Entry)> =
            products.iter().map(|product| (product.id, Entry::Product(product.clone()))).collect();
        let mut loaded = vec![Loaded::All(&products)];
        loaded.extend(entries.iter().map(|(id, entry)| Loaded::One(*id, entry)));
        // What cannot be kept is loaded again.
        let _ = self.shelf.keep(loader, leased, &loaded).await;
        Ok(products)
    }

    /// Loads these products. Those that others load already are waited for.
    pub(super) async fn load(
        &self,
        database: &Databases,
        seen: &Seen,
        missing: &[i64],
    ) -> Result<Vec<Product>, Failure> {
        let keys: Vec<Key> = missing.iter().map(|id| Key::Product(*id)).collect();
        let (turn, others) = self.loads.divide(&keys);
        let (mut products, mut open) = self.load_mine(database, seen, &turn.keys).await?;
        // Nobody waits for somebody who waits.
        drop(turn);
        let mut theirs: Vec<i64> = others.iter().filter_map(|other| other.key.product()).collect();
        for other in others {
            other.end().await;
        }
        // What is not there now was too old to be kept.
        if let Ok(found) = self.look(&theirs).await {
            products.extend(found.products);
            theirs = found.missing;
        }
        open.append(&mut theirs);
        if !open.is_empty() {
            Counts::add(&self.counts.loads);
            products.extend(database.some_products(seen, &open).await?);
        }
        Ok(products)
    }

    /// Loads what nobody else in this instance loads, or waits until another instance has done so. Gives what was found, and what is
    /// still missing because that took too long or the cache is away.
    async fn load_mine(
        &self,
        database: &Databases,
        seen: &Seen,
        keys: &[Key],
    ) -> Result<(Vec<Product>, Vec<i64>), Failure> {
        let (loader, begin) = (sessions::random_text(), Instant::now());
        let (mut products, mut keys) = (Vec::new(), keys.to_vec());
        while !keys.is_empty() {
            let Ok(leased) = self.shelf.lease(&loader, &keys).await else { break };
            if !leased.is_empty() {
                products.extend(self.load_leased(database, seen, &loader, &leased).await?);
                keys.retain(|key| !leased.contains(key));
            } else if begin.elapsed() > self.shelf.times.loading {
                break;
            } else {
                sleep(LOOK_AGAIN).await;
            }
            let open: Vec<i64> = keys.iter().filter_map(|key| key.product()).collect();
            let Ok(found) = self.look(&open).await else { break };
            products.extend(found.products);
            keys.retain(|key| key.product().is_some_and(|id| found.missing.contains(&id)));
        }
        Ok((products, keys.iter().filter_map(|key| key.product()).collect()))
    }

    /// Loads what this loader has the lease for, and keeps it.
    async fn load_leased(
        &self,
        database: &Databases,
        seen: &Seen,
        loader: &str,
        leased: &[Key],
    ) -> Result<Vec<Product>, Failure> {
        let ids: Vec<i64> = leased.iter().filter_map(|key| key.product()).collect();
        // Somebody may have loaded it between the first look and the lease.
        let found = self.look(&ids).await;
        let Found { mut products, missing } = found.unwrap_or(Found { products: Vec::new(), missing: ids });
        let mut entries: Vec<(i64, Entry)> = Vec::new();
        if !missing.is_empty() {
            Counts::add(&self.counts.loads);
            let loaded = database.some_products(seen, &missing).await?;
            for id in missing {
                let product = loaded.iter().find(|product| product.id == id);
                entries.push((id, product.map_or(Entry::Nothing, |product| Entry::Product(product.clone()))));
            }
            products.extend(loaded);
        }
        let loaded: Vec<Loaded<'_>> = entries.iter().map(|(id, entry)| Loaded::One(*id, entry)).collect();
        // What cannot be kept is loaded again.
        let _ = self.shelf.keep(loader, leased, &loaded).await;
        Ok(products)
    }
}
