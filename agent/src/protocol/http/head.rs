//! Heads: start lines and the few header fields that matter, read line by line into what will be kept. Everything
//! else (credentials, cookies, …) is passed over and never stored.

use std::borrow::Cow;

use super::{
    Exchange, Version,
    detect::{METHODS, is_target},
    frame::Framing,
};
use crate::protocol::Incoming;

/// Longest target that is kept, in bytes.
pub(super) const TARGET_LIMIT: usize = 2048;
/// Longest method, in bytes: those in IANA's registry have 17 at most.
const METHOD_LIMIT: usize = 32;
/// Longest value of an ordinary header field that is kept, in bytes; the rest is cut off.
const VALUE_LIMIT: usize = 512;
/// Longest `traceparent` that is kept: 55 bytes in version 00, and room for versions to come.
const TRACEPARENT_LIMIT: usize = 256;
/// Longest `tracestate` that is kept; W3C Trace Context §3.3.1.5 asks for 512 at least. A cut list would be invalid, so
/// a longer one is dropped.
const TRACESTATE_LIMIT: usize = 2048;

/// A head that is being read.
pub(in crate::protocol) trait Head: Sized {
    /// Reads a start line, without its line end.
    fn start(line: &[u8]) -> Option<Self>;
    /// Where in a line that begins with foreign bytes (the rest of a body) a start line begins.
    fn find(line: &[u8]) -> Option<usize>;
    /// Takes a header field, its value free of surrounding white space.
    fn field(&mut self, name: &[u8], value: &[u8]);
}

/// What the fields say of the body's length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Length {
    bytes: Option<u64>,
    transfer_encoding: bool,
    chunked: bool,
    contradictory: bool,
}

impl Length {
    /// `Content-Length`, RFC 9110 §8.6: equal repetitions are allowed.
    fn content_length(&mut self, value: &[u8]) {
        for part in value.split(|&byte| byte == b',') {
            let number = digits(part.trim_ascii());
            if number.is_none() || self.bytes.is_some_and(|known| Some(known) != number) {
                self.contradictory = true;
            }
            self.bytes = number;
        }
    }

    /// `Transfer-Encoding`, RFC 9112 §6.1: only the last coding decides.
    fn transfer_encoding(&mut self, value: &[u8]) {
        let last = value.rsplit(|&byte| byte == b',').next().unwrap_or_default();
        self.transfer_encoding = true;
        self.chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
    }
}

/// The head of a request.
#[derive(Debug)]
pub(in crate::protocol) struct RequestHead {
    pub(super) exchange: Box<Exchange>,
    /// It asks for another protocol (`Upgrade`, `CONNECT`).
    pub(super) switches: bool,
    length: Length,
    x_forwarded_proto: Option<String>,
}

impl RequestHead {
    /// RFC 9112 §6.3 for requests; `None` where the fields contradict each other.
    pub(super) fn framing(&self) -> Option<Framing> {
        let Length { bytes, transfer_encoding, chunked, contradictory } = self.length;
        match () {
            () if self.exchange.method == "CONNECT" => Some(Framing::Length(0)),
            () if chunked => Some(Framing::Chunked),
            () if transfer_encoding || contradictory => None,
            () => Some(Framing::Length(bytes.unwrap_or(0))),
        }
    }

    /// One without a start line: HTTP/2 says in fields what it says.
    pub(in crate::protocol) fn without_line() -> Self {
        let exchange = Box::new(Exchange { version: Version::Http2, ..Exchange::default() });
        Self { exchange, switches: false, length: Length::default(), x_forwarded_proto: None }
    }

    /// The method, whatever it is.
    pub(in crate::protocol) fn set_method(&mut self, method: &[u8]) {
        let method = method.get(..METHOD_LIMIT).unwrap_or(method);
        self.exchange.method = method_of(method);
    }

    /// The target, if it is one.
    pub(in crate::protocol) fn set_target(&mut self, target: &[u8]) {
        if target.iter().copied().all(is_target) {
            self.exchange.target = target_of(target);
        }
    }

