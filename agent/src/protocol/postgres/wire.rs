//! The wire: one half of a connection cut into messages.
//!
//! Only messages whose content means something here are buffered, and only their beginning; rows, parameters and
//! copied data are skipped by count. Source: *`PostgreSQL`, Frontend/Backend Protocol, Message Formats*.

use crate::protocol::{Mark, Side};

/// Longest message that a server accepts or sends, in bytes (`MaxAllocSize`, 1 GiB).
const MAX_MESSAGE: u32 = 1 << 30;
/// Longest startup packet that a server accepts, in bytes (`MAX_STARTUP_PACKET_LENGTH`).
pub(super) const MAX_STARTUP: u32 = 10_000;
/// Longest statement text kept, in bytes.
pub(super) const MAX_TEXT: usize = 16 * 1024;
/// Longest statement or portal name kept, in bytes; libraries use less than 64.
const MAX_NAME: usize = 512;

/// Kind of a startup packet: these carry no type byte.
pub(super) const STARTUP: u8 = 0;
/// Protocol version 3.0 as a startup packet writes it; the low half is the minor version.
pub(super) const VERSION_3: u32 = 3 << 16;
/// Request code of `CancelRequest`.
pub(super) const CANCEL: u32 = 80_877_102;
/// Request code of `SSLRequest`.
pub(super) const SSL: u32 = 80_877_103;
/// Request code of `GSSENCRequest`.
pub(super) const GSSENC: u32 = 80_877_104;

/// Says whether a message of this type may have this length (which counts itself, but not the type byte).
pub(super) fn accepts(side: Side, kind: u8, length: u32) -> bool {
    /// Names, parameters and column formats; nothing that carries values.
    const SHORT: u32 = 1 << 16;
    let (least, most) = match side {
        Side::Request => match kind {
            b'S' | b'H' | b'X' | b'c' => (4, 4),
            b'p' => (4, SHORT),
            b'd' => (4, MAX_MESSAGE),
            b'Q' | b'f' => (5, MAX_MESSAGE),
            b'D' | b'C' => (6, SHORT),
            b'P' => (8, MAX_MESSAGE),
            b'E' => (9, SHORT),
            b'B' => (12, MAX_MESSAGE),
            b'F' => (14, MAX_MESSAGE),
            _ => return false,
        },
        Side::Response => match kind {
            b'1' | b'2' | b'3' | b'n' | b's' | b'I' | b'c' => (4, 4),
            b'd' => (4, MAX_MESSAGE),
            b'Z' => (5, 5),
            b'C' => (5, 1024),
            b'E' | b'N' => (5, MAX_MESSAGE),
            b'S' => (6, SHORT),
            b'T' | b'D' | b't' => (6, MAX_MESSAGE),
            b'G' | b'H' | b'W' => (7, SHORT),
            b'R' => (8, SHORT),
            b'V' => (8, MAX_MESSAGE),
            b'A' => (10, SHORT),
            b'v' => (12, SHORT),
            // The key of BackendKeyData is 4 bytes, up to 256 from protocol 3.2 on.
            b'K' => (12, 264),
            _ => return false,
        },
    };
    (least..=most).contains(&length)
}

/// How many bytes of a message's body are worth keeping.
fn keeps(side: Side, kind: u8) -> usize {
    match (side, kind) {
        (Side::Request, b'Q' | b'P') => MAX_TEXT + MAX_NAME,
        (Side::Request, b'B' | b'E' | b'D' | b'C') => 2 * MAX_NAME,
        // Of `BackendKeyData` the process; the key behind it is a secret.
        (Side::Request, b'F') | (Side::Response, b'K') => 4,
        (Side::Request, STARTUP) => MAX_STARTUP as usize,
        // Severity and SQLSTATE are the first fields of an error.
        (Side::Response, b'E' | b'S' | b'C') => MAX_NAME,
        // A notification's payload is shorter than 8,000 bytes.
        (Side::Response, b'A') => MAX_TEXT,
        (Side::Response, b'Z') => 1,
        _ => 0,
    }
}

/// A message, or the news that there is none.
#[derive(Debug)]
pub(super) enum Step {
    /// A message's type and length are known.
    Head {
        /// Type byte.
        kind: u8,
        /// Mark of the type byte.
        first: Mark,
    },
    /// A message is over.
    Message(Message),
    /// These five bytes are no message's beginning; the framer has lost its place.
    Malformed([u8; 5]),
}

/// A message as far as it is kept.
#[derive(Debug)]
pub(super) struct Message {
    /// Type byte, [`STARTUP`] for packets that have none.
    pub(super) kind: u8,
    /// Request code or version of a startup packet.
    pub(super) code: u32,
    /// Beginning of the body.
    pub(super) body: Vec<u8>,
    /// The body is kept whole.
    pub(super) whole: bool,
    /// Mark of the first byte.
    pub(super) first: Mark,
    /// Mark of the last byte.
    pub(super) last: Mark,
}

#[derive(Debug)]
enum State {
    /// Between messages (`have` is 0) or inside a header.
    Header { bytes: [u8; 8], have: usize, first: Mark },
    /// Inside a body of which `left` bytes are to come.
    Body { kind: u8, code: u32, left: u64, whole: bool, first: Mark },
    /// A body has just ended at this mark.
    Done { kind: u8, code: u32, whole: bool, first: Mark, last: Mark },
    /// Where the next message begins is not known.
    Lost,
}

