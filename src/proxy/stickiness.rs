//! A request's session: read from its cookies at the start, told to the client at the end.
//!
//! Where the session's requests go is decided in `balance`; how a bond is sealed into a cookie, in `session`. Of a route with
//! several pools, the pool whose cookie a request brings serves it: a session stays with its group. It lets go of a group
//! in which no target takes requests.

use std::rc::Rc;
use std::sync::Arc;

use http::header;

use super::Worker;
use super::fields::Fields;
use super::plan::{Plan, PoolPlan};
use super::request::Head;
use super::session::{self, ApplicationCookie, Bond};
use super::worker::View;
use crate::config::{self, Failback, Stickiness, StickinessMode, WeightedPool};
use crate::pool::{Keeps, Snapshot, Verdict};

/// A request's session, as its cookies tell.
pub(crate) struct Session {
    /// Index of the pool that serves the request.
    pub(crate) pool: usize,
    enabled: bool,
    verdict: Verdict,
    /// Index of a pool whose session it was, and which no longer serves it.
    pub(crate) left: Option<usize>,
    pub(crate) bond: Option<Bond>,
    /// A session that has moved may return to its first target now.
    pub(crate) may_return: bool,
}

/// Where a request was answered.
pub(crate) struct Landed {
    pub(crate) view: Rc<View>,
    pub(crate) index: usize,
    pub(crate) rehomed: bool,
}

/// What a session is decided on: the data plane's own, or that of somebody who only wants to know.
pub(crate) trait Scene {
    /// Opens a cookie's value as one of the pool with this index.
    fn open(&self, pool: usize, text: &[u8]) -> Result<Bond, Verdict>;

    /// Looks at the targets of the pool with this index.
    fn look<R>(&self, pool: usize, at: impl FnOnce(&Snapshot) -> R) -> R;
}

/// A worker, and the plan that the request follows.
struct Own<'a>(&'a Worker, &'a Plan);

impl Scene for Own<'_> {
    fn open(&self, pool: usize, text: &[u8]) -> Result<Bond, Verdict> {
        self.0.opened.open(&self.1.config, pool, text)
    }

    fn look<R>(&self, pool: usize, at: impl FnOnce(&Snapshot) -> R) -> R {
        at(&self.1.pool(pool).view().snapshot)
    }
}

impl Session {
    /// Reads the session cookies of a request whose route leads to `pools`, and counts what they say.
    pub(crate) fn read(worker: &Worker, plan: &Plan, pools: &[WeightedPool], head: &Head) -> Self {
        let (scene, now) = (Own(worker, plan), worker.deadlines.unix_seconds());
        let session = Self::decide(&scene, &plan.config.pools, pools, head, now, || worker.random.next());
        if let Some(left) = session.left {
            plan.pool(left).lane().verdicts[Verdict::Valid as usize].bump();
        }
        if session.enabled {
            plan.pool(session.pool).lane().verdicts[session.verdict as usize].bump();
        }
        session
    }

