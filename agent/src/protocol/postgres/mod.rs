//! `PostgreSQL`, frontend/backend protocol 3.
//!
//! | file | what |
//! |---|---|
//! | `detect` | a first look at bytes: is it this protocol, and which side |
//! | `wire` | bytes → messages, row data skipped by count |
//! | `resync` | the next message boundary after a gap |
//! | `table` | prepared statements and portals by name |
//! | `request` | what the client sends: exchanges begin |
//! | `pairing`, `response` | which answer belongs to what; exchanges end |
//! | `sql`, `summary` | literals out of statements, statements in a few words |
//! | `texts` | statements that were read already |
//! | `span` | a statement as a span of the semantic conventions |
//!
//! One call of a library is one exchange: a simple query with all its statements, or one execution of a prepared
//! statement. Executions of the same statement that follow each other without a `Sync` between them (`executemany`)
//! are one exchange with a batch size.
//!
//! Source: *`PostgreSQL` documentation, Frontend/Backend Protocol* (Message Flow, Message Formats).

mod detect;
mod pairing;
mod request;
mod response;
mod resync;
mod span;
pub mod sql;
mod summary;
mod table;
#[cfg(test)]
mod tests;
mod texts;
mod wire;

use std::sync::Arc;

pub use self::{detect::detect, response::notification_digest, span::describe, texts::Texts};
use self::{
    pairing::Pairing,
    resync::{RequestSearch, Search},
    table::{Table, Text},
    wire::{Framer, Step},
};
use super::{Event, LossReason, Mark, Parser, Side};

/// What kind of thing a [`Statement`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A simple query, of one statement or several.
    Simple,
    /// A statement executed, or prepared in vain, with the extended query protocol.
    Extended,
    /// A `COPY`, in either protocol.
    Copy,
    /// A function called by its object id (the large-object functions of libpq).
    Function {
        /// The function's object id.
        oid: u32,
    },
    /// A `NOTIFY` that the server passed on.
    Notification {
        /// Channel.
        channel: String,
        /// Process id of the session that said it.
        pid: u32,
        /// Length of the payload in bytes; the payload itself is not kept.
        payload_size: usize,
        /// 64-bit FNV-1a of channel, zero byte and payload: equal on all listeners.
        digest: u64,
    },
    /// A request, on a connection of its own, to cancel what another connection is doing.
    Cancel,
}

/// How a statement's exchange was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// The server said so: completion or error.
    Complete,
    /// The portal has more rows than were asked for.
    Suspended,
    /// The server never ran it because something before it in the same batch failed.
    Skipped,
    /// The connection was closed before the answer.
    Cut,
    /// Its answer was hidden in bytes that were not captured.
    Gap,
}

/// State of a session's transaction, from `ReadyForQuery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transaction {
    /// Not in a transaction block.
    Idle,
    /// In a transaction block.
    Active,
    /// In a transaction block that has failed.
    Failed,
}

/// An `ErrorResponse` without its message, which may quote values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgError {
    /// Five characters, *`PostgreSQL` Error Codes*.
    pub sqlstate: String,
    /// `ERROR`, `FATAL` or `PANIC`.
    pub severity: String,
}

/// What is known of a session; parts are `None` where they were said before the connection was watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// User of the startup message.
    pub user: Option<String>,
    /// Database of the startup message, which is the user's name where it gives none.
    pub database: Option<String>,
    /// `application_name`, as last reported.
    pub application_name: Option<String>,
    /// `server_version`.
    pub server_version: Option<String>,
    /// Process id of the server's side, which notifications bear.
    pub backend: Option<u32>,
}

/// One statement, or the statements of one simple query, and the outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// What it is.
    pub kind: Kind,
    /// Text as sent, at most 16 KiB; `None` where it was prepared before the connection was watched.
    pub text: Option<Arc<str>>,
    /// The text went on.
    pub truncated: bool,
    /// Name of the prepared statement; `None` for the unnamed one and for simple queries.
    pub name: Option<Arc<str>>,
    /// Command tag of `CommandComplete`, such as `INSERT 0 1`; the last one of a batch or of several statements.
    pub tag: Option<String>,
    /// Rows returned or affected, over the whole batch and all statements, of which only those that return rows count
    /// if any does; `None` where it failed or not all of it was seen.
    pub rows: Option<u64>,
    /// It is a statement that returns rows, or has one.
    pub returns_rows: bool,
    /// The error it ended with.
    pub error: Option<PgError>,
    /// The session, if anything is known of it.
    pub session: Option<Arc<Session>>,
    /// How it was over.
    pub ended: Ended,
    /// How many executions, if more than one.
    pub batch: Option<u32>,
    /// How many statements of a simple query the server answered, if more than one and known.
    pub statements: Option<u32>,
    /// State of the transaction in which it was sent, as far as known.
    pub transaction: Option<Transaction>,
}

impl Statement {
    /// Its answer is not known, or there was none.
    pub fn ended_early(&self) -> bool {
        matches!(self.ended, Ended::Skipped | Ended::Cut | Ended::Gap)
    }
}