impl State {
    fn boundary() -> Self {
        Self::Header { bytes: [0; 8], have: 0, first: Mark::default() }
    }
}

/// Cuts the bytes of one side into messages.
#[derive(Debug)]
pub(super) struct Framer {
    side: Side,
    state: State,
    kept: Vec<u8>,
    /// A packet without type byte may come next: nothing but such packets has been seen.
    pub(super) startup: bool,
}

impl Framer {
    pub(super) fn new(side: Side) -> Self {
        Self { side, state: State::boundary(), kept: Vec::new(), startup: side == Side::Request }
    }

    /// The next byte is the first of a message.
    pub(super) fn at_boundary(&self) -> bool {
        matches!(self.state, State::Header { have: 0, .. })
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    pub(super) fn lose(&mut self) {
        self.state = State::Lost;
        self.kept = Vec::new();
    }

    /// The next byte is known to be the first of a message.
    pub(super) fn resume(&mut self) {
        self.state = State::boundary();
    }

    /// Gives a message's buffer back.
    pub(super) fn recycle(&mut self, mut body: Vec<u8>) {
        if self.kept.capacity() == 0 && body.capacity() <= 4096 {
            body.clear();
            self.kept = body;
        }
    }

    /// Takes bytes off the front of `rest` up to the next step; `None` when they are used up or the place is lost.
    pub(super) fn advance(&mut self, rest: &mut &[u8], mark: Mark) -> Option<Step> {
        loop {
            match &mut self.state {
                State::Lost => return None,
                State::Header { bytes, have, first } => {
                    let (&byte, tail) = rest.split_first()?;
                    *rest = tail;
                    if *have == 0 {
                        *first = mark;
                    }
                    if let Some(slot) = bytes.get_mut(*have) {
                        *slot = byte;
                    }
                    *have += 1;
                    let untyped = self.startup && bytes[0] == STARTUP;
                    if *have < if untyped { 8 } else { 5 } {
                        continue;
                    }
                    let (bytes, first) = (*bytes, *first);
                    return Some(self.begin(bytes, untyped, first, mark));
                }
                State::Body { kind, code, left, whole, first } => {
                    if rest.is_empty() {
                        return None;
                    }
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    let (body, tail) = rest.split_at(taken);
                    *rest = tail;
                    *left -= taken as u64;
                    // What follows a hole has no known place in the message.
                    if *whole {
                        let room = keeps(self.side, *kind).saturating_sub(self.kept.len());
                        self.kept.extend_from_slice(body.get(..room).unwrap_or(body));
                        *whole = taken <= room;
                    }
                    if *left == 0 {
                        self.state = State::Done {
                            kind: *kind,
                            code: *code,
                            whole: *whole,
                            first: *first,
                            last: mark,
                        };
                    }
                }
                State::Done { kind, code, whole, first, last } => {
                    let message = Message {
                        kind: *kind,
                        code: *code,
                        body: std::mem::take(&mut self.kept),
                        whole: *whole,
                        first: *first,
                        last: *last,
                    };
                    self.state = State::boundary();
                    return Some(Step::Message(message));
                }
            }
        }
    }

    fn begin(&mut self, bytes: [u8; 8], untyped: bool, first: Mark, last: Mark) -> Step {
        let [b0, b1, b2, b3, b4, b5, b6, b7] = bytes;
        let (kind, length, code) = if untyped {
            (STARTUP, u32::from_be_bytes([b0, b1, b2, b3]), u32::from_be_bytes([b4, b5, b6, b7]))
        } else {
            (b0, u32::from_be_bytes([b1, b2, b3, b4]), 0)
        };
        let valid = if untyped { accepts_startup(length, code) } else { accepts(self.side, kind, length) };
        if !valid {
            self.lose();
            return Step::Malformed([b0, b1, b2, b3, b4]);
        }
        self.startup &= untyped;
        self.kept.clear();
        let left = u64::from(length) - if untyped { 8 } else { 4 };
        self.state = if left == 0 {
            State::Done { kind, code, whole: true, first, last }
        } else {
            State::Body { kind, code, left, whole: true, first }
        };
        Step::Head { kind, first }
    }

    /// Jumps over bytes that were not captured, as far as the present message reaches; returns how many bytes
    /// beyond it were hidden. More than none, or a hidden header, loses the place.
    pub(super) fn gap(&mut self, length: u64, mark: Mark) -> u64 {
        match &mut self.state {
            State::Body { left, whole, kind, code, first } => {
                let taken = length.min(*left);
                *left -= taken;
                *whole = *whole && taken == 0;
                if *left == 0 {
                    self.state =
                        State::Done { kind: *kind, code: *code, whole: *whole, first: *first, last: mark };
                }
                length - taken
            }
            State::Done { .. } | State::Header { .. } | State::Lost => length,
        }
    }
}

/// Says whether a packet without type byte may begin like this.
pub(super) fn accepts_startup(length: u32, code: u32) -> bool {
    match code {
        SSL | GSSENC => length == 8,
        // The key is 4 bytes, up to 256 from protocol 3.2 on.
        CANCEL => (16..=268).contains(&length),
        _ => code >> 16 == VERSION_3 >> 16 && (9..=MAX_STARTUP).contains(&length),
    }
}

/// Reads the parts of a body; everything is `None` past its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn int16(&mut self) -> Option<u16> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*taken))
    }

    pub(super) fn int32(&mut self) -> Option<u32> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*taken))
    }

    /// A string that ends with a zero byte, without that byte.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&byte| byte == 0)?;
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Some(text)
    }
}
