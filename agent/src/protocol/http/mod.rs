//! HTTP/1.0 and HTTP/1.1 (RFC 9110, RFC 9112).
//!
//! [`Http`] follows both halves of a connection and pairs responses with requests in their order. `frame` finds where
//! heads and bodies begin and end and finds them again after a loss, `head` reads the few fields that are kept, and
//! `span` says of an [`Exchange`] what the semantic conventions say. Bodies are counted and never copied.
//!
//! # Pairing after a loss
//! The order of messages is all that HTTP/1 has to pair them by, so a lost head puts every later pair in doubt. Clients
//! that pipeline are few, and one that has not yet sent a request before the answer to the last was complete is taken
//! not to: its next request proves that the exchange before is over, whatever was lost of it. Where a client has
//! pipelined and a head may be lost, no pairing is believed any more: exchanges end as [`Outcome::Lost`], without a
//! status, until the connection closes.

mod detect;
mod frame;
mod head;
mod span;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::VecDeque};

pub use self::{detect::detect, span::describe};
use self::{
    frame::{Framing, Half, Step},
    head::ResponseHead,
};
pub(super) use self::{
    head::{Head, RequestHead},
    span::{socket, split_host},
};
use super::{Detail, Event, Incoming, LossReason, Mark, Parser, Side, websocket::Opening};

/// Most requests of one connection that wait for their answers.
const OPEN_LIMIT: usize = 256;
/// Most bytes kept back behind a request to change the protocol until it is answered.
const HELD_LIMIT: usize = 64 * 1024;

/// The version of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1, and what claims to be later.
    #[default]
    Http11,
    /// HTTP/2
    Http2,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The whole response was there.
    #[default]
    Complete,
    /// The connection closed before the end of the response.
    CutShort,
    /// Bytes are missing: the end of the response, or the response itself, was not seen or not recognised for certain.
    Lost,
}

/// A request and its response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchange {
    /// Method, as sent.
    pub method: Cow<'static, str>,
    /// Request target as sent (path and query, or one of the other forms of RFC 9112 §3.2), without credentials and cut
    /// to 2 KiB.
    pub target: String,
    /// Version in the request.
    pub version: Version,
    /// The connection is encrypted: what [`Http::secure`] was told.
    pub secure: bool,
    /// The `Host` field.
    pub host: Option<String>,
    /// The `User-Agent` field.
    pub user_agent: Option<String>,
    /// Scheme that the client used, by `Forwarded` (RFC 7239), else by `X-Forwarded-Proto`.
    pub forwarded_proto: Option<String>,
    /// Host that the client asked for, by `Forwarded`.
    pub forwarded_host: Option<String>,
    /// Trace context in the request; there is none without a `traceparent`.
    pub incoming: Option<Incoming>,
    /// Status code of the final response.
    pub status: Option<u16>,
    /// Bytes of the request's body that were sent before the response ended, without the chunked coding.
    pub request_size: u64,
    /// Bytes of the response's body that were sent, without the chunked coding.
    pub response_size: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// HTTP/2: some fields refer to others that were said before the agent came, and are not known.
    pub unknown: bool,
    /// HTTP/2: the error code with which one side has given the stream up (RFC 9113 §7).
    pub reset: Option<u32>,
    /// It is a call of gRPC.
    pub grpc: Option<Grpc>,
}

/// What only a call of gRPC has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grpc {
    /// `grpc-status` of the trailers, or what the end of the call stands for where it has none.
    pub status: Option<u32>,
    /// `grpc-timeout` of the request, nanoseconds.
    pub timeout: Option<u64>,
}

/// One connection in HTTP/1.
#[derive(Debug)]
pub struct Http {
    secure: bool,
    request: Half<RequestHead>,
    response: Half<ResponseHead>,
    /// Exchanges whose response is not complete, in order.
    open: VecDeque<Open>,
    /// Number of the next exchange.
    next: u64,
    /// The exchange whose request body is under way.
    uploading: Option<u64>,
    /// What the response under way answers.
    reply: Reply,
    /// The client has sent a request before the last response was complete.
    pipelined: bool,
    /// A request may have been lost since the last one.
    request_lost: bool,
    /// Responses can no longer be paired with requests.
    unsure: bool,
    /// The exchange that may change the protocol.
    switching: Option<u64>,
    /// What the client sent behind the request to change the protocol.
    held: Option<Held>,
    /// Mark of the last byte of the response side.
    last: Mark,
    /// Mark of the last byte of it that was understood, or of the loss behind that.
    known: Mark,
    /// Closed, or no longer HTTP/1.
    done: bool,
}

