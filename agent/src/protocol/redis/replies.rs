//! The response side: values of RESP2 and RESP3, walked over and counted, not kept.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>; for streamed strings and aggregates and
//! for attributes <https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md>.

use super::{
    Payload, RedisError, Task,
    wire::{Digest, Length, LengthReader, LengthStep, MAX_BULK, MAX_ELEMENTS, take},
};
use crate::protocol::{LossReason, Mark};

/// Deepest nesting of aggregates that is followed.
pub(super) const MAX_DEPTH: usize = 32;

/// Longest simple string, error or number that is believed, bytes.
const MAX_LINE: u64 = 64 << 10;

/// Bytes kept of a simple string or of an error: enough for every status that matters and for error prefixes.
const MAX_HEAD: usize = 32;

/// Bytes kept of an element of a list until it is complete.
const MAX_ELEMENT: usize = 16 << 10;

/// Longest name or id of a task, bytes.
const MAX_TASK: usize = 256;

/// Bytes kept of a push message's channel.
pub(super) const MAX_CHANNEL: usize = 128;

/// A reader of values that is fed with pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Replies {
    state: State,
    stack: Vec<Frame>,
    message: Message,
    head: Vec<u8>,
    head_whole: bool,
    digest: Digest,
    /// The beginning of an element, to look for a task in it.
    element: Vec<u8>,
}

/// What was gathered of one top-level value.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// Mark of its first byte.
    pub(super) first: Mark,
    /// Its size so far.
    pub(super) bytes: u64,
    /// Its type byte, 0 before it is known (an attribute may precede it).
    pub(super) kind: u8,
    /// Whether it is null.
    pub(super) null: bool,
    /// Whether it is zero, or has no elements.
    pub(super) empty: bool,
    /// The simple string that it is.
    pub(super) status: Option<Status>,
    /// The error that it is.
    pub(super) error: Option<RedisError>,
    /// The first error among its direct elements.
    pub(super) inner_error: Option<RedisError>,
    /// Its first elements, where they were asked for.
    pub(super) push: Option<Box<PushHead>>,
    /// It is watched because it is, or ends with, an element taken from a list.
    pub(super) is_element: bool,
}

/// Simple strings that change the connection's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    Queued,
    Other,
}

/// The elements that tell push messages and subscription confirmations apart.
#[derive(Debug, Default)]
pub(super) struct PushHead {
    /// The first element (`message`, `subscribe`, …), whole or empty.
    pub(super) kind: Vec<u8>,
    /// Elements of the message.
    pub(super) elements: u64,
    /// The beginning of the channel.
    pub(super) channel: Vec<u8>,
    /// The number that is the third element (count of subscriptions).
    pub(super) count: Option<u64>,
    /// The last element of a published message.
    pub(super) payload: Option<Payload>,
    /// What an element of a list is to Celery.
    pub(super) task: Option<Task>,
}

impl PushHead {
    /// Position of the channel: a pattern stands before it in a `pmessage`.
    fn channel_index(&self) -> u64 {
        if self.kind == b"pmessage" { 2 } else { 1 }
    }

    /// Whether somebody has published this.
    pub(super) fn is_published(&self) -> bool {
        match self.kind.as_slice() {
            b"message" | b"smessage" => self.elements == 3,
            b"pmessage" => self.elements == 4,
            _ => false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    /// Values to come, where they are counted.
    left: Option<u64>,
    /// Values that have come.
    seen: u64,
    /// Attributes are not a value: one follows.
    attribute: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Before a type byte.
    #[default]
    Type,
    /// In a line that is the value.
    Line { kind: u8, length: u64, carriage_return: bool },
    /// In the line of a length.
    Length { kind: u8, reader: LengthReader },
    /// In a bulk string, error or chunk; `left` counts its CRLF too.
    Body { kind: u8, left: u64, length: u64, part: Part },
    /// Before the `;` of a chunk.
    Chunk,
    /// After the `.` that ends a streamed aggregate.
    Dot { carriage_return: bool },
}

/// What a body is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Skipped,
    /// An error that counts.
    Error,
    /// The kind of a push message.
    Kind,
    /// Its channel, or the name of a list.
    Channel,
    /// What was published, or taken from a list.
    Payload,
}

/// What a piece of bytes led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All bytes are used up.
    Need,
    /// The type of a top-level value is known.
    Opened(u8),
    /// The first element of a watched value is known.
    Kind,
    /// A top-level value is complete.
    Done,
    /// The bytes make no sense, or more than is followed.
    Bad(LossReason),
}

impl Replies {
    /// The value being read, or read last.
    pub(super) fn message(&mut self) -> &mut Message {
        &mut self.message
    }

