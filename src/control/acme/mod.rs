//! Certificates that the node obtains by itself (ACME), and renews before they end.
//!
//! One certificate after the other, each try with a deadline: an authority that hangs or refuses costs nobody a request, because the
//! old certificate serves until the new one is there. `schedule` says when, `order` talks to the authority, `storage` keeps
//! what came of it; workers find it in `pool::managed`.

mod order;
mod schedule;
mod storage;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tracing::{error, info, warn};

use super::Control;
use crate::config::acme::Acme;
use crate::pool::Managed;
use crate::telemetry::time::rfc3339;
use storage::{Obtained, Storage};

/// Between two looks at what is due.
const LOOK: Duration = Duration::from_millis(250);

/// For one certificate, from the first word to the last.
const DEADLINE: Duration = Duration::from_secs(300);

/// For a question that nothing waits for.
const QUESTION: Duration = Duration::from_secs(30);

/// Between two questions when to renew, if the authority says nothing of it or no other time.
const SUGGESTED_AGAIN: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(86_400);

/// What the control plane knows of the certificates that it obtains, by their first names.
#[derive(Default)]
pub struct Certificates {
    list: RefCell<BTreeMap<Box<str>, Progress>>,
    /// The configuration that the list was made of, and its number.
    configured: RefCell<Option<Arc<Acme>>>,
    generation: Cell<u64>,
}

/// How it stands with one certificate.
#[derive(Default)]
pub struct Progress {
    names: Vec<Box<str>>,
    /// What is shown now.
    obtained: Option<Obtained>,
    /// When it is to be renewed, by the authority's wish or by its age.
    renew_at: Option<SystemTime>,
    /// When to ask for the authority's wish.
    ask_at: Option<SystemTime>,
    /// Tries that failed since the last that did not.
    failures: u32,
    next_try: Option<SystemTime>,
    /// Why the last one failed.
    pub problem: Option<String>,
    /// Certificates obtained, and tries that failed, since the node started.
    pub tries: [u64; 2],
}

impl Progress {
    /// Until when the present one is valid.
    pub fn not_after(&self) -> Option<SystemTime> {
        Some(self.obtained.as_ref()?.facts.not_after)
    }

    /// Whether a new one has to be obtained now.
    fn is_due(&self, now: SystemTime) -> bool {
        let wanted = match &self.obtained {
            Some(obtained) if obtained.covers(&self.names) => self.renew_at.is_none_or(|at| at <= now),
            _ => true,
        };
        wanted && self.next_try.is_none_or(|at| at <= now)
    }

    /// Takes a certificate on as the present one.
    fn hold(&mut self, obtained: Obtained, now: SystemTime) {
        self.renew_at = Some(schedule::renewal(&obtained.validity(), None, random()));
        (self.ask_at, self.obtained) = (Some(now), Some(obtained));
    }

    fn fail(&mut self, problem: String, first_wait: Duration, now: SystemTime) {
        self.failures += 1;
        self.tries[1] += 1;
        let wait = schedule::back_off(first_wait, self.failures, random());
        self.next_try = Some(now + wait);
        let name = self.names.first().map_or("", |name| name);
        match self.not_after() {
            Some(end) if end > now => {
                warn!(name, valid_until = rfc3339(end), again_in = ?wait, "no new certificate, the old one serves: {problem}");
            }
            Some(_) => {
                error!(name, again_in = ?wait, "no new certificate, and the old one has expired: {problem}")
            }
            None => error!(name, again_in = ?wait, "no certificate: {problem}"),
        }
        self.problem = Some(problem);
    }
}

impl Certificates {
    /// Shows what it is given of each certificate.
    pub fn each(&self, mut look: impl FnMut(&str, &Progress)) {
        self.list.borrow().iter().for_each(|(name, progress)| look(name, progress));
    }

    /// Takes on the configuration with this number: what is stored already is shown at once, and what failed is tried again.
    /// Blocks for as long as the disk does.
    pub fn follow(&self, acme: Option<&Arc<Acme>>, generation: u64, managed: &Managed) {
        if self.generation.replace(generation) == generation {
            return;
        }
        let mut before = self.list.take();
        let mut list = BTreeMap::new();
        let now = SystemTime::now();
        for names in acme.iter().flat_map(|acme| &acme.certificates) {
            let Some(first) = names.first() else { continue };
            let mut progress = before.remove(first).unwrap_or_default();
            progress.names.clone_from(names);
            // Whoever reloads wants to see what comes of it.
            (progress.next_try, progress.failures) = (None, 0);
            if let (None, Some(acme)) = (&progress.obtained, acme) {
                match Storage::new(&acme.storage).certificate(names) {
                    Ok(Some(obtained)) => progress.hold(obtained, now),
                    Ok(None) => info!(name = %first, "no certificate yet, one is being obtained"),
                    Err(problem) => warn!("acme: {problem}; another one is being obtained"),
                }
            }
            list.insert(first.clone(), progress);
        }
        self.list.replace(list);
        self.configured.replace(acme.cloned());
        self.show(managed);
    }

