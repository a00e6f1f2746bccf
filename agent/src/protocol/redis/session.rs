//! One connection: commands paired with their replies.

use std::collections::VecDeque;

use super::{
    Batch, Ended, Kind, Popped,
    command::Command,
    open::{Expect, Open, Run},
    replies::{self, Message, PushHead, Replies, Status},
    requests::{self, Requests},
    subscriptions::{Action, Subscriptions},
};
use crate::protocol::{Detail, Event, LossReason, Mark, Parser, Side};

/// Batches that may be unanswered at a time.
const MAX_OPEN: usize = 1024;

/// Unanswered runs of like commands at a time, over all batches.
const MAX_RUNS: usize = 4096;

/// The state of one Redis connection. It may be watched from any moment on.
#[derive(Debug)]
pub struct Redis {
    requests: Requests,
    replies: Replies,
    request_hunt: Hunt,
    response_hunt: Hunt,
    open: VecDeque<Open>,
    runs: usize,
    next: u64,
    database: Option<u32>,
    queued_database: Option<u32>,
    resp3: bool,
    silence: Silence,
    subscriptions: Subscriptions,
    over: bool,
}

/// What `CLIENT REPLY` asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Silence {
    /// Every command is answered.
    #[default]
    Off,
    /// The next command is not answered.
    Next,
    /// No command is answered.
    On,
}

/// The search for a boundary on one side.
#[derive(Debug)]
struct Hunt {
    /// Whether it goes on.
    active: bool,
    /// The call whose bytes have been given up.
    given_up: Option<Mark>,
    /// Bytes passed over.
    skipped: u64,
}

impl Hunt {
    fn new() -> Self {
        Self { active: true, given_up: None, skipped: 0 }
    }

    /// A boundary has been found.
    fn end(&mut self, out: &mut Vec<Event>) {
        if self.skipped > 0 {
            out.push(Event::Lost { reason: LossReason::Resync, bytes: self.skipped });
        }
        *self = Self { active: false, given_up: None, skipped: 0 };
    }
}

impl Redis {
    /// A connection of which nothing has been seen. `from_start`: it has just been made, so its database is 0 until a
    /// `SELECT` changes it; else the database is not known.
    pub fn new(from_start: bool) -> Self {
        Self {
            requests: Requests::default(),
            replies: Replies::default(),
            request_hunt: Hunt::new(),
            response_hunt: Hunt::new(),
            open: VecDeque::new(),
            runs: 0,
            next: 0,
            database: from_start.then_some(0),
            queued_database: None,
            resp3: false,
            silence: Silence::Off,
            subscriptions: Subscriptions::default(),
            over: false,
        }
    }

