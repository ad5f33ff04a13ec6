//! What can come of a cookie, an attempt and a request head: closed sets that the data plane counts and the control
//! plane names.

/// A closed set whose members index an array of counters and have a name in metrics and logs.
macro_rules! outcomes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All of them, in the order of their indices.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// As metrics, logs and the API write it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

outcomes! {
    /// What reading a request's session cookie found.
    Verdict {
        /// No cookie: a new session.
        None = "none",
        /// A session in good order.
        Valid = "valid",
        /// Unused for longer than `idle`.
        IdleExpired = "idle_expired",
        /// Older than `absolute`.
        AbsoluteExpired = "absolute_expired",
        /// Not a cookie of ours: wrong length, alphabet or version.
        Malformed = "malformed",
        /// Sealed with a key that is not in the ring.
        UnknownKey = "unknown_key",
        /// The seal does not hold: altered, made up, or of another pool.
        Forged = "forged",
    }
}

outcomes! {
    /// How an attempt at a target failed.
    Failure {
        /// The connection was refused or could not be made.
        Connect = "connect",
        /// No connection within `timeouts.connect`.
        ConnectTimeout = "connect_timeout",
        /// The connection broke before the answer was complete.
        Reset = "reset",
        /// No answer within `timeouts.first_byte`.
        FirstByteTimeout = "first_byte_timeout",
        /// A body stalled for `timeouts.idle`.
        IdleTimeout = "idle_timeout",
        /// The answer is not HTTP that may be passed on.
        Protocol = "protocol",
        /// The TLS handshake with the target failed.
        Tls = "tls",
    }
}

outcomes! {
    /// Why a client's TLS handshake failed.
    HandshakeFailure {
        /// It took too long, or waited too long for its turn.
        Timeout = "timeout",
        /// The client left.
        Closed = "closed",
        /// The client spoke plain HTTP.
        PlainHttp = "plain_http",
        /// What came is no TLS, or broken.
        NotTls = "not_tls",
        /// The client speaks no version that is spoken here.
        Version = "version",
        /// No cipher, group or signature in common.
        NothingInCommon = "nothing_in_common",
        /// The client speaks none of the protocols offered (ALPN).
        Protocol = "protocol",
        /// The client's certificate is missing or not verified.
        Certificate = "client_certificate",
        /// The client sent an alert, such as when it does not believe our certificate.
        Alert = "client_alert",
        /// The client broke the rules of TLS in another way.
        Violation = "violation",
    }
}

outcomes! {
    /// Why a connection was closed that should have begun with a PROXY header.
    ProxyHeaderFailure {
        /// None came in time.
        Timeout = "timeout",
        /// It closed first, as a bare check of the port does.
        Closed = "closed",
        /// It began with something else.
        Missing = "missing",
        /// Not as the protocol has it.
        Malformed = "malformed",
        /// Longer than is taken.
        TooLong = "too_long",
        /// Its checksum is not that of its bytes.
        Checksum = "checksum",
    }
}

outcomes! {
    /// Why a tunnel is over.
    TunnelEnd {
        /// Both sides have ended it.
        Ended = "ended",
        /// A side broke it, or was cut off.
        Broken = "broken",
        /// Nothing came for too long.
        Idle = "idle",
        /// Its target's drain ends: both sides were told.
        Drain = "drain",
        /// Its target was taken down: both sides were told.
        Down = "down",
        /// The node stops: both sides were told.
        Shutdown = "shutdown",
    }
}

outcomes! {
    /// Why a client's HTTP/2 connection was ended before its time. The first are about what is allowed but was repeated
    /// too often for the work that was done: the client is told ENHANCE_YOUR_CALM.
    Http2Fault {
        /// Requests begun and taken back (CVE-2023-44487).
        Resets = "resets",
        /// Streams that we had to reset (CVE-2025-8671).
        ProvokedResets = "provoked_resets",
        /// CONTINUATION frames.
        Continuation = "continuation",
        /// SETTINGS frames.
        Settings = "settings",
        /// PING frames.
        Ping = "ping",
        /// PRIORITY frames.
        Priority = "priority",
        /// WINDOW_UPDATE frames.
        WindowUpdate = "window_update",
        /// Empty DATA frames, and small ones that nobody had read yet.
        Data = "data",
        /// Frames of other types.
        OtherFrame = "other_frame",
        /// A head whose fields make many times what may be, such as references of one byte.
        HeadSize = "head_size",
        /// Answers that were given up because the client's window stayed shut.
        ShutWindow = "shut_window",
        /// Nothing of what was written was taken within `idle`.
        WriteTimeout = "write_timeout",
        /// The preface did not come, or not in time.
        Preface = "preface",
        /// The rules of flow control were broken.
        FlowControl = "flow_control",
        /// Compressed fields cannot be read.
        Compression = "compression",
        /// A frame has a size that it may not have.
        FrameSize = "frame_size",
        /// The protocol was broken in another way.
        Protocol = "protocol",
    }
}

outcomes! {
    /// Why a request was refused with which nothing is wrong: the node has no room for it.
    Overload {
        /// As many as may be are in flight (`limits.max_requests`).
        Requests = "requests",
        /// The node has as much memory as it may (`limits.memory`).
        Memory = "memory",
        /// No file descriptor for a connection to a target.
        Descriptors = "descriptors",
    }
}

