//! What the server answers.

use std::sync::Arc;

use super::{
    Ended, Kind, PgError, Statement, Transaction,
    pairing::{Expect, Item, Open, Orphans, Pairing},
    wire::{Cursor, Message},
};
use crate::protocol::{Detail, Event, Mark};

impl Pairing {
    /// The type of a message is known; its content is to come.
    pub(super) fn head(&mut self, kind: u8, at: Mark, out: &mut Vec<Event>) {
        if is_unasked(kind) {
            return;
        }
        self.drop_copy_ends();
        let front = self.items.front();
        if !(kind == b'E' && front.is_some_and(|item| matches!(item.expect, Expect::Sync))) {
            self.settle(out);
        }
        self.find_front(kind);
        let Some(front) = self.items.front().filter(|front| front.accepts(kind)) else { return };
        let Some(number) = front.exchange.filter(|_| kind != b'Z') else { return };
        self.reply(number, at, out);
        let Some(open) = self.open(number) else { return };
        match kind {
            b'D' => {
                open.seen += 1;
                open.returns_rows = true;
            }
            b'T' => open.returns_rows = true,
            b'G' | b'H' | b'W' => open.kind = Kind::Copy,
            _ => {}
        }
    }

    /// Takes one message of the server.
    pub(super) fn response(&mut self, message: &Message, out: &mut Vec<Event>) {
        match message.kind {
            b'S' => self.parameter(message),
            b'A' => self.notification(message, out),
            b'K' => self.backend(message),
            kind if is_unasked(kind) => {}
            kind => {
                self.drop_copy_ends();
                self.find_front(kind);
                self.answer(message, out);
            }
        }
        if message.kind == b'Z' {
            self.lenient = false;
            self.skipping = false;
            self.copying = false;
            self.status = match message.body.first() {
                Some(b'I') => Some(Transaction::Idle),
                Some(b'T') => Some(Transaction::Active),
                Some(b'E') => Some(Transaction::Failed),
                _ => None,
            };
        }
    }

    fn drop_copy_ends(&mut self) {
        while self.items.front().is_some_and(|item| matches!(item.expect, Expect::CopyEnd)) {
            self.items.pop_front();
        }
    }

    /// After hidden bytes: what was answered in them is passed over.
    fn find_front(&mut self, kind: u8) {
        while self.lenient
            && self.items.front().is_some_and(|item| {
                !item.accepts(kind)
                    && matches!(item.expect, Expect::Parse | Expect::Bind | Expect::Describe | Expect::Close)
            })
        {
            self.items.pop_front();
        }
    }

    fn answer(&mut self, message: &Message, out: &mut Vec<Event>) {
        let kind = message.kind;
        let Some(front) = self.items.front() else {
            self.orphans.see(kind);
            return;
        };
        if !front.accepts(kind) {
            self.misfit(message, out);
            return;
        }
        let Some(mut item) = self.items.pop_front() else { return };
        let stays = match (&mut item.expect, kind) {
            (Expect::Unknown { certain }, b'Z') => {
                if !*certain {
                    self.give_up(None, message.last, out);
                }
                false
            }
            (Expect::Query, _) => {
                self.answer_query(item.exchange, message, out);
                kind != b'Z'
            }
            (Expect::Describe, b't') | (Expect::Unknown { .. }, _) | (Expect::Function, b'V') => true,
            (Expect::Sync, b'E') => {
                self.fail_settled(message);
                true
            }
            (Expect::Execute { left, .. }, b'C' | b's' | b'I') => {
                *left = left.saturating_sub(1);
                let stays = *left > 0;
                self.complete_execution(item.exchange, message, stays, out);
                stays
            }
            (Expect::Execute { .. }, b'G') => {
                self.enter_copy();
                true
            }
            (Expect::Function, b'E') => {
                self.absorb(item.exchange, message);
                true
            }
            (Expect::Function, _) => {
                if let Some(number) = item.exchange {
                    self.end(number, Ended::Complete, message.last, out);
                }
                false
            }
            (Expect::Startup | Expect::Sync, _) => false,
            (_, b'E') => {
                self.fail_batch(&item, message, out);
                false
            }
            (Expect::Execute { .. }, _) => true,
            _ => false,
        };
        if stays {
            self.items.push_front(item);
        }
    }

    /// A message came that nothing in front awaits.
    fn misfit(&mut self, message: &Message, out: &mut Vec<Event>) {
        let ready = message.kind == b'Z';
        if self.lenient && !ready {
            return;
        }
        self.give_up(Some(true), message.last, out);
        if self.items.is_empty() {
            self.orphans.see(message.kind);
        } else if ready {
            self.items.pop_front();
        }
    }