#[derive(Debug)]
struct Open {
    number: u64,
    exchange: Box<Exchange>,
    /// Its response, or part of it, may be among lost bytes.
    doubtful: bool,
    /// A request may have been lost between this and the one before it, which was still open.
    unsure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    /// None is under way.
    None,
    /// The first of the open exchanges.
    First,
    /// A request that was not seen.
    Unseen,
}

#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    mark: Mark,
    /// Bytes are missing or there were too many; how many there were in all.
    lost: Option<(LossReason, u64)>,
}

impl Default for Http {
    fn default() -> Self {
        Self::new()
    }
}

impl Http {
    /// A connection, from its beginning or from anywhere.
    pub fn new() -> Self {
        Self {
            secure: false,
            request: Half::new(),
            response: Half::new(),
            open: VecDeque::new(),
            next: 0,
            uploading: None,
            reply: Reply::None,
            pipelined: false,
            request_lost: false,
            unsure: false,
            switching: None,
            held: None,
            last: Mark::default(),
            known: Mark::default(),
            done: false,
        }
    }

    /// The same for a connection that is encrypted (`https`), which its bytes in the clear do not tell.
    pub fn secure() -> Self {
        Self { secure: true, ..Self::new() }
    }

    fn requests(&mut self, mut bytes: &[u8], mark: Mark, out: &mut Vec<Event>) {
        loop {
            if let Some(held) = &mut self.held {
                return held.data(bytes, mark);
            }
            let Some(step) = self.request.step(&mut bytes, mark) else { return };
            self.request_step(step, mark, out);
        }
    }

    fn request_step(&mut self, step: Step<RequestHead>, mark: Mark, out: &mut Vec<Event>) {
        match step {
            Step::Head { head, first, bytes, found } => {
                // Its client waits for answers, so what looks like a request is part of the body that was lost.
                self.end_doubtful(out);
                if found && !self.pipelined && !self.open.is_empty() {
                    return self.request.reject(bytes);
                }
                if let Some(framing) = head.framing() {
                    self.begin(head, framing, [first, mark], out);
                } else {
                    self.request_lost = true;
                    self.request.reject(0);
                    out.push(Event::Lost { reason: LossReason::Malformed, bytes });
                }
            }
            Step::Body(bytes) => {
                let first = self.open.front().map_or(0, |open| open.number);
                let index = self.uploading.and_then(|number| number.checked_sub(first));
                if let Some(open) = index.and_then(|index| self.open.get_mut(index as usize)) {
                    open.exchange.request_size += bytes;
                }
            }
            Step::End | Step::FoundEnd => {
                self.uploading = None;
                if self.switching.is_some() {
                    self.held = Some(Held { bytes: Vec::new(), mark, lost: None });
                }
            }
            Step::Lost { reason, bytes } => {
                self.uploading = None;
                self.request_lost = true;
                out.push(Event::Lost { reason, bytes });
            }
        }
    }

    fn begin(&mut self, head: RequestHead, framing: Framing, [first, at]: [Mark; 2], out: &mut Vec<Event>) {
        report_skipped(&mut self.request, out);
        if self.open.len() >= OPEN_LIMIT {
            self.unsure = true;
            self.end_all(Outcome::Lost, at, out);
        }
        self.pipelined |= !self.open.is_empty();
        if self.reply == Reply::Unseen && !self.pipelined {
            // It is over, whatever its head seemed to say.
            self.reply = Reply::None;
            self.response.reject(0);
        }
        let unsure = std::mem::take(&mut self.request_lost) && self.pipelined;
        let number = self.next;
        self.next += 1;
        self.uploading = Some(number);
        self.switching = head.switches.then_some(number);
        let mut exchange = head.finish();
        exchange.secure = self.secure;
        let incoming = exchange.incoming.clone().map(Box::new);
        self.open.push_back(Open { number, exchange, doubtful: false, unsure });
        self.request.body(framing, false);
        out.push(Event::Begin { exchange: number, first, at, incoming });
    }

