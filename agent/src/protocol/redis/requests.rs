//! The request side: commands as arrays of bulk strings, or as plain lines.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec/>, "Sending commands to a Redis server" and
//! "Inline commands".

use super::{
    Payload,
    command::Command,
    wire::{Digest, Length, LengthReader, LengthStep, MAX_BULK, MAX_ELEMENTS, take},
    words,
};
use crate::protocol::{LossReason, Mark};

/// Longest inline command, bytes. Redis takes 64 KiB; nobody types that.
const MAX_INLINE: usize = 1024;

/// A reader of commands that is fed with pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Requests {
    state: State,
    first: Mark,
    bytes: u64,
    arguments_left: u64,
    has_name: bool,
    word: Vec<u8>,
    command: Command,
    digest: Digest,
}

#[derive(Debug, Default)]
enum State {
    /// Between two commands.
    #[default]
    Start,
    /// In the line of the number of arguments.
    Count(LengthReader),
    /// Before the `$` of an argument.
    Dollar,
    /// In the line of an argument's length.
    Length(LengthReader),
    /// In an argument; `left` counts its CRLF too.
    Body { left: u64, length: u64, part: Part },
    /// In a plain line.
    Inline,
}

/// What an argument is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// The command's name.
    Name,
    /// The name of a container's sub-command.
    Sub,
    /// An argument of which the head is kept.
    Kept,
    /// The message of a `PUBLISH`, an element of a list.
    Payload,
    /// An argument that is passed over.
    Skipped,
}

/// What a piece of bytes led to.
#[derive(Debug)]
pub(super) enum Step {
    /// All bytes are used up.
    Need,
    /// A command is complete.
    Ready {
        /// The command.
        command: Command,
        /// Mark of its first byte.
        first: Mark,
        /// Its size on the wire.
        bytes: u64,
    },
    /// The bytes make no sense.
    Bad(LossReason),
}

impl Requests {
    /// Mark of the first byte of the command that has begun and is not complete.
    pub(super) fn begun(&self) -> Option<Mark> {
        (!matches!(self.state, State::Start)).then_some(self.first)
    }

    /// Bytes of the unfinished command so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets the unfinished command.
    pub(super) fn reset(&mut self) {
        self.state = State::Start;
        self.bytes = 0;
    }

    /// Takes a gap, if it lies within an argument whose bytes do not matter. Where it takes an argument's end with
    /// it, the next [`Requests::step`] goes on from there, even without a byte.
    pub(super) fn gap(&mut self, length: u64) -> bool {
        match &mut self.state {
            State::Body { left, part, .. } if *left >= length && !matches!(part, Part::Name | Part::Sub) => {
                match part {
                    Part::Kept => *part = Part::Skipped,
                    Part::Payload => self.digest.skip(length),
                    Part::Name | Part::Sub | Part::Skipped => {}
                }
                *left -= length;
                self.bytes += length;
                true
            }
            _ => false,
        }
    }

    /// Reads on until something is complete. Reads nothing more after `Bad`.
    pub(super) fn step(&mut self, bytes: &mut &[u8], mark: Mark) -> Step {
        loop {
            if let State::Body { left: 0, .. } = self.state
                && let Some(ready) = self.close_argument()
            {
                return ready;
            }
            if bytes.is_empty() {
                return Step::Need;
            }
            if let Err(reason) = self.advance(bytes, mark) {
                return Step::Bad(reason);
            }
            if let State::Start = self.state
                && self.has_name
            {
                return self.ready();
            }
        }
    }

    fn ready(&mut self) -> Step {
        self.has_name = false;
        let bytes = std::mem::take(&mut self.bytes);
        Step::Ready { command: std::mem::take(&mut self.command), first: self.first, bytes }
    }

    /// Reads one header byte, or as much of a body as there is.
    fn advance(&mut self, bytes: &mut &[u8], mark: Mark) -> Result<(), LossReason> {
        let Some(&byte) = bytes.first() else { return Ok(()) };
        if let State::Body { left, length, part } = self.state
            && left > 2
        {
            let piece = take(bytes, left - 2);
            self.bytes += piece.len() as u64;
            self.read_body(piece, part);
            self.state = State::Body { left: left - piece.len() as u64, length, part };
            return Ok(());
        }
        *bytes = bytes.get(1..).unwrap_or_default();
        if let State::Start = self.state {
            self.bytes = 0;
            self.first = mark;
        }
        self.bytes += 1;
        match &mut self.state {
            State::Start => {
                self.has_name = false;
                self.command = Command::default();
                self.word.clear();
                if byte == b'*' {
                    self.state = State::Count(LengthReader::default());
                    return Ok(());
                }
                self.state = State::Inline;
                self.inline(byte)
            }
            State::Inline => self.inline(byte),
            State::Count(reader) => match reader.push(byte) {
                LengthStep::More => Ok(()),
                LengthStep::Done(Length::Known(count)) if (1..=MAX_ELEMENTS).contains(&count) => {
                    self.arguments_left = count;
                    self.state = State::Dollar;
                    Ok(())
                }
                // An empty command is passed over by the server, too.
                LengthStep::Done(Length::Known(0) | Length::Null) => {
                    self.reset();
                    Ok(())
                }
                _ => Err(LossReason::Malformed),
            },
            State::Dollar if byte == b'$' => {
                self.state = State::Length(LengthReader::default());
                Ok(())
            }
            State::Length(reader) => match reader.push(byte) {
                LengthStep::More => Ok(()),
                LengthStep::Done(Length::Known(length)) if length <= MAX_BULK => self.open_argument(length),
                _ => Err(LossReason::Malformed),
            },
            State::Body { left, .. } if *left == 2 && byte == b'\r' || *left == 1 && byte == b'\n' => {
                *left -= 1;
                Ok(())
            }
            State::Dollar | State::Body { .. } => Err(LossReason::Malformed),
        }
    }

