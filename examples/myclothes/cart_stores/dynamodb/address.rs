//! What `--carts dynamodb://…` may say, and what it leaves to the environment, as AWS' own tools do: region and credentials.

use std::fmt;

use aws_sdk_dynamodb::config::Credentials;
use http::Uri;

/// Where DynamoDB is, and the table in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(super) table: String,
    /// `None`: as the environment says.
    pub(super) region: Option<String>,
    /// Another server than that of AWS in the region.
    pub(super) endpoint: Option<String>,
    /// Whether the table is made when it is missing.
    pub(super) create: bool,
}

const FORMS: &str = "write dynamodb://TABLE?region=eu-west-1, or dynamodb://TABLE?region=local&endpoint=http://127.0.0.1:8000";

impl Address {
    /// Reads what follows the scheme; `None` if that is another one.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, String>> {
        text.strip_prefix("dynamodb://").map(Self::parse_rest)
    }

    fn parse_rest(rest: &str) -> Result<Self, String> {
        let (table, options) = rest.split_once('?').unwrap_or((rest, ""));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !(3..=255).contains(&table.len()) || !table.bytes().all(is_name) {
            return Err(format!("{table:?} is no name of a table (3 to 255 of a-z A-Z 0-9 - . _); {FORMS}"));
        }
        let mut address = Self { table: table.to_owned(), region: None, endpoint: None, create: false };
        for option in options.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("region", name)) if !name.is_empty() => address.region = Some(name.to_owned()),
                Some(("endpoint", url)) => address.endpoint = Some(endpoint(url)?),
                Some(("create", "true")) => address.create = true,
                Some(("create", "false")) => address.create = false,
                _ => {
                    return Err(format!(
                        "{option:?} is unknown; there are region=NAME, endpoint=URL and create=true (make the table if there \
                         is none)"
                    ));
                }
            }
        }
        Ok(address)
    }
}

/// A server, without the slash that may be at the end.
fn endpoint(url: &str) -> Result<String, String> {
    let uri: Uri = url.parse().map_err(|error| format!("endpoint={url}: {error}"))?;
    let is_server = matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        && uri.path_and_query().is_none_or(|rest| rest == "/");
    if !is_server {
        return Err(format!("endpoint={url}: write http://HOST:PORT or https://HOST, and nothing behind it"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// As it is written on a command line.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dynamodb://{}?create={}", self.table, self.create)?;
        if let Some(region) = &self.region {
            write!(f, "&region={region}")?;
        }
        match &self.endpoint {
            Some(endpoint) => write!(f, "&endpoint={endpoint}"),
            None => Ok(()),
        }
    }
}

/// Who asks, and where: what every request is signed with.
pub(crate) struct Login {
    pub(super) region: String,
    pub(super) credentials: Credentials,
}

impl Login {
    /// Takes from the environment what the address does not say. The error is one line.
    pub(crate) fn new(address: &Address, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let needed =
            |name: &str| variable(name).ok_or_else(|| format!("{name} is not set: {address} needs it"));
        let region = address.region.clone().or_else(|| variable("AWS_REGION"));
        let region = region.or_else(|| variable("AWS_DEFAULT_REGION")).ok_or_else(|| {
            format!("{address} names no region: write region=eu-west-1 into it, or set AWS_REGION")
        })?;
        let (id, secret) = (needed("AWS_ACCESS_KEY_ID")?, needed("AWS_SECRET_ACCESS_KEY")?);
        let token = variable("AWS_SESSION_TOKEN");
        Ok(Self { region, credentials: Credentials::new(id, secret, token, None, "environment") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, String> {
        Address::parse(text).unwrap()
    }

    #[test]
    fn an_address_says_which_table_and_where() {
        let bare = parse("dynamodb://carts").unwrap();
        assert_eq!((&*bare.table, &bare.region, &bare.endpoint, bare.create), ("carts", &None, &None, false));
        let whole = parse("dynamodb://my.carts?endpoint=http://127.0.0.1:8000/&region=eu-west-1&create=true");
        let whole = whole.unwrap();
        assert_eq!(whole.endpoint.as_deref(), Some("http://127.0.0.1:8000"));
        assert_eq!((whole.region.as_deref(), whole.create), (Some("eu-west-1"), true));
        for address in [bare, whole] {
            assert_eq!(parse(&address.to_string()).unwrap(), address, "{address}");
        }
        assert!(Address::parse("redis://a:1").is_none());
    }

    #[test]
    fn a_wrong_address_is_refused_with_what_to_write() {
        for (wrong, said) in [
            ("dynamodb://", "no name of a table"),
            ("dynamodb://ab", "3 to 255"),
            ("dynamodb://carts/x", "dynamodb://TABLE"),
            ("dynamodb://carts?region=", "region=NAME"),
            ("dynamodb://carts?ttl=5", "create=true"),
            ("dynamodb://carts?create=yes", "create=true"),
            ("dynamodb://carts?endpoint=127.0.0.1:8000", "http://HOST:PORT"),
            ("dynamodb://carts?endpoint=http://a:8000/path", "nothing behind it"),
            ("dynamodb://carts?endpoint=http://ana:x@a:8000", "http://HOST:PORT"),
            ("dynamodb://carts?endpoint=redis://a", "http://HOST:PORT"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }

    #[test]
    fn what_is_missing_in_the_environment_is_named() {
        let [bare, with_region] =
            ["dynamodb://carts", "dynamodb://carts?region=here"].map(|text| parse(text).unwrap());
        let login = |address: &Address, set: &[(&str, &str)]| {
            let found =
                |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
            Login::new(address, found).map(|login| login.region)
        };
        let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        assert!(login(&bare, &keys).unwrap_err().contains("set AWS_REGION"));
        assert!(login(&with_region, &keys[..1]).unwrap_err().contains("AWS_SECRET_ACCESS_KEY is not set"));
        assert!(
            login(&with_region, &[keys[1], ("AWS_ACCESS_KEY_ID", "")])
                .unwrap_err()
                .contains("AWS_ACCESS_KEY_ID")
        );
        assert_eq!(login(&with_region, &keys).unwrap(), "here");
        let both = [&keys[..], &[("AWS_DEFAULT_REGION", "there"), ("AWS_REGION", "near")]].concat();
        assert_eq!(login(&bare, &both).unwrap(), "near");
        assert_eq!(login(&bare, &both[..3]).unwrap(), "there");
        assert_eq!(login(&with_region, &both).unwrap(), "here");
    }
}