    /// What is to be kept of it, all fields having been read.
    pub(in crate::protocol) fn finish(self) -> Box<Exchange> {
        let mut exchange = self.exchange;
        // A `tracestate` alone means nothing (W3C Trace Context §3.3).
        exchange.incoming = exchange.incoming.filter(|incoming| !incoming.traceparent.is_empty());
        exchange.forwarded_proto = exchange.forwarded_proto.or(self.x_forwarded_proto);
        exchange
    }
}

impl Head for RequestHead {
    fn start(line: &[u8]) -> Option<Self> {
        let space = line.iter().position(|&byte| byte == b' ')?;
        let (method, rest) = line.split_at(space);
        let rest = rest.get(1..)?;
        let space = rest.iter().rposition(|&byte| byte == b' ')?;
        let (target, version) = rest.split_at(space);
        if method.is_empty() || method.len() > METHOD_LIMIT || !method.iter().copied().all(is_token) {
            return None;
        }
        if target.is_empty() || !target.iter().copied().all(is_target) {
            return None;
        }
        let version = version_of(version.get(1..)?)?;
        let method = method_of(method);
        let switches = method == "CONNECT";
        let exchange = Exchange { method, target: target_of(target), version, ..Exchange::default() };
        let exchange = Box::new(exchange);
        Some(Self { exchange, switches, length: Length::default(), x_forwarded_proto: None })
    }

    fn find(line: &[u8]) -> Option<usize> {
        let version = line.iter().rposition(|&byte| byte == b' ')?;
        version_of(line.get(version + 1..)?)?;
        let before = line.get(..version)?;
        let target = before.iter().rposition(|&byte| byte == b' ')?;
        let before = before.get(..target)?;
        let method = METHODS.iter().find(|method| before.ends_with(method.as_bytes()))?;
        let at = target - method.len();
        Self::start(line.get(at..)?)?;
        Some(at)
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        let exchange = &mut *self.exchange;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => keep(&mut exchange.host, value),
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.switches = true,
            9 if name.eq_ignore_ascii_case(b"forwarded") => forwarded(exchange, value),
            10 if name.eq_ignore_ascii_case(b"user-agent") => keep(&mut exchange.user_agent, value),
            10 if name.eq_ignore_ascii_case(b"tracestate") => tracestate(exchange, value),
            11 if name.eq_ignore_ascii_case(b"traceparent") => traceparent(exchange, value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.length.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.length.transfer_encoding(value),
            17 if name.eq_ignore_ascii_case(b"x-forwarded-proto") => {
                let first = value.split(|&byte| byte == b',').next().unwrap_or_default();
                keep(&mut self.x_forwarded_proto, first.trim_ascii());
            }
            _ => {}
        }
    }
}

/// The head of a response.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    /// The protocol that the `Upgrade` field names.
    pub(super) upgrade: Option<String>,
    /// `Sec-WebSocket-Extensions`.
    pub(super) extensions: Option<String>,
    length: Length,
}

impl ResponseHead {
    /// RFC 9112 §6.3 for responses to a request with this method; `None` where the fields contradict each other.
    pub(super) fn framing(&self, method: &str) -> Option<Framing> {
        let Length { bytes, transfer_encoding, chunked, contradictory } = self.length;
        match () {
            () if method == "HEAD" || matches!(self.status, 100..=199 | 204 | 304) => {
                Some(Framing::Length(0))
            }
            () if chunked => Some(Framing::Chunked),
            () if transfer_encoding => Some(Framing::UntilClose),
            () if contradictory => None,
            () => Some(bytes.map_or(Framing::UntilClose, Framing::Length)),
        }
    }
}

impl Head for ResponseHead {
    fn start(line: &[u8]) -> Option<Self> {
        let (version, rest) = line.split_at_checked(8)?;
        version_of(version)?;
        let (code, reason) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
        let status = digits(code).filter(|code| (100..=999).contains(code))? as u16;
        // The space before an empty reason is often left out.
        if !matches!(reason.first(), None | Some(b' ')) {
            return None;
        }
        Some(Self { status, upgrade: None, extensions: None, length: Length::default() })
    }

