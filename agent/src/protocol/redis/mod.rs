//! Redis (and Valkey, `KeyDB`, Dragonfly): RESP2 and RESP3.
//!
//! An exchange is a command or a pipeline with all its replies. What belongs to a pipeline is decided by system calls
//! and not by how bytes arrive here: a command continues the batch of the one before it if its first byte left in the
//! call that finished the one before. `MULTI` … `EXEC` in one burst are one batch, too; sent one by one they are single
//! commands.
//!
//! [`requests`] and [`replies`] read the two directions, this file pairs them. After bytes that are missing or make no
//! sense, the request side looks for a command at the beginning of each call; the response side is passed over until
//! the next command has been sent while nothing was outstanding, for what follows is its reply.

mod command;
mod detect;
mod open;
mod replies;
mod requests;
mod session;
mod span;
mod subscriptions;
mod wire;
mod words;

#[cfg(test)]
mod tests;

pub use self::{
    command::{Argument, Command, MAX_ARGUMENT, MAX_ARGUMENTS},
    detect::detect,
    session::Redis,
    span::describe,
};

/// A command or a pipeline and its outcome, or a message that the server sent unasked.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What it is.
    pub kind: Kind,
    /// The first commands, in order; [`Batch::count`] tells how many there were.
    pub commands: Vec<Command>,
    /// Number of commands on the wire.
    pub count: u64,
    /// How many of them were `MULTI`, `EXEC` or `DISCARD`.
    pub brackets: u64,
    /// The operation that all commands except `MULTI`, `EXEC` and `DISCARD` have in common, those included that are
    /// not kept.
    pub operation: Option<String>,
    /// It holds a whole transaction, `MULTI` to `EXEC`.
    pub transaction: bool,
    /// The first error among the replies.
    pub error: Option<RedisError>,
    /// What its first blocking command has taken from a list.
    pub popped: Option<Popped>,
    /// Nothing but null, zero and what is empty was answered.
    pub nothing: bool,
    /// Index of the database in use when it ended; `None` where neither the beginning of the connection nor a
    /// `SELECT` or `RESET` was seen.
    pub database: Option<u32>,
    /// How it ended.
    pub ended: Ended,
}

/// What a batch is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A single command.
    Command,
    /// Several commands that were sent together.
    Pipeline,
    /// A message that the server sent unasked.
    Push {
        /// The message's first element, such as `message`, `pmessage`, `invalidate`.
        kind: String,
        /// The beginning of the channel, empty for other messages.
        channel: String,
        /// What was published.
        payload: Option<Payload>,
    },
}

/// A published message, or an element of a list: enough to recognise it at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Length in bytes.
    pub length: u64,
    /// FNV-1a of the first 1,024 bytes; none where some of them were not captured.
    pub digest: Option<u64>,
}

/// What a blocking command has taken from a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Popped {
    /// The beginning of the list's name.
    pub list: String,
    /// The element.
    pub payload: Payload,
    /// What it is to Celery.
    pub task: Option<Task>,
}

/// A message of Celery as kombu writes it on a list: JSON, of which the headers name the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Name of the task.
    pub name: String,
    /// Its id, mostly a UUID.
    pub id: String,
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisError {
    /// The word in capitals that it begins with (`WRONGTYPE`, `MOVED`); `ERR`, the generic one, where there is none.
    /// The message itself is not kept: it may quote arguments.
    pub prefix: String,
}

impl RedisError {
    /// Reads the prefix off the beginning of an error's text.
    fn from_head(head: &[u8]) -> Self {
        let word = head.split(|byte| *byte == b' ').next().unwrap_or_default();
        let is_prefix = (2..=24).contains(&word.len())
            && word.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_');
        let prefix = if is_prefix { String::from_utf8_lossy(word).into_owned() } else { "ERR".to_owned() };
        Self { prefix }
    }
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All its replies came.
    Complete,
    /// The connection was closed before.
    Cut,
    /// Bytes are missing, or were not understood: its outcome is not known.
    Gap,
}

impl Batch {
    /// Whether it does nothing but wait for an element of a list.
    pub fn waits(&self) -> bool {
        self.count == 1 && self.commands.first().is_some_and(Command::waits)
    }

    /// Number of operations, without the commands that frame a transaction around others.
    pub fn operations(&self) -> u64 {
        if self.transaction { self.count.saturating_sub(self.brackets) } else { self.count }
    }
}
