//! Which answers are awaited, and for what.
//!
//! The server answers in the order in which it was asked, and an answer does not say what it answers. So everything
//! that will be answered stands in a queue. Where bytes were hidden, exchanges end as [`Ended::Gap`] rather than be
//! paired with the answer of another.

use std::{collections::VecDeque, sync::Arc};

use super::{Ended, Kind, PgError, Session, Statement, Transaction, sql, table::Source, wire::Message};
use crate::protocol::{Detail, Event, LossReason, Mark};

/// Most messages, and most exchanges, that may await an answer.
const MAX_QUEUE: usize = 4096;
/// Most bytes of statement text that may await an answer.
const MAX_HELD: usize = 1 << 20;

/// What will be answered.
#[derive(Debug)]
pub(super) enum Expect {
    /// A startup message: authentication, parameters, `ReadyForQuery`.
    Startup,
    /// A simple query: answers of each of its statements, `ReadyForQuery`.
    Query,
    /// `ParseComplete`.
    Parse,
    /// `BindComplete`.
    Bind,
    /// `ParameterDescription` of statements, then `RowDescription` or `NoData`.
    Describe,
    /// `CloseComplete`.
    Close,
    /// Rows and the completion of so many executions, the later ones with their `BindComplete` before.
    Execute { left: u32, many: bool },
    /// `ReadyForQuery`.
    Sync,
    /// `FunctionCallResponse`, `ReadyForQuery`.
    Function,
    /// Not answered: the client's data of a `COPY` ends here.
    CopyEnd,
    /// Requests that were not seen, up to a `ReadyForQuery`; if it is not `certain`, that may have been hidden or
    /// may not be awaited at all.
    Unknown { certain: bool },
}

/// Something that awaits an answer.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) expect: Expect,
    /// The exchange that it belongs to.
    pub(super) exchange: Option<u64>,
    /// The statement that it concerns.
    pub(super) source: Option<Source>,
    pub(super) first: Mark,
    pub(super) at: Mark,
}

impl Item {
    pub(super) fn new(expect: Expect, source: Option<Source>, message: &Message) -> Self {
        Self { expect, exchange: None, source, first: message.first, at: message.last }
    }

    pub(super) fn unknown(certain: bool, at: Mark) -> Self {
        Self { expect: Expect::Unknown { certain }, exchange: None, source: None, first: at, at }
    }

    /// Its answer ends with `ReadyForQuery`.
    pub(super) fn ends_batch(&self) -> bool {
        matches!(
            self.expect,
            Expect::Startup | Expect::Query | Expect::Sync | Expect::Function | Expect::Unknown { .. }
        )
    }

    fn prepares(&self) -> bool {
        matches!(self.expect, Expect::Parse | Expect::Bind | Expect::Describe)
    }
}

/// An exchange that has begun.
#[derive(Debug)]
pub(super) struct Open {
    number: u64,
    pub(super) kind: Kind,
    pub(super) source: Option<Source>,
    replied: bool,
    /// Executions sent.
    pub(super) executions: u32,
    /// Executions that await their answer.
    pub(super) pending: u32,
    /// Statements of a simple query that are answered.
    pub(super) statements: u32,
    /// One of them is, and nothing was hidden since.
    pub(super) answered: bool,
    /// Rows seen.
    pub(super) seen: u64,
    /// Rows according to the command tags.
    pub(super) counted: Option<u64>,
    /// The statement under way returns rows.
    pub(super) returns_rows: bool,
    /// One before it in the same simple query did.
    pub(super) returned_rows: bool,
    /// Parts of the answer were hidden.
    pub(super) hidden: bool,
    pub(super) tag: Option<String>,
    pub(super) error: Option<PgError>,
    pub(super) ended: Ended,
    pub(super) last: Mark,
    transaction: Option<Transaction>,
}

/// Answers to requests that were not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Orphans {
    /// None.
    #[default]
    None,
    /// Those of a preparation, which may end with a `Flush`: the next answer may be to the next request.
    Preparation,
    /// Others: what comes up to `ReadyForQuery` need not be for the next request.
    Execution,
}

/// The queue and the exchanges in it.
#[derive(Debug, Default)]
pub(super) struct Pairing {
    pub(super) items: VecDeque<Item>,
    open: VecDeque<Open>,
    next: u64,
    /// Bytes of text held by open exchanges.
    held: usize,
    pub(super) session: Option<Arc<Session>>,
    pub(super) status: Option<Transaction>,
    /// After an error, with no `Sync` sent yet: the server ignores everything up to it.
    pub(super) skipping: bool,
    /// The server is in `COPY … FROM STDIN` of an extended query, where it ignores `Sync`.
    pub(super) copying: bool,
    /// The exchange that further executions of the same statement may join.
    pub(super) batch: Option<u64>,
    /// An execution that is complete, unless the `Sync` behind it fails.
    pub(super) settling: Option<u64>,
    /// What came since the last `ReadyForQuery` while nothing was awaited.
    pub(super) orphans: Orphans,
    /// Response bytes were hidden, and no place to go on has been found.
    pub(super) hidden: bool,
    /// After hidden bytes, answers may be missing up to the next `ReadyForQuery`.
    pub(super) lenient: bool,
    /// The client has been seen to send a batch before the answer to the one before.
    pipelines: bool,
}

