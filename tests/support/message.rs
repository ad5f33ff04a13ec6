//! HTTP messages as tests see them: a first line, fields in the order they came, and bytes.
//!
//! Text is read as Latin-1, one `char` for each byte, so that nothing a peer sends is lost or refused here. There is no
//! judgement of what is valid: only what a reader needs to find the end of a message.

/// Fields in the order they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    /// Fields of these lines; a line without a colon is a name without a value.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let field = |line: &str| match line.split_once(':') {
            Some((name, value)) => (name.to_owned(), value.trim_matches([' ', '\t']).to_owned()),
            None => (line.to_owned(), String::new()),
        };
        Self(lines.filter(|line| !line.is_empty()).map(field).collect())
    }

    /// The value of the only field of this name; `None` when there is none. Panics when there are several.
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "field {name} came {} times: {all:?}", all.len());
        all.first().copied()
    }

    /// Every value of fields of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// Whether there is such a field.
    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    /// Whether a comma-separated list in fields of this name holds `token`.
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.all(name).iter().flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
    }
}

/// First line and fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Request line or status line, without its end.
    pub line: String,
    /// All fields.
    pub fields: Fields,
}

impl Head {
    /// A head from its bytes, which end with the empty line.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = latin1(bytes);
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        Self { line, fields: Fields::parse(lines) }
    }

    /// Status of a status line, 0 if that is not what it is.
    pub fn status(&self) -> u16 {
        self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// How long the body is that follows this head of an answer to `method`, or of a request when `method` is `None`.
    pub fn framing(&self, method: Option<&str>) -> Framing {
        let status = self.status();
        let bodiless =
            matches!(method, Some("HEAD")) || method.is_some() && matches!(status, 100..200 | 204 | 304);
        if bodiless {
            return Framing::Empty;
        }
        if self.fields.lists("transfer-encoding", "chunked") {
            return Framing::Chunked;
        }
        match self.fields.all("content-length").first() {
            Some(length) => match length.parse() {
                Ok(length) => Framing::Length(length),
                Err(_) => panic!("Content-Length {length:?} in {self:?}"),
            },
            None if method.is_some() => Framing::UntilClose,
            None => Framing::Empty,
        }
    }
}

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// All that comes.
    UntilClose,
}

/// A request that an origin received.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which of the origin's connections it came on, from 1.
    pub connection: usize,
    /// Method.
    pub method: String,
    /// Target as sent.
    pub target: String,
    /// `HTTP/1.1`.
    pub version: String,
    /// All fields.
    pub fields: Fields,
    /// How its body was framed.
    pub framing: Framing,
    /// Body without its framing.
    pub body: Vec<u8>,
    /// Trailers of a chunked body.
    pub trailers: Fields,
}

impl Request {
    /// A request with this head and no body yet.
    pub fn new(connection: usize, head: Head) -> Self {
        let mut words = head.line.splitn(3, ' ').map(str::to_owned);
        Self {
            connection,
            framing: head.framing(None),
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            version: words.next().unwrap_or_default(),
            fields: head.fields,
            body: Vec::new(),
            trailers: Fields::default(),
        }
    }

    /// Every cookie in every Cookie field, as written.
    pub fn cookies(&self) -> Vec<&str> {
        self.fields.all("cookie").iter().flat_map(|v| v.split(';')).map(str::trim).collect()
    }
}

/// An answer that a client received, complete.
#[derive(Debug, Clone)]
pub struct Response {
    /// Interim answers (1xx) that came before it.
    pub interim: Vec<Head>,
    /// `HTTP/1.1`.
    pub version: String,
    /// Status.
    pub status: u16,
    /// All fields.
    pub fields: Fields,
    /// How its body was framed.
    pub framing: Framing,
    /// Body without its framing.
    pub body: Vec<u8>,
    /// Trailers of a chunked body.
    pub trailers: Fields,
}

impl Response {
    /// Body as text.
    pub fn text(&self) -> String {
        latin1(&self.body)
    }

    /// Name of the origin that answered, from its `X-Origin` field; empty when none did.
    pub fn origin(&self) -> &str {
        self.fields.get("x-origin").unwrap_or_default()
    }

    /// The `Set-Cookie` field that sets the cookie `name`, as sent.
    pub fn set_cookie(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}=");
        let mut all = self.fields.all("set-cookie").into_iter().filter(|value| value.starts_with(&prefix));
        let first = all.next();
        assert!(all.next().is_none(), "cookie {name} was set twice in {:?}", self.fields);
        first
    }

    /// The value that `Set-Cookie` gives to the cookie `name`.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let value = &self.set_cookie(name)?[name.len() + 1..];
        value.split(';').next()
    }
}

/// One `char` for each byte.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}