    /// Ends as [`Ended::Gap`] what may or may not have been answered: everything up to the last request whose answer
    /// ends with `ReadyForQuery`. Where those are still awaited, `awaited` says whether certainly.
    fn give_up(&mut self, awaited: Option<bool>, at: Mark, out: &mut Vec<Event>) {
        let count = match self.items.iter().rposition(Item::ends_batch) {
            Some(last) => last + 1,
            None if awaited.is_some() => self.items.len(),
            None => return,
        };
        let mut unknown = Vec::new();
        for item in self.items.drain(..count).collect::<Vec<_>>() {
            match (&item.expect, awaited) {
                (Expect::Unknown { certain }, _) => {
                    unknown.push(Item::unknown(*certain && awaited != Some(false), at));
                }
                (_, Some(certain)) if item.ends_batch() => unknown.push(Item::unknown(certain, at)),
                _ => {}
            }
            if let Some(number) = item.exchange {
                self.end(number, Ended::Gap, at, out);
            }
        }
        for item in unknown.into_iter().rev() {
            self.items.push_front(item);
        }
    }

    /// Answers a statement of a simple query, or all of it.
    fn answer_query(&mut self, exchange: Option<u64>, message: &Message, out: &mut Vec<Event>) {
        let Some((number, open)) = exchange.and_then(|number| Some((number, self.open(number)?))) else {
            return;
        };
        match message.kind {
            b'C' | b'I' | b'E' => {
                open.absorb(message);
                open.statements = open.statements.saturating_add(1);
                open.answered = true;
                if open.statements > 1 {
                    open.kind = Kind::Simple;
                }
                open.returned_rows |= std::mem::take(&mut open.returns_rows);
            }
            b'Z' => {
                let ended = match (open.answered, open.hidden) {
                    (true, _) => Ended::Complete,
                    (false, true) => Ended::Gap,
                    (false, false) => Ended::Skipped,
                };
                self.end(number, ended, message.last, out);
            }
            _ => {}
        }
    }

    /// Adds a completion or an error to an exchange.
    fn absorb(&mut self, exchange: Option<u64>, message: &Message) {
        if let Some(open) = exchange.and_then(|number| self.open(number)) {
            open.absorb(message);
        }
    }

    fn complete_execution(
        &mut self,
        exchange: Option<u64>,
        message: &Message,
        stays: bool,
        out: &mut Vec<Event>,
    ) {
        self.absorb(exchange, message);
        let Some(number) = exchange.filter(|_| !stays) else { return };
        let Some(open) = self.open(number).filter(|open| open.pending == 0) else { return };
        let (ended, last) = (open.ended, open.last);
        if self.batch == Some(number) {
            // More executions may join; it ends when something else is sent.
            return;
        }
        if self.items.front().is_some_and(|item| matches!(item.expect, Expect::Sync)) {
            // Outside a transaction block, the Sync commits; deferred constraints fail there.
            self.settling = Some(number);
        } else {
            self.end(number, ended, last, out);
        }
    }

    fn fail_settled(&mut self, message: &Message) {
        let settling = self.settling;
        if let Some(open) = settling.and_then(|number| self.open(number)) {
            open.error = Some(error(&message.body));
            open.last = message.last;
        }
    }

    /// The server ignores `Sync` while it takes copied data, for clients that send one before they know.
    fn enter_copy(&mut self) {
        let end = self.items.iter().position(|item| matches!(item.expect, Expect::CopyEnd));
        self.copying = end.is_none();
        let until = end.unwrap_or(self.items.len());
        let mut at = 0;
        self.items.retain(|item| {
            at += 1;
            at > until || !matches!(item.expect, Expect::Sync)
        });
    }

    /// An error ends what it belongs to; everything up to the next `Sync` is ignored by the server.
    fn fail_batch(&mut self, item: &Item, message: &Message, out: &mut Vec<Event>) {
        self.copying = false;
        let number = item.exchange.unwrap_or_else(|| {
            // A preparation without execution is no exchange, unless it fails.
            let number = self.begin(Kind::Extended, item.source.clone(), item.first, item.at, out);
            self.reply(number, message.first, out);
            number
        });
        self.absorb(Some(number), message);
        self.end(number, Ended::Complete, message.last, out);
        while let Some(next) = self.items.front() {
            if matches!(next.expect, Expect::Sync | Expect::Unknown { .. }) {
                return;
            }
            if let Some(next) = self.items.pop_front() {
                self.skip(&next, message.last, out);
            }
        }
        self.skipping = true;
    }

