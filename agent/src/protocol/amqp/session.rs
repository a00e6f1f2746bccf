//! One connection: frames of both directions put together.

use std::collections::{BTreeMap, VecDeque};

use super::{
    Outcome,
    content::Content,
    deliveries::Deliveries,
    exchanges::Exchanges,
    methods::{Arguments, Method, class},
    search::Search,
    wire::{FRAME_END, Frame, Framer, Head, Limits, OVERHEAD, Step, frame},
};
use crate::protocol::{Event, LossReason, Mark, Parser, Side};

/// Channels of which something is remembered. `RabbitMQ` allows 2,047 unless told otherwise.
const MAX_CHANNELS: usize = 8192;

/// Names of temporary queues that are remembered.
const MAX_TEMPORARY: usize = 256;

/// Frames of one body that a hole may swallow.
const MAX_SWALLOWED: u32 = 1 << 16;

/// The state of one AMQP connection. It may be watched from any moment on.
#[derive(Debug)]
pub struct Amqp {
    request: Half,
    response: Half,
    limits: Limits,
    pub(super) channels: BTreeMap<u16, Channel>,
    pub(super) exchanges: Exchanges,
    pub(super) deliveries: Deliveries,
    /// Consumers of all channels.
    pub(super) consumers: usize,
    /// Queues that were declared exclusive or auto-deleted here, the latest last.
    temporary: VecDeque<String>,
    /// The client closes the connection.
    pub(super) leaves: bool,
    /// Why the broker closed the connection.
    pub(super) failed: Option<(u16, String)>,
    /// How often bytes of the client were missing.
    request_losses: u32,
    over: bool,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Half {
    framer: Framer,
    search: Search,
    /// Messages whose method has been seen and whose body is not complete.
    pub(super) contents: BTreeMap<u16, Content>,
    /// The frame that should come next, since a body is not complete: channel, and size unless it is the last one.
    ahead: Option<(u16, u32)>,
}

impl Half {
    fn new() -> Self {
        Self { framer: Framer::lost(), search: Search::fresh(), contents: BTreeMap::new(), ahead: None }
    }

    /// The head of the frame that should come next.
    fn expected(&self) -> Option<Head> {
        let (channel, size) = self.ahead?;
        let remaining = self.contents.get(&channel)?.remaining();
        let size = u64::from(size).min(remaining) as u32;
        (size > 0).then_some(Head { kind: frame::BODY, channel, size })
    }
}

/// What is known of a channel.
#[derive(Debug)]
pub(super) struct Channel {
    /// Publishes are confirmed.
    pub(super) confirms: bool,
    /// Number of the next publish, as confirms count them.
    pub(super) next: u64,
    /// How often bytes of the client had been missing when that number was known.
    pub(super) certain_at: Option<u32>,
    /// The broker has closed the channel, and why.
    pub(super) closing: Option<(u16, String)>,
    /// Consumers by their tag.
    pub(super) consumers: BTreeMap<String, Consumer>,
    /// The queue that an empty name means: the one declared last.
    pub(super) queue: String,
    /// Tag of the latest delivery.
    pub(super) delivered: u64,
}

/// A consumer.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) queue: String,
    pub(super) temporary: bool,
    pub(super) no_ack: bool,
}

/// A method that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub(super) channel: u16,
    pub(super) method: &'static Method,
    pub(super) arguments: Arguments<'a>,
    /// Mark of the first byte of its frame.
    pub(super) first: Mark,
    /// Mark of its last byte.
    pub(super) at: Mark,
}

impl Default for Amqp {
    fn default() -> Self {
        Self::new()
    }
}

impl Amqp {
    /// A connection of which nothing has been seen. Both directions may begin anywhere.
    pub fn new() -> Self {
        Self {
            request: Half::new(),
            response: Half::new(),
            limits: Limits::default(),
            channels: BTreeMap::new(),
            exchanges: Exchanges::default(),
            deliveries: Deliveries::default(),
            consumers: 0,
            temporary: VecDeque::new(),
            leaves: false,
            failed: None,
            request_losses: 0,
            over: false,
        }
    }

