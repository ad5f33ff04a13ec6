//! Targets that an operator registers at run time, and takes back.
//!
//! They are one more source of a pool's targets, kept in the state file. To take one back is to let it drain, unless the
//! configuration file or DNS lists it too: then it stays, as these list it.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::reply::{ApiError, Reply, json};
use super::view::TargetView;
use crate::control::Control;
use crate::control::membership::PoolControl;
use crate::control::sources::{Listed, Source};
use crate::control::state::KeptTarget;

/// Targets registered in one pool.
const REGISTERED_MAX: usize = 10_000;

/// Body of `PUT /v1/pools/{pool}/targets/{target}`; may be left out.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    /// Share relative to the others, 0 to 256; default 1.
    weight: Option<u32>,
    /// Requests in flight at most; default: no limit.
    max_connections: Option<u32>,
}

/// Answer to a registration.
#[derive(Serialize)]
struct Registered {
    #[serde(flatten)]
    target: TargetView,
    #[serde(flatten)]
    durable: Durable,
}

/// Answer to the end of one.
#[derive(Serialize)]
struct Deregistered {
    name: String,
    /// Whether it is still in the pool: bound sessions are, or another source lists it.
    present: bool,
    #[serde(flatten)]
    durable: Durable,
}

/// Whether a restart changes anything.
#[derive(Serialize)]
struct Durable {
    /// It is in the state file.
    kept: bool,
    /// Why not.
    not_kept: Option<String>,
}

impl From<Result<(), String>> for Durable {
    fn from(written: Result<(), String>) -> Self {
        Self { kept: written.is_ok(), not_kept: written.err() }
    }
}

/// Puts a target into a pool, or changes one that was put there before.
pub(super) async fn register(
    control: &Control,
    pool: &str,
    target: &str,
    body: Registration,
) -> Result<Reply, ApiError> {
    let pool = control.pool(pool).ok_or_else(|| super::unknown_pool(pool))?;
    let listed = listed(target, &body)?;
    is_free(control, &pool, &listed)?;
    let mut list = registered(&pool);
    let known = list.iter().position(|other| other.address == listed.address);
    match known {
        Some(at) => list[at] = listed.clone(),
        None if list.len() >= REGISTERED_MAX => {
            let message = format!("{REGISTERED_MAX} targets are registered in this pool: no more are taken");
            return Err(ApiError::new(StatusCode::CONFLICT, "too_many_targets", message));
        }
        None => list.push(listed.clone()),
    }
    pool.set_source(&Source::Runtime, list);
    let (pool_name, name) = (pool.pool().name.to_string(), format!("{}/{}", listed.zone, listed.address));
    let kept = KeptTarget { weight: listed.weight, max_connections: listed.max_connections };
    let written = control.state.change(|state| {
        state.targets.entry(pool_name).or_default().insert(name.clone(), kept);
    });
    let durable = Durable::from(written.await);
    let snapshot = pool.pool().snapshot();
    let targets = pool.targets();
    let target = targets.iter().find(|target| target.state.name == name).ok_or_else(|| {
        let message = format!("{name} was taken back at the same time");
        ApiError::new(StatusCode::CONFLICT, "deregistered", message)
    })?;
    let target = TargetView::of(target, &snapshot, &pool.config());
    let status = if known.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    Ok(json(status, &Registered { target, durable }))
}

/// Takes a registered target back.
pub(super) async fn deregister(control: &Control, pool: &str, target: &str) -> Result<Reply, ApiError> {
    let pool = control.pool(pool).ok_or_else(|| super::unknown_pool(pool))?;
    let Listed { zone, address, .. } = listed(target, &Registration::default())?;
    let mut list = registered(&pool);
    let before = list.len();
    list.retain(|listed| !(listed.zone == zone && listed.address == address));
    if list.len() == before {
        return Err(not_registered(&pool, &format!("{zone}/{address}")));
    }
    pool.set_source(&Source::Runtime, list);
    let (pool_name, name) = (pool.pool().name.clone(), format!("{zone}/{address}"));
    let written = control.state.change(|state| {
        if let Some(targets) = state.targets.get_mut(&*pool_name) {
            targets.remove(&name);
        }
        state.targets.retain(|_, targets| !targets.is_empty());
    });
    let durable = Durable::from(written.await);
    let present = pool.targets().iter().any(|target| target.state.name == name);
    Ok(json(StatusCode::OK, &Deregistered { name, present, durable }))
}

fn registered(pool: &PoolControl) -> Vec<Listed> {
    pool.sources().of(&Source::Runtime).to_vec()
}

fn listed(target: &str, body: &Registration) -> Result<Listed, ApiError> {
    let weight = body.weight.unwrap_or(1);
    let bad = |message| ApiError::new(StatusCode::BAD_REQUEST, "bad_target", message);
    Listed::registered(target, weight, body.max_connections).map_err(bad)
}

/// Whether the address may become a target: not when it is one already in another zone, nor when it leads back here.
fn is_free(control: &Control, pool: &PoolControl, listed: &Listed) -> Result<(), ApiError> {
    let conflict = |message| ApiError::new(StatusCode::CONFLICT, "address_taken", message);
    if let Some((name, _)) = control.running().listeners.iter().find(|(_, own)| *own == listed.address) {
        let message =
            format!("{} is the listener {name:?}: requests would go round in circles", listed.address);
        return Err(conflict(message));
    }
    let union = pool.sources().union();
    match union.iter().find(|(_, other)| other.address == listed.address && other.zone != listed.zone) {
        Some((_, other)) => {
            Err(conflict(format!("{0} is in the pool as {1}/{0}", other.address, other.zone)))
        }
        None => Ok(()),
    }
}

fn not_registered(pool: &PoolControl, name: &str) -> ApiError {
    let targets = pool.targets();
    let message = match targets.iter().find(|target| target.state.name == name) {
        Some(target) => {
            let source = match &target.standing.source {
                Source::File => "is written in the configuration file".to_owned(),
                Source::Dns(question) => format!("was found by {question}"),
                Source::Runtime => "was taken back before".to_owned(),
            };
            format!("{name} was not registered at run time, it {source}; PUT …/state takes it out of service")
        }
        None => format!("{name} was not registered at run time"),
    };
    ApiError::new(StatusCode::NOT_FOUND, "not_registered", message)
}
