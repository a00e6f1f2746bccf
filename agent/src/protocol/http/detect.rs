//! Is it HTTP/1? Asked once per connection, of the first bytes of one half.

use crate::protocol::{Guess, Side};

/// Methods by which a stranger is recognised: RFC 9110 §9.3, RFC 5789, the QUERY draft, and those of `WebDAV` and caches
/// that are seen in the field. Longer names stand before those that are their endings.
pub(super) const METHODS: [&str; 21] = [
    "GET",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "CONNECT",
    "TRACE",
    "QUERY",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "MKCALENDAR",
    "COPY",
    "MOVE",
    "UNLOCK",
    "LOCK",
    "REPORT",
    "SEARCH",
    "PURGE",
];

/// A target this long, with nothing in it that a target must not have, is believed without its version, in bytes.
const CONVINCING_TARGET: usize = 1024;

/// Looks at the first bytes of one half of a connection.
///
/// Other text protocols begin alike (`GET key` is a Redis command, `OPTIONS … RTSP/1.0` is RTSP), so a request is only
/// believed when its whole request line with the version is there, a response when its status code is: rather
/// [`Guess::More`] for a while than a wrong [`Guess::Yes`]. The HTTP/2 preface `PRI * HTTP/2.0` is not ours.
pub fn detect(bytes: &[u8]) -> Guess {
    match (request(bytes), response(bytes)) {
        (Guess::No, guess) | (guess, Guess::No) => guess,
        _ => Guess::More,
    }
}

/// `HTTP/1.x NNN` and what may follow a status code (RFC 9112 §4).
fn response(bytes: &[u8]) -> Guess {
    const PATTERN: [fn(u8) -> bool; 13] = [
        |b| b == b'H',
        |b| b == b'T',
        |b| b == b'T',
        |b| b == b'P',
        |b| b == b'/',
        |b| b == b'1',
        |b| b == b'.',
        |b| matches!(b, b'0' | b'1'),
        |b| b == b' ',
        |b| matches!(b, b'1'..=b'5'),
        |b| b.is_ascii_digit(),
        |b| b.is_ascii_digit(),
        |b| matches!(b, b' ' | b'\r' | b'\n'),
    ];
    if !PATTERN.iter().zip(bytes).all(|(fits, &byte)| fits(byte)) {
        return Guess::No;
    }
    if bytes.len() < PATTERN.len() { Guess::More } else { Guess::Yes(Side::Response) }
}

/// `METHOD SP target SP HTTP/1.x` (RFC 9112 §3).
fn request(bytes: &[u8]) -> Guess {
    let mut guess = Guess::No;
    for method in METHODS {
        let method = method.as_bytes();
        if let Some(rest) = bytes.strip_prefix(method) {
            guess = match rest.split_first() {
                None => Guess::More,
                Some((b' ', rest)) => return target(method, rest),
                Some(_) => guess,
            };
        } else if method.starts_with(bytes) {
            guess = Guess::More;
        }
    }
    guess
}

fn target(method: &[u8], bytes: &[u8]) -> Guess {
    let Some(&first) = bytes.first() else { return Guess::More };
    let fits = match method {
        b"CONNECT" => first.is_ascii_alphanumeric() || first == b'[',
        b"OPTIONS" if first == b'*' => true,
        // Origin form, or the absolute form of a request to a proxy (RFC 9112 §3.2).
        _ => matches!(first, b'/' | b'h' | b'H'),
    };
    if !fits {
        return Guess::No;
    }
    let end = bytes.iter().position(|&byte| !is_target(byte));
    match end {
        None if first == b'/' && bytes.len() >= CONVINCING_TARGET => Guess::Yes(Side::Request),
        None if bytes.len() >= 8 * CONVINCING_TARGET => Guess::No,
        None => Guess::More,
        Some(end) => version(bytes.get(end..).unwrap_or_default()),
    }
}

fn version(bytes: &[u8]) -> Guess {
    const PREFIX: &[u8] = b" HTTP/1.";
    let Some(rest) = bytes.strip_prefix(PREFIX) else {
        return if PREFIX.starts_with(bytes) { Guess::More } else { Guess::No };
    };
    match rest {
        [] | [b'0' | b'1'] => Guess::More,
        [b'0' | b'1', b'\r' | b'\n', ..] => Guess::Yes(Side::Request),
        _ => Guess::No,
    }
}

/// What may stand in a request target: no space, no control character. Bytes above ASCII are not allowed by RFC 3986
/// but are sent.
pub(super) fn is_target(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f
}