    fn read_body(&mut self, piece: &[u8], part: Part) {
        match part {
            Part::Name | Part::Sub => self.word.extend_from_slice(piece),
            Part::Kept => self.command.extend_argument(piece),
            Part::Payload => {
                self.command.extend_argument(piece);
                self.digest.update(piece);
            }
            Part::Skipped => {}
        }
    }

    fn open_argument(&mut self, length: u64) -> Result<(), LossReason> {
        let part = if !self.has_name {
            // A name that no server knows is more likely a misunderstanding than a command.
            if !(1..=words::MAX_WORD as u64).contains(&length) {
                return Err(LossReason::Malformed);
            }
            Part::Name
        } else if self.expects_sub() && length <= words::MAX_WORD as u64 {
            Part::Sub
        } else {
            let is_payload = self.command.payload_is_next();
            let wanted = self.command.open_argument(length);
            if is_payload {
                self.digest = Digest::default();
                Part::Payload
            } else if wanted {
                Part::Kept
            } else {
                Part::Skipped
            }
        };
        self.state = State::Body { left: length + 2, length, part };
        Ok(())
    }

    fn expects_sub(&self) -> bool {
        words::is_container(&self.command.name)
            && self.command.sub.is_none()
            && self.command.argument_count == 0
    }

    /// Ends an argument whose CRLF has been read. Gives the command, if it was its last.
    fn close_argument(&mut self) -> Option<Step> {
        let State::Body { length, part, .. } = self.state else { return None };
        match part {
            Part::Name => {
                let Some(name) = upper(&self.word) else { return Some(Step::Bad(LossReason::Malformed)) };
                self.command.name = name;
                self.has_name = true;
                self.word.clear();
            }
            Part::Sub => {
                self.command.sub = upper(&self.word);
                if self.command.sub.is_none() {
                    self.command.open_argument(length);
                }
                self.word.clear();
            }
            Part::Payload => {
                self.command.payloads.push(Payload { length, digest: self.digest.finish() });
            }
            Part::Kept | Part::Skipped => {}
        }
        self.arguments_left = self.arguments_left.saturating_sub(1);
        self.state = if self.arguments_left == 0 { State::Start } else { State::Dollar };
        (self.arguments_left == 0).then(|| self.ready())
    }

    fn inline(&mut self, byte: u8) -> Result<(), LossReason> {
        if byte == b'\n' {
            return self.close_inline();
        }
        let blank = matches!(byte, b' ' | b'\t' | b'\r');
        if !blank && !(0x20..0x7f).contains(&byte) || self.word.len() >= MAX_INLINE {
            return Err(LossReason::Malformed);
        }
        self.word.push(byte);
        let known = match self.word.iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            None => words::begins_inline(&self.word),
            Some(0) => self.word == b"\r",
            Some(end) => self.word.get(..end).is_some_and(words::is_inline),
        };
        if known { Ok(()) } else { Err(LossReason::Malformed) }
    }

    fn close_inline(&mut self) -> Result<(), LossReason> {
        let line = std::mem::take(&mut self.word);
        let mut words =
            line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r')).filter(|word| !word.is_empty());
        self.state = State::Start;
        let Some(name) = words.next() else {
            self.bytes = 0;
            return Ok(());
        };
        if !words::is_inline(name) {
            return Err(LossReason::Malformed);
        }
        self.command.name = upper(name).ok_or(LossReason::Malformed)?;
        self.has_name = true;
        for word in words {
            if self.expects_sub() {
                self.command.sub = upper(word);
            } else if self.command.open_argument(word.len() as u64) {
                self.command.extend_argument(word);
            }
        }
        Ok(())
    }
}

/// A name as it is compared and shown, if these bytes can be one.
fn upper(word: &[u8]) -> Option<String> {
    if word.is_empty() || word.len() > words::MAX_WORD || !word.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    std::str::from_utf8(word).ok().map(str::to_ascii_uppercase)
}