    fn responses(&mut self, mut bytes: &[u8], mark: Mark, out: &mut Vec<Event>) {
        if !bytes.is_empty() {
            self.last = mark;
        }
        while let Some(step) = self.response.step(&mut bytes, mark) {
            self.response_step(step, bytes, mark, out);
            if self.done {
                return;
            }
            self.settle_switch(out);
        }
    }

    fn response_step(&mut self, step: Step<ResponseHead>, rest: &[u8], mark: Mark, out: &mut Vec<Event>) {
        match step {
            Step::Head { head, first, bytes, .. } => self.answer(&head, bytes, rest, [first, mark], out),
            Step::Body(bytes) => match (self.reply, self.open.front_mut()) {
                (Reply::First, Some(open)) => open.exchange.response_size += bytes,
                _ => self.response.skip(bytes),
            },
            Step::End => self.end_reply(Outcome::Complete, mark, out),
            Step::FoundEnd => self.end_reply(Outcome::Lost, mark, out),
            Step::Lost { reason, bytes } => {
                self.doubt();
                out.push(Event::Lost { reason, bytes });
            }
        }
        self.known = mark;
    }

    fn answer(
        &mut self,
        head: &ResponseHead,
        bytes: u64,
        rest: &[u8],
        [first, at]: [Mark; 2],
        out: &mut Vec<Event>,
    ) {
        // Part of the one before was lost, and its end.
        self.end_reply(Outcome::Lost, self.known, out);
        if matches!(head.status, 100 | 102..=199) {
            if self.open.is_empty() {
                self.response.skip(bytes);
            }
            return self.response.body(Framing::Length(0), false);
        }
        self.unsure |= self.open.front().is_some_and(|open| open.unsure);
        if self.unsure {
            self.end_all(Outcome::Lost, at, out);
        }
        let Some(open) = self.open.front_mut() else {
            self.response.skip(bytes);
            if head.status == 101 {
                return self.upgrade(head, String::new(), at, rest, out);
            }
            self.reply = Reply::Unseen;
            // Had that request been `HEAD`, no body would follow.
            return match head.framing("") {
                Some(framing) => self.response.body(framing, true),
                None => self.response.reject(0),
            };
        };
        open.exchange.status = Some(head.status);
        open.doubtful = false;
        let number = open.number;
        let tunnel = open.exchange.method == "CONNECT" && matches!(head.status, 200..=299);
        let framing = head.framing(&open.exchange.method);
        report_skipped(&mut self.response, out);
        out.push(Event::Reply { exchange: number, at: first });
        self.reply = Reply::First;
        if tunnel || head.status == 101 {
            let target = open.exchange.target.clone();
            self.end_reply(Outcome::Complete, at, out);
            return self.upgrade(head, target, at, rest, out);
        }
        if let Some(framing) = framing {
            self.response.body(framing, false);
        } else {
            self.doubt();
            self.response.reject(0);
            out.push(Event::Lost { reason: LossReason::Malformed, bytes });
        }
    }

    /// Bytes of the response side are lost.
    fn doubt(&mut self) {
        self.unsure |= self.pipelined;
        for open in &mut self.open {
            open.doubtful = true;
        }
        if self.reply == Reply::Unseen {
            self.reply = Reply::None;
        }
    }

    /// Where the client waits for each answer, its next request proves that what it waited for is over.
    fn end_doubtful(&mut self, out: &mut Vec<Event>) {
        if !self.pipelined && self.open.front().is_some_and(|open| open.doubtful) {
            self.end_all(Outcome::Lost, self.last, out);
        }
    }

