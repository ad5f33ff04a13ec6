//! What an operator changes through the API: the state of a target, the shift of a zone.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::reply::{ApiError, Reply, json};
use super::view::TargetView;
use crate::config::ZoneName;
use crate::config::units::parse_duration;
use crate::control::Control;
use crate::control::figures::{self, TargetFigures};
use crate::control::shift::{self, Figures, Shift, Wish};
use crate::control::state::{Kept, KeptOut, KeptShift, OutState};
use crate::pool::AdminState;
use crate::telemetry::time::rfc3339;

/// Body of `PUT /v1/pools/{pool}/targets/{target}/state`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StateChange {
    state: WantedState,
    /// For the bound sessions of a target that is drained; default: that of the pool.
    deadline: Option<String>,
    /// Only say what would happen.
    #[serde(default)]
    dry_run: bool,
}

/// Answer to a dry run of that.
#[derive(Serialize)]
struct StateView {
    name: String,
    done: bool,
    figures: TargetFigures,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum WantedState {
    Up,
    Drain,
    Down,
}

/// Body of `PUT /v1/zones/{zone}/shift`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShiftChange {
    /// How long, such as `"2h"`.
    r#for: String,
    #[serde(default)]
    comment: Option<String>,
    /// Even if the other zones lack the capacity.
    #[serde(default)]
    force: bool,
    /// Only say what would happen.
    #[serde(default)]
    dry_run: bool,
}

/// Answer to a shift.
#[derive(Serialize)]
struct ShiftView {
    zone: String,
    /// Whether it was done.
    done: bool,
    until: String,
    figures: Figures,
}

/// Answer to a dry run of its end.
#[derive(Serialize)]
struct RestoreView {
    zone: String,
    restored: bool,
    figures: Figures,
}

/// Longest comment.
const COMMENT_MAX: usize = 500;

/// Sets the state of a target.
pub(super) async fn set_state(
    control: &Control,
    pool: &str,
    target: &str,
    change: &StateChange,
) -> Result<Reply, ApiError> {
    let node = control;
    let control = node.pool(pool).ok_or_else(|| super::unknown_pool(pool))?;
    let deadline = change.deadline.as_deref().map(duration).transpose()?;
    let wanted = match change.state {
        WantedState::Up => AdminState::Up,
        WantedState::Drain => AdminState::Drain,
        WantedState::Down => AdminState::Down,
    };
    if deadline.is_some() && wanted != AdminState::Drain {
        return Err(bad("a deadline belongs to \"drain\""));
    }
    let unknown = || {
        let message = format!("pool {pool} has no target {target:?}: GET /v1/pools/{pool} lists them");
        ApiError::new(StatusCode::NOT_FOUND, "unknown_target", message)
    };
    if change.dry_run {
        let figures = figures::figures(&control, target, wanted, deadline).ok_or_else(unknown)?;
        return Ok(json(StatusCode::OK, &StateView { name: target.to_owned(), done: false, figures }));
    }
    if !control.set_admin(target, wanted, deadline) {
        return Err(unknown());
    }
    let out = match wanted {
        AdminState::Drain | AdminState::Drained => Some(OutState::Drain),
        AdminState::Down => Some(OutState::Down),
        AdminState::Up => None,
    };
    node.state.note(|kept| keep_out(kept, pool, target, out, deadline)).await;
    let snapshot = control.pool().snapshot();
    let targets = control.targets();
    let target = targets.iter().find(|other| other.state.name == target).ok_or_else(unknown)?;
    Ok(json(StatusCode::OK, &TargetView::of(target, &snapshot, &control.config())))
}

/// Takes a zone out, or says what that would do.
pub(super) async fn shift(control: &Control, zone: &str, change: ShiftChange) -> Result<Reply, ApiError> {
    let lasts = duration(&change.r#for)?;
    if !shift::LIMITS.contains(&lasts) {
        return Err(bad("a shift lasts \"1m\" to \"72h\": a zone is never taken out for good"));
    }
    if change.comment.as_ref().is_some_and(|comment| comment.chars().count() > COMMENT_MAX) {
        return Err(bad(&format!("the comment is longer than {COMMENT_MAX} characters")));
    }
    let zone = ZoneName::from(zone);
    let figures = shift::figures(control, &zone, Wish::Out).ok_or_else(|| unknown_zone(&zone))?;
    if !figures.enough && !change.force && !change.dry_run {
        let message = format!("{}; force it if that is what you want", figures.shortage());
        return Err(ApiError::new(StatusCode::CONFLICT, "no_capacity", message));
    }
    let since = SystemTime::now();
    let shift = Shift { since, until: since + lasts, comment: change.comment };
    let until = rfc3339(shift.until);
    if !change.dry_run {
        control.begin_shift(&zone, shift);
        let shifts = control.shifts.all();
        let shifts = shifts.iter().map(|(zone, shift)| (zone.to_string(), KeptShift::from(shift))).collect();
        control.state.note(|kept| kept.shifts = shifts).await;
    }
    Ok(json(StatusCode::OK, &ShiftView { zone: zone.to_string(), done: !change.dry_run, until, figures }))
}

/// Gives a zone back, or says what that would do; one that is not out stays as it is.
pub(super) async fn restore(control: &Control, zone: &str, dry_run: bool) -> Result<Reply, ApiError> {
    if dry_run {
        let name = ZoneName::from(zone);
        let figures = shift::figures(control, &name, Wish::Back).ok_or_else(|| unknown_zone(zone))?;
        return Ok(json(StatusCode::OK, &RestoreView { zone: zone.to_owned(), restored: false, figures }));
    }
    let restored = control.end_shift(zone);
    if !restored && !control.running().pools.iter().any(|pool| pool.has_zone(zone)) {
        return Err(unknown_zone(zone));
    }
    if restored {
        control.state.note(|kept| drop(kept.shifts.remove(zone))).await;
    }
    Ok(json(StatusCode::OK, &serde_json::json!({ "zone": zone, "restored": restored })))
}

fn keep_out(kept: &mut Kept, pool: &str, target: &str, out: Option<OutState>, deadline: Option<Duration>) {
    let until = deadline.map(|deadline| SystemTime::now() + deadline);
    let until = until.and_then(|until| Some(until.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs()));
    let targets = kept.out.entry(pool.to_owned()).or_default();
    match out {
        Some(state) => drop(targets.insert(target.to_owned(), KeptOut { state, until })),
        None => drop(targets.remove(target)),
    }
    if targets.is_empty() {
        kept.out.remove(pool);
    }
}

fn unknown_zone(zone: &str) -> ApiError {
    let message = format!("no pool has a target in zone {zone:?}: GET /v1/pools lists them");
    ApiError::new(StatusCode::NOT_FOUND, "unknown_zone", message)
}

fn duration(text: &str) -> Result<Duration, ApiError> {
    parse_duration(text)
        .ok_or_else(|| bad(&format!("{text:?} is not a duration: write it such as \"90m\" or \"2h\"")))
}

fn bad(message: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "bad_body", message.to_owned())
}
