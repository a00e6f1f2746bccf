//! What the broker says.

use super::{
    Answer, Ended, Kind, Message, Outcome,
    content::Target,
    exchanges::Confirm,
    methods::class,
    session::{Amqp, Call},
};
use crate::protocol::{Event, Mark, Side};

impl Amqp {
    /// Takes a method of the broker.
    pub(super) fn broker(&mut self, call: &Call<'_>, out: &mut Vec<Event>) {
        let Call { channel, method, arguments, first, at } = *call;
        match (method.class, method.id) {
            (class::CONNECTION, 50) => {
                self.failed = Some((arguments.short, arguments.text(0)));
                self.end_all(at, out);
            }
            (class::CONNECTION, 51) => {
                self.answer(call, out);
                self.end_all(at, out);
            }
            (class::CHANNEL, 40) => {
                self.fail_channel(channel, (arguments.short, arguments.text(0)), at, out);
            }
            (class::CHANNEL, 41) => {
                self.answer(call, out);
                self.end_channel(channel, None, at, out);
            }
            (class::QUEUE, 11) => {
                let exchange = self.answered(call, out);
                if let Some(message) = exchange.and_then(|exchange| self.exchanges.message(exchange)) {
                    let (queue, temporary) = (arguments.text(0), message.temporary);
                    message.queue = Some(queue.clone());
                    self.declared(channel, &queue, temporary);
                }
                self.finish(exchange, at, out);
            }
            (class::BASIC, 21) => {
                let exchange = self.answered(call, out);
                if let Some(message) = exchange.and_then(|exchange| self.exchanges.message(exchange)) {
                    message.consumer_tag = arguments.text(0);
                    let message = message.clone();
                    self.consume(&message);
                }
                self.finish(exchange, at, out);
            }
            (class::BASIC, 31) => {
                self.cancel(channel, &arguments.text(0));
                self.answer(call, out);
            }
            (class::BASIC, 30) => self.cancel(channel, &arguments.text(0)),
            (class::BASIC, 50) => {
                let returned = (arguments.short, arguments.text(0));
                self.exchanges.returned(channel, &arguments.text(1), &arguments.text(2), returned);
                self.expect(Side::Response, channel, Target::Returned, first);
            }
            (class::BASIC, 60) => self.delivery(call, out),
            (class::BASIC, 71) => self.got(call, out),
            (class::BASIC, 72) => {
                let exchange = self.exchanges.answered(channel, class::BASIC, 71, first, out);
                if let Some(message) = exchange.and_then(|exchange| self.exchanges.message(exchange)) {
                    message.answer = Some(Answer::Empty);
                }
                self.finish(exchange, at, out);
            }
            (class::BASIC, 80) => self.confirmed(call, Answer::Ack, out),
            (class::BASIC, 120) => self.confirmed(call, Answer::Nack, out),
            _ => self.answer(call, out),
        }
    }

    /// Ends the operation that this method answers.
    fn answer(&mut self, call: &Call<'_>, out: &mut Vec<Event>) {
        let exchange = self.answered(call, out);
        self.finish(exchange, call.at, out);
    }

    fn answered(&mut self, call: &Call<'_>, out: &mut Vec<Event>) -> Option<u64> {
        self.exchanges.answered(call.channel, call.method.class, call.method.id, call.first, out)
    }

    fn finish(&mut self, exchange: Option<u64>, at: Mark, out: &mut Vec<Event>) {
        if let Some(exchange) = exchange {
            self.exchanges.end(exchange, Ended::Complete, at, out);
        }
    }

    /// The broker has closed a channel: what is open ends now, what the client has sent meanwhile when it knows.
    fn fail_channel(&mut self, number: u16, error: (u16, String), at: Mark, out: &mut Vec<Event>) {
        self.end_channel(number, Some(&error), at, out);
        if let Some(channel) = self.channel(number) {
            channel.closing = Some(error);
        }
    }

    fn delivery(&mut self, call: &Call<'_>, out: &mut Vec<Event>) {
        let Call { channel: number, arguments, first, .. } = *call;
        self.follow_tag(call, out);
        let mut message = Box::new(Message::new(Kind::Delivery, number));
        message.consumer_tag = arguments.text(0);
        message.delivery_tag = arguments.tag;
        message.redelivered = arguments.bit(0);
        message.exchange = arguments.text(1);
        message.routing_key = arguments.text(2);
        let consumer = self.channels.get(&number).and_then(|it| it.consumers.get(&message.consumer_tag));
        if let Some(consumer) = consumer {
            message.queue = Some(consumer.queue.clone());
            message.temporary = consumer.temporary;
            message.no_ack = Some(consumer.no_ack);
        }
        self.expect(Side::Response, number, Target::Delivery(message), first);
    }

    fn got(&mut self, call: &Call<'_>, out: &mut Vec<Event>) {
        let Call { channel, arguments, first, .. } = *call;
        self.follow_tag(call, out);
        let Some(exchange) = self.exchanges.answered(channel, class::BASIC, 71, first, out) else {
            self.expect(Side::Response, channel, Target::Returned, first);
            return;
        };
        if let Some(message) = self.exchanges.message(exchange) {
            message.delivery_tag = arguments.tag;
            message.redelivered = arguments.bit(0);
            message.exchange = arguments.text(0);
            message.routing_key = arguments.text(1);
        }
        self.expect(Side::Response, channel, Target::Got(exchange), first);
    }

    /// Tags of deliveries only rise, unless the channel was closed and opened again unseen.
    fn follow_tag(&mut self, call: &Call<'_>, out: &mut Vec<Event>) {
        let tag = call.arguments.tag;
        let Some(channel) = self.channels.get_mut(&call.channel) else { return };
        let again = tag <= channel.delivered;
        channel.delivered = tag;
        if again {
            self.deliveries.settle(call.channel, 0, true, Outcome::Lost, call.at, out);
        }
    }

    /// Publishes are confirmed.
    fn confirmed(&mut self, call: &Call<'_>, answer: Answer, out: &mut Vec<Event>) {
        let Call { channel: number, arguments, first, at, .. } = *call;
        let tag = arguments.tag;
        let Some(channel) = self.channels.get_mut(&number) else { return };
        channel.confirms = true;
        let missed = tag.saturating_add(1).saturating_sub(channel.next);
        if missed > 0 {
            // More publishes are confirmed than were seen: these began unseen.
            channel.next = channel.next.saturating_add(missed);
            channel.certain_at = None;
            self.exchanges.renumber(number, missed);
        }
        let confirm = Confirm { channel: number, tag, multiple: arguments.bit(0), answer, first, at };
        self.exchanges.confirm(confirm, out);
    }
}
