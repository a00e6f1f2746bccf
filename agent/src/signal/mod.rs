//! Signals: what leaves the agent, in OpenTelemetry's terms and still free of any wire format.

pub mod consumer;
pub mod route;
mod table;

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

pub use table::{Dialect, PART, RouteTable, Rule};

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    Str(Cow<'static, str>),
    /// A whole number.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A list of texts.
    Strs(Vec<String>),
}

impl From<&'static str> for Value {
    fn from(value: &'static str) -> Self {
        Self::Str(Cow::Borrowed(value))
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Str(Cow::Owned(value))
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// A key of the semantic conventions and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// The key, as in the semantic conventions.
    pub key: Cow<'static, str>,
    /// The value.
    pub value: Value,
}

impl Attribute {
    /// An attribute under a key known at compile time.
    pub fn new(key: &'static str, value: impl Into<Value>) -> Self {
        Self { key: Cow::Borrowed(key), value: value.into() }
    }

    /// A list that begins with these and has room for as many as a span mostly gets.
    pub fn list<const COUNT: usize>(first: [Self; COUNT]) -> Vec<Self> {
        let mut list = Vec::with_capacity(16);
        list.extend(first);
        list
    }
}

/// Status of a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Nothing is said.
    #[default]
    Unset,
    /// It failed; the text is the description (may be empty).
    Error(String),
}

/// Kind of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Work inside one service.
    Internal,
    /// A request that the service handles.
    Server,
    /// A request that the service makes.
    Client,
    /// A message that the service sends.
    Producer,
    /// A message that the service handles.
    Consumer,
}

/// One end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Inet(SocketAddr),
    /// A Unix socket's path; abstract names start with `@`, empty where the socket is unnamed.
    Unix(String),
    /// Not known.
    #[default]
    Unknown,
}

/// Both ends of a connection, seen from the watched process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// The watched process's end.
    pub local: Address,
    /// The other end.
    pub remote: Address,
    /// What is known of its encryption, where it is encrypted.
    pub tls: Option<TlsInfo>,
}

/// What a TLS handshake has said in the clear.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsInfo {
    /// `tls.protocol.version`; `None` where the handshake was not seen.
    pub version: Option<&'static str>,
    /// The name that the client has asked for.
    pub server_name: Option<String>,
}

impl Endpoints {
    /// The ends of a connection that is not encrypted, or not known to be.
    pub fn plain(local: Address, remote: Address) -> Self {
        Self { local, remote, tls: None }
    }

    /// Adds what is known of the encryption: `tls.*`, and, where the other end is a server, its name for its address.
    pub fn complete(&self, to_server: bool, attributes: &mut Vec<Attribute>) {
        let Some(tls) = &self.tls else { return };
        // A URL or Host header says more than the name in the handshake.
        let by_url = attributes.iter().any(|attribute| attribute.key == "url.full");
        if let (true, Some(name), false) = (to_server, &tls.server_name, by_url)
            && let Some(address) = attributes.iter_mut().find(|attribute| attribute.key == "server.address")
        {
            *address = Attribute::new("server.address", name.clone());
        }
        attributes.push(Attribute::new("tls.protocol.name", "tls"));
        if let Some(version) = tls.version {
            attributes.push(Attribute::new("tls.protocol.version", version));
        }
    }
}

/// Which part the watched process plays on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It sends the requests.
    Client,
    /// It receives the requests.
    Server,
}

/// What may be shown of statement and command texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TextMode {
    /// Literals and values are replaced by `?`.
    #[default]
    Sanitized,
    /// Verbatim.
    Raw,
    /// No text at all.
    Off,
}

/// Appends `server.*` and `network.peer.*` of the other end, where a client is watched.
pub fn remote_addresses(endpoints: &Endpoints, attributes: &mut Vec<Attribute>) {
    let keys = [("server.address", "server.port"), ("network.peer.address", "network.peer.port")];
    for (address, port) in keys {
        match &endpoints.remote {
            Address::Inet(remote) => {
                attributes.push(Attribute::new(address, remote.ip().to_string()));
                attributes.push(Attribute::new(port, i64::from(remote.port())));
            }
            Address::Unix(path) if !path.is_empty() => attributes.push(Attribute::new(address, path.clone())),
            Address::Unix(_) | Address::Unknown => {}
        }
    }
}

