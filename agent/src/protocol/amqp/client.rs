//! What the client says.

use super::{
    Kind, Message, Outcome,
    content::Target,
    exchanges::Wait,
    methods::{Method, class},
    session::{Amqp, Call, Consumer},
};
use crate::protocol::{Event, Side};

/// Consumers that are remembered of a connection.
const MAX_CONSUMERS: usize = 8192;

impl Amqp {
    /// Takes a method of the client.
    pub(super) fn client(&mut self, call: &Call<'_>, out: &mut Vec<Event>) {
        let Call { channel, method, arguments, at, .. } = *call;
        match (method.class, method.id) {
            (class::CONNECTION, 31) => self.tune(arguments.short, arguments.long),
            (class::CONNECTION, 50) => {
                self.leaves = true;
                self.arrange(call, out);
            }
            (class::CHANNEL, 10) => {
                // One that is still remembered was closed unseen.
                self.end_channel(channel, None, at, out);
                self.arrange(call, out);
            }
            (class::CHANNEL, 41) => {
                let error = self.channel(channel).and_then(|channel| channel.closing.take());
                self.end_channel(channel, error.as_ref(), at, out);
            }
            (class::CONFIRM, 10) => {
                self.count_from_here(channel);
                self.arrange(call, out);
            }
            (class::BASIC, 40) => self.publish(call, out),
            (class::BASIC, 80) => self.settle(call, arguments.bit(0), Outcome::Ack, out),
            (class::BASIC, 90) => {
                self.settle(call, false, Outcome::Reject { requeue: arguments.bit(0) }, out);
            }
            (class::BASIC, 120) => {
                let requeue = arguments.bit(1);
                self.settle(call, arguments.bit(0), Outcome::Nack { requeue }, out);
            }
            (class::BASIC, 100 | 110) => {
                self.deliveries.settle(channel, 0, true, Outcome::Nack { requeue: true }, at, out);
                self.arrange(call, out);
            }
            _ => self.arrange(call, out),
        }
    }

    fn settle(&mut self, call: &Call<'_>, multiple: bool, outcome: Outcome, out: &mut Vec<Event>) {
        self.deliveries.settle(call.channel, call.arguments.tag, multiple, outcome, call.at, out);
    }

    fn publish(&mut self, call: &Call<'_>, out: &mut Vec<Event>) {
        let Call { channel: number, arguments, first, at, .. } = *call;
        let Some(channel) = self.channels.get(&number) else { return };
        let certain = self.is_certain(channel);
        let tag = channel.next;
        let wait = if channel.closing.is_some() {
            Wait::Close
        } else if channel.confirms {
            Wait::Confirm { tag, certain }
        } else {
            Wait::Sent
        };
        let mut message = Box::new(Message::new(Kind::Publish, number));
        message.exchange = arguments.text(0);
        message.routing_key = arguments.text(1);
        message.mandatory = arguments.bit(0);
        message.temporary = message.exchange.is_empty() && self.is_temporary(&message.routing_key);
        if channel.confirms && certain {
            message.delivery_tag = tag;
        }
        self.skip_number(number);
        let exchange = self.exchanges.begin(message, wait, first, at, out);
        self.expect(Side::Request, number, Target::Publish(exchange), first);
    }

    /// The confirms count one publish more.
    fn skip_number(&mut self, number: u16) {
        if let Some(channel) = self.channels.get_mut(&number) {
            channel.next = channel.next.saturating_add(1);
        }
    }

    /// A method came of which the arguments are missing.
    pub(super) fn miss(&mut self, side: Side, channel: u16, method: &Method) {
        if side == Side::Request && (method.class, method.id) == (class::BASIC, 40) {
            self.skip_number(channel);
        }
    }

    /// An operation that waits for its answer, if there is one.
    fn arrange(&mut self, call: &Call<'_>, out: &mut Vec<Event>) {
        let Call { method, arguments, first, at, .. } = *call;
        if method.answer == 0 {
            return;
        }
        let message = self.arranged(call);
        if method.is_no_wait(&arguments) {
            self.arrange_unanswered(&message);
            let exchange = self.exchanges.begin(message, Wait::Sent, first, at, out);
            self.exchanges.sent(exchange, at, out);
        } else {
            let wait = Wait::Answer { class: method.class, id: method.answer };
            self.exchanges.begin(message, wait, first, at, out);
        }
    }

