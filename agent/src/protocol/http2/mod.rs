//! HTTP/2 (RFC 9113), and gRPC on it.
//!
//! [`Http2`] follows both halves of a connection; `frame` finds frames and finds them again after a loss, `hpack` reads field
//! blocks, `rpc` says of a call what the semantic conventions for RPC say. Streams are paired by their numbers, which
//! are those of the exchanges too, so what is lost of one puts no other in doubt. Bodies are counted and never copied.
//!
//! # Coming late
//! Frames are recognised from anywhere. Fields that refer to entries of a table that were not seen are unknown
//! ([`Exchange::unknown`]); those that were inserted since are known again.

mod frame;
mod hpack;
mod rpc;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::rpc::describe;
use self::{
    frame::{Half, PREFACE, Step},
    hpack::{Decoder, Name},
};
use super::{
    Detail, Event, Guess, LossReason, Mark, Parser, Side,
    http::{Exchange, Grpc, Head as _, Outcome, RequestHead},
};

/// How the content type of all calls begins.
const GRPC: &[u8] = b"application/grpc";
/// Most streams that are open at once.
const OPEN_LIMIT: usize = 1024;
/// Most that is kept of what was answered before its request was reported.
const EARLY_LIMIT: usize = 1024;
/// How long after the last sign of life a stream of which the end may be lost is given up, nanoseconds.
const DOUBTFUL_KEPT: u64 = 10_000_000_000;

/// Looks at the first bytes of one half of a connection: the client's preface, or a block of fields, by which one who comes
/// late knows it.
pub fn detect(bytes: &[u8]) -> Guess {
    if bytes.len() < PREFACE.len() && PREFACE.starts_with(bytes) {
        return Guess::More;
    }
    if bytes.starts_with(PREFACE) {
        return Guess::Yes(Side::Request);
    }
    // As all known senders make them: in one frame, without padding, with or without priority.
    let may_be = |at: usize, is_it: fn(u8) -> bool| bytes.get(at).is_none_or(|byte| is_it(*byte));
    let is_head = may_be(0, |byte| byte == 0)
        && may_be(3, |kind| kind == 1)
        && may_be(4, |flags| matches!(flags, 0x04 | 0x05 | 0x24 | 0x25))
        && may_be(5, |byte| byte < 0x80)
        && may_be(8, |byte| byte % 2 == 1);
    if !is_head {
        return Guess::No;
    }
    let block = bytes.get(4).map_or(9, |flags| if flags & 0x20 == 0 { 9 } else { 14 });
    match bytes.get(block) {
        None => Guess::More,
        // `:method`, `:scheme`, `:path` and `:authority` of the static table.
        Some(0x82..=0x87 | 0x41 | 0x44 | 0x01 | 0x04) => Guess::Yes(Side::Request),
        // `:status`.
        Some(0x88..=0x8e | 0x48 | 0x08) => Guess::Yes(Side::Response),
        _ => Guess::No,
    }
}

/// One connection in HTTP/2.
#[derive(Debug)]
pub struct Http2 {
    secure: bool,
    request: Half,
    response: Half,
    request_fields: Decoder,
    response_fields: Decoder,
    /// Streams whose response is not complete.
    open: BTreeMap<u32, Open>,
    /// What was answered on streams whose request is not reported yet: another thread has read the answer while the one that has sent the
    /// request had no processor. In the order in which it came.
    early: Vec<(u32, Early)>,
    /// Nothing more is said.
    done: bool,
}

#[derive(Debug)]
struct Open {
    exchange: Box<Exchange>,
    /// The head of the final response has been seen.
    replied: bool,
    /// Its end may be among lost bytes.
    doubtful: bool,
    begun: u64,
    /// When anything was said on it.
    last: u64,
}

/// A part of a response that came early.
#[derive(Debug)]
enum Early {
    /// Fields, whether they end the stream, and where they begin and end.
    Fields(ResponseFields, bool, [Mark; 2]),
    /// Bytes of the body, and whether they end the stream.
    Data(u64, bool, Mark),
    /// A reset with its code.
    Reset(u32, Mark),
}

