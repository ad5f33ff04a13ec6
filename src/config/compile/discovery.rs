//! `[[pool.NAME.discover]]`, `[resolver]` and `state`: where targets come from that are not written in the file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::{Compiler, DAY, millis, seconds};
use crate::config::file::{self, At, Field, Place, RecordType, Text as _, ZoneFrom};
use crate::config::{Discover, NameServer, Records, Resolver, ZoneName, ZoneOf};

impl Compiler<'_> {
    pub(super) fn discover(&mut self, tables: Vec<At<file::Discover>>) -> Vec<Discover> {
        let mut asked = Vec::new();
        let compiled = tables.into_iter().map(|At { value, place }| {
            let discover = self.discover_one(value, &place);
            let question = discover.question();
            if asked.contains(&question) && !discover.dns.is_empty() {
                let what = format!("asks for {question:?}, as another one of this pool does");
                self.problems.add(&place, what, "remove one of them");
            }
            asked.push(question);
            discover
        });
        compiled.collect()
    }

    fn discover_one(&mut self, file: file::Discover, place: &Place) -> Discover {
        if file.dns.is_absent() {
            let hint = "write dns = \"_http._tcp.shop.internal\", or the name of a host";
            self.problems.add(&place.key("dns"), "is missing", hint);
        }
        let dns = file.dns.given().map_or_else(|| "".into(), |at| at.value.0);
        let records = self.records(&dns, file.r#type, file.port, place);
        let min_ttl = self.within(file.min_ttl, seconds(1), millis(100)..=DAY);
        let max_ttl = self.within(file.max_ttl, seconds(300).max(min_ttl), millis(100)..=DAY);
        if max_ttl < min_ttl {
            let hint = "write a longer max_ttl, or a shorter min_ttl";
            self.problems.add(&place.key("max_ttl"), "is shorter than min_ttl", hint);
        }
        let weight = file.weight.peek().is_some().then(|| self.within(file.weight, 1, 0..=256) as u32);
        Discover {
            dns,
            records,
            zone: self.zone_of(file.zone, file.zone_from, records),
            weight,
            max_connections: self.limit(file.max_connections),
            min_ttl,
            max_ttl,
            hold: self.within(file.hold, seconds(30), Duration::ZERO..=DAY),
        }
    }

    fn records(&mut self, dns: &str, r#type: Field<RecordType>, port: Field<i64>, place: &Place) -> Records {
        let default = if dns.starts_with('_') { RecordType::Srv } else { RecordType::A };
        let r#type = r#type.or(default);
        if r#type == RecordType::Srv {
            if let Some(At { place, .. }) = port.peek() {
                let hint = "remove it, or write type = \"a\"";
                self.problems.add(place, "has no meaning: SRV records say the port", hint);
            }
            return Records::Srv;
        }
        if port.is_absent() {
            let hint = "write the port on which all of these hosts listen, such as port = 9001";
            self.problems.add(&place.key("port"), "is missing", hint);
        }
        let port = self.within(port, 1, 1..=65_535) as u16;
        if r#type == RecordType::Aaaa { Records::Aaaa { port } } else { Records::A { port } }
    }

    fn zone_of(&mut self, zone: Field<file::Name>, from: Field<ZoneFrom>, records: Records) -> ZoneOf {
        if let (Some(_), Some(At { place, .. })) = (zone.peek(), from.peek()) {
            self.problems.add(place, "stands beside zone", "remove one of them");
        }
        match from.given() {
            None => ZoneOf::One(zone.given().map_or_else(|| ZoneName::from("-"), |at| at.value.0)),
            Some(At { value: ZoneFrom::Label, place }) => {
                if records != Records::Srv {
                    let hint = "write zone, or zone_from = { \"10.0.1.0/24\" = \"az-a\" }";
                    self.problems.add(&place, "\"label\" has a meaning for SRV records only", hint);
                }
                ZoneOf::Label
            }
            Some(At { value: ZoneFrom::Ranges(entries), place }) => {
                if entries.is_empty() {
                    self.problems.add(&place, "is empty", "write { \"10.0.1.0/24\" = \"az-a\" }");
                }
                let mut ranges = Vec::new();
                for (range, place, zone) in entries {
                    match (IpNet::parse(&range), zone) {
                        (Ok(range), Some(zone)) => ranges.push((range.trunc(), zone.0)),
                        (Err(wrong), _) => self.problems.add(&place, wrong.what, wrong.hint),
                        (Ok(_), None) => {}
                    }
                }
                // The narrowest range that holds an address is the first that does.
                ranges.sort_by_key(|(range, _)| std::cmp::Reverse(range.prefix_len()));
                ZoneOf::Range(ranges)
            }
        }
    }

    /// The file that keeps what operators decide. What is in it, only a node that starts will see.
    pub(super) fn state(&mut self, file: Field<String>) -> Option<PathBuf> {
        let At { value, place } = file.given()?;
        let path = self.path(&value);
        if value.is_empty() || path.file_name().is_none() || path.is_dir() {
            self.problems.add(&place, "is not the path of a file", "write state = \"selvedge.state.json\"");
        } else if !path.parent().is_none_or(|folder| folder.as_os_str().is_empty() || folder.is_dir()) {
            let what = format!("the folder of {} is not there", path.display());
            self.problems.add(&place, what, "make the folder, or write another path");
        }
        Some(path)
    }

    pub(super) fn resolver(&mut self, file: file::Resolver) -> Resolver {
        let hint = "remove it to ask the system's, or write nameservers = [\"10.0.0.2\"]";
        let nameservers = self.filled(file.nameservers, Vec::new(), hint);
        Resolver {
            timeout: self.within(file.timeout, seconds(2), millis(10)..=seconds(60)),
            attempts: self.within(file.attempts, 2, 1..=10) as u32,
            authorities: self.resolver_authorities(file.ca_file, &nameservers),
            nameservers,
        }
    }

    fn resolver_authorities(
        &mut self,
        field: Field<String>,
        nameservers: &[NameServer],
    ) -> Option<Vec<CertificateDer<'static>>> {
        if let Field::Given(At { place, .. }) = &field
            && nameservers.iter().all(|server| server.tls.is_none())
        {
            let hint = "remove it, or write a name server as \"tls://ADDRESS#NAME\"";
            self.problems.add(place, "has no meaning: no name server is asked over TLS", hint);
            return None;
        }
        self.authorities(field)
    }

    /// The certificates in a file; at least one.
    pub(super) fn authorities(&mut self, field: Field<String>) -> Option<Vec<CertificateDer<'static>>> {
        let At { value, place } = field.given()?;
        let path = self.path(value);
        self.read.push(path.clone());
        let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(certificates) if !certificates.is_empty() => return Some(certificates),
            Ok(_) => self.no_certificates(&path, &place, "holds no certificate"),
            Err(error) => self.no_certificates(&path, &place, &format!("cannot be read: {error}")),
        }
        None
    }

    fn no_certificates(&mut self, path: &Path, place: &Place, what: &str) {
        let hint = "write the path of a PEM file with the certificates of the authorities to trust";
        self.problems.add(place, format!("{} {what}", path.display()), hint);
    }
}