    /// What an operation is about.
    fn arranged(&mut self, call: &Call<'_>) -> Box<Message> {
        let Call { channel, method, arguments, .. } = *call;
        let kind = match (method.class, method.id) {
            (class::BASIC, 70) => Kind::Get,
            (class::TX, 20 | 30) => Kind::Tx { method: method.name },
            _ => Kind::Declare { method: method.name },
        };
        let mut message = Box::new(Message::new(kind, channel));
        match (method.class, method.id) {
            (class::EXCHANGE, id) => {
                message.exchange = arguments.text(0);
                if matches!(id, 30 | 40) {
                    message.routing_key = arguments.text(2);
                }
            }
            (class::QUEUE, 10) => {
                let queue = arguments.text(0);
                // Of a passive declaration the other bits mean nothing.
                message.temporary = !arguments.bit(0) && (arguments.bit(2) || arguments.bit(3));
                if !queue.is_empty() {
                    self.declared(channel, &queue, message.temporary);
                    message.queue = Some(queue);
                }
            }
            (class::QUEUE, id) => {
                message.queue = self.queue(channel, arguments.text(0));
                if matches!(id, 20 | 50) {
                    message.exchange = arguments.text(1);
                    message.routing_key = arguments.text(2);
                }
            }
            (class::BASIC, 20) => {
                message.queue = self.queue(channel, arguments.text(0));
                message.consumer_tag = arguments.text(1);
                message.no_ack = Some(arguments.bit(1));
            }
            (class::BASIC, 30) => message.consumer_tag = arguments.text(0),
            (class::BASIC, 70) => {
                message.queue = self.queue(channel, arguments.text(0));
                message.no_ack = Some(arguments.bit(0));
            }
            _ => {}
        }
        if (method.class, method.id) != (class::QUEUE, 10) {
            message.temporary = message.queue.as_ref().is_some_and(|queue| self.is_temporary(queue));
        }
        message
    }

    /// What an operation changes that no answer will tell.
    fn arrange_unanswered(&mut self, message: &Message) {
        match message.kind {
            Kind::Declare { method: "basic.consume" } => self.consume(message),
            Kind::Declare { method: "basic.cancel" } => self.cancel(message.channel, &message.consumer_tag),
            _ => {}
        }
    }

    /// The queue that a name means: an empty one the queue declared last on the channel.
    fn queue(&self, channel: u16, name: String) -> Option<String> {
        if !name.is_empty() {
            return Some(name);
        }
        self.channels.get(&channel).map(|channel| channel.queue.clone()).filter(|name| !name.is_empty())
    }

    /// A queue was declared on a channel.
    pub(super) fn declared(&mut self, channel: u16, queue: &str, temporary: bool) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            queue.clone_into(&mut channel.queue);
        }
        if temporary {
            self.remember_temporary(queue);
        }
    }

    /// A consumer begins.
    pub(super) fn consume(&mut self, message: &Message) {
        let Some(queue) = message.queue.clone() else { return };
        let full = self.consumers >= MAX_CONSUMERS;
        let Some(channel) = self.channels.get_mut(&message.channel) else { return };
        if full && !channel.consumers.contains_key(&message.consumer_tag) {
            return;
        }
        let no_ack = message.no_ack.unwrap_or_default();
        let consumer = Consumer { queue, temporary: message.temporary, no_ack };
        if channel.consumers.insert(message.consumer_tag.clone(), consumer).is_none() {
            self.consumers += 1;
        }
    }

    /// A consumer ends.
    pub(super) fn cancel(&mut self, channel: u16, tag: &str) {
        let channel = self.channels.get_mut(&channel);
        if channel.is_some_and(|channel| channel.consumers.remove(tag).is_some()) {
            self.consumers -= 1;
        }
    }
}