    /// Batches and runs of replies that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.open.len(), self.open.iter().map(|open| open.runs.len()).sum())
    }

    fn request_data(&mut self, mut bytes: &[u8], mark: Mark, out: &mut Vec<Event>) {
        if self.request_hunt.active && self.request_hunt.given_up == Some(mark) {
            self.request_hunt.skipped += bytes.len() as u64;
            return;
        }
        loop {
            match self.requests.step(&mut bytes, mark) {
                requests::Step::Need => return,
                requests::Step::Ready { command, first, bytes: size } => {
                    if self.open.back().is_none_or(|last| last.sent != first) {
                        // What came before, perhaps with an empty command in its call, is over.
                        self.settle(Side::Request, first, out);
                    }
                    if self.request_hunt.active {
                        self.request_hunt.end(out);
                    }
                    if !self.take_command(command, first, mark, out) {
                        self.lose(Side::Request, LossReason::TooLarge, size, mark, out);
                        self.request_hunt.skipped += bytes.len() as u64;
                        return;
                    }
                }
                requests::Step::Bad(reason) => {
                    self.lose(Side::Request, reason, self.requests.bytes(), mark, out);
                    self.request_hunt.skipped += bytes.len() as u64;
                    return;
                }
            }
        }
    }

    /// Adds a command to the batch that it belongs to. False if there is no room.
    fn take_command(&mut self, command: Command, first: Mark, at: Mark, out: &mut Vec<Event>) -> bool {
        let expect = self.expect(&command);
        if self.runs >= MAX_RUNS || self.open.len() >= MAX_OPEN {
            return false;
        }
        if expect.is_some() && self.runs == 0 && self.response_hunt.active {
            // Nothing is outstanding, so the next byte of the server begins the reply to this.
            self.replies.reset();
            self.response_hunt.end(out);
        }
        if self.open.back().is_none_or(|last| last.sent != first) {
            let exchange = self.next;
            self.next += 1;
            self.open.push_back(Open::new(exchange));
            out.push(Event::Begin { exchange, first, at, incoming: None });
        }
        if let Some(open) = self.open.back_mut() {
            self.runs += usize::from(open.add(command, expect, at));
        }
        true
    }

    /// What will answer this command; nothing if it will not be answered.
    fn expect(&mut self, command: &Command) -> Option<Expect> {
        if command.is("CLIENT", "REPLY") {
            match command.whole(0).map(str::to_ascii_uppercase).as_deref() {
                Some("OFF") => {
                    self.silence = Silence::On;
                    return None;
                }
                Some("SKIP") => {
                    if self.silence == Silence::Off {
                        self.silence = Silence::Next;
                    }
                    return None;
                }
                Some("ON") => self.silence = Silence::Off,
                _ => {}
            }
        }
        if command.name == "RESET" {
            self.silence = Silence::Off;
        }
        match self.silence {
            Silence::On => None,
            Silence::Next => {
                self.silence = Silence::Off;
                None
            }
            Silence::Off => Some(Expect::of(command)),
        }
    }

    fn response_data(&mut self, mut bytes: &[u8], mark: Mark, out: &mut Vec<Event>) {
        if self.response_hunt.active && self.response_hunt.given_up == Some(mark) {
            self.response_hunt.skipped += bytes.len() as u64;
            return;
        }
        loop {
            let sound = match self.replies.step(&mut bytes, mark) {
                replies::Step::Need => return,
                replies::Step::Opened(kind) => self.open_value(kind, out),
                replies::Step::Kind => self.know_kind(out),
                replies::Step::Done => {
                    let message = std::mem::take(self.replies.message());
                    let size = message.bytes;
                    let sound = self.take_value(message, mark, out);
                    if self.over {
                        return;
                    }
                    if !sound {
                        self.response_hunt.skipped += size;
                    }
                    sound
                }
                replies::Step::Bad(reason) => {
                    let size = self.replies.message().bytes;
                    self.lose(Side::Response, reason, size, mark, out);
                    self.response_hunt.skipped += bytes.len() as u64;
                    return;
                }
            };
            if !sound {
                // Nobody asked for this: it answers something that was not seen.
                self.response_hunt.skipped += self.replies.message().bytes + bytes.len() as u64;
                self.response_hunt.active = true;
                self.response_hunt.given_up = Some(mark);
                self.replies.reset();
                return;
            }
        }
    }

    /// Judges a value by its type. False if it cannot belong here.
    fn open_value(&mut self, kind: u8, out: &mut Vec<Event>) -> bool {
        if !self.response_hunt.active {
            self.resp3 |= matches!(kind, b'>' | b'%' | b'~' | b'_' | b'#' | b',' | b'(' | b'=' | b'!');
        }
        let front = self.front().map(|open| open.runs.front().map(|run| run.expect));
        let front = front.flatten();
        let maybe_push = match kind {
            b'>' => true,
            b'*' if self.resp3 || front == Some(Expect::Hello) => false,
            b'*' => {
                self.response_hunt.active
                    || self.subscriptions.are_active()
                    || matches!(front, Some(Expect::Subscription(..)))
            }
            _ => false,
        };
        if maybe_push {
            self.replies.watch();
            return true;
        }
        if self.response_hunt.active || front.is_none() {
            return false;
        }
        if front == Some(Expect::Element) {
            self.replies.watch_element();
        }
        self.reply(out);
        true
    }

    /// Judges a value that may be a push message by its first element, where that is all there is to go by.
    fn know_kind(&mut self, out: &mut Vec<Event>) -> bool {
        if !self.response_hunt.active {
            return true;
        }
        let message = self.replies.message();
        let Some(push) = &message.push else { return false };
        let plausible = match message.kind {
            b'>' => {
                !push.kind.is_empty()
                    && push.kind.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'-')
            }
            _ => push.is_published(),
        };
        if plausible {
            self.response_hunt.end(out);
        }
        plausible
    }

    /// Takes a complete value. False if nothing was waiting for it.
    fn take_value(&mut self, message: Message, mark: Mark, out: &mut Vec<Event>) -> bool {
        if self.response_hunt.active {
            return false;
        }
        let action = message.push.as_ref().and_then(|push| Action::of(&push.kind));
        if let (Some(action), Some(push)) = (action, &message.push) {
            self.subscriptions.confirm(action, push.count);
            if self.confirm(action, &message, mark, out) {
                return true;
            }
        }
        let published = message.push.as_ref().is_some_and(|push| push.is_published());
        if message.kind == b'>' || published || action.is_some() {
            self.resp3 |= message.kind == b'>';
            if published && message.kind == b'*' {
                self.subscriptions.assume();
            }
            out.push(Event::Push { at: mark, detail: Detail::Redis(Box::new(self.pushed(message))) });
            return true;
        }
        self.answer(message, mark, out)
    }

    /// Takes the confirmation of a subscription. False if no command waits for one.
    fn confirm(&mut self, action: Action, message: &Message, mark: Mark, out: &mut Vec<Event>) -> bool {
        let exhausted = self.subscriptions.count(action) == 0;
        // A bare UNSUBSCRIBE ends with its last confirmation, or at the latest with that of another kind.
        while let Some(Run { expect: Expect::Subscription(expected, None), .. }) = self.run()
            && expected != action
        {
            self.finish_run(mark, out);
        }
        let Some(Run { expect: Expect::Subscription(expected, left), .. }) = self.run() else { return false };
        if expected != action {
            return false;
        }
        self.reply_at(message.first, out);
        let over = match left {
            None => exhausted,
            Some(left) => {
                let left = left.saturating_sub(1);
                if let Some(run) = self.front_mut().and_then(|open| open.runs.front_mut()) {
                    run.expect = Expect::Subscription(expected, Some(left));
                }
                left == 0
            }
        };
        if over {
            self.finish_run(mark, out);
        } else if let Some(open) = self.front_mut() {
            open.last = mark;
        }
        true
    }

    /// Takes the reply to the oldest unanswered command. False if there is none.
    fn answer(&mut self, mut message: Message, mark: Mark, out: &mut Vec<Event>) -> bool {
        let Some(Run { expect, .. }) = self.run() else { return false };
        self.reply_at(message.first, out);
        let ok = message.error.is_none();
        match expect {
            Expect::Select(index) => match message.status {
                Some(Status::Ok) => self.database = index,
                Some(Status::Queued) => self.queued_database = index,
                _ => {}
            },
            Expect::Exec => {
                if let Some(index) = self.queued_database.take()
                    && ok
                    && !message.null
                {
                    self.database = Some(index);
                }
            }
            Expect::Discard => self.queued_database = None,
            Expect::Hello => self.resp3 = if ok { message.kind == b'%' } else { self.resp3 },
            Expect::Reset if ok => {
                self.database = Some(0);
                self.queued_database = None;
                self.resp3 = false;
                self.subscriptions = Subscriptions::default();
            }
            Expect::Element => self.take_element(message.push.take()),
            Expect::Plain | Expect::Subscription(..) | Expect::Reset => {}
            Expect::Stream => self.over = ok,
        }
        let error = message.error.or(if expect == Expect::Exec { message.inner_error } else { None });
        if let Some(open) = self.front_mut() {
            open.batch.nothing &= message.null || message.empty;
            if open.batch.error.is_none() {
                open.batch.error = error;
            }
        }
        self.finish_run(mark, out);
        if self.over {
            self.end_all(Ended::Gap, mark, out);
        }
        true
    }

    /// Notes what the oldest unanswered command has taken from a list.
    fn take_element(&mut self, head: Option<Box<PushHead>>) {
        let Some(PushHead { channel, payload: Some(payload), task, .. }) = head.map(|head| *head) else {
            return;
        };
        let Some(open) = self.front_mut() else { return };
        let list = match channel.as_slice() {
            // A command that names one list only: the reply does not repeat it.
            [] => open.batch.commands.iter().find(|command| command.waits()).map(Command::destination),
            name => Some(String::from_utf8_lossy(name).into_owned()),
        };
        let list = list.unwrap_or_default();
        open.batch.popped.get_or_insert(Popped { list, payload, task });
    }

    fn pushed(&self, message: Message) -> Batch {
        let push = message.push.unwrap_or_default();
        let channel = if push.is_published() || Action::of(&push.kind).is_some() {
            String::from_utf8_lossy(&push.channel).into_owned()
        } else {
            String::new()
        };
        let kind = Kind::Push {
            kind: String::from_utf8_lossy(&push.kind).into_owned(),
            channel,
            payload: push.payload,
        };
        Batch { database: self.database, ..Batch::empty(kind) }
    }

    /// The batch whose reply comes next.
    fn front(&self) -> Option<&Open> {
        self.open.iter().find(|open| !open.runs.is_empty())
    }

    fn front_mut(&mut self) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| !open.runs.is_empty())
    }

    fn run(&self) -> Option<Run> {
        self.front().and_then(|open| open.runs.front().copied())
    }

    fn reply(&mut self, out: &mut Vec<Event>) {
        let first = self.replies.message().first;
        self.reply_at(first, out);
    }

    fn reply_at(&mut self, at: Mark, out: &mut Vec<Event>) {
        if let Some(open) = self.front_mut()
            && !open.replied
        {
            open.replied = true;
            out.push(Event::Reply { exchange: open.exchange, at });
        }
    }

    /// One reply has come, or all confirmations of one command.
    fn finish_run(&mut self, mark: Mark, out: &mut Vec<Event>) {
        if let Some(open) = self.front_mut() {
            open.last = mark;
            if let Some(run) = open.runs.front_mut() {
                run.count = run.count.saturating_sub(1);
                if run.count == 0 {
                    open.runs.pop_front();
                    self.runs = self.runs.saturating_sub(1);
                }
            }
        }
        self.settle(Side::Response, mark, out);
    }

    /// Ends the batches that are answered and that no further command can join.
    fn settle(&mut self, side: Side, now: Mark, out: &mut Vec<Event>) {
        while let Some(open) = self.open.front()
            && open.runs.is_empty()
        {
            let is_last = self.open.len() == 1;
            // Its last call may not have been read to the end.
            let same_call = open.sent == now && (side == Side::Request || !open.replied);
            if is_last && (same_call || self.requests.begun() == Some(open.sent)) {
                return;
            }
            self.end_first(Ended::Complete, None, out);
        }
    }

    fn end_first(&mut self, ended: Ended, at: Option<Mark>, out: &mut Vec<Event>) {
        if let Some(mut open) = self.open.pop_front() {
            self.runs = self.runs.saturating_sub(open.runs.len());
            let (ended, at) = if open.runs.is_empty() {
                (Ended::Complete, open.last)
            } else {
                (ended, at.unwrap_or(open.last))
            };
            open.batch.ended = ended;
            open.batch.database = self.database;
            let detail = Detail::Redis(Box::new(open.batch));
            out.push(Event::End { exchange: open.exchange, at, detail });
        }
    }

    fn end_all(&mut self, ended: Ended, at: Mark, out: &mut Vec<Event>) {
        while !self.open.is_empty() {
            self.end_first(ended, Some(at), out);
        }
    }

    /// The thread is lost on one side: whatever is unanswered will not be paired any more.
    fn lose(&mut self, side: Side, reason: LossReason, bytes: u64, mark: Mark, out: &mut Vec<Event>) {
        let unanswered = self.runs > 0;
        // An answered batch may still wait for the next call to be over: it ends before the loss in any cut.
        self.end_all(Ended::Gap, mark, out);
        let hunt = match side {
            Side::Request => {
                self.requests.reset();
                &mut self.request_hunt
            }
            Side::Response => &mut self.response_hunt,
        };
        let gap = reason == LossReason::Gap;
        if hunt.active && !gap {
            hunt.skipped += bytes;
        } else {
            out.push(Event::Lost { reason, bytes });
        }
        // What follows a gap may begin anything, what follows nonsense in the same call does not.
        hunt.given_up = (!gap).then_some(mark);
        hunt.active = true;
        // Requests that were missed have replies, so those cannot be counted off either.
        if unanswered || side == Side::Response {
            self.replies.reset();
            self.response_hunt.active = true;
        }
    }
}

