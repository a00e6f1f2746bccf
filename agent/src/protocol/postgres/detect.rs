//! A first look at bytes: are they `PostgreSQL`'s, and whose?
//!
//! Biased to silence: a claim needs at least one message whose content is right from end to end (or a statement that
//! begins with a word of SQL), and nothing before it that is wrong. The first such message, or the first wrong one,
//! decides; whatever follows it, the decision holds.

use super::wire::{self, Cursor, MAX_STARTUP, VERSION_3};
use crate::protocol::{Guess, Side};

/// Longest message believed in while detecting, in bytes. Lengths of text protocols read as such are larger.
const MAX_LENGTH: u32 = 1 << 24;
/// Most columns of a table, and so of a row (`MaxTupleAttributeNumber`).
const MAX_COLUMNS: u16 = 1664;
/// Longest name of a startup parameter, with its zero byte, that is believed (`NAMEDATALEN`).
const MAX_NAME: usize = 64;
/// Messages looked at before the answer is taken as certain.
const MAX_MESSAGES: usize = 32;

/// First words of statements (and of the replication commands).
const VERBS: &[&[u8]] = &[
    b"ABORT",
    b"ALTER",
    b"ANALYZE",
    b"BASE_BACKUP",
    b"BEGIN",
    b"CALL",
    b"CHECKPOINT",
    b"CLOSE",
    b"CLUSTER",
    b"COMMENT",
    b"COMMIT",
    b"COPY",
    b"CREATE",
    b"CREATE_REPLICATION_SLOT",
    b"DEALLOCATE",
    b"DECLARE",
    b"DELETE",
    b"DISCARD",
    b"DO",
    b"DROP",
    b"DROP_REPLICATION_SLOT",
    b"END",
    b"EXECUTE",
    b"EXPLAIN",
    b"FETCH",
    b"GRANT",
    b"IDENTIFY_SYSTEM",
    b"IMPORT",
    b"INSERT",
    b"LISTEN",
    b"LOAD",
    b"LOCK",
    b"MERGE",
    b"MOVE",
    b"NOTIFY",
    b"PREPARE",
    b"READ_REPLICATION_SLOT",
    b"REASSIGN",
    b"REFRESH",
    b"REINDEX",
    b"RELEASE",
    b"RESET",
    b"REVOKE",
    b"ROLLBACK",
    b"SAVEPOINT",
    b"SECURITY",
    b"SELECT",
    b"SET",
    b"SHOW",
    b"START",
    b"START_REPLICATION",
    b"TABLE",
    b"TIMELINE_HISTORY",
    b"TRUNCATE",
    b"UNLISTEN",
    b"UPDATE",
    b"VACUUM",
    b"VALUES",
    b"WITH",
];

/// What the content of one message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// It cannot be such a message.
    Wrong,
    /// It may be one.
    Possible,
    /// It is one.
    Right,
}

/// Looks at the first bytes of one direction, at the beginning of a connection or in its midst.
pub fn detect(bytes: &[u8]) -> Guess {
    if bytes.is_empty() {
        return Guess::More;
    }
    if bytes.first() == Some(&wire::STARTUP) {
        return startup(bytes);
    }
    // Encryption was refused with a single byte, and authentication begins.
    if let Some(rest) = bytes.strip_prefix(b"N").filter(|rest| rest.first() == Some(&b'R')) {
        return match judge(Side::Response, rest) {
            Some(true) => Guess::Yes(Side::Response),
            Some(false) => Guess::More,
            None => Guess::No,
        };
    }
    match (judge(Side::Request, bytes), judge(Side::Response, bytes)) {
        (Some(true), _) => Guess::Yes(Side::Request),
        (_, Some(true)) => Guess::Yes(Side::Response),
        (None, None) => Guess::No,
        _ => Guess::More,
    }
}