/// What a field block has turned out to be.
enum Block {
    /// None.
    Malformed,
    /// One that begins nothing.
    Other,
    /// A request's.
    Request(Box<Exchange>),
}

/// The fields of a response.
#[derive(Debug, Default)]
struct ResponseFields {
    status: Option<u16>,
    has_status: bool,
    grpc: bool,
    grpc_status: Option<u32>,
    unknown: bool,
}

impl Http2 {
    /// A connection, from its beginning or from anywhere.
    pub fn new(from_start: bool, secure: bool) -> Self {
        Self {
            secure,
            request: Half::new(from_start, true),
            response: Half::new(from_start, false),
            request_fields: Decoder::new(),
            response_fields: Decoder::new(),
            open: BTreeMap::new(),
            early: Vec::new(),
            done: false,
        }
    }

    fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    fn said(&mut self, side: Side, step: Step, mark: Mark, out: &mut Vec<Event>) {
        match step {
            Step::Block { stream, ends, promised, block, first, found } => {
                let length = block.len() as u64;
                let block = if side == Side::Request {
                    self.asked(stream, &block, promised)
                } else {
                    self.answered(stream, ends, promised, &block, [first, mark], out)
                };
                if matches!(block, Block::Malformed) {
                    if found {
                        return self.half(side).reject();
                    }
                    out.push(Event::Lost { reason: LossReason::Malformed, bytes: length });
                }
                let skipped = self.half(side).take_skipped();
                if skipped > 0 {
                    out.push(Event::Lost { reason: LossReason::Resync, bytes: skipped });
                }
                if let Block::Request(exchange) = block {
                    self.begin(stream, exchange, [first, mark], out);
                }
            }
            Step::Data { stream, bytes, ends } => {
                if side == Side::Response {
                    return self.answer(stream, Early::Data(bytes, ends, mark), out);
                }
                let Some(open) = self.open.get_mut(&stream) else { return };
                open.last = mark.time;
                open.exchange.request_size += bytes;
            }
            Step::Reset { stream, code } if side == Side::Response => {
                self.answer(stream, Early::Reset(code, mark), out);
            }
            Step::Reset { stream, code } => self.reset(stream, code, mark, out),
            Step::GoAway { last } => {
                if side == Side::Response {
                    let unanswered: Vec<u32> =
                        self.open.range(last.saturating_add(1)..).map(|(id, _)| *id).collect();
                    for stream in unanswered {
                        self.end(stream, Some(Outcome::CutShort), mark, out);
                    }
                }
            }
            Step::BlockLost => {
                self.fields(side).forget();
                out.push(Event::Lost { reason: LossReason::Gap, bytes: 0 });
            }
            Step::Lost { reason, bytes } => {
                self.fields(side).forget();
                for open in self.open.values_mut() {
                    open.doubtful = true;
                }
                out.push(Event::Lost { reason, bytes });
            }
        }
    }

    fn fields(&mut self, side: Side) -> &mut Decoder {
        match side {
            Side::Request => &mut self.request_fields,
            Side::Response => &mut self.response_fields,
        }
    }

    /// Reads the fields of a request; what they begin.
    fn asked(&mut self, stream: u32, block: &[u8], promised: bool) -> Block {
        let mut head = RequestHead::without_line();
        let (mut unknown, mut grpc, mut is_head, mut timeout) = (false, false, false, None);
        let read = self.request_fields.decode(block, |name, value| {
            is_head |= matches!(name, Name::Method | Name::Path | Name::Scheme | Name::Authority);
            match name {
                Name::Method => head.set_method(value),
                Name::Path => head.set_target(value),
                Name::Authority => head.field(b"host", value),
                Name::ContentType => grpc = value.starts_with(GRPC),
                Name::Forwarded => head.field(b"forwarded", value),
                Name::Traceparent => head.field(b"traceparent", value),
                Name::Tracestate => head.field(b"tracestate", value),
                Name::UserAgent => head.field(b"user-agent", value),
                Name::XForwardedProto => head.field(b"x-forwarded-proto", value),
                Name::GrpcTimeout => timeout = rpc::timeout(value),
                Name::Unknown => unknown = true,
                Name::Scheme | Name::Status | Name::GrpcStatus | Name::Other => {}
            }
        });
        if read.is_err() {
            self.request_fields.forget();
            return Block::Malformed;
        }
        // What comes again on a stream are trailers; numbers only rise.
        if promised || stream <= self.request.highest || stream.is_multiple_of(2) {
            return Block::Other;
        }
        if !is_head {
            return Block::Malformed;
        }
        let mut exchange = head.finish();
        exchange.secure = self.secure;
        exchange.unknown = unknown;
        exchange.grpc = grpc.then_some(Grpc { status: None, timeout });
        Block::Request(exchange)
    }

