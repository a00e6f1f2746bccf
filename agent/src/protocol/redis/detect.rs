//! The first look at a connection.

use super::{
    subscriptions::Action,
    wire::{Length, LengthReader, LengthStep, MAX_BULK, MAX_ELEMENTS},
    words::{self, Word},
};
use crate::protocol::{Guess, Side};

/// Longest line that is waited for, bytes.
const MAX_LINE: usize = 512;

/// Longest bulk string of which the end is waited for, bytes; a longer one is believed by its head.
const MAX_BODY: u64 = 64;

/// Simple strings with which Redis answers. Others are not believed: a `+` begins lines of several protocols.
const STATUSES: &[&[u8]] =
    &[b"OK", b"PONG", b"QUEUED", b"RESET", b"string", b"list", b"set", b"zset", b"hash", b"stream", b"none"];

/// Says whether the first bytes of one half of a connection are RESP, and of which side.
///
/// It would rather miss a connection than claim another protocol's: a request must begin with a command that exists,
/// and a reply must be complete as far as it is looked at. What a request and a reply could both be (an array whose first
/// string consists of unknown capitals) is not claimed either.
pub fn detect(bytes: &[u8]) -> Guess {
    let look = match bytes.first() {
        None => return Guess::More,
        Some(b'*') => array(bytes),
        Some(b'+') => status(bytes),
        Some(b'-') => error(bytes),
        Some(b'%' | b'~' | b'>' | b'|') => aggregate(bytes),
        Some(byte) if byte.is_ascii_alphabetic() => inline(bytes),
        Some(_) => value(bytes).map(|_| Side::Response),
    };
    match look {
        Ok(side) => Guess::Yes(side),
        Err(More) => Guess::More,
        Err(No) => Guess::No,
    }
}

/// Why nothing can be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Undecided {
    /// The bytes end too early.
    More,
    /// The bytes are something else.
    No,
}

use Undecided::{More, No};

fn array(bytes: &[u8]) -> Result<Side, Undecided> {
    let (count, rest) = length(bytes, MAX_ELEMENTS)?;
    if matches!(count, Length::Null | Length::Streamed | Length::Known(0)) {
        return Ok(Side::Response);
    }
    if *rest.first().ok_or(More)? != b'$' {
        return value(rest).map(|_| Side::Response);
    }
    let (Length::Known(size @ 1..), after) = length(rest, MAX_BULK)? else { return Ok(Side::Response) };
    if size > words::MAX_WORD as u64 {
        return Ok(Side::Response);
    }
    let (word, rest) = body(after, size)?;
    match words::judge(word) {
        Word::Command if Action::of(word).is_some() && count == Length::Known(3) => confirmation(rest),
        Word::Command => Ok(Side::Request),
        Word::Unclear => Err(No),
        Word::Other => Ok(Side::Response),
    }
}

/// Tells `SUBSCRIBE a b` from `subscribe a 1`, the confirmation of that name: the latter ends with a number.
fn confirmation(rest: &[u8]) -> Result<Side, Undecided> {
    let rest = match rest.first().ok_or(More)? {
        b'$' => match length(rest, MAX_BULK)? {
            (Length::Known(size), after) if size <= MAX_LINE as u64 => body(after, size)?.1,
            (Length::Known(_) | Length::Streamed, _) => return Err(No),
            (Length::Null, _) => return Ok(Side::Response),
        },
        b'_' => return Ok(Side::Response),
        _ => return Err(No),
    };
    match rest.first().ok_or(More)? {
        b'$' => Ok(Side::Request),
        b':' => Ok(Side::Response),
        _ => Err(No),
    }
}

fn status(bytes: &[u8]) -> Result<Side, Undecided> {
    let text = bytes.get(1..).unwrap_or_default();
    let matches = |status: &[u8]| {
        let expected = status.iter().chain(b"\r\n");
        text.iter().zip(expected).all(|(byte, expected)| byte == expected)
    };
    match STATUSES.iter().find(|status| matches(status)) {
        Some(status) if text.len() >= status.len() + 2 => Ok(Side::Response),
        // Another of the list may be shorter, but none is another's beginning together with its CRLF.
        Some(_) => Err(More),
        None => Err(No),
    }
}