/// What a protocol says of one operation, before ids, times and parents.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Span name.
    pub name: String,
    /// Attributes, in the order of the semantic conventions' tables.
    pub attributes: Vec<Attribute>,
    /// Status.
    pub status: Status,
}

/// The entity that produced a signal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource {
    /// `service.name` and the other resource attributes.
    pub attributes: Vec<Attribute>,
}

/// A link to another span.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Trace of the other span.
    pub trace_id: [u8; 16],
    /// The other span.
    pub span_id: [u8; 8],
}

/// Something that happened during a span.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanEvent {
    /// When, in nanoseconds since the Unix epoch.
    pub time: u64,
    /// What.
    pub name: Cow<'static, str>,
    /// More about it.
    pub attributes: Vec<Attribute>,
}

/// A finished span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Trace.
    pub trace_id: [u8; 16],
    /// This span.
    pub span_id: [u8; 8],
    /// The span that caused it.
    pub parent_span_id: Option<[u8; 8]>,
    /// The parent is in another process.
    pub parent_is_remote: bool,
    /// W3C `tracestate`, verbatim, empty where there is none.
    pub trace_state: String,
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: Kind,
    /// Start, nanoseconds since the Unix epoch.
    pub start: u64,
    /// End, nanoseconds since the Unix epoch.
    pub end: u64,
    /// Attributes.
    pub attributes: Vec<Attribute>,
    /// Events.
    pub events: Vec<SpanEvent>,
    /// Links.
    pub links: Vec<Link>,
    /// Status.
    pub status: Status,
    /// Who made it.
    pub resource: Arc<Resource>,
}

/// How bad a log record is: `SeverityNumber` of OpenTelemetry's log data model, 1 to 24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Severity(pub u8);

impl Severity {
    /// `TRACE`.
    pub const TRACE: Self = Self(1);
    /// `DEBUG`.
    pub const DEBUG: Self = Self(5);
    /// `INFO`.
    pub const INFO: Self = Self(9);
    /// `WARN`.
    pub const WARN: Self = Self(13);
    /// `ERROR`.
    pub const ERROR: Self = Self(17);
    /// `FATAL`.
    pub const FATAL: Self = Self(21);
}

/// A log record.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    /// When it was written, in nanoseconds since the Unix epoch.
    pub time: u64,
    /// How bad it is, and the application's own word for that.
    pub severity: Option<(Severity, String)>,
    /// The logger, which becomes the instrumentation scope, as in the Python SDK.
    pub logger: Option<String>,
    /// The message.
    pub body: String,
    /// Attributes.
    pub attributes: Vec<Attribute>,
    /// Trace and span to which it belongs.
    pub span: Option<([u8; 16], [u8; 8])>,
    /// Who wrote it.
    pub resource: Arc<Resource>,
}

/// What was measured of one process: a metric stream of it, cumulative since `start`.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Name.
    pub name: &'static str,
    /// Unit, as in the Unified Code for Units of Measure.
    pub unit: &'static str,
    /// What it says, for people.
    pub description: &'static str,
    /// Since when it is counted, in nanoseconds since the Unix epoch.
    pub start: u64,
    /// Until when, likewise.
    pub time: u64,
    /// The values.
    pub points: Points,
    /// Whose it is.
    pub resource: Arc<Resource>,
}

/// The values of a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum Points {
    /// A sum that only grows, for each set of attributes.
    Sum(Vec<(Vec<Attribute>, u64)>),
    /// A histogram without attributes.
    Histogram {
        /// Upper bounds, each included, of all buckets but the last.
        bounds: &'static [f64],
        /// Values in each bucket: one more than there are bounds.
        buckets: Vec<u64>,
        /// All values together.
        sum: f64,
    },
}

impl Points {
    /// How many values there are.
    pub fn count(&self) -> u64 {
        match self {
            Self::Sum(points) => points.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count)),
            Self::Histogram { buckets, .. } => buckets.iter().copied().fold(0, u64::saturating_add),
        }
    }
}

/// The bytes of a trace's or a span's id that is written as lower-case hexadecimal digits, exactly as many as needed (W3C
/// Trace Context, section 3.2.2).
pub fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}
