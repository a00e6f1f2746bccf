//! One command, kept within bounds.

use super::{Payload, words};

/// Arguments kept of one command.
pub const MAX_ARGUMENTS: usize = 32;

/// Payloads kept of one command.
const MAX_PAYLOADS: usize = 64;

/// Bytes kept of one argument.
pub const MAX_ARGUMENT: usize = 128;

/// One command as it was sent. Of its arguments only the heads are kept, and nothing at all of those that carry
/// passwords.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Command {
    /// Its name in upper case (`GET`).
    pub name: String,
    /// The sub-command of a container command in upper case (`SETINFO` of `CLIENT SETINFO`).
    pub sub: Option<String>,
    /// Number of arguments after name and sub-command; more than [`Command::arguments`] may give.
    pub argument_count: u64,
    /// The message of a `PUBLISH` or `SPUBLISH`, or the first elements that a command appends to a list.
    pub payloads: Vec<Payload>,
    kept: Vec<Kept>,
    text: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Kept {
    end: usize,
    length: u64,
    hidden: bool,
}

/// What is known of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument<'a> {
    /// It may be a secret and was dropped when it was read.
    Hidden,
    /// Its first bytes, at most [`MAX_ARGUMENT`].
    Bytes {
        /// The first bytes.
        head: &'a [u8],
        /// Length of the whole, bytes.
        length: u64,
    },
}

impl Command {
    /// Name and sub-command, as `db.operation.name` wants them: `GET`, `CLIENT SETINFO`.
    pub fn operation(&self) -> String {
        match &self.sub {
            Some(sub) => format!("{} {sub}", self.name),
            None => self.name.clone(),
        }
    }

    /// Whether this is what [`Command::operation`] gives.
    pub(crate) fn is_operation(&self, operation: &str) -> bool {
        match (&self.sub, operation.strip_prefix(self.name.as_str())) {
            (None, Some("")) => true,
            (Some(sub), Some(rest)) => rest.strip_prefix(' ') == Some(sub),
            _ => false,
        }
    }

    /// The kept arguments after name and sub-command.
    pub fn arguments(&self) -> impl Iterator<Item = Argument<'_>> {
        let mut start = 0;
        self.kept.iter().map(move |kept| {
            let head = self.text.get(start..kept.end).unwrap_or_default();
            start = kept.end;
            if kept.hidden { Argument::Hidden } else { Argument::Bytes { head, length: kept.length } }
        })
    }

    /// One argument that was kept whole, as text.
    pub(super) fn whole(&self, index: usize) -> Option<&str> {
        match self.arguments().nth(index)? {
            Argument::Bytes { head, length } if head.len() as u64 == length => std::str::from_utf8(head).ok(),
            _ => None,
        }
    }

    /// Whether it is this command of a container.
    pub(super) fn is(&self, name: &str, sub: &str) -> bool {
        self.name == name && self.sub.as_deref() == Some(sub)
    }

    /// Whether it waits for an element of a list, takes it away and gives it. (`BLMPOP` gives several.)
    pub fn waits(&self) -> bool {
        matches!(self.name.as_str(), "BLPOP" | "BRPOP" | "BLMOVE" | "BRPOPLPUSH")
    }

    /// Whether it sends messages to a channel.
    pub fn publishes(&self) -> bool {
        matches!(self.name.as_str(), "PUBLISH" | "SPUBLISH")
    }

    /// Whether it asks for messages of channels.
    pub fn subscribes(&self) -> bool {
        matches!(self.name.as_str(), "SUBSCRIBE" | "PSUBSCRIBE" | "SSUBSCRIBE")
    }

    /// Whether it appends elements to a list.
    pub fn appends(&self) -> bool {
        matches!(self.name.as_str(), "LPUSH" | "RPUSH" | "LPUSHX" | "RPUSHX")
    }

    /// Whether the argument that comes next goes to a receiver as it is.
    pub(super) fn payload_is_next(&self) -> bool {
        self.payloads.len() < MAX_PAYLOADS
            && (self.publishes() && self.argument_count == 1 || self.appends() && self.argument_count >= 1)
    }

    /// The beginning of its first argument as text: the list or channel of a command that has one.
    pub fn destination(&self) -> String {
        match self.arguments().next() {
            Some(Argument::Bytes { head, .. }) => String::from_utf8_lossy(head).into_owned(),
            _ => String::new(),
        }
    }

    /// Whether it frames a transaction instead of doing work.
    pub(super) fn is_bracket(&self) -> bool {
        matches!(self.name.as_str(), "MULTI" | "EXEC" | "DISCARD")
    }

    /// Bytes of arguments kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.text.len()
    }

    /// Drops what was kept of the arguments.
    pub(super) fn forget_arguments(&mut self) {
        self.kept = Vec::new();
        self.text = Vec::new();
    }

    /// Takes the next argument, of which nothing has been read yet. Says whether its bytes are wanted.
    pub(super) fn open_argument(&mut self, length: u64) -> bool {
        let index = self.argument_count;
        self.argument_count += 1;
        if self.kept.len() >= MAX_ARGUMENTS {
            return false;
        }
        let hidden = words::first_secret(&self.name, self.sub.as_deref()).is_some_and(|first| index >= first);
        self.kept.push(Kept { end: self.text.len(), length, hidden });
        !hidden
    }

    /// Takes bytes of the argument opened last, as far as there is room.
    pub(super) fn extend_argument(&mut self, bytes: &[u8]) {
        if let Some(last) = self.kept.len().checked_sub(1) {
            let start =
                last.checked_sub(1).and_then(|before| self.kept.get(before)).map_or(0, |kept| kept.end);
            let room = MAX_ARGUMENT.saturating_sub(self.text.len() - start);
            self.text.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
            if let Some(kept) = self.kept.last_mut() {
                kept.end = self.text.len();
            }
        }
    }
}
