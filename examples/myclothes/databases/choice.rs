//! What `--database` may say.

use std::fmt;
use std::str::FromStr;

/// Where accounts, orders and the catalogue live.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// `sqlite`
    #[default]
    Sqlite,
    /// `postgres://…`, as it was written.
    Postgres(String),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "sqlite" {
            return Ok(Self::Sqlite);
        }
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err("write sqlite, or postgres://USER@HOST1,HOST2,HOST3/DATABASE".to_owned());
        }
        super::postgres::check_url(text)?;
        Ok(Self::Postgres(text.to_owned()))
    }
}

/// As it is written on a command line.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite => f.write_str("sqlite"),
            Self::Postgres(url) => f.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_cannot_be_meant_is_refused_with_what_to_write() {
        for good in ["sqlite", "postgres://shop@10.0.1.1,10.0.2.1:5433/shop", "postgresql://shop@[::1]/shop"]
        {
            assert_eq!(good.parse::<Choice>().unwrap().to_string(), good);
        }
        for (bad, says) in [
            ("mysql://x", "write sqlite"),
            ("postgres://shop@/shop", "names no host"),
            ("postgres://shop@h1:x/shop", "cannot be read"),
            ("postgres://shop@h1/shop?color=red", "cannot be read"),
            ("postgres://shop@1,2,3,4,5,6,7/shop", "at most 6"),
        ] {
            let error = bad.parse::<Choice>().unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
