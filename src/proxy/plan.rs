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
use super::worker::PoolWorker;
use crate::config::{self, Config};
use crate::pool::Pool;

/// See the module's documentation.
pub(crate) struct Plan {
    pub(crate) config: Arc<Config>,
    pub(crate) routes: RouteTable,
    /// Same order as [`Config::pools`], which routes refer to by index.
    pub(crate) pools: Vec<PoolPlan>,
}

impl Plan {
    /// The first plan of a worker; `pools` in the order of the configuration.
    pub(crate) fn new(config: Arc<Config>, pools: &[Arc<Pool>], worker: usize) -> Self {
        let both = config.pools.iter().zip(pools);
        let pools = both.map(|(config, pool)| {
            let pool = Rc::new(PoolWorker::new(pool.clone(), config, worker));
            PoolPlan { cookie: CookieForm::new(&config.stickiness), config: config.clone(), pool }
        });
        Self { pools: pools.collect(), routes: RouteTable::new(&config.routes), config }
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
