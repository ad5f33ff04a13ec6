//! The configuration as one worker follows it: routes, and the pools they lead to.
//!
//! A request takes the plan once, at its start, and keeps it to its end; a reload gives the worker another plan for the
//! requests that follow, also for those of connections that were open before. A plan is never changed. Which targets are
//! in a pool is not part of it: that is the pool's [`View`](super::worker::View).

use std::rc::Rc;
use std::sync::Arc;

use super::route::RouteTable;
use super::worker::PoolWorker;
use crate::config::Config;
use crate::pool::Pool;

/// See the module's documentation.
pub(crate) struct Plan {
    pub(crate) config: Arc<Config>,
    pub(crate) routes: RouteTable,
    /// Same order as [`Config::pools`], which routes refer to by index.
    pub(crate) pools: Vec<Rc<PoolWorker>>,
}

impl Plan {
    /// The first plan of a worker; `pools` in the order of the configuration.
    pub(crate) fn new(config: Arc<Config>, pools: &[Arc<Pool>], worker: usize) -> Self {
        let both = config.pools.iter().zip(pools);
        let pools = both.map(|(config, pool)| Rc::new(PoolWorker::new(pool.clone(), config.clone(), worker)));
        Self { routes: RouteTable::new(&config.routes), pools: pools.collect(), config }
    }

    /// A pool by its index in the configuration.
    pub(crate) fn pool(&self, index: usize) -> &Rc<PoolWorker> {
        &self.pools[index]
    }
}