    pub(super) fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.response,
        }
    }

    /// What is known of a channel; `None` if there are too many.
    pub(super) fn channel(&mut self, number: u16) -> Option<&mut Channel> {
        if self.channels.len() >= MAX_CHANNELS && !self.channels.contains_key(&number) {
            return None;
        }
        let failed = &self.failed;
        Some(self.channels.entry(number).or_insert_with(|| Channel {
            confirms: false,
            next: 1,
            certain_at: None,
            closing: failed.clone(),
            consumers: BTreeMap::new(),
            queue: String::new(),
            delivered: 0,
        }))
    }

    /// No byte of the client has been missing since the publishes of the channel are counted.
    pub(super) fn is_certain(&self, channel: &Channel) -> bool {
        channel.certain_at == Some(self.request_losses)
    }

    /// From here on the publishes of a channel are counted without fail.
    pub(super) fn count_from_here(&mut self, number: u16) {
        let losses = self.request_losses;
        if let Some(channel) = self.channel(number)
            && !channel.confirms
        {
            channel.confirms = true;
            channel.next = 1;
            channel.certain_at = Some(losses);
        }
    }

    /// Forgets a channel, and with it what it had open.
    pub(super) fn end_channel(
        &mut self,
        number: u16,
        error: Option<&(u16, String)>,
        at: Mark,
        out: &mut Vec<Event>,
    ) {
        self.request.contents.remove(&number);
        self.response.contents.remove(&number);
        self.exchanges.close(Some(number), error, at, out);
        let outcome = error.map_or(Outcome::Lost, |(code, _)| Outcome::Cut { code: Some(*code) });
        self.deliveries.settle(number, 0, true, outcome, at, out);
        if let Some(channel) = self.channels.remove(&number) {
            self.consumers -= channel.consumers.len();
        }
    }

    /// Forgets all channels, and what they had open.
    pub(super) fn end_all(&mut self, at: Mark, out: &mut Vec<Event>) {
        self.request.contents.clear();
        self.response.contents.clear();
        self.exchanges.close(None, self.failed.as_ref(), at, out);
        let code = self.failed.as_ref().map(|(code, _)| *code);
        let outcome = if self.leaves { Outcome::Lost } else { Outcome::Cut { code } };
        self.deliveries.end_all(outcome, at, out);
        self.channels.clear();
        self.consumers = 0;
    }

    pub(super) fn tune(&mut self, channel_max: u16, frame_max: u32) {
        self.limits = Limits::tuned(channel_max, frame_max);
    }

    pub(super) fn remember_temporary(&mut self, queue: &str) {
        if !self.is_temporary(queue) {
            if self.temporary.len() >= MAX_TEMPORARY {
                self.temporary.pop_front();
            }
            self.temporary.push_back(queue.to_owned());
        }
    }

    pub(super) fn is_temporary(&self, queue: &str) -> bool {
        self.temporary.iter().any(|name| name == queue)
    }

    fn run(&mut self, side: Side, mut bytes: &[u8], mark: Mark, out: &mut Vec<Event>) {
        // Bytes that come before, the next ones last.
        let mut held = Vec::new();
        loop {
            if let Some((piece, mark)) = held.pop() {
                let piece: Vec<u8> = piece;
                let mut rest = piece.as_slice();
                let before = self.run_piece(side, &mut rest, mark, out);
                if !rest.is_empty() {
                    held.push((rest.to_vec(), mark));
                }
                held.extend(before);
            } else if bytes.is_empty() {
                return;
            } else {
                held = self.run_piece(side, &mut bytes, mark, out);
            }
        }
    }

    /// Takes bytes off the front until they are used up or others have to be taken before the rest of them: those are
    /// given back, the next ones last.
    fn run_piece(
        &mut self,
        side: Side,
        bytes: &mut &[u8],
        mark: Mark,
        out: &mut Vec<Event>,
    ) -> Vec<(Vec<u8>, Mark)> {
        let limits = self.limits;
        while !bytes.is_empty() {
            let half = self.half(side);
            if half.framer.is_lost() {
                let Some(found) = half.search.advance(bytes, mark, side, limits) else { break };
                half.framer.resume();
                if found.skipped > 0 {
                    out.push(Event::Lost { reason: LossReason::Resync, bytes: found.skipped });
                }
                return found.into_pieces();
            }
            let Some(step) = half.framer.advance(bytes, mark, limits) else { break };
            match step {
                Step::Body { channel, bytes } => {
                    if let Some(content) = half.contents.get_mut(&channel) {
                        content.body(bytes);
                    }
                }
                Step::Frame(frame) => {
                    self.frame(side, frame, mark, out);
                    if frame.head.kind == frame::METHOD {
                        // It may have changed the limits.
                        return Vec::new();
                    }
                }
                Step::Preamble => {}
                Step::BadHead { bytes, have, first } => {
                    self.lose(side, LossReason::Malformed, 1, mark, out);
                    if bytes[0] == FRAME_END {
                        self.half(side).search = Search::fresh();
                    }
                    let read = bytes.get(1..have).unwrap_or_default();
                    let (before, last) = read.split_at(read.len().saturating_sub(1));
                    return vec![(last.to_vec(), mark), (before.to_vec(), first)];
                }
                Step::BadEnd { bytes, byte } => {
                    self.lose(side, LossReason::Malformed, bytes, mark, out);
                    return vec![(vec![byte], mark)];
                }
            }
        }
        Vec::new()
    }

    /// Takes a frame that has ended at `at`.
    fn frame(&mut self, side: Side, frame: Frame, at: Mark, out: &mut Vec<Event>) {
        let Head { kind, channel, size } = frame.head;
        let kept = self.half(side).framer.take();
        self.half(side).ahead = None;
        let length = u64::from(size) + u64::from(OVERHEAD);
        match kind {
            frame::METHOD => {
                if let Err(reason) = self.method(side, &frame, &kept, at, out) {
                    out.push(Event::Lost { reason, bytes: length });
                }
            }
            frame::HEADER => {
                if !self.header(side, channel, &kept, at, out) {
                    out.push(Event::Lost { reason: LossReason::Resync, bytes: length });
                }
                self.look_ahead(side, channel, self.limits.payload());
            }
            frame::BODY => {
                if !self.body_end(side, channel, at, out) {
                    out.push(Event::Lost { reason: LossReason::Resync, bytes: length });
                }
                self.look_ahead(side, channel, size);
            }
            _ => {}
        }
        self.half(side).framer.recycle(kept);
    }

    /// While a body is not complete, its next part should follow.
    fn look_ahead(&mut self, side: Side, channel: u16, size: u32) {
        let half = self.half(side);
        half.ahead = half.contents.contains_key(&channel).then_some((channel, size));
    }

    fn method(
        &mut self,
        side: Side,
        frame: &Frame,
        kept: &[u8],
        at: Mark,
        out: &mut Vec<Event>,
    ) -> Result<(), LossReason> {
        let channel = frame.head.channel;
        if let Some(content) = self.half(side).contents.remove(&channel) {
            self.tear(&content, at, out);
        }
        let broken = if frame.whole { LossReason::Malformed } else { LossReason::Gap };
        let method = Method::of(kept).ok_or(broken)?;
        if !method.sender.may_be(side) || (method.class == class::CONNECTION) != (channel == 0) {
            return Err(LossReason::Malformed);
        }
        if channel > 0 && self.channel(channel).is_none() {
            return Err(LossReason::TooLarge);
        }
        let Some(arguments) = method.read(kept) else {
            self.miss(side, channel, method);
            return Err(broken);
        };
        let call = Call { channel, method, arguments, first: frame.first, at };
        match side {
            Side::Request => self.client(&call, out),
            Side::Response => self.broker(&call, out),
        }
        Ok(())
    }

    /// Bytes are missing, or make no sense: what was on its way in this direction will not be understood any more.
    fn lose(&mut self, side: Side, reason: LossReason, bytes: u64, at: Mark, out: &mut Vec<Event>) {
        out.push(Event::Lost { reason, bytes });
        let half = self.half(side);
        half.framer.lose();
        half.search = if reason == LossReason::Gap { Search::fresh() } else { Search::default() };
        let last = half.ahead.take().map(|(channel, _)| channel);
        let swallowed = if reason == LossReason::Gap { bytes } else { 0 };
        for (channel, mut content) in std::mem::take(&mut half.contents) {
            // The hole that ends the thread has the end of the body in it.
            if last == Some(channel) && content.remaining() < swallowed {
                content.gap(content.remaining());
                self.complete(channel, content, at, out);
            } else {
                self.tear(&content, at, out);
            }
        }
        match side {
            Side::Request => self.request_losses = self.request_losses.wrapping_add(1),
            Side::Response => self.exchanges.lose_answers(at, out),
        }
    }

    /// Walks over missing bytes as long as it is known what they are. Says how many are left.
    fn walk(&mut self, side: Side, mut length: u64, mark: Mark, out: &mut Vec<Event>) -> u64 {
        for _ in 0..MAX_SWALLOWED {
            let half = self.half(side);
            if let Some((channel, skipped)) = half.framer.skip(&mut length)
                && let Some(content) = half.contents.get_mut(&channel)
            {
                content.gap(skipped);
            }
            if length == 0 {
                return 0;
            }
            if let Some(frame) = half.framer.skip_end() {
                length -= 1;
                self.frame(side, frame, mark, out);
            } else {
                let Some(expected) = half.expected() else { break };
                if !half.framer.skip_head(expected, &mut length, mark) {
                    break;
                }
            }
            if length == 0 {
                return 0;
            }
        }
        length
    }

    /// What is held, in the order of its bounds: bytes, exchanges, deliveries, channels, contents.
    #[cfg(test)]
    pub(super) fn held(&self) -> [usize; 5] {
        let halves = [&self.request, &self.response];
        [
            halves.iter().map(|half| half.framer.held() + half.search.held()).sum(),
            self.exchanges.held(),
            self.deliveries.held(),
            self.channels.len(),
            halves.iter().map(|half| half.contents.len()).sum(),
        ]
    }
}

