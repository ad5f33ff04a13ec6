//! `[pool.NAME.stickiness]`: how long a session lasts, and what its cookie looks like.

use std::time::Duration;

use super::{Compiler, DAY, seconds};
use crate::config::file::{self, At, Field, OrOff};
use crate::config::units::Quantity as _;
use crate::config::{Failback, SameSite, Secure, Stickiness, StickinessMode};

impl Compiler<'_> {
    pub(super) fn stickiness(&mut self, field: Field<file::Stickiness>) -> Stickiness {
        if let Some(At { value, place }) = field.peek()
            && value.mode.is_absent()
        {
            let hint = "write mode = \"lb_cookie\", or mode = \"off\"";
            self.problems.add(&place.key("mode"), "is missing", hint);
        }
        let table = field.peek().map(|at| at.place.clone()).unwrap_or_default();
        let file = field.or_default();
        self.cookie_is_accepted_by_browsers(&file);
        let mode = file.mode.peek().map_or(StickinessMode::Off, |at| at.value);
        self.application_cookie_fits(mode, &file, &table);
        let idle = self.within(file.idle, DAY, seconds(1)..=7 * DAY);
        Stickiness {
            mode,
            application_cookie: file.application_cookie.given().map_or_else(|| "".into(), |at| at.value.0),
            failback: file.failback.or(Failback::Never),
            cookie: file.cookie.given().map_or_else(|| "SELVEDGE".into(), |at| at.value.0),
            idle,
            absolute: self.absolute(file.absolute, idle),
            same_site: file.same_site.or(SameSite::Lax),
            secure: file.secure.or(Secure::Auto),
            partitioned: file.partitioned.or(false),
            domain: file.domain.given().map(|at| at.value.0),
        }
    }

    fn application_cookie_fits(
        &mut self,
        mode: StickinessMode,
        file: &file::Stickiness,
        table: &file::Place,
    ) {
        match (mode, &file.application_cookie) {
            (StickinessMode::AppCookie, Field::Absent) => {
                let hint = "write the name of the application's own session cookie, such as \"sid\"";
                self.problems.add(&table.key("application_cookie"), "is missing", hint);
            }
            (StickinessMode::Off | StickinessMode::LbCookie, Field::Given(At { place, .. })) => {
                let hint = "remove it, or write mode = \"app_cookie\"";
                self.problems.add(place, "has a meaning only when mode = \"app_cookie\"", hint);
            }
            _ => {}
        }
        if let (Some(own), Some(theirs)) = (file.cookie.peek(), file.application_cookie.peek())
            && own.value.0 == theirs.value.0
        {
            let what = "is the balancer's own cookie, which the application never sees";
            self.problems.add(&theirs.place, what, "write the name of the application's cookie");
        }
    }

    fn absolute(&mut self, field: Field<OrOff<Duration>>, idle: Duration) -> Option<Duration> {
        let At { value, place } = match field.given() {
            None => return Some(7 * DAY),
            Some(At { value: OrOff::Off, .. }) => return None,
            Some(At { value: OrOff::On(value), place }) => At { value, place },
        };
        if value < idle {
            let what = format!("{} is shorter than idle, which is {}", value.written(), idle.written());
            self.problems.add(&place, what, format!("write at least {}, or \"off\"", idle.written()));
        }
        Some(self.within(Field::Given(At { value, place }), 7 * DAY, seconds(1)..=365 * DAY))
    }

    /// Browsers drop a cookie whose attributes contradict each other, without telling anyone.
    fn cookie_is_accepted_by_browsers(&mut self, file: &file::Stickiness) {
        let given = |field: &Field<Secure>| field.peek().map_or(Secure::Auto, |at| at.value);
        let never_secure = given(&file.secure) == Secure::Never;
        let hint = "write secure = \"auto\" or \"always\"";
        if never_secure && let Some(At { value: SameSite::None, place }) = file.same_site.peek() {
            self.problems.add(place, "\"none\" is dropped by browsers when the cookie is not secure", hint);
        }
        if never_secure && let Some(At { value: true, place }) = file.partitioned.peek() {
            self.problems.add(place, "is dropped by browsers when the cookie is not secure", hint);
        }
        let Some(At { value, place }) = file.cookie.peek() else { return };
        let (host, secure) = (value.0.starts_with("__Host-"), value.0.starts_with("__Secure-"));
        if never_secure && (host || secure) {
            self.problems.add(place, "has a prefix with which browsers drop it when it is not secure", hint);
        }
        if host && !file.domain.is_absent() {
            let what = "begins with __Host-, with which browsers drop it when it has a domain";
            self.problems.add(place, what, "remove domain, or rename the cookie");
        }
    }
}