impl Parser for Redis {
    fn data(&mut self, side: Side, bytes: &[u8], mark: Mark, out: &mut Vec<Event>) {
        if self.over || bytes.is_empty() {
            return;
        }
        self.settle(side, mark, out);
        match side {
            Side::Request => self.request_data(bytes, mark, out),
            Side::Response => self.response_data(bytes, mark, out),
        }
    }

    fn gap(&mut self, side: Side, length: u64, mark: Mark, out: &mut Vec<Event>) {
        if self.over || length == 0 {
            return;
        }
        self.settle(side, mark, out);
        let survived = match side {
            Side::Request => self.requests.gap(length),
            Side::Response => self.replies.gap(length),
        };
        match (side, survived) {
            (Side::Request, true) => self.request_data(&[], mark, out),
            (Side::Response, true) => self.response_data(&[], mark, out),
            (_, false) => {
                let unfinished = match side {
                    Side::Request => self.requests.bytes(),
                    Side::Response => self.replies.message().bytes,
                };
                self.lose(side, LossReason::Gap, unfinished + length, mark, out);
            }
        }
    }

    fn close(&mut self, mark: Mark, out: &mut Vec<Event>) {
        if self.over {
            return;
        }
        self.over = true;
        self.end_all(Ended::Cut, mark, out);
        if self.request_hunt.active {
            self.request_hunt.skipped += self.requests.bytes();
        }
        if self.response_hunt.active {
            self.response_hunt.skipped += self.replies.message().bytes;
        }
        self.request_hunt.end(out);
        self.response_hunt.end(out);
    }
}