impl Parser for Amqp {
    fn data(&mut self, side: Side, bytes: &[u8], mark: Mark, out: &mut Vec<Event>) {
        if !self.over {
            self.run(side, bytes, mark, out);
        }
    }

    fn gap(&mut self, side: Side, length: u64, mark: Mark, out: &mut Vec<Event>) {
        if self.over || length == 0 {
            return;
        }
        let half = self.half(side);
        if half.framer.is_lost() {
            half.search.gap();
            out.push(Event::Lost { reason: LossReason::Gap, bytes: length });
            if side == Side::Response {
                self.exchanges.lose_answers(mark, out);
            } else {
                self.request_losses = self.request_losses.wrapping_add(1);
            }
            return;
        }
        let left = self.walk(side, length, mark, out);
        if left > 0 {
            let begun = self.half(side).framer.begun();
            self.lose(side, LossReason::Gap, begun.saturating_add(left), mark, out);
        }
    }

    fn close(&mut self, mark: Mark, out: &mut Vec<Event>) {
        if self.over {
            return;
        }
        self.over = true;
        self.end_all(mark, out);
        for side in [Side::Request, Side::Response] {
            let skipped = self.half(side).search.abandon();
            if skipped > 0 {
                out.push(Event::Lost { reason: LossReason::Resync, bytes: skipped });
            }
        }
    }
}