impl Pairing {
    /// Begins an exchange.
    pub(super) fn begin(
        &mut self,
        kind: Kind,
        source: Option<Source>,
        first: Mark,
        at: Mark,
        out: &mut Vec<Event>,
    ) -> u64 {
        if self.open.len() >= MAX_QUEUE || self.held > MAX_HELD {
            self.overflow(at, out);
        }
        let number = self.next;
        self.next += 1;
        self.held += held(source.as_ref());
        self.open.push_back(Open {
            number,
            kind,
            source,
            replied: false,
            executions: 1,
            pending: 1,
            statements: 0,
            answered: false,
            seen: 0,
            counted: None,
            returns_rows: false,
            returned_rows: false,
            hidden: false,
            tag: None,
            error: None,
            ended: Ended::Complete,
            last: at,
            transaction: self.status,
        });
        out.push(Event::Begin { exchange: number, first, at, incoming: None });
        number
    }

    pub(super) fn open(&mut self, number: u64) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| open.number == number)
    }

    /// The first byte of an answer has been seen.
    pub(super) fn reply(&mut self, number: u64, at: Mark, out: &mut Vec<Event>) {
        if let Some(open) = self.open(number)
            && !open.replied
        {
            open.replied = true;
            out.push(Event::Reply { exchange: number, at });
        }
    }

    /// Ends an exchange, if it is still open.
    pub(super) fn end(&mut self, number: u64, ended: Ended, at: Mark, out: &mut Vec<Event>) {
        let Some(open) =
            self.open.iter().position(|open| open.number == number).and_then(|at| self.open.remove(at))
        else {
            return;
        };
        self.held = self.held.saturating_sub(held(open.source.as_ref()));
        if self.batch == Some(number) {
            self.batch = None;
        }
        if self.settling == Some(number) {
            self.settling = None;
        }
        // Nothing of an answer comes after an error but `ReadyForQuery`.
        let ended = if open.error.is_some() { Ended::Complete } else { ended };
        let detail = Detail::Postgres(Box::new(open.into_statement(ended, self.session.clone())));
        out.push(Event::End { exchange: number, at, detail });
    }

    /// Ends everything that is open and forgets what was awaited.
    pub(super) fn end_all(&mut self, ended: Ended, at: Mark, out: &mut Vec<Event>) {
        self.settle(out);
        self.settle_batch(out);
        self.items.clear();
        while let Some(number) = self.open.front().map(|open| open.number) {
            self.end(number, ended, at, out);
        }
    }

    fn overflow(&mut self, at: Mark, out: &mut Vec<Event>) {
        out.push(Event::Lost { reason: LossReason::TooLarge, bytes: 0 });
        self.end_all(Ended::Gap, at, out);
        self.items.push_back(Item::unknown(false, at));
    }

    /// How many `ReadyForQuery` are awaited.
    pub(super) fn batches(&self) -> usize {
        self.items.iter().filter(|item| item.ends_batch()).count()
    }

    /// A request is about to be queued.
    pub(super) fn starting(&mut self, at: Mark, out: &mut Vec<Event>) {
        if !self.items.back().is_some_and(Item::ends_batch) {
            return;
        }
        let doubt = |item: &Item| matches!(item.expect, Expect::Unknown { certain: false });
        if !self.hidden && !self.items.iter().any(doubt) {
            self.pipelines = true;
        } else if !self.pipelines {
            // A client that always waits has had its answers, if any; they were hidden.
            self.end_all(Ended::Gap, at, out);
        }
    }

    /// Queues a request. Whatever the server ignores is not queued.
    pub(super) fn queue(&mut self, item: Item, out: &mut Vec<Event>) {
        if self.skipping && !matches!(item.expect, Expect::Startup) {
            self.skip(&item, item.at, out);
            return;
        }
        if self.items.len() >= MAX_QUEUE {
            self.overflow(item.at, out);
            return;
        }
        self.push(item);
    }

    fn push(&mut self, item: Item) {
        if std::mem::take(&mut self.orphans) == Orphans::Execution {
            self.items.push_back(Item::unknown(false, item.at));
        }
        self.items.push_back(item);
    }

    /// Ends the exchanges of something that the server ignores.
    pub(super) fn skip(&mut self, item: &Item, at: Mark, out: &mut Vec<Event>) {
        if let (Expect::Query | Expect::Execute { .. } | Expect::Function, Some(number)) =
            (&item.expect, item.exchange)
        {
            self.end(number, Ended::Skipped, at, out);
        }
    }

    /// Takes a `Sync`.
    pub(super) fn sync(&mut self, item: Item) {
        if self.copying {
            return;
        }
        self.skipping = false;
        self.push(item);
    }

    /// The client's data of a `COPY` is over.
    pub(super) fn copied(&mut self, item: Item) {
        self.copying = false;
        if !self.items.is_empty() && self.items.len() < MAX_QUEUE {
            self.items.push_back(item);
        }
    }

    /// Takes an `Execute`: a new exchange, or one more execution of the last one.
    pub(super) fn execute(
        &mut self,
        source: Source,
        first: Option<Mark>,
        message: &Message,
        out: &mut Vec<Event>,
    ) {
        let joined = self.batch.filter(|&number| {
            first.is_some() && self.open(number).is_some_and(|open| open.source.as_ref() == Some(&source))
        });
        if let Some(number) = joined
            && let Some(open) = self.open(number)
        {
            open.executions = open.executions.saturating_add(1);
            open.pending = open.pending.saturating_add(1);
            while self.items.back().is_some_and(Item::prepares) {
                self.items.pop_back();
            }
            if let Some(Item { expect: Expect::Execute { left, many }, .. }) = self.items.back_mut() {
                *left = left.saturating_add(1);
                *many = true;
                return;
            }
            let expect = Expect::Execute { left: 1, many: true };
            self.queue(Item { exchange: joined, ..Item::new(expect, Some(source), message) }, out);
            return;
        }
        self.settle_batch(out);
        let number = self.begin(
            Kind::Extended,
            Some(source.clone()),
            first.unwrap_or(message.first),
            message.last,
            out,
        );
        // What prepared this execution belongs to it: its answers, and its errors.
        for item in self.items.iter_mut().rev() {
            if !item.prepares() || item.exchange.is_some() || item.source.as_ref() != Some(&source) {
                break;
            }
            item.exchange = Some(number);
        }
        self.batch = Some(number);
        let expect = Expect::Execute { left: 1, many: false };
        self.queue(Item { exchange: Some(number), ..Item::new(expect, Some(source), message) }, out);
    }

    /// Nothing more joins the present batch.
    pub(super) fn settle_batch(&mut self, out: &mut Vec<Event>) {
        let Some(number) = self.batch.take() else { return };
        if let Some(open) = self.open(number)
            && open.pending == 0
        {
            let (ended, last) = (open.ended, open.last);
            self.end(number, ended, last, out);
        }
    }

    /// A statement is prepared or bound that only executions of the same one can share a batch with.
    pub(super) fn settle_other_batch(&mut self, source: &Source, out: &mut Vec<Event>) {
        let known = source.text.is_some() || !source.name.is_empty();
        let same = |open: &mut Open| open.source.as_ref() == Some(source);
        if !known || !self.batch.and_then(|number| self.open(number)).is_some_and(same) {
            self.settle_batch(out);
        }
    }

    /// The complete execution that waited for its `Sync` is over.
    pub(super) fn settle(&mut self, out: &mut Vec<Event>) {
        let Some(number) = self.settling.take() else { return };
        if let Some(open) = self.open(number) {
            let (ended, last) = (open.ended, open.last);
            self.end(number, ended, last, out);
        }
    }

    /// Parts of what is awaited may never be seen.
    pub(super) fn mark_hidden(&mut self) {
        for open in &mut self.open {
            open.hidden = true;
            open.answered = false;
        }
    }
}