    fn begin(&mut self, stream: u32, exchange: Box<Exchange>, [first, at]: [Mark; 2], out: &mut Vec<Event>) {
        self.request.highest = stream;
        self.response.highest = self.response.highest.max(stream);
        self.give_up(at, out);
        let incoming = exchange.incoming.clone().map(Box::new);
        self.open.insert(
            stream,
            Open { exchange, replied: false, doubtful: false, begun: first.time, last: at.time },
        );
        out.push(Event::Begin { exchange: u64::from(stream), first, at, incoming });
        for (of, part) in std::mem::take(&mut self.early) {
            // Numbers only rise: of those before nothing is seen any more.
            if of == stream {
                self.answer(of, part, out);
            } else if of > stream {
                self.early.push((of, part));
            }
        }
    }

    /// Whether an answer on this stream may have come before its request was reported.
    const fn may_be_early(&self, stream: u32) -> bool {
        stream > self.request.highest && !stream.is_multiple_of(2) && self.early.len() < EARLY_LIMIT
    }

    /// A part of a response: of a request that is known, or may be soon.
    fn answer(&mut self, stream: u32, part: Early, out: &mut Vec<Event>) {
        if !self.open.contains_key(&stream) {
            if self.may_be_early(stream) {
                self.early.push((stream, part));
            }
            return;
        }
        match part {
            Early::Fields(fields, ends, marks) => self.replied(stream, &fields, ends, marks, out),
            Early::Data(bytes, ends, at) => {
                if let Some(open) = self.open.get_mut(&stream) {
                    open.last = at.time;
                    open.exchange.response_size += bytes;
                }
                if ends {
                    self.end(stream, None, at, out);
                }
            }
            Early::Reset(code, at) => self.reset(stream, code, at, out),
        }
    }

    fn reset(&mut self, stream: u32, code: u32, at: Mark, out: &mut Vec<Event>) {
        let Some(open) = self.open.get_mut(&stream) else { return };
        open.exchange.reset = Some(code);
        let lasted = at.time.saturating_sub(open.begun);
        if let Some(grpc) = open.exchange.grpc.as_mut().filter(|_| code == rpc::CANCEL) {
            grpc.status.get_or_insert(rpc::given_up(grpc.timeout, lasted));
        }
        self.end(stream, Some(Outcome::CutShort), at, out);
    }

    /// Ends what nothing is expected of any more.
    fn give_up(&mut self, at: Mark, out: &mut Vec<Event>) {
        let is_over = |open: &Open| open.doubtful && open.last + DOUBTFUL_KEPT < at.time;
        let over: Vec<u32> = self.open.iter().filter(|(_, open)| is_over(open)).map(|(id, _)| *id).collect();
        for stream in over {
            self.end(stream, Some(Outcome::Lost), at, out);
        }
        while self.open.len() >= OPEN_LIMIT
            && let Some((&oldest, _)) = self.open.first_key_value()
        {
            self.end(oldest, Some(Outcome::Lost), at, out);
        }
    }

