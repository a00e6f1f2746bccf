//! An exchange that has begun, and the replies that it waits for.

use std::collections::VecDeque;

use super::{Batch, Ended, Kind, command::Command, subscriptions::Action};
use crate::protocol::Mark;

/// Commands kept of one batch.
const MAX_COMMANDS: usize = 64;

/// Bytes of arguments kept of one batch.
const MAX_KEPT_BYTES: usize = 16 << 10;

/// An exchange that has begun.
#[derive(Debug)]
pub(super) struct Open {
    /// Its number.
    pub(super) exchange: u64,
    /// What is known of it.
    pub(super) batch: Batch,
    /// Replies to come.
    pub(super) runs: VecDeque<Run>,
    /// Whether a reply has begun.
    pub(super) replied: bool,
    /// Mark of the last byte of its last command.
    pub(super) sent: Mark,
    /// Mark of the last byte seen of it in either direction.
    pub(super) last: Mark,
    kept_bytes: usize,
    in_transaction: bool,
    mixed: bool,
}

/// Like replies to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// What each of them does.
    pub(super) expect: Expect,
    /// How many.
    pub(super) count: u64,
}

/// What a reply does to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    /// Nothing.
    Plain,
    /// `OK` changes the database.
    Select(Option<u32>),
    /// An array holds the replies of the transaction.
    Exec,
    /// The transaction is forgotten.
    Discard,
    /// The protocol's version changes.
    Hello,
    /// The connection is as new.
    Reset,
    /// An element of a list, with the list's name before it or not; nil after a time.
    Element,
    /// What follows is a stream of another kind (`MONITOR`, replication).
    Stream,
    /// So many confirmations; none stands for one per subscription of that kind.
    Subscription(Action, Option<u64>),
}

impl Expect {
    /// What answers this command.
    pub(super) fn of(command: &Command) -> Self {
        match command.name.as_str() {
            "SELECT" => Self::Select(command.whole(0).and_then(|index| index.parse().ok())),
            "EXEC" => Self::Exec,
            "DISCARD" => Self::Discard,
            "HELLO" => Self::Hello,
            "RESET" => Self::Reset,
            _ if command.waits() => Self::Element,
            "MONITOR" | "SYNC" | "PSYNC" => Self::Stream,
            name => Action::of(name.as_bytes()).map_or(Self::Plain, |action| {
                let count = command.argument_count;
                Self::Subscription(action, (count > 0 || action.adds()).then_some(count.max(1)))
            }),
        }
    }
}

impl Open {
    /// A batch whose first command is about to be added.
    pub(super) fn new(exchange: u64) -> Self {
        Self {
            exchange,
            batch: Batch::empty(Kind::Command),
            runs: VecDeque::new(),
            replied: false,
            sent: Mark::default(),
            last: Mark::default(),
            kept_bytes: 0,
            in_transaction: false,
            mixed: false,
        }
    }

    /// Adds a command that was complete at `at`, and the reply it will have. True if that makes a new run.
    pub(super) fn add(&mut self, mut command: Command, expect: Option<Expect>, at: Mark) -> bool {
        self.sent = at;
        self.last = at;
        let batch = &mut self.batch;
        batch.count += 1;
        if batch.count > 1 {
            batch.kind = Kind::Pipeline;
        }
        if command.is_bracket() {
            batch.brackets += 1;
            batch.transaction |= self.in_transaction && command.name == "EXEC";
            self.in_transaction = command.name == "MULTI";
        } else if !self.mixed {
            match &batch.operation {
                None => batch.operation = Some(command.operation()),
                Some(operation) if command.is_operation(operation) => {}
                Some(_) => {
                    batch.operation = None;
                    self.mixed = true;
                }
            }
        }
        if batch.commands.len() < MAX_COMMANDS {
            if self.kept_bytes + command.kept_bytes() > MAX_KEPT_BYTES {
                command.forget_arguments();
            }
            self.kept_bytes += command.kept_bytes();
            batch.commands.push(command);
        }
        match (expect, self.runs.back_mut()) {
            (None, _) => false,
            (Some(Expect::Plain), Some(Run { expect: Expect::Plain, count })) => {
                *count += 1;
                false
            }
            (Some(expect), _) => {
                self.runs.push_back(Run { expect, count: 1 });
                true
            }
        }
    }
}

impl Batch {
    /// A batch of which nothing is known yet.
    pub(super) fn empty(kind: Kind) -> Self {
        Self {
            kind,
            commands: Vec::new(),
            count: 0,
            brackets: 0,
            operation: None,
            transaction: false,
            error: None,
            popped: None,
            nothing: true,
            database: None,
            ended: Ended::Complete,
        }
    }
}
