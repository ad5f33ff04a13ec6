//! Where Redis is: what `--carts redis…` and `--cache-url` may say. Which servers, under which name, and how safe a write must be.

use std::fmt;
use std::str::FromStr;

/// How the server that takes writes is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is always the same one.
    One,
    /// Sentinels know, by this name.
    Sentinel(String),
    /// Any of the cluster's servers says which one has the key.
    Cluster,
}

/// Where Redis is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(super) kind: Kind,
    /// `host:port` of the server, the Sentinels, or some servers of the cluster.
    pub(super) servers: Vec<String>,
    /// User, which may be empty, and password.
    pub(super) login: Option<(String, String)>,
    /// Number of the database; only for one server and with Sentinels.
    pub(super) database: u32,
    /// Replicas that must have a write before it counts.
    pub(crate) replicas: u32,
}

const FORMS: &str = "write redis://HOST:PORT, redis+sentinel://HOST:PORT,HOST:PORT,HOST:PORT/NAME or \
                     redis+cluster://HOST:PORT,HOST:PORT,…";

impl Address {
    /// Reads what follows the scheme, which says the kind.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, String>> {
        let (scheme, rest) = text.split_once("://")?;
        let kind = match scheme {
            "redis" => Kind::One,
            "redis+sentinel" => Kind::Sentinel(String::new()),
            "redis+cluster" => Kind::Cluster,
            _ => return None,
        };
        Some(Self::parse_rest(kind, rest))
    }

    /// The same with this password, if it has none; an empty one is none.
    pub(super) fn or_password(self, password: Option<String>) -> Self {
        let given =
            password.filter(|password| !password.is_empty()).map(|password| (String::new(), password));
        Self { login: self.login.or(given), ..self }
    }

    fn parse_rest(kind: Kind, rest: &str) -> Result<Self, String> {
        let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => {
                let (user, password) = login.split_once(':').ok_or("write :PASSWORD@ or USER:PASSWORD@")?;
                (Some((decoded(user)?, decoded(password)?)), hosts)
            }
            None => (None, authority),
        };
        let servers: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        for server in &servers {
            let good = server.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            });
            if !good {
                return Err(format!("{server:?} is not HOST:PORT; {FORMS}"));
            }
        }
        let (kind, database) = match (kind, path) {
            (Kind::One, _) if servers.len() > 1 => {
                return Err(format!("one server takes all writes; for several, {FORMS}"));
            }
            (Kind::Sentinel(_), "") => {
                return Err("the name of the primary is missing: write redis+sentinel://…/NAME".to_owned());
            }
            (Kind::Sentinel(_), name) => (Kind::Sentinel(decoded(name)?), 0),
            (Kind::Cluster, "" | "0") => (Kind::Cluster, 0),
            (Kind::Cluster, _) => return Err("a cluster has one database, 0".to_owned()),
            (Kind::One, "") => (Kind::One, 0),
            (Kind::One, number) => {
                (Kind::One, number.parse().map_err(|_| format!("{number:?} is no number of a database"))?)
            }
        };
        let replicas = match options.split_once('=') {
            None if options.is_empty() => u32::from(kind != Kind::One),
            Some(("replicas", number)) => number.parse().ok().filter(|number| *number <= 5).ok_or_else(|| {
                format!("replicas={number}: write how many replicas must have a write before it counts, 0 to 5")
            })?,
            _ => return Err(format!("{options:?} is unknown; the only option is replicas=N")),
        };
        Ok(Self { kind, servers, login, database, replicas })
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).unwrap_or_else(|| Err(FORMS.to_owned()))
    }
}

/// As it is written on a command line.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path) = match &self.kind {
            Kind::One => ("redis", format!("/{}", self.database)),
            Kind::Sentinel(name) => ("redis+sentinel", format!("/{}", encoded(name))),
            Kind::Cluster => ("redis+cluster", String::new()),
        };
        let login = match &self.login {
            Some((user, password)) => format!("{}:{}@", encoded(user), encoded(password)),
            None => String::new(),
        };
        write!(f, "{scheme}://{login}{}{path}?replicas={}", self.servers.join(","), self.replicas)
    }
}

/// Without the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.kind, self.servers)
    }
}

/// `%40` becomes `@`.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits =
                    [rest.next(), rest.next()].map(|digit| digit.and_then(|d| char::from(d).to_digit(16)));
                let [Some(high), Some(low)] = digits else {
                    return Err("a % must be written %25".to_owned());
                };
                (high * 16 + low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| "what is written with % is no text".to_owned())
}

/// The other way round.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, String> {
        Address::parse(text).unwrap()
    }

    #[test]
    fn an_address_says_where_redis_is_and_how_safe_a_write_must_be() {
        let one = parse("redis://:p%40ss@10.0.0.1:6379/3").unwrap();
        assert_eq!((one.kind.clone(), one.database, one.replicas), (Kind::One, 3, 0));
        assert_eq!(one.login, Some((String::new(), "p@ss".into())));
        assert!(!format!("{one:?}").contains("ss"), "a password in a log: {one:?}");
        let sentinel = parse("redis+sentinel://a:1,b:2,c:3/shop").unwrap();
        assert_eq!(
            (sentinel.kind.clone(), sentinel.servers.len(), sentinel.replicas),
            (Kind::Sentinel("shop".into()), 3, 1)
        );
        let cluster = parse("redis+cluster://ana:x@a:1,b:2?replicas=0").unwrap();
        assert_eq!((cluster.kind.clone(), cluster.replicas), (Kind::Cluster, 0));
        for address in [one, sentinel, cluster] {
            assert_eq!(parse(&address.to_string()).unwrap(), address, "{address}");
        }
        let without = parse("redis://a:1").unwrap();
        assert_eq!(without.clone().or_password(Some(String::new())), without);
        assert_eq!(without.or_password(Some("s".into())), parse("redis://:s@a:1").unwrap());
        let with = parse("redis://ana:x@a:1").unwrap();
        assert_eq!(with.clone().or_password(Some("s".into())), with);
        assert!(Address::parse("memory").is_none() && Address::parse("http://a:1").is_none());
        assert!("http://a:1".parse::<Address>().unwrap_err().contains("redis://HOST:PORT"));
    }

    #[test]
    fn a_wrong_address_is_refused_with_what_to_write() {
        for (wrong, said) in [
            ("redis://", "HOST:PORT"),
            ("redis://a", "HOST:PORT"),
            ("redis://a:0", "HOST:PORT"),
            ("redis://a:1,b:2", "redis+sentinel"),
            ("redis://a:1/x", "database"),
            ("redis://x@a:1", "PASSWORD"),
            ("redis://:%4@a:1", "%25"),
            ("redis+sentinel://a:1", "/NAME"),
            ("redis+cluster://a:1/2", "one database"),
            ("redis://a:1?replicas=many", "0 to 5"),
            ("redis://a:1?timeout=1", "replicas=N"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }
}