fn error(bytes: &[u8]) -> Result<Side, Undecided> {
    let text = bytes.get(1..).unwrap_or_default();
    let end =
        text.iter().position(|byte| !(byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_'));
    let prefix = end.unwrap_or(text.len());
    if prefix > 24 || text.first().is_some_and(|byte| !byte.is_ascii_uppercase()) {
        return Err(No);
    }
    match text.get(prefix) {
        None => Err(More),
        // NATS quotes its errors.
        Some(b' ') if prefix >= 2 => match text.get(prefix + 1) {
            None => Err(More),
            Some(b'\'') => Err(No),
            Some(_) => line(bytes).map(|_| Side::Response),
        },
        Some(_) => Err(No),
    }
}

/// An aggregate of RESP3, looked at down to its first element.
fn aggregate(bytes: &[u8]) -> Result<Side, Undecided> {
    match length(bytes, MAX_ELEMENTS)? {
        (Length::Known(0) | Length::Streamed, _) => Ok(Side::Response),
        (Length::Known(_), rest) => value(rest).map(|_| Side::Response),
        (Length::Null, _) => Err(No),
    }
}

fn inline(bytes: &[u8]) -> Result<Side, Undecided> {
    let end = bytes.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
    let word = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    if end.is_none() {
        return Err(if words::begins_inline(word) { More } else { No });
    }
    let rest = bytes.get(word.len()..).unwrap_or_default();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'_' | b'-');
    let line = rest.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    if !words::is_inline(word) || bytes.len() > MAX_LINE || !line.iter().all(plain) {
        return Err(No);
    }
    match rest.get(line.len()..).unwrap_or_default() {
        [] | [b'\r'] => Err(More),
        [b'\n', ..] | [b'\r', b'\n', ..] => Ok(Side::Request),
        _ => Err(No),
    }
}

/// One value, an aggregate down to its length. Gives what is behind.
fn value(bytes: &[u8]) -> Result<&[u8], Undecided> {
    let kind = *bytes.first().ok_or(More)?;
    match kind {
        b'$' | b'!' | b'=' => match length(bytes, MAX_BULK)? {
            (Length::Known(size), rest) if size > MAX_BODY => Ok(rest),
            (Length::Known(size), rest) => body(rest, size).map(|(_, rest)| rest),
            (Length::Null | Length::Streamed, rest) if kind == b'$' => Ok(rest),
            _ => Err(No),
        },
        b'*' | b'%' | b'~' | b'>' | b'|' => length(bytes, MAX_ELEMENTS).map(|(_, rest)| rest),
        b'+' | b'-' => line(bytes).map(|(_, rest)| rest),
        b':' | b',' | b'(' | b'#' | b'_' => {
            let text = bytes.get(1..).unwrap_or_default();
            let shown = text.iter().position(|byte| *byte == b'\r').unwrap_or(text.len());
            let fits = text.iter().take(shown).enumerate().all(|(at, byte)| match kind {
                b':' | b'(' => byte.is_ascii_digit() || at == 0 && matches!(byte, b'+' | b'-'),
                b',' => byte.is_ascii_digit() || b"+-.eEinfa".contains(byte),
                b'#' => at == 0 && matches!(byte, b't' | b'f'),
                _ => false,
            });
            if !fits || shown > 64 || (shown == 0 && shown < text.len() && kind != b'_') {
                return Err(No);
            }
            line(bytes).map(|(_, rest)| rest)
        }
        _ => Err(No),
    }
}

/// The length after a type byte, and what is behind its line.
fn length(bytes: &[u8], bound: u64) -> Result<(Length, &[u8]), Undecided> {
    let mut reader = LengthReader::default();
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        match reader.push(*byte) {
            LengthStep::More => {}
            LengthStep::Done(Length::Known(length)) if length > bound => return Err(No),
            LengthStep::Done(length) => return Ok((length, bytes.get(at + 1..).unwrap_or_default())),
            LengthStep::Bad => return Err(No),
        }
    }
    Err(More)
}

/// The bytes of a bulk string, and what is behind its CRLF.
fn body(bytes: &[u8], size: u64) -> Result<(&[u8], &[u8]), Undecided> {
    let (text, rest) =
        usize::try_from(size).ok().and_then(|size| bytes.split_at_checked(size)).ok_or(More)?;
    match rest {
        [] | [b'\r'] => Err(More),
        [b'\r', b'\n', rest @ ..] => Ok((text, rest)),
        _ => Err(No),
    }
}

/// A line with its type byte, and what is behind its CRLF.
fn line(bytes: &[u8]) -> Result<(&[u8], &[u8]), Undecided> {
    let shown = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    if shown > MAX_LINE {
        return Err(No);
    }
    let (text, rest) = bytes.split_at(shown);
    match rest {
        [] | [b'\r'] => Err(More),
        [b'\r', b'\n', rest @ ..] => Ok((text, rest)),
        _ => Err(No),
    }
}