    /// Whether the next byte begins a value.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.state, State::Type) && self.stack.is_empty() && self.message.bytes == 0
    }

    /// Forgets the unfinished value.
    pub(super) fn reset(&mut self) {
        self.state = State::Type;
        self.stack.clear();
        self.message = Message::default();
    }

    /// From here on the first elements of the value just opened are kept.
    pub(super) fn watch(&mut self) {
        let elements = self.stack.first().and_then(|frame| frame.left).unwrap_or(0);
        self.message.push = Some(Box::new(PushHead { elements, ..PushHead::default() }));
    }

    /// The value just opened is an element of a list, or the list's name and the element.
    pub(super) fn watch_element(&mut self) {
        self.watch();
        self.message.is_element = true;
    }

    /// Takes a gap, if it lies within a string whose bytes do not matter. Where it takes the string's end with it, the
    /// next [`Replies::step`] goes on from there, even without a byte.
    pub(super) fn gap(&mut self, length: u64) -> bool {
        match &mut self.state {
            State::Body { left, part, .. } if *left >= length && *part != Part::Kind => {
                match part {
                    Part::Payload => self.digest.skip(length),
                    Part::Error => {
                        self.head_whole = false;
                        *part = Part::Skipped;
                    }
                    Part::Channel => *part = Part::Skipped,
                    Part::Kind | Part::Skipped => {}
                }
                *left -= length;
                self.message.bytes += length;
                true
            }
            _ => false,
        }
    }

    /// Reads on until something is known. Reads nothing more after `Bad`.
    pub(super) fn step(&mut self, bytes: &mut &[u8], mark: Mark) -> Step {
        loop {
            if let State::Body { kind, left: 0, length, part } = self.state {
                match self.close_body(kind, length, part) {
                    Some(step) => return step,
                    None => continue,
                }
            }
            if bytes.is_empty() {
                return Step::Need;
            }
            match self.advance(bytes, mark) {
                Ok(None) => {}
                Ok(Some(step)) => return step,
                Err(reason) => return Step::Bad(reason),
            }
        }
    }

    fn advance(&mut self, bytes: &mut &[u8], mark: Mark) -> Result<Option<Step>, LossReason> {
        let Some(&byte) = bytes.first() else { return Ok(None) };
        if let State::Body { kind, left, length, part } = self.state
            && left > 2
        {
            let piece = take(bytes, left - 2);
            self.message.bytes += piece.len() as u64;
            self.read_body(piece, part);
            self.state = State::Body { kind, left: left - piece.len() as u64, length, part };
            return Ok(None);
        }
        *bytes = bytes.get(1..).unwrap_or_default();
        if self.is_between() {
            self.message = Message { first: mark, ..Message::default() };
        }
        self.message.bytes += 1;
        match &mut self.state {
            State::Type => self.open(byte),
            State::Line { kind, carriage_return: true, .. } => {
                let kind = *kind;
                if byte == b'\n' { self.close_line(kind) } else { Err(LossReason::Malformed) }
            }
            State::Line { carriage_return, .. } if byte == b'\r' => {
                *carriage_return = true;
                Ok(None)
            }
            State::Line { length, .. } if *length >= MAX_LINE => Err(LossReason::TooLarge),
            State::Line { kind, length, .. } => {
                if !fits(*kind, byte, *length) {
                    return Err(LossReason::Malformed);
                }
                *length += 1;
                if self.head.len() < MAX_HEAD {
                    self.head.push(byte);
                }
                Ok(None)
            }
            State::Length { kind, reader } => match reader.push(byte) {
                LengthStep::More => Ok(None),
                LengthStep::Done(length) => {
                    let kind = *kind;
                    self.open_counted(kind, length)
                }
                LengthStep::Bad => Err(LossReason::Malformed),
            },
            State::Body { left, .. } if *left == 2 && byte == b'\r' || *left == 1 && byte == b'\n' => {
                *left -= 1;
                Ok(None)
            }
            State::Chunk if byte == b';' => {
                self.state = State::Length { kind: b';', reader: LengthReader::default() };
                Ok(None)
            }
            State::Dot { carriage_return } if !*carriage_return && byte == b'\r' => {
                *carriage_return = true;
                Ok(None)
            }
            State::Dot { carriage_return: true } if byte == b'\n' => Ok(self.close_frame()),
            State::Body { .. } | State::Chunk | State::Dot { .. } => Err(LossReason::Malformed),
        }
    }

    /// Takes a type byte.
    fn open(&mut self, byte: u8) -> Result<Option<Step>, LossReason> {
        self.state = match byte {
            b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => {
                self.head.clear();
                self.head_whole = true;
                State::Line { kind: byte, length: 0, carriage_return: false }
            }
            b'$' | b'!' | b'=' | b'*' | b'~' | b'%' | b'>' | b'|' => {
                State::Length { kind: byte, reader: LengthReader::default() }
            }
            b'.' if self.stack.last().is_some_and(|frame| frame.left.is_none()) => {
                State::Dot { carriage_return: false }
            }
            _ => return Err(LossReason::Malformed),
        };
        // The value's own type comes after its attributes.
        if self.stack.is_empty() && byte != b'|' {
            self.message.kind = byte;
            // An aggregate is open after its length.
            return Ok((!matches!(byte, b'*' | b'~' | b'%' | b'>')).then_some(Step::Opened(byte)));
        }
        Ok(None)
    }

    fn open_counted(&mut self, kind: u8, length: Length) -> Result<Option<Step>, LossReason> {
        match (kind, length) {
            (b'$' | b'*', Length::Null) => {
                self.message.null |= self.stack.is_empty();
                Ok(self.close_value())
            }
            (b'$' | b'!' | b'=', Length::Known(length)) if length <= MAX_BULK => {
                let part = self.part(kind, length);
                self.head_whole = true;
                if part == Part::Error {
                    self.head.clear();
                }
                if part == Part::Payload {
                    self.digest = Digest::default();
                    // What is left of one that was given up is no part of this.
                    self.element.clear();
                }
                self.state = State::Body { kind, left: length + 2, length, part };
                Ok(None)
            }
            (b'$', Length::Streamed) => {
                self.state = State::Chunk;
                Ok(None)
            }
            (b';', Length::Known(0)) => Ok(self.close_value()),
            (b';', Length::Known(length)) if length <= MAX_BULK => {
                self.state = State::Body { kind, left: length + 2, length, part: Part::Skipped };
                Ok(None)
            }
            (b'*' | b'~' | b'>' | b'%' | b'|', Length::Known(count)) if count <= MAX_ELEMENTS => {
                self.message.empty |= self.stack.is_empty() && count == 0 && kind != b'|';
                self.open_aggregate(kind, Some(if matches!(kind, b'%' | b'|') { count * 2 } else { count }))
            }
            (b'*' | b'~' | b'>' | b'%', Length::Streamed) => self.open_aggregate(kind, None),
            _ => Err(LossReason::Malformed),
        }
    }

    fn open_aggregate(&mut self, kind: u8, left: Option<u64>) -> Result<Option<Step>, LossReason> {
        let attribute = kind == b'|';
        self.state = State::Type;
        if left == Some(0) {
            return Ok(if attribute { None } else { self.close_value() });
        }
        if self.stack.len() >= MAX_DEPTH {
            return Err(LossReason::TooLarge);
        }
        let top = self.stack.is_empty() && !attribute;
        self.stack.push(Frame { left, seen: 0, attribute });
        Ok(top.then_some(Step::Opened(kind)))
    }

    /// Position of the value being read among the direct elements of the top-level aggregate.
    fn index(&self) -> Option<u64> {
        match self.stack.as_slice() {
            [Frame { seen, attribute: false, .. }] => Some(*seen),
            _ => None,
        }
    }

    fn part(&self, kind: u8, length: u64) -> Part {
        let index = self.index();
        if self.message.is_element {
            return match (kind, index) {
                (b'$', Some(0)) => Part::Channel,
                (b'$', Some(1)) => Part::Payload,
                (b'$', _) if self.stack.is_empty() => Part::Payload,
                _ => Part::Skipped,
            };
        }
        match (kind, index, &self.message.push) {
            (b'!', index, _) if self.stack.is_empty() || index.is_some() => Part::Error,
            (b'$' | b'=', Some(0), Some(_)) if length <= MAX_HEAD as u64 => Part::Kind,
            (b'$' | b'=', Some(index), Some(push)) if index == push.channel_index() => Part::Channel,
            (b'$' | b'=', Some(index), Some(push)) if push.is_published() && index + 1 == push.elements => {
                Part::Payload
            }
            _ => Part::Skipped,
        }
    }

    fn read_body(&mut self, piece: &[u8], part: Part) {
        match (part, &mut self.message.push) {
            (Part::Error, _) => extend(&mut self.head, piece, MAX_HEAD),
            (Part::Kind, Some(push)) => extend(&mut push.kind, piece, MAX_HEAD),
            (Part::Channel, Some(push)) => extend(&mut push.channel, piece, MAX_CHANNEL),
            (Part::Payload, _) => {
                self.digest.update(piece);
                if self.message.is_element {
                    extend(&mut self.element, piece, MAX_ELEMENT);
                }
            }
            _ => {}
        }
    }

    /// Ends a body whose CRLF has been read.
    fn close_body(&mut self, kind: u8, length: u64, part: Part) -> Option<Step> {
        if kind == b';' {
            self.state = State::Chunk;
            return None;
        }
        if kind == b'!' {
            self.note_error();
        }
        if part == Part::Payload
            && let Some(push) = &mut self.message.push
        {
            push.payload = Some(Payload { length, digest: self.digest.finish() });
            push.task = task(&self.element);
            self.element = Vec::new();
        }
        self.close_value()
    }

    fn close_line(&mut self, kind: u8) -> Result<Option<Step>, LossReason> {
        match kind {
            b'-' => self.note_error(),
            b'+' if self.stack.is_empty() => {
                self.message.status = Some(match self.head.as_slice() {
                    b"OK" => Status::Ok,
                    b"QUEUED" => Status::Queued,
                    _ => Status::Other,
                });
            }
            b'_' => self.message.null |= self.stack.is_empty(),
            // All the others have at least one character.
            b':' | b',' | b'#' | b'(' if self.head.is_empty() => return Err(LossReason::Malformed),
            b':' => self.message.empty |= self.stack.is_empty() && self.head == b"0",
            _ => {}
        }
        let index = self.index();
        if let Some(push) = &mut self.message.push {
            match (kind, index) {
                (b'+', Some(0)) => push.kind.clone_from(&self.head),
                (b':', Some(2)) => {
                    push.count = std::str::from_utf8(&self.head).ok().and_then(|text| text.parse().ok());
                }
                _ => {}
            }
        }
        Ok(self.close_value())
    }

    fn note_error(&mut self) {
        let slot = match (self.stack.is_empty(), self.index()) {
            (true, _) => &mut self.message.error,
            (_, Some(_)) => &mut self.message.inner_error,
            _ => return,
        };
        if slot.is_none() {
            *slot = Some(RedisError::from_head(if self.head_whole { &self.head } else { &[] }));
        }
    }

    /// Ends a streamed aggregate.
    fn close_frame(&mut self) -> Option<Step> {
        self.stack.pop();
        self.close_value()
    }

    /// Ends a value, and the aggregates that end with it.
    fn close_value(&mut self) -> Option<Step> {
        self.state = State::Type;
        loop {
            let Some(frame) = self.stack.last_mut() else { return Some(Step::Done) };
            frame.seen += 1;
            frame.left = frame.left.map(|left| left.saturating_sub(1));
            if frame.left != Some(0) {
                let first = frame.seen == 1 && self.stack.len() == 1 && self.message.push.is_some();
                return first.then_some(Step::Kind);
            }
            let attribute = frame.attribute;
            self.stack.pop();
            if attribute {
                return None;
            }
        }
    }
}