/// Says whether these bytes are a chain of whole messages from end to end.
pub(super) fn is_chain(side: Side, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Some((kind, length)) = header(bytes).filter(|&(kind, length)| wire::accepts(side, kind, length))
        else {
            return false;
        };
        let Some((message, rest)) = bytes.split_at_checked(1 + length as usize) else { return false };
        if content(side, kind, message.get(5..).unwrap_or_default(), 0) == Content::Wrong {
            return false;
        }
        bytes = rest;
    }
    true
}

fn header(bytes: &[u8]) -> Option<(u8, u32)> {
    let mut cursor = Cursor(bytes);
    Some((cursor.byte()?, cursor.int32()?))
}

/// Startup packets, told by their codes.
fn startup(bytes: &[u8]) -> Guess {
    let mut cursor = Cursor(bytes);
    let (Some(length), Some(code)) = (cursor.int32(), cursor.int32()) else { return partial_startup(bytes) };
    if !wire::accepts_startup(length, code) {
        return Guess::No;
    }
    if code >> 16 != VERSION_3 >> 16 {
        return Guess::Yes(Side::Request);
    }
    // A request of Apache Kafka can begin like a version; a parameter's name it has not.
    let name = cursor.0.get(..MAX_NAME).unwrap_or(cursor.0);
    match name.iter().position(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'_' | b'.')) {
        Some(end) if end > 0 && name.get(end) == Some(&0) => Guess::Yes(Side::Request),
        None if name.len() < MAX_NAME => Guess::More,
        _ => Guess::No,
    }
}

fn partial_startup(bytes: &[u8]) -> Guess {
    let possible = |length: u32, code: u32| {
        let whole: Vec<u8> = length.to_be_bytes().into_iter().chain(code.to_be_bytes()).collect();
        whole.starts_with(bytes)
    };
    if let Some(length) = Cursor(bytes).int32() {
        let high = bytes.get(4..).unwrap_or_default();
        let version =
            (9..=MAX_STARTUP).contains(&length) && b"\x00\x03".starts_with(high.get(..2).unwrap_or(high));
        let request = [wire::SSL, wire::GSSENC].iter().any(|&code| possible(8, code))
            || ((16..=268).contains(&length) && possible(length, wire::CANCEL));
        return if version || request { Guess::More } else { Guess::No };
    }
    // Two zero bytes, then a length of at most 10,000.
    let bounds = [0, 0, (MAX_STARTUP >> 8) as u8];
    if bytes.iter().zip(bounds).all(|(&byte, most)| byte <= most) { Guess::More } else { Guess::No }
}

/// `Some(true)`: this side; `Some(false)`: possibly; `None`: not. The first and the last hold for all longer bytes.
pub(super) fn judge(side: Side, mut bytes: &[u8]) -> Option<bool> {
    for _ in 0..MAX_MESSAGES {
        let Some(&kind) = bytes.first() else { break };
        let Some((_, length)) = header(bytes) else {
            return partial_header(side, kind, bytes.get(1..).unwrap_or_default()).then_some(false);
        };
        if length > MAX_LENGTH || !wire::accepts(side, kind, length) {
            return None;
        }
        let length = length as usize - 4;
        let body = bytes.get(5..).unwrap_or_default();
        let here = body.get(..length).unwrap_or(body);
        match content(side, kind, here, length - here.len()) {
            Content::Wrong => return None,
            Content::Possible => {}
            Content::Right => return Some(true),
        }
        let Some(rest) = body.get(length..) else { break };
        bytes = rest;
    }
    Some(false)
}

/// Says whether a header with this type and this beginning of a length is possible.
fn partial_header(side: Side, kind: u8, length: &[u8]) -> bool {
    let mut least = [0; 4];
    let mut most = [0xff; 4];
    for ((low, high), &byte) in least.iter_mut().zip(&mut most).zip(length) {
        *low = byte;
        *high = byte;
    }
    let (least, most) = (u32::from_be_bytes(least), u32::from_be_bytes(most).min(MAX_LENGTH));
    // The longest length that a type accepts is either small enough to be tried, or beyond the bound above.
    let smallest = (4..=14).find(|&length| wire::accepts(side, kind, length));
    smallest.is_some_and(|smallest| {
        least <= most && (wire::accepts(side, kind, least.max(smallest)) && least.max(smallest) <= most)
    })
}

