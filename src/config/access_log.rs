//! The access log: a line for each request. What a line is made of is in `telemetry::access_log`.

use std::fmt;
use std::path::PathBuf;

/// `[access_log]`, which is there to have one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLog {
    /// Where lines go.
    pub output: AccessOutput,
    /// What a line looks like.
    pub format: AccessFormat,
    /// What is in a line of JSON, in this order; of the combined format, what it has. Never empty.
    pub fields: Vec<AccessField>,
    /// Bytes of a file after which another is begun; `None` leaves that to somebody else. Default 100 MiB.
    pub max_size: Option<u64>,
    /// Files kept beside the one that is written. Default 5.
    pub keep: u32,
    /// Bytes of requests that may wait for the output, for each worker. Default 1 MiB.
    pub buffer: usize,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessOutput {
    /// `stdout`.
    Stdout,
    /// The file at this path.
    File(PathBuf),
}

impl fmt::Display for AccessOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// A JSON object.
    Json,
    /// As Apache and nginx write it.
    Combined,
}

/// Declares the fields: the names they have in the file and in the log.
macro_rules! fields {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)+) => {
        /// One thing that is known of a request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum AccessField { $($(#[$doc])* $field,)+ }

        impl AccessField {
            /// All of them, in the order of the default.
            pub const ALL: &'static [Self] = &[$(Self::$field,)+];

            /// As written in the file and in the log.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$field => $name,)+ }
            }
        }
    };
}

fields! {
    /// When its head was read.
    Time = "time",
    /// Who asks, as far as that is believed.
    Client = "client",
    /// Its method.
    Method = "method",
    /// Host, with its port.
    Host = "host",
    /// Path and query.
    Path = "path",
    /// What the client speaks.
    Protocol = "protocol",
    /// Version of TLS.
    Tls = "tls",
    /// Status of the answer; 499 if the client left before there was one.
    Status = "status",
    /// Why it did not go well, as a code.
    Reason = "reason",
    /// Bytes of its body that were read.
    BytesIn = "bytes_in",
    /// Bytes of the answer's body that were sent.
    BytesOut = "bytes_out",
    /// Seconds to the last byte of the answer.
    Duration = "duration",
    /// Seconds until the answer's head was there.
    FirstByte = "first_byte",
    /// The route that it matches, by its host and path.
    Route = "route",
    /// The pool that its route leads to.
    Pool = "pool",
    /// Zone of the target that it was sent to last.
    Zone = "zone",
    /// Address of that target.
    Target = "target",
    /// How often it was sent to a target.
    Attempts = "attempts",
    /// What reading its session cookie found.
    Verdict = "verdict",
    /// How it came to its target, as codes.
    Decision = "decision",
    /// Whether its session has moved to another target.
    Moved = "moved",
    /// Its id.
    RequestId = "request_id",
    /// `User-Agent`.
    UserAgent = "user_agent",
    /// `Referer`.
    Referer = "referer",
}

impl fmt::Display for AccessField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AccessField {
    /// What the combined format is made of.
    pub const COMBINED: &'static [Self] = &[
        Self::Client,
        Self::Time,
        Self::Method,
        Self::Path,
        Self::Protocol,
        Self::Status,
        Self::BytesOut,
        Self::Referer,
        Self::UserAgent,
    ];
}