impl Open {
    fn into_statement(self, ended: Ended, session: Option<Arc<Session>>) -> Statement {
        let Self {
            number: _,
            kind,
            source,
            replied: _,
            executions,
            pending: _,
            statements,
            answered: _,
            seen,
            counted,
            returns_rows,
            returned_rows,
            hidden,
            tag,
            error,
            ended: _,
            last: _,
            transaction,
        } = self;
        let several = || match source.as_ref().and_then(|source| source.text.as_ref()) {
            Some(text) if kind != Kind::Extended => text.truncated || sql::split(&text.sql).len() > 1,
            _ => executions > 1,
        };
        // What a failed statement has done is undone, and of several only some of the tags were seen.
        let uncertain = error.is_some() || (hidden && several());
        let returns_rows = returns_rows || returned_rows;
        let rows = counted.or((returns_rows && !hidden).then_some(seen)).filter(|_| !uncertain);
        let (name, text) = source.map_or((None, None), |source| (Some(source.name), source.text));
        Statement {
            kind,
            truncated: text.as_ref().is_some_and(|text| text.truncated),
            text: text.map(|text| text.sql),
            name: name.filter(|name| !name.is_empty()),
            tag,
            rows,
            returns_rows,
            error,
            session,
            ended,
            batch: Some(executions).filter(|&executions| executions > 1),
            statements: Some(statements).filter(|&statements| statements > 1 && !hidden),
            transaction,
        }
    }
}

fn held(source: Option<&Source>) -> usize {
    source.and_then(|source| source.text.as_ref()).map_or(0, |text| text.sql.len())
}