/// Judges the beginning of a body of which `missing` more bytes are to come.
fn content(side: Side, kind: u8, body: &[u8], missing: usize) -> Content {
    let whole = missing == 0;
    match side {
        Side::Request => request(kind, body, whole),
        Side::Response => response(kind, body, whole, body.len() + missing),
    }
    .unwrap_or(if whole { Content::Wrong } else { Content::Possible })
}

/// `None` where the body ends too early, which is wrong if it is whole.
fn request(kind: u8, body: &[u8], whole: bool) -> Option<Content> {
    let mut cursor = Cursor(body);
    match kind {
        b'S' | b'H' | b'X' => Some(Content::Right),
        b'Q' => Some(statement(&mut cursor, whole, |rest| rest.0.is_empty())),
        b'P' => {
            if let Content::Wrong = text(&mut cursor, whole)? {
                return Some(Content::Wrong);
            }
            Some(statement(&mut cursor, whole, |rest| {
                rest.int16().is_some_and(|count| rest.0.len() == usize::from(count) * 4)
            }))
        }
        b'B' => {
            for _ in 0..2 {
                if let Content::Wrong = text(&mut cursor, whole)? {
                    return Some(Content::Wrong);
                }
            }
            values(&mut cursor)?;
            formats(&mut cursor)?;
            Some(right(whole && cursor.0.is_empty()))
        }
        b'F' => {
            cursor.int32()?;
            values(&mut cursor)?;
            Some(right(cursor.int16()? <= 1 && whole && cursor.0.is_empty()))
        }
        b'E' => {
            if let Content::Wrong = text(&mut cursor, whole)? {
                return Some(Content::Wrong);
            }
            cursor.int32()?;
            Some(right(whole && cursor.0.is_empty()))
        }
        b'D' | b'C' => {
            if !matches!(cursor.byte()?, b'S' | b'P') || (kind == b'C' && whole && is_tag(body)) {
                return Some(Content::Wrong);
            }
            if let Content::Wrong = text(&mut cursor, whole)? {
                return Some(Content::Wrong);
            }
            Some(right(whole && cursor.0.is_empty()))
        }
        _ => Some(Content::Possible),
    }
}

fn response(kind: u8, body: &[u8], whole: bool, length: usize) -> Option<Content> {
    let mut cursor = Cursor(body);
    match kind {
        b'1' | b'2' | b'3' | b'n' | b's' | b'I' => Some(Content::Right),
        b'Z' => Some(right(matches!(cursor.byte()?, b'I' | b'T' | b'E'))),
        b'C' if whole => Some(right(is_tag(body))),
        b'C' => Some(if body.first().is_none_or(u8::is_ascii_uppercase) {
            Content::Possible
        } else {
            Content::Wrong
        }),
        b'R' => {
            // From AuthenticationOk (0) to AuthenticationSASLFinal (12).
            let code = cursor.int32()?;
            let fixed = match code {
                0 | 2 | 3 | 6 | 7 | 9 => length == 4,
                5 => length == 8,
                8 | 10..=12 => length > 4,
                _ => false,
            };
            Some(right(fixed))
        }
        b'K' => Some(if length == 8 && whole { Content::Right } else { Content::Possible }),
        b'S' => {
            for _ in 0..2 {
                if let Content::Wrong = text(&mut cursor, whole)? {
                    return Some(Content::Wrong);
                }
            }
            Some(right(whole && cursor.0.is_empty()))
        }
        b'T' => {
            let count = cursor.int16()?;
            if count > MAX_COLUMNS {
                return Some(Content::Wrong);
            }
            for _ in 0..count {
                if let Content::Wrong = text(&mut cursor, whole)? {
                    return Some(Content::Wrong);
                }
                cursor.bytes(18)?;
            }
            Some(right(whole && cursor.0.is_empty()))
        }
        b'D' => {
            let count = cursor.int16()?;
            if count > MAX_COLUMNS || usize::from(count) * 4 + 2 > length {
                return Some(Content::Wrong);
            }
            for _ in 0..count {
                let value = cursor.int32()?;
                if value != u32::MAX {
                    if value as usize > length {
                        return Some(Content::Wrong);
                    }
                    cursor.bytes(value as usize)?;
                }
            }
            Some(right(whole && cursor.0.is_empty()))
        }
        b't' => {
            let count = cursor.int16()?;
            Some(right(usize::from(count) * 4 + 2 == length))
        }
        b'E' | b'N' => fields(&mut cursor, whole),
        b'A' => {
            cursor.int32()?;
            for _ in 0..2 {
                cursor.string()?;
            }
            Some(right(whole && cursor.0.is_empty()))
        }
        b'G' | b'H' | b'W' => {
            let (format, count) = (cursor.byte()?, cursor.int16()?);
            Some(right(format <= 1 && usize::from(count) * 2 + 3 == length))
        }
        _ => Some(Content::Possible),
    }
}

