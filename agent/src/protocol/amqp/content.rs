//! Messages on their way: method, content header, body.

use super::{
    Ended, HEAD_DIGESTED, Message, Outcome, properties,
    session::Amqp,
    wire::{self, Digest},
};
use crate::protocol::{Detail, Event, Mark, Side};

/// A message whose method has been seen.
#[derive(Debug)]
pub(super) struct Content {
    target: Target,
    /// Mark of the first byte of the method's frame.
    first: Mark,
    /// Length of the body, once the header has told it.
    size: Option<u64>,
    remaining: u64,
    digest: Digest,
    whole: bool,
    /// Digest of the beginning, once it is complete.
    head: Option<Digest>,
    /// Bytes of the body that are behind.
    taken: u64,
}

/// Whose content it is.
#[derive(Debug)]
pub(super) enum Target {
    /// This publish's.
    Publish(u64),
    /// This `basic.get`'s answer.
    Got(u64),
    /// A delivery.
    Delivery(Box<Message>),
    /// A message that came back: what it was is known.
    Returned,
}

impl Content {
    pub(super) fn new(target: Target, first: Mark) -> Self {
        Self {
            target,
            first,
            size: None,
            remaining: 0,
            digest: Digest::default(),
            whole: true,
            head: None,
            taken: 0,
        }
    }

    /// Bytes of the body that are to come.
    pub(super) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Part of the body.
    pub(super) fn body(&mut self, mut bytes: &[u8]) {
        let length = bytes.len() as u64;
        let head = HEAD_DIGESTED.saturating_sub(self.taken);
        self.digest.update(wire::take(&mut bytes, head));
        if self.whole && head > 0 && length >= head {
            self.head = Some(self.digest);
        }
        self.digest.update(bytes);
        self.pass(length);
    }

    /// Part of the body that was not captured.
    pub(super) fn gap(&mut self, length: u64) {
        self.whole &= length == 0;
        self.pass(length);
    }

    fn pass(&mut self, length: u64) {
        self.taken = self.taken.saturating_add(length);
        self.remaining = self.remaining.saturating_sub(length);
    }
}

impl Amqp {
    /// A message begins.
    pub(super) fn expect(&mut self, side: Side, channel: u16, target: Target, first: Mark) {
        self.half(side).contents.insert(channel, Content::new(target, first));
    }

    /// Takes a content header. False if no message waits for one.
    pub(super) fn header(
        &mut self,
        side: Side,
        channel: u16,
        payload: &[u8],
        at: Mark,
        out: &mut Vec<Event>,
    ) -> bool {
        let Some(mut content) = self.half(side).contents.remove(&channel) else { return false };
        let size = properties::body_size(payload).filter(|_| content.size.is_none());
        let Some(size) = size else {
            self.tear(&content, at, out);
            return false;
        };
        content.size = Some(size);
        content.remaining = size;
        match &mut content.target {
            Target::Publish(exchange) | Target::Got(exchange) => {
                if let Some(message) = self.exchanges.message(*exchange) {
                    properties::read(payload, message);
                    message.body_size = size;
                }
            }
            Target::Delivery(message) => {
                properties::read(payload, message);
                message.body_size = size;
            }
            Target::Returned => {}
        }
        if size == 0 {
            self.complete(channel, content, at, out);
        } else {
            self.half(side).contents.insert(channel, content);
        }
        true
    }

    /// A body frame has ended. False if no message waits for one.
    pub(super) fn body_end(&mut self, side: Side, channel: u16, at: Mark, out: &mut Vec<Event>) -> bool {
        let half = self.half(side);
        let Some(content) = half.contents.remove(&channel) else { return false };
        if content.size.is_none() {
            self.tear(&content, at, out);
            return false;
        }
        if content.remaining > 0 {
            half.contents.insert(channel, content);
        } else {
            self.complete(channel, content, at, out);
        }
        true
    }

    /// A message is complete.
    pub(super) fn complete(&mut self, channel: u16, content: Content, at: Mark, out: &mut Vec<Event>) {
        let Content { target, first, digest, whole, head, .. } = content;
        let seal = |message: &mut Message| {
            message.body_digest = digest.value();
            message.digest_complete = whole;
            message.head_digest = head.or(whole.then_some(digest)).map(Digest::value);
        };
        match target {
            Target::Publish(exchange) => {
                if let Some(message) = self.exchanges.message(exchange) {
                    seal(message);
                }
                self.exchanges.sent(exchange, at, out);
            }
            Target::Got(exchange) => {
                if let Some(message) = self.exchanges.message(exchange) {
                    seal(message);
                }
                self.exchanges.end(exchange, Ended::Complete, at, out);
            }
            Target::Delivery(mut message) => {
                seal(&mut message);
                self.deliver(channel, message, first, at, out);
            }
            Target::Returned => {}
        }
    }

    fn deliver(&mut self, channel: u16, message: Box<Message>, first: Mark, at: Mark, out: &mut Vec<Event>) {
        let delivery = self.deliveries.number();
        let (tag, no_ack) = (message.delivery_tag, message.no_ack);
        out.push(Event::Delivery { delivery, first, at, detail: Detail::Amqp(message) });
        if no_ack == Some(true) {
            out.push(Event::Settle { delivery, at, outcome: Outcome::Auto });
        } else {
            self.deliveries.expect(delivery, channel, tag, at, out);
        }
    }

    /// The rest of a message will not be understood.
    pub(super) fn tear(&mut self, content: &Content, at: Mark, out: &mut Vec<Event>) {
        match content.target {
            Target::Publish(exchange) | Target::Got(exchange) => self.exchanges.torn(exchange, at, out),
            Target::Delivery(_) | Target::Returned => {}
        }
    }
}