    /// Lets workers have all that there is.
    fn show(&self, managed: &Managed) {
        let list = self.list.borrow();
        managed.change(|held| {
            held.certificates.clear();
            for obtained in list.values().filter_map(|progress| progress.obtained.as_ref()) {
                for name in &obtained.facts.names {
                    held.certificates.insert(name.clone(), obtained.certified.clone());
                }
            }
            let first = self
                .configured
                .borrow()
                .as_ref()
                .and_then(|acme| acme.certificates.first()?.first().cloned());
            let first =
                first.and_then(|first| list.get(&first)?.obtained.as_ref().map(|one| one.certified.clone()));
            held.default = first.or_else(|| held.certificates.values().next().cloned());
        });
    }

    fn change<T>(&self, first: &str, change: impl FnOnce(&mut Progress) -> T) -> Option<T> {
        self.list.borrow_mut().get_mut(first).map(change)
    }

    /// The first certificate that `is_it`.
    fn find(&self, is_it: impl Fn(&Progress) -> bool) -> Option<Found> {
        let list = self.list.borrow();
        let (first, progress) = list.iter().find(|(_, progress)| is_it(progress))?;
        Some(Found {
            first: first.clone(),
            names: progress.names.clone(),
            obtained: progress.obtained.clone(),
        })
    }
}

/// A certificate that something is to be done about.
struct Found {
    first: Box<str>,
    names: Vec<Box<str>>,
    obtained: Option<Obtained>,
}

/// Obtains and renews for as long as it is polled.
pub async fn run(control: Rc<Control>) {
    let (certificates, managed) = (&control.certificates, &control.node.pools.managed);
    loop {
        tokio::time::sleep(LOOK).await;
        let running = control.running();
        certificates.follow(running.config.acme.as_ref(), running.generation, managed);
        let Some(acme) = running.config.acme.clone() else { continue };
        let now = SystemTime::now();
        if let Some(Found { first, names, obtained: old }) =
            certificates.find(|progress| progress.is_due(now))
        {
            let trying = obtain(&acme, &names, old.as_ref(), managed);
            let tried = tokio::time::timeout(DEADLINE, trying).await;
            let tried = tried
                .unwrap_or_else(|_| Err(format!("the authority did not come to an end within {DEADLINE:?}")));
            let now = SystemTime::now();
            match tried {
                Ok(obtained) => {
                    info!(name = %first, valid_until = rfc3339(obtained.facts.not_after), "a certificate was obtained");
                    certificates.change(&first, |progress| {
                        (progress.failures, progress.problem, progress.next_try) = (0, None, None);
                        progress.tries[0] += 1;
                        progress.hold(obtained, now);
                    });
                    certificates.show(managed);
                }
                Err(problem) => {
                    certificates.change(&first, |progress| progress.fail(problem, acme.retry, now));
                }
            }
        } else if let Some(Found { first, obtained: Some(obtained), .. }) =
            certificates.find(|progress| progress.ask_at.is_some_and(|at| at <= now))
        {
            let asked = tokio::time::timeout(QUESTION, suggestion(&acme, &obtained)).await;
            let suggested = asked.ok().flatten();
            certificates.change(&first, |progress| {
                let (least, most) = (*SUGGESTED_AGAIN.start(), *SUGGESTED_AGAIN.end());
                let again =
                    suggested.as_ref().map_or(most / 4, |suggested| suggested.again.clamp(least, most));
                progress.ask_at = Some(SystemTime::now() + again);
                let window = suggested.map(|suggested| suggested.window);
                progress.renew_at = Some(schedule::renewal(&obtained.validity(), window.as_ref(), random()));
            });
        }
    }
}

async fn obtain(
    acme: &Acme,
    names: &[Box<str>],
    old: Option<&Obtained>,
    managed: &Arc<Managed>,
) -> Result<Obtained, String> {
    let account = order::account(acme).await?;
    let pem = order::obtain(&account, acme, names, old, managed).await?;
    let obtained = Obtained::read(&pem).map_err(|wrong| format!("what the authority gave {wrong}"))?;
    if !obtained.covers(names) {
        return Err(format!("the authority gave a certificate for {:?}", obtained.facts.names));
    }
    let (storage, names) = (Storage::new(&acme.storage), names.to_vec());
    let kept = spawn_blocking(move || storage.keep_certificate(&names, &pem)).await;
    if let Err(problem) = kept.unwrap_or_else(|error| Err(error.to_string())) {
        // It serves all the same, until the node ends.
        error!("acme: {problem}; after a restart another one has to be obtained");
    }
    Ok(obtained)
}

async fn suggestion(acme: &Acme, obtained: &Obtained) -> Option<order::Suggestion> {
    let account = order::account(acme).await.ok()?;
    order::suggestion(&account, obtained).await
}

fn random() -> f64 {
    let mut bytes = [0; 4];
    // Only spreads load: without randomness everything comes at its middle.
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}