    fn find(line: &[u8]) -> Option<usize> {
        let at = line.windows(7).rposition(|window| window == b"HTTP/1.")?;
        Self::start(line.get(at..)?)?;
        Some(at)
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => keep(&mut self.upgrade, value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.length.content_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.length.transfer_encoding(value),
            24 if name.eq_ignore_ascii_case(b"sec-websocket-extensions") => keep(&mut self.extensions, value),
            _ => {}
        }
    }
}

/// `HTTP/1.x`, RFC 9112 §2.3; later minor versions are to be read as the highest known one.
fn version_of(text: &[u8]) -> Option<Version> {
    match text.strip_prefix(b"HTTP/1.")? {
        [b'0'] => Some(Version::Http10),
        [b'1'..=b'9'] => Some(Version::Http11),
        _ => None,
    }
}

/// `tchar` of RFC 9110 §5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Decimal digits only: neither sign nor space, unlike `str::parse`.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn method_of(method: &[u8]) -> Cow<'static, str> {
    METHODS.iter().find(|known| known.as_bytes() == method).map_or_else(
        || Cow::Owned(String::from_utf8_lossy(method).into_owned()),
        |known| Cow::Borrowed(*known),
    )
}

/// The target, cut to [`TARGET_LIMIT`], without the credentials that an absolute form may carry. These go first: after
/// the cut they could not be told from a host.
fn target_of(target: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(target).into_owned();
    if !text.starts_with('/')
        && let Some(scheme) = text.find("://")
    {
        let start = scheme + 3;
        let authority = text.get(start..).unwrap_or_default();
        let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
        if let Some(at) = authority.get(..end).and_then(|authority| authority.rfind('@')) {
            text.replace_range(start..=start + at, "");
        }
    }
    cut(&mut text, TARGET_LIMIT);
    text
}

fn cut(text: &mut String, limit: usize) {
    text.truncate(text.floor_char_boundary(limit));
    text.shrink_to_fit();
}

/// Keeps a field's value; the first of several wins.
fn keep(slot: &mut Option<String>, value: &[u8]) {
    if slot.is_none() && !value.is_empty() {
        let mut text = String::from_utf8_lossy(value.get(..VALUE_LIMIT).unwrap_or(value)).into_owned();
        cut(&mut text, VALUE_LIMIT);
        *slot = Some(text);
    }
}

fn traceparent(exchange: &mut Exchange, value: &[u8]) {
    let incoming = exchange.incoming.get_or_insert_default();
    if incoming.traceparent.is_empty() && value.len() <= TRACEPARENT_LIMIT {
        incoming.traceparent = String::from_utf8_lossy(value).into_owned();
    }
}

/// W3C Trace Context §3.3.1: several fields are one list.
fn tracestate(exchange: &mut Exchange, value: &[u8]) {
    let Incoming { tracestate, .. } = exchange.incoming.get_or_insert_default();
    if value.is_empty() || tracestate.len() + 1 + value.len() > TRACESTATE_LIMIT {
        return;
    }
    if !tracestate.is_empty() {
        tracestate.push(',');
    }
    tracestate.push_str(&String::from_utf8_lossy(value));
}

/// `Forwarded`, RFC 7239 §4: the first element is the proxy next to the client.
fn forwarded(exchange: &mut Exchange, value: &[u8]) {
    let first = value.split(|&byte| byte == b',').next().unwrap_or_default();
    for pair in first.split(|&byte| byte == b';') {
        let Some(equals) = pair.iter().position(|&byte| byte == b'=') else { continue };
        let (name, value) = pair.split_at(equals);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        let name = name.trim_ascii();
        if name.eq_ignore_ascii_case(b"proto") {
            keep(&mut exchange.forwarded_proto, value);
        } else if name.eq_ignore_ascii_case(b"host") {
            keep(&mut exchange.forwarded_host, value);
        }
    }
}