/// Reads the task off the beginning of a message of Celery. The arguments come before it, in base64, which has no quotes.
fn task(element: &[u8]) -> Option<Task> {
    let text = |key: &[u8]| {
        let at = element.windows(key.len()).position(|window| window == key)? + key.len();
        let rest = element.get(at..)?.trim_ascii_start().strip_prefix(b":")?;
        let rest = rest.trim_ascii_start().strip_prefix(b"\"")?;
        let end = rest.iter().take(MAX_TASK).position(|byte| matches!(byte, b'"' | b'\\'))?;
        let value = rest.get(..end).filter(|_| rest.get(end) == Some(&b'"'))?;
        std::str::from_utf8(value).ok().map(str::to_owned)
    };
    element.starts_with(b"{").then_some(())?;
    Some(Task { name: text(b"\"task\"")?, id: text(b"\"id\"")? })
}

fn extend(kept: &mut Vec<u8>, piece: &[u8], bound: usize) {
    let room = bound.saturating_sub(kept.len()).min(piece.len());
    kept.extend_from_slice(piece.get(..room).unwrap_or_default());
}

/// Whether a line of this type may have this byte at this position.
fn fits(kind: u8, byte: u8, position: u64) -> bool {
    match kind {
        b'+' | b'-' => byte != b'\n',
        b':' => position < 20 && is_digit_or_sign(byte, position),
        b'(' => is_digit_or_sign(byte, position),
        b',' => position < 64 && (byte.is_ascii_digit() || b"+-.eEinfa".contains(&byte)),
        b'#' => position == 0 && matches!(byte, b't' | b'f'),
        _ => false,
    }
}

fn is_digit_or_sign(byte: u8, position: u64) -> bool {
    byte.is_ascii_digit() || position == 0 && matches!(byte, b'+' | b'-')
}
