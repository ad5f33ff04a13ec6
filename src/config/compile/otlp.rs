//! `[otlp]`.

use std::path::Path;

use http::{HeaderName, HeaderValue, Uri};

use super::{Compiler, millis, seconds};
use crate::config::Forwarding;
use crate::config::file::{self, At, Field, Place, quoted};
use crate::config::otlp::{Otlp, Parents};
use crate::config::units::Percent;

const ENDPOINT: &str = "http://127.0.0.1:4318/v1/traces";

/// What a span's origin is called by, in the terms of OpenTelemetry.
const SERVICE: &str = "service.name";

impl Compiler<'_> {
    pub(super) fn otlp(&mut self, field: Field<file::Otlp>, forwarding: &Forwarding) -> Option<Otlp> {
        let At { value: file, place } = field.given()?;
        if !cfg!(feature = "otlp") {
            let hint = "remove the table, or build with: cargo build --release --features otlp";
            let what = "cannot be had: this program was built without the feature `otlp`";
            self.problems.add(&place, what, hint);
            return None;
        }
        if !forwarding.traceparent {
            let hint = "write traceparent = true in [forwarding]";
            let what = "needs forwarding.traceparent: targets could not tell which trace they are part of";
            self.problems.add(&place, what, hint);
        }
        let endpoint = self.endpoint(file.endpoint);
        let is_secure = endpoint.scheme_str() == Some("https");
        if let Field::Given(At { place, .. }) = &file.ca
            && !is_secure
        {
            let hint = "remove it, or write an endpoint that begins with https://";
            self.problems.add(place, "has a meaning only with an endpoint of https://", hint);
        }
        Some(Otlp {
            authorities: if is_secure { self.authorities(file.ca) } else { None },
            fields: self.fields(file.headers_file),
            endpoint,
            sample: self.within(file.sample, Percent(0.01), Percent(0.0)..=Percent(1.0)).0,
            parents: file.parents.or(Parents::Trusted),
            resource: self.resource_of(file.service, file.resource),
            queue: self.within(file.queue, 2048, 1..=65_536) as usize,
            batch: self.within(file.batch, 512, 1..=1024) as usize,
            interval: self.within(file.interval, seconds(5), millis(10)..=seconds(60)),
            timeout: self.within(file.timeout, seconds(10), millis(10)..=seconds(60)),
            give_up: self.within(file.give_up, seconds(60), millis(10)..=seconds(600)),
        })
    }

    fn endpoint(&mut self, field: Field<String>) -> Uri {
        let default = Uri::from_static(ENDPOINT);
        let Some(At { value, place }) = field.given() else { return default };
        let endpoint = value.parse::<Uri>().ok().filter(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
        });
        endpoint.unwrap_or_else(|| {
            let what = format!("{} is not an address of http:// or https://", quoted(&value));
            let hint = format!("write it with its path, such as {ENDPOINT:?}");
            self.problems.add(&place, what, hint);
            default
        })
    }

    /// The fields in a file, one in a line.
    fn fields(&mut self, field: Field<String>) -> Vec<(HeaderName, HeaderValue)> {
        let hint =
            |_: &Path| "write the path of a file with lines such as `authorization: Bearer …`".to_owned();
        let Some((text, path, place)) = self.secret_file(field, hint) else { return Vec::new() };
        let mut fields = Vec::new();
        for (line, number) in text.lines().map(str::trim).zip(1..).filter(|(line, _)| !line.is_empty()) {
            match field_of(line) {
                Some(field) => fields.push(field),
                // The line itself is a secret.
                None => self.problems.add(
                    &place,
                    format!("line {number} of {} is not a field", path.display()),
                    "write a name, a colon and a value, such as `authorization: Bearer …`",
                ),
            }
        }
        fields
    }

    /// A service's name, and what else is said of it.
    fn resource_of(
        &mut self,
        service: Field<String>,
        more: Field<file::Named<String>>,
    ) -> Vec<(String, String)> {
        let service = match service.given() {
            Some(At { value, place }) if value.is_empty() => {
                self.problems.add(&place, "is empty", "write what traces are found by, such as \"edge\"");
                value
            }
            Some(At { value, .. }) => value,
            None => "selvedge".to_owned(),
        };
        let mut resource = vec![(SERVICE.to_owned(), service)];
        for (name, place, value) in more.or_default().0 {
            self.resource_name(&name, &place);
            resource.extend(value.map(|value| (name, value)));
        }
        resource
    }

    fn resource_name(&mut self, name: &str, place: &Place) {
        if name == SERVICE {
            self.problems.add(place, "has a key of its own", "write it as service = \"…\"");
        } else if name.is_empty() {
            self.problems.add(place, "has no name", "write one such as \"deployment.environment.name\"");
        }
    }
}

fn field_of(line: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = line.split_once(':')?;
    let name = HeaderName::from_bytes(name.trim_end().as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_name_a_colon_and_a_value() {
        let (name, value) = field_of("Authorization: Bearer a:b").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("authorization", "Bearer a:b"));
        assert!(value.is_sensitive());
        assert_eq!([field_of("authorization"), field_of("a b: c"), field_of(": c")], [None, None, None]);
    }
}