    fn end_reply(&mut self, outcome: Outcome, at: Mark, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.reply, Reply::None) == Reply::First {
            self.end_first(outcome, at, out);
        }
    }

    fn end_all(&mut self, outcome: Outcome, at: Mark, out: &mut Vec<Event>) {
        self.reply = Reply::None;
        while !self.open.is_empty() {
            self.end_first(outcome, at, out);
        }
    }

    fn end_first(&mut self, outcome: Outcome, at: Mark, out: &mut Vec<Event>) {
        let Some(Open { number, mut exchange, .. }) = self.open.pop_front() else { return };
        exchange.outcome = outcome;
        out.push(Event::End { exchange: number, at, detail: Detail::Http(exchange) });
    }

    /// Once it is known that the protocol stays, what was held back are requests.
    fn settle_switch(&mut self, out: &mut Vec<Event>) {
        let Some(number) = self.switching else { return };
        if self.open.iter().any(|open| open.number == number && open.exchange.status.is_none()) {
            return;
        }
        self.switching = None;
        let Some(held) = self.held.take() else { return };
        if held.lost.is_some() {
            self.request_lost = true;
            self.request.reject(0);
        } else {
            self.requests(&held.bytes, held.mark, out);
        }
        held.report(out);
    }

    fn upgrade(&mut self, head: &ResponseHead, target: String, at: Mark, rest: &[u8], out: &mut Vec<Event>) {
        // Requests sent before the server changed the protocol unasked.
        self.end_all(Outcome::Lost, at, out);
        report_skipped(&mut self.response, out);
        let protocol = match head.status {
            101 => head.upgrade.as_deref().unwrap_or_default().to_ascii_lowercase(),
            _ => "connect".to_owned(),
        };
        let mut request = Vec::new();
        if let Some(mut held) = self.held.take() {
            request = std::mem::take(&mut held.bytes);
            held.report(out);
        }
        let opening = (protocol == "websocket")
            .then(|| Box::new(Opening { target, extensions: head.extensions.clone().unwrap_or_default() }));
        out.push(Event::Upgrade { protocol, at, opening, request, response: rest.to_vec() });
        self.done = true;
    }
}

impl Parser for Http {
    fn data(&mut self, side: Side, bytes: &[u8], mark: Mark, out: &mut Vec<Event>) {
        match side {
            _ if self.done => {}
            Side::Request => self.requests(bytes, mark, out),
            Side::Response => self.responses(bytes, mark, out),
        }
    }

    fn gap(&mut self, side: Side, mut length: u64, mark: Mark, out: &mut Vec<Event>) {
        match side {
            _ if self.done => {}
            Side::Request => {
                while self.held.is_none()
                    && let Some(step) = self.request.gap(&mut length)
                {
                    self.request_step(step, mark, out);
                }
                if let Some(held) = &mut self.held {
                    held.gap(length);
                }
            }
            Side::Response => {
                self.last = mark;
                while let Some(step) = self.response.gap(&mut length) {
                    self.response_step(step, &[], mark, out);
                    self.settle_switch(out);
                }
            }
        }
    }

    fn close(&mut self, mark: Mark, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        report_unfinished(&mut self.request, out);
        report_unfinished(&mut self.response, out);
        if let Some(mut held) = self.held.take() {
            held.lose(LossReason::Resync, 0);
            held.report(out);
        }
        if self.response.is_until_close() {
            self.end_reply(Outcome::Complete, self.last, out);
        }
        while let Some(open) = self.open.front() {
            let outcome = if open.doubtful || self.unsure { Outcome::Lost } else { Outcome::CutShort };
            self.end_first(outcome, mark, out);
        }
    }
}

impl Held {
    fn data(&mut self, bytes: &[u8], mark: Mark) {
        if self.bytes.is_empty() {
            self.mark = mark;
        }
        if self.lost.is_some() || self.bytes.len() + bytes.len() > HELD_LIMIT {
            self.lose(LossReason::TooLarge, bytes.len() as u64);
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn gap(&mut self, length: u64) {
        if length > 0 {
            self.lose(LossReason::Gap, length);
        }
    }

    /// What comes before or behind a loss is of no use to the next protocol either.
    fn lose(&mut self, reason: LossReason, more: u64) {
        let held = std::mem::take(&mut self.bytes).len() as u64;
        let (_, bytes) = self.lost.get_or_insert((reason, 0));
        *bytes += held + more;
    }

    fn report(self, out: &mut Vec<Event>) {
        if let Some((reason, bytes)) = self.lost.filter(|(_, bytes)| *bytes > 0) {
            out.push(Event::Lost { reason, bytes });
        }
    }
}

fn report_skipped<H: Head>(half: &mut Half<H>, out: &mut Vec<Event>) {
    let bytes = half.take_skipped();
    if bytes > 0 {
        out.push(Event::Lost { reason: LossReason::Resync, bytes });
    }
}

fn report_unfinished<H: Head>(half: &mut Half<H>, out: &mut Vec<Event>) {
    report_skipped(half, out);
    let bytes = half.unfinished();
    if bytes > 0 {
        out.push(Event::Lost { reason: LossReason::Malformed, bytes });
    }
}