    /// What the session cookies of a request say at `now`, in seconds since 1970. Without a session, weight decides.
    pub(crate) fn decide(
        scene: &impl Scene,
        config: &[Arc<config::Pool>],
        pools: &[WeightedPool],
        head: &Head,
        now: u64,
        random: impl FnOnce() -> u64,
    ) -> Self {
        let (mut worst, mut left) = (Verdict::None, None);
        'pools: for choice in pools {
            let stickiness = &config[choice.pool].stickiness;
            if !is_looked_for(stickiness, head) {
                continue;
            }
            for text in session::find(&head.headers, &stickiness.cookie) {
                let opened = scene.open(choice.pool, text);
                let verdict =
                    opened.map_or_else(|verdict| verdict, |bond| session::judge(&bond, stickiness, now));
                if let (Verdict::Valid, Ok(bond)) = (verdict, opened) {
                    if pools.len() > 1 && !scene.look(choice.pool, |snapshot| serves(snapshot, &bond)) {
                        left = Some(choice.pool);
                        continue 'pools;
                    }
                    let may_return = may_return(stickiness, &bond, now);
                    let (pool, bond) = (choice.pool, Some(bond));
                    return Self { pool, enabled: true, verdict, left, bond, may_return };
                }
                // The cookie of another pool of this route says nothing, and looks forged.
                if matches!(worst, Verdict::None | Verdict::Forged) {
                    worst = verdict;
                }
            }
        }
        let pool = draw(scene, pools, random);
        let enabled = config[pool].stickiness.mode != StickinessMode::Off;
        Self { pool, enabled, verdict: worst, left, bond: None, may_return: false }
    }

    /// What reading the cookies found; `None` if the pool has no sessions.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.enabled.then_some(self.verdict)
    }

    /// Tells the client its bond when it is new, has moved, or was last told long ago; and that it has ended, when the
    /// application ends the session that the bond belongs to.
    pub(crate) fn stamp(
        self,
        worker: &Worker,
        plan: &Plan,
        pool: &PoolPlan,
        landed: &Landed,
        secure: bool,
        headers: &mut Fields,
    ) {
        if !self.enabled {
            return;
        }
        let config = &pool.config.stickiness;
        let application = match config.mode {
            StickinessMode::AppCookie => session::application_cookie(headers, &config.application_cookie),
            _ => ApplicationCookie::Set,
        };
        match (application, self.bond) {
            (ApplicationCookie::Deleted, Some(_)) => {
                if let Some(value) = pool.cookie.deletion(secure) {
                    headers.append(header::SET_COOKIE, value);
                }
                return;
            }
            (ApplicationCookie::Deleted | ApplicationCookie::Absent, None) => return,
            (ApplicationCookie::Set, _) | (ApplicationCookie::Absent, Some(_)) => {}
        }
        let now = worker.deadlines.unix_seconds();
        let seen = u32::try_from(now).unwrap_or(u32::MAX);
        let snapshot = &landed.view.snapshot;
        let target = &snapshot.targets[landed.index].state;
        let (bond, changed) = match self.bond {
            None => (
                Bond { target: target.id, home: target.id, session: worker.random.next(), born: seen, seen },
                true,
            ),
            Some(bond) if landed.rehomed => {
                pool.lane().rehomed.bump();
                (Bond { target: target.id, seen, ..bond }, true)
            }
            Some(bond) if session::is_stale(&bond, config, now) => (Bond { seen, ..bond }, true),
            Some(bond) => (bond, false),
        };
        if bond.target == target.id {
            target.see_bound(bond.session, seen);
        } else if let Some(own) = snapshot.index_of(bond.target) {
            snapshot.targets[own].state.see_bound(bond.session, seen);
        }
        if !changed {
            return;
        }
        let text =
            session::seal(&plan.config.session_keys.ring, &pool.config.name, &bond, worker.random.nonce());
        if let Some(value) = pool.cookie.set_cookie(&text, secure) {
            headers.append(header::SET_COOKIE, value);
        }
    }
}

/// Whether a bond counts for this request: with the application's cookies, only as long as the client sends that too.
fn is_looked_for(config: &Stickiness, head: &Head) -> bool {
    match config.mode {
        StickinessMode::Off => false,
        StickinessMode::LbCookie => true,
        StickinessMode::AppCookie => {
            session::find(&head.headers, &config.application_cookie).any(|value| !value.is_empty())
        }
    }
}

/// Whether a session that has moved may go back to its first target now.
fn may_return(config: &Stickiness, bond: &Bond, now: u64) -> bool {
    let pause = now.saturating_sub(u64::from(bond.seen));
    match config.failback {
        Failback::Never => false,
        Failback::Always => true,
        // `seen` is up to a tenth of `idle` older than the last request.
        Failback::Idle => pause > 2 * (config.idle.as_secs() / 10) + 1,
    }
}

/// Whether the group that a session belongs to can serve it at all.
fn serves(snapshot: &Snapshot, bond: &Bond) -> bool {
    let keeps = |index: usize| snapshot.targets[index].keeps(bond.session) == Keeps::All;
    !snapshot.open.is_empty() || snapshot.index_of(bond.target).is_some_and(keeps)
}

/// A pool by weight, of those in which a target takes requests if there is one.
fn draw(scene: &impl Scene, pools: &[WeightedPool], random: impl FnOnce() -> u64) -> usize {
    if let [only] = pools {
        return only.pool;
    }
    let is_open = |choice: &&WeightedPool| scene.look(choice.pool, |snapshot| !snapshot.open.is_empty());
    let weight = |choice: &WeightedPool| u64::from(choice.weight);
    let of_open: u64 = pools.iter().filter(is_open).map(weight).sum();
    let total = if of_open > 0 { of_open } else { pools.iter().map(weight).sum() };
    let mut at = ((u128::from(random()) * u128::from(total)) >> 64) as u64;
    for choice in pools.iter().filter(|choice| of_open == 0 || is_open(choice)) {
        match at.checked_sub(weight(choice)) {
            Some(left) => at = left,
            None => return choice.pool,
        }
    }
    pools[0].pool
}