outcomes! {
    /// Why a request was refused before any target was chosen.
    Refusal {
        /// The request line is not `METHOD target HTTP/1.x`.
        RequestLine = "request_line",
        /// A field's name or value has bytes that may not be there, or a space before the colon.
        Field = "field",
        /// A line ends in LF alone, or CR stands alone.
        LineEnding = "line_ending",
        /// A field continued on the next line.
        ObsFold = "obs_fold",
        /// Content-Length is not one number, or several that differ.
        ContentLength = "content_length",
        /// Transfer-Encoding is not exactly one `chunked`, or comes with HTTP/1.0.
        TransferEncoding = "transfer_encoding",
        /// A transfer coding that is real but not supported (501).
        TransferCoding = "transfer_coding",
        /// Content-Length and Transfer-Encoding together.
        LengthConflict = "length_conflict",
        /// Host is missing, doubled, not a host, or not that of the target.
        Host = "host",
        /// The request target is not in a form that this method may have.
        Target = "target",
        /// Connection names a field that must not be dropped.
        Connection = "connection",
        /// CONNECT or TRACE (405).
        Method = "method",
        /// Not HTTP/1.0 or HTTP/1.1 (505).
        Version = "version",
        /// A WebSocket, which the pool's targets cannot be asked for over HTTP/2 (501).
        Websocket = "websocket",
        /// An `Expect` other than `100-continue` (417).
        Expectation = "expectation",
        /// The head is larger or has more fields than allowed (431).
        HeadTooLarge = "head_too_large",
        /// The request target is longer than allowed (414).
        TargetTooLong = "target_too_long",
        /// The body is larger than allowed (413).
        BodyTooLarge = "body_too_large",
        /// Chunked framing is broken.
        Chunk = "chunk",
        /// The head did not arrive in time (408).
        HeadTimeout = "head_timeout",
        /// The body did not arrive in time (408).
        BodyTimeout = "body_timeout",
        /// An HTTP/2 message is malformed: its stream was reset, or it named a field that HTTP/2 does not have.
        Http2Message = "http2_message",
        /// Its client asks more often than `per_client.rate` allows (429).
        RateLimited = "rate_limited",
        /// No route matches (404).
        NoRoute = "no_route",
    }
}

outcomes! {
    /// How a request came to its target.
    Chosen {
        /// It has no session that could say: by the pool's policy.
        New = "new",
        /// To the target that its session is bound to.
        Bound = "bound",
        /// Its session is back at its first target.
        Returned = "returned",
        /// Its session has moved: its own target cannot keep it.
        Moved = "moved",
        /// Its session stays where it is bound, and another target serves this request.
        Lent = "lent",
        /// Everybody who may have it is full.
        Full = "full",
        /// Nobody takes it.
        Nobody = "nobody",
    }
}

outcomes! {
    /// What is the matter with the target that a request's session is bound to.
    OwnTarget {
        /// Nothing, or there is none.
        Fine = "fine",
        /// It is no target of the pool any more.
        Gone = "gone",
        /// It was not checked yet.
        Initial = "initial",
        /// It fails its checks.
        Unhealthy = "unhealthy",
        /// It is ejected because of what it answers.
        Ejected = "ejected",
        /// Its zone is taken out.
        Shifted = "shifted",
        /// It stands by.
        Standby = "standby",
        /// It drains.
        Draining = "draining",
        /// Its drain is over.
        Drained = "drained",
        /// It was taken down.
        Down = "down",
        /// A worker keeps away from it until that is decided.
        Suspended = "suspended",
        /// It has failed this request.
        Failed = "failed",
    }
}

outcomes! {
    /// What zones had to do with a request's target.
    ZoneChoice {
        /// Nothing: the pool's mode is `even`, or the node stands in none.
        Any = "any",
        /// Its session says where.
        Session = "session",
        /// The node's own zone.
        Near = "near",
        /// Another zone, because the node's own has no target that takes requests.
        NoneNear = "none_near",
        /// Another zone, because the node's own does not carry its whole part (`spill`).
        Spilled = "spilled",
        /// Another zone, because targets of the node's own have failed this request or are full.
        Far = "far",
        /// Of a session that moves: the zone it was in.
        Same = "same",
        /// The same: another zone, because nobody in that one takes it.
        Other = "other",
    }
}

/// How a request came to its target, in codes: `bound/session`, `moved:shifted/other`, `new/near`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// How.
    pub chosen: Chosen,
    /// What is the matter with the target of its session.
    pub own: OwnTarget,
    /// What zones had to do with it.
    pub zone: ZoneChoice,
}

impl Decision {
    /// The codes, each with what is written before it.
    pub fn codes(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let own = (self.own != OwnTarget::Fine).then(|| (":", self.own.as_str()));
        [("", self.chosen.as_str())].into_iter().chain(own).chain([("/", self.zone.as_str())])
    }
}

impl std::fmt::Display for Decision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.codes().try_for_each(|(before, code)| write!(f, "{before}{code}"))
    }
}