fn right(holds: bool) -> Content {
    if holds { Content::Right } else { Content::Wrong }
}

/// Reads format codes and values with their lengths.
fn values(cursor: &mut Cursor<'_>) -> Option<()> {
    formats(cursor)?;
    for _ in 0..cursor.int16()? {
        let length = cursor.int32()?;
        if length != u32::MAX {
            cursor.bytes(length as usize)?;
        }
    }
    Some(())
}

/// Reads a list of format codes.
fn formats(cursor: &mut Cursor<'_>) -> Option<()> {
    let count = cursor.int16()?;
    cursor.bytes(usize::from(count) * 2).map(drop)
}

/// Reads text that ends with a zero byte. Control characters other than white space make it wrong.
fn text(cursor: &mut Cursor<'_>, whole: bool) -> Option<Content> {
    let before = cursor.0;
    let end = cursor.string();
    let seen = end.unwrap_or(before);
    if seen.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace()) {
        return Some(Content::Wrong);
    }
    match end {
        Some(_) => Some(Content::Right),
        None if whole => Some(Content::Wrong),
        None => None,
    }
}

/// Reads a statement; `tail` judges what follows it in a whole message.
fn statement(cursor: &mut Cursor<'_>, whole: bool, tail: impl Fn(&mut Cursor<'_>) -> bool) -> Content {
    if begins_with_verb(cursor.0) {
        return Content::Right;
    }
    match text(cursor, whole) {
        Some(Content::Right) if whole => right(tail(cursor)),
        Some(Content::Right) | None => Content::Possible,
        Some(other) => other,
    }
}

/// Says whether a text begins with a whole word of SQL and goes on.
fn begins_with_verb(sql: &[u8]) -> bool {
    let sql = sql.trim_ascii_start();
    let end = sql.iter().position(|byte| !byte.is_ascii_alphabetic() && *byte != b'_').unwrap_or(sql.len());
    let (word, rest) = sql.split_at(end);
    let goes_on = rest.first().is_some_and(|byte| !byte.is_ascii_control() || byte.is_ascii_whitespace());
    goes_on && VERBS.iter().any(|verb| word.eq_ignore_ascii_case(verb))
}

/// Says whether a body is a command tag: a word of SQL in capitals, then words and numbers.
fn is_tag(body: &[u8]) -> bool {
    let Some((&0, tag)) = body.split_last() else { return false };
    let word = tag.split(|&byte| byte == b' ').next().unwrap_or_default();
    tag.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b' ' | b'_'))
        && VERBS.contains(&word)
}

/// Reads the fields of an error or a notice.
fn fields(cursor: &mut Cursor<'_>, whole: bool) -> Option<Content> {
    let mut severity = false;
    loop {
        match cursor.byte()? {
            0 => return Some(right(severity && whole && cursor.0.is_empty())),
            kind if kind.is_ascii_alphabetic() => severity |= matches!(kind, b'S' | b'V'),
            _ => return Some(Content::Wrong),
        }
        // Details may hold anything that a statement may.
        if let Content::Wrong = text(cursor, whole)? {
            return Some(Content::Wrong);
        }
    }
}