    /// Message boundaries of the server's side are hidden.
    pub(super) fn responses_hidden(&mut self, out: &mut Vec<Event>) {
        self.settle(out);
        self.mark_hidden();
        self.hidden = true;
    }

    /// Message boundaries of the client's side are hidden.
    pub(super) fn requests_hidden(&mut self, at: Mark, out: &mut Vec<Event>) {
        // A Sync may be among them, and the end of a copy.
        self.skipping = false;
        self.copying = false;
        if let Some(open) = self.batch.and_then(|number| self.open(number)) {
            open.hidden = true;
        }
        self.settle_batch(out);
        if !self.items.back().is_some_and(|item| matches!(item.expect, Expect::Unknown { .. })) {
            self.items.push_back(Item::unknown(false, at));
        }
    }

    /// The hidden requests ended with a `Sync`.
    pub(super) fn requests_found(&mut self) {
        if let Some(Item { expect: Expect::Unknown { certain }, .. }) = self.items.back_mut() {
            *certain = true;
        }
    }

    /// After hidden bytes, these messages are next; the last is a `ReadyForQuery`.
    pub(super) fn responses_found(&mut self, messages: &[u8], at: Mark, out: &mut Vec<Event>) {
        self.hidden = false;
        let awaited: u64 = self.items.iter().map(Item::executions).sum();
        let query = self.items.iter().any(|item| matches!(item.expect, Expect::Query));
        if self.batches() != 1 || (query && awaited > 0) {
            // Which of several it is cannot be known, nor how often a simple query is answered.
            self.give_up(Some(false), at, out);
            self.orphans = Orphans::None;
            return;
        }
        self.lenient = true;
        let (mut answers, mut failed) = (0_u64, false);
        let mut rest = messages;
        while let Some((&[kind, b1, b2, b3, b4], _)) = rest.split_first_chunk() {
            answers += u64::from(matches!(kind, b'C' | b's' | b'I'));
            failed |= kind == b'E';
            rest = rest.get(1 + u32::from_be_bytes([b1, b2, b3, b4]) as usize..).unwrap_or_default();
        }
        // Which of several executions failed cannot be known.
        let mut hidden = match (failed, awaited) {
            (true, 0 | 1) => 0,
            (true, _) => awaited,
            (false, _) => awaited.saturating_sub(answers),
        };
        let mut items = std::mem::take(&mut self.items);
        items.retain_mut(|item| self.pass_over(item, &mut hidden, at, out));
        self.items = items;
    }

    /// Ends executions that were answered in hidden bytes; `false` if nothing remains of the item.
    fn pass_over(&mut self, item: &mut Item, hidden: &mut u64, at: Mark, out: &mut Vec<Event>) -> bool {
        match &mut item.expect {
            Expect::Execute { left, .. } => {
                let passed = u32::try_from(*hidden).unwrap_or(u32::MAX).min(*left);
                *hidden -= u64::from(passed);
                *left -= passed;
                let stays = *left > 0;
                let number = item.exchange.unwrap_or_default();
                if let Some(open) = self.open(number) {
                    open.pending = open.pending.saturating_sub(passed);
                    if open.pending == 0 && !stays {
                        self.end(number, Ended::Gap, at, out);
                    }
                }
                stays
            }
            _ => true,
        }
    }

    fn parameter(&mut self, message: &Message) {
        let mut body = Cursor(&message.body);
        let (Some(key), Some(value)) = (body.string(), body.string()) else { return };
        if !matches!(key, b"application_name" | b"server_version") {
            return;
        }
        let session = Arc::make_mut(self.session.get_or_insert_default());
        let value = Some(String::from_utf8_lossy(value).into_owned()).filter(|value| !value.is_empty());
        if key == b"server_version" {
            session.server_version = value;
        } else {
            session.application_name = value;
        }
    }

    fn backend(&mut self, message: &Message) {
        let pid = Cursor(&message.body).int32();
        Arc::make_mut(self.session.get_or_insert_default()).backend = pid;
    }