    /// Takes the fields of a response.
    fn answered(
        &mut self,
        stream: u32,
        ends: bool,
        promised: bool,
        block: &[u8],
        marks: [Mark; 2],
        out: &mut Vec<Event>,
    ) -> Block {
        let mut fields = ResponseFields::default();
        let number = |value: &[u8]| std::str::from_utf8(value).ok()?.parse().ok();
        let read = self.response_fields.decode(block, |name, value| match name {
            Name::Status => {
                fields.has_status = true;
                fields.status = number(value).and_then(|status| u16::try_from(status).ok());
            }
            Name::GrpcStatus => fields.grpc_status = number(value),
            Name::ContentType => fields.grpc = value.starts_with(GRPC),
            Name::Unknown => fields.unknown = true,
            _ => {}
        });
        if read.is_err() {
            self.response_fields.forget();
            return Block::Malformed;
        }
        let plausible = fields.has_status || fields.grpc_status.is_some() || fields.unknown;
        if self.open.contains_key(&stream) {
            self.response.highest = self.response.highest.max(stream);
        } else if !plausible {
            return Block::Malformed;
        }
        if !promised {
            self.answer(stream, Early::Fields(fields, ends, marks), out);
        }
        Block::Other
    }

    /// The fields of a response to a request that is known.
    fn replied(
        &mut self,
        stream: u32,
        fields: &ResponseFields,
        ends: bool,
        [first, at]: [Mark; 2],
        out: &mut Vec<Event>,
    ) {
        let Some(open) = self.open.get_mut(&stream) else { return };
        open.last = at.time;
        if fields.status.is_some_and(|status| (100..200).contains(&status)) {
            return;
        }
        open.exchange.unknown |= fields.unknown;
        if fields.grpc && open.exchange.grpc.is_none() && open.exchange.unknown {
            open.exchange.grpc = Some(Grpc::default());
        }
        if let Some(grpc) = &mut open.exchange.grpc {
            grpc.status = fields.grpc_status.or(grpc.status);
        }
        if !open.replied {
            // All of its response is behind whatever was lost.
            (open.replied, open.doubtful) = (true, false);
            open.exchange.status = fields.status;
            // A server of gRPC gives a call up by itself when its time is over: that is no answer of who handles it.
            if !(ends && fields.grpc_status.is_some_and(rpc::is_given_up)) {
                out.push(Event::Reply { exchange: u64::from(stream), at: first });
            }
        }
        if ends {
            self.end(stream, None, at, out);
        }
    }

    /// Ends a stream; without an outcome it is complete, as far as is known.
    fn end(&mut self, stream: u32, outcome: Option<Outcome>, at: Mark, out: &mut Vec<Event>) {
        let Some(Open { mut exchange, doubtful, .. }) = self.open.remove(&stream) else { return };
        exchange.outcome = outcome.unwrap_or(if doubtful { Outcome::Lost } else { Outcome::Complete });
        out.push(Event::End { exchange: u64::from(stream), at, detail: Detail::Http(exchange) });
    }
}

impl Parser for Http2 {
    fn data(&mut self, side: Side, mut bytes: &[u8], mark: Mark, out: &mut Vec<Event>) {
        while !self.done
            && let Some(step) = self.half(side).step(&mut bytes, mark)
        {
            self.said(side, step, mark, out);
        }
    }

    fn gap(&mut self, side: Side, mut length: u64, mark: Mark, out: &mut Vec<Event>) {
        while !self.done
            && let Some(step) = self.half(side).gap(&mut length)
        {
            self.said(side, step, mark, out);
        }
    }

    fn close(&mut self, mark: Mark, out: &mut Vec<Event>) {
        if std::mem::replace(&mut self.done, true) {
            return;
        }
        for side in [Side::Request, Side::Response] {
            let bytes = self.half(side).take_skipped() + self.half(side).unfinished();
            if bytes > 0 {
                out.push(Event::Lost { reason: LossReason::Resync, bytes });
            }
        }
        while let Some((&stream, open)) = self.open.first_key_value() {
            let outcome = if open.doubtful { Outcome::Lost } else { Outcome::CutShort };
            self.end(stream, Some(outcome), mark, out);
        }
    }
}
