//! The configuration as one worker follows it: routes, and the pools they lead to.
//!
//! A request takes the plan once, at its start, and keeps it to its end; a reload gives the worker another plan for the
//! requests that follow, also for those of connections that were open before. A plan is never changed. Which targets are
//! in a pool is not part of it: that is the pool's [`View`](super::worker::View).

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use super::route::RouteTable;
use super::session::CookieForm;
use super::upstream::Terms;
use super::worker::PoolWorker;
use super::workers::Change;
use crate::config::{self, Config};

/// See the module's documentation.
pub(crate) struct Plan {
    pub(crate) config: Arc<Config>,
    /// One table for all workers; it is only read.
    pub(crate) routes: Arc<RouteTable>,
    /// Same order as [`Config::pools`], which routes refer to by index.
    pub(crate) pools: Vec<PoolPlan>,
}

impl Plan {
    /// A plan without routes and pools.
    pub(crate) fn empty(config: Arc<Config>) -> Self {
        Self { config, routes: Arc::new(RouteTable::new(&[])), pools: Vec::new() }
    }

    /// The plan that comes after this one on the worker with this index. Pools that stay keep their view, and so their
    /// connections.
    pub(crate) fn followed_by(&self, change: &Change, worker: usize) -> Self {
        let pools = change.config.pools.iter().zip(&change.pools).map(|(config, shared)| {
            let known = self.pools.iter().find(|pool| Arc::ptr_eq(&pool.shared, shared));
            let pool = match known {
                Some(known) => known.pool.clone(),
                None => Rc::new(PoolWorker::new(shared.clone(), config, worker)),
            };
            pool.set_terms(Terms::of(config));
            PoolPlan { cookie: CookieForm::new(&config.stickiness), config: config.clone(), pool }
        });
        Self { pools: pools.collect(), routes: change.routes.clone(), config: change.config.clone() }
    }

    /// Lets go of pools that `next` does not have.
    pub(crate) fn retire_pools_missing_in(&self, next: &Self) {
        let stays = |pool: &PoolPlan| next.pools.iter().any(|other| Rc::ptr_eq(&other.pool, &pool.pool));
        self.pools.iter().filter(|pool| !stays(pool)).for_each(|pool| pool.retire());
    }

    /// A pool by its index in the configuration.
    pub(crate) fn pool(&self, index: usize) -> &PoolPlan {
        &self.pools[index]
    }
}

/// What a plan says of a pool, and the pool itself, which outlives plans.
pub(crate) struct PoolPlan {
    pub(crate) config: Arc<config::Pool>,
    /// The pool's `Set-Cookie`, but for the value.
    pub(crate) cookie: CookieForm,
    pub(crate) pool: Rc<PoolWorker>,
}

impl Deref for PoolPlan {
    type Target = PoolWorker;

    fn deref(&self) -> &PoolWorker {
        &self.pool
    }
}