    fn notification(&mut self, message: &Message, out: &mut Vec<Event>) {
        let mut body = Cursor(&message.body);
        let Some(pid) = body.int32() else { return };
        let Some(channel) = body.string() else { return };
        let payload = body.string().unwrap_or(body.0);
        let payload_size = payload.len();
        let channel = String::from_utf8_lossy(channel).into_owned();
        let digest = notification_digest(&channel, payload);
        let statement = Statement {
            kind: Kind::Notification { channel, pid, payload_size, digest },
            text: None,
            truncated: false,
            name: None,
            tag: None,
            rows: None,
            returns_rows: false,
            error: None,
            session: self.session.clone(),
            ended: Ended::Complete,
            batch: None,
            statements: None,
            transaction: self.status,
        };
        out.push(Event::Push { at: message.last, detail: Detail::Postgres(Box::new(statement)) });
    }
}

impl Orphans {
    /// Takes an answer while none is awaited.
    fn see(&mut self, kind: u8) {
        *self = match (*self, kind) {
            (_, b'Z') => Self::None,
            (Self::None | Self::Preparation, b'1' | b'2' | b'3' | b't' | b'n')
            | (Self::Preparation, b'T') => Self::Preparation,
            _ => Self::Execution,
        };
    }
}

impl Item {
    /// Says whether a message may answer this.
    fn accepts(&self, kind: u8) -> bool {
        match &self.expect {
            Expect::Unknown { .. } => true,
            Expect::Startup => matches!(kind, b'E' | b'Z'),
            Expect::Query => b"TDCIEGHWdcZ".contains(&kind),
            Expect::Parse => matches!(kind, b'1' | b'E'),
            Expect::Bind => matches!(kind, b'2' | b'E'),
            Expect::Describe => matches!(kind, b't' | b'T' | b'n' | b'E'),
            Expect::Close => matches!(kind, b'3' | b'E'),
            Expect::Execute { many, .. } => {
                b"DCsIEGHWdc".contains(&kind) || (*many && matches!(kind, b'1' | b'2' | b'T' | b'n'))
            }
            Expect::Sync => matches!(kind, b'Z' | b'E'),
            Expect::Function => matches!(kind, b'V' | b'E' | b'Z'),
            Expect::CopyEnd => false,
        }
    }

    /// How many executions it asks for, each answered once.
    fn executions(&self) -> u64 {
        match &self.expect {
            Expect::Execute { left, .. } => u64::from(*left),
            _ => 0,
        }
    }
}

impl Open {
    /// Adds a completion or an error.
    fn absorb(&mut self, message: &Message) {
        self.last = message.last;
        self.pending = self.pending.saturating_sub(1);
        match message.kind {
            b'C' => self.tagged(&String::from_utf8_lossy(Cursor(&message.body).string().unwrap_or_default())),
            b's' => {
                self.returns_rows = true;
                self.ended = Ended::Suspended;
            }
            b'E' => _ = self.error.get_or_insert_with(|| error(&message.body)),
            _ => {}
        }
    }

    fn tagged(&mut self, tag: &str) {
        let mut words = tag.split(' ');
        let verb = words.next().unwrap_or_default();
        self.returns_rows |= matches!(verb, "SELECT" | "FETCH");
        if self.returns_rows && !self.returned_rows && self.statements > 0 {
            // Rows that statements before it affected are not returned.
            self.counted = None;
        }
        if matches!(verb, "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "FETCH" | "MOVE" | "COPY")
            && (self.returns_rows || !self.returned_rows)
            && let Some(rows) = words.next_back().and_then(|count| count.parse::<u64>().ok())
        {
            self.counted = Some(self.counted.unwrap_or_default().saturating_add(rows));
        }
        if verb == "COPY" {
            self.kind = Kind::Copy;
        }
        self.ended = Ended::Complete;
        self.tag = Some(tag.to_owned());
    }
}

/// Says whether the server may send a message of this type at any time, or only during authentication.
fn is_unasked(kind: u8) -> bool {
    matches!(kind, b'N' | b'S' | b'A' | b'R' | b'K' | b'v')
}

/// Reads an error's severity (the one that is not translated, where the server sends it) and its code.
fn error(body: &[u8]) -> PgError {
    let mut error = PgError { sqlstate: String::new(), severity: String::new() };
    let mut body = Cursor(body);
    while let Some(kind) = body.byte().filter(|&kind| kind != 0) {
        let Some(value) = body.string() else { break };
        match kind {
            b'V' => error.severity = String::from_utf8_lossy(value).into_owned(),
            b'S' if error.severity.is_empty() => error.severity = String::from_utf8_lossy(value).into_owned(),
            b'C' => error.sqlstate = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
    }
    error
}

/// 64-bit FNV-1a of a notification's channel, a zero byte and its payload: the same on all listeners.
pub fn notification_digest(channel: &str, payload: &[u8]) -> u64 {
    let bytes = channel.bytes().chain([0]).chain(payload.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