/// A preparation whose first execution has not been seen.
#[derive(Debug)]
struct Prepared {
    name: Arc<str>,
    first: Mark,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Postgres {
    requests: Framer,
    responses: Framer,
    request_search: RequestSearch,
    search: Search,
    table: Table,
    pairing: Pairing,
    /// The preparation that the next execution may belong to.
    prepared: Option<Prepared>,
    /// The next response byte answers an encryption request.
    negotiating: bool,
    encrypted: bool,
    /// The exchange of a cancel request; nothing follows it.
    cancel: Option<u64>,
}

impl Default for Postgres {
    fn default() -> Self {
        Self::new()
    }
}

impl Postgres {
    /// A connection of which nothing has been seen. The first bytes may be those of the connection or of any message.
    pub fn new() -> Self {
        Self {
            requests: Framer::new(Side::Request),
            responses: Framer::new(Side::Response),
            request_search: RequestSearch::default(),
            search: Search::default(),
            table: Table::default(),
            pairing: Pairing::default(),
            prepared: None,
            negotiating: false,
            encrypted: false,
            cancel: None,
        }
    }

    /// The peers have agreed on encryption: what follows on this connection is of no use here.
    pub fn encrypted(&self) -> bool {
        self.encrypted
    }

    fn framer(&mut self, side: Side) -> &mut Framer {
        match side {
            Side::Request => &mut self.requests,
            Side::Response => &mut self.responses,
        }
    }

    fn run(&mut self, side: Side, mut rest: &[u8], mark: Mark, out: &mut Vec<Event>) {
        loop {
            if self.encrypted || self.cancel.is_some() {
                return;
            }
            if side == Side::Response && self.negotiating && self.responses.at_boundary() && !rest.is_empty()
            {
                self.negotiated(&mut rest, mark, out);
                continue;
            }
            if self.framer(side).is_lost() && !self.resume(side, &mut rest, mark, out) {
                return;
            }
            match self.framer(side).advance(&mut rest, mark) {
                Some(Step::Head { kind, first }) if side == Side::Response => {
                    self.pairing.head(kind, first, out);
                }
                Some(Step::Head { .. }) => {}
                Some(Step::Message(message)) => {
                    match side {
                        Side::Request => self.request(&message, out),
                        Side::Response => self.pairing.response(&message, out),
                    }
                    self.framer(side).recycle(message.body);
                }
                Some(Step::Malformed(head)) => {
                    out.push(Event::Lost { reason: LossReason::Malformed, bytes: head.len() as u64 });
                    self.lost(side, mark, out);
                }
                None => return,
            }
        }
    }

    /// Takes the single byte that answers an encryption request.
    fn negotiated(&mut self, rest: &mut &[u8], mark: Mark, out: &mut Vec<Event>) {
        // `N` is followed by a startup message or another request; an old server answers with an error message.
        match rest.first() {
            Some(b'S') => {
                self.encrypted = true;
                let (protocol, request, response) = ("tls".to_owned(), Vec::new(), Vec::new());
                out.push(Event::Upgrade { protocol, at: mark, opening: None, request, response });
            }
            Some(b'G') => self.encrypted = true,
            Some(b'N') => *rest = rest.get(1..).unwrap_or_default(),
            _ => {}
        }
        self.negotiating = false;
    }

    fn lost(&mut self, side: Side, mark: Mark, out: &mut Vec<Event>) {
        match side {
            Side::Request => {
                self.doubt();
                self.request_search.begin(mark);
                self.pairing.requests_hidden(mark, out);
            }
            Side::Response => self.pairing.responses_hidden(out),
        }
        self.framer(side).lose();
    }

    /// Looks for the next message; `false` where these bytes do not have it.
    fn resume(&mut self, side: Side, rest: &mut &[u8], mark: Mark, out: &mut Vec<Event>) -> bool {
        if side == Side::Request {
            let (found, lost) = self.request_search.advance(rest, mark);
            report_skipped(lost, out);
            let Some(found) = found else { return false };
            self.requests.resume();
            if found.synced {
                self.pairing.requests_found();
            }
            self.run(side, &found.messages, mark, out);
            return true;
        }
        let found = self.search.advance(rest);
        report_skipped(found.lost, out);
        if found.messages.is_empty() {
            return false;
        }
        self.responses.resume();
        self.pairing.responses_found(&found.messages, mark, out);
        self.run(side, &found.messages, mark, out);
        true
    }
}

impl Parser for Postgres {
    fn data(&mut self, side: Side, bytes: &[u8], mark: Mark, out: &mut Vec<Event>) {
        if !bytes.is_empty() {
            self.run(side, bytes, mark, out);
        }
    }

    fn gap(&mut self, side: Side, length: u64, mark: Mark, out: &mut Vec<Event>) {
        if length == 0 || self.encrypted || self.cancel.is_some() {
            return;
        }
        let hidden = self.framer(side).gap(length, mark);
        // A message that ended in the gap is still to be looked at.
        self.run(side, &[], mark, out);
        if hidden == 0 {
            return;
        }
        let skipped = match side {
            Side::Request => self.request_search.abandon(),
            Side::Response => self.search.abandon(),
        };
        report_skipped(skipped, out);
        out.push(Event::Lost { reason: LossReason::Gap, bytes: hidden });
        self.lost(side, mark, out);
    }

    fn close(&mut self, mark: Mark, out: &mut Vec<Event>) {
        report_skipped(self.request_search.abandon() + self.search.abandon(), out);
        match self.cancel.take() {
            // Closing the connection is the server's whole answer.
            Some(number) => self.pairing.end(number, Ended::Complete, mark, out),
            None => self.pairing.end_all(Ended::Cut, mark, out),
        }
    }
}

fn report_skipped(bytes: u64, out: &mut Vec<Event>) {
    if bytes > 0 {
        out.push(Event::Lost { reason: LossReason::Resync, bytes });
    }
}
