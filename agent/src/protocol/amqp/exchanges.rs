//! Exchanges that are open: publishes on their way or unconfirmed, and methods that wait for an answer.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, Ended, Message};
use crate::protocol::{Detail, Event, Mark};

/// Exchanges that may be open at a time; the oldest is given up for a newer one.
const MAX_OPEN: usize = 16_384;

/// After so many newer exchanges a publish is given up of which the confirm may have been missed.
const MAX_DOUBT: u64 = 4096;

/// An exchange that has begun.
#[derive(Debug)]
struct Open {
    message: Box<Message>,
    wait: Wait,
    replied: bool,
}

/// What ends an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The last byte of its message.
    Sent,
    /// The confirm with this number. `certain`: no publish of the channel has been missed before.
    Confirm { tag: u64, certain: bool },
    /// This method, on the same channel.
    Answer { class: u16, id: u16 },
    /// The end of the channel: the broker has closed it already.
    Close,
}

/// A confirm as the broker sends it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Confirm {
    pub(super) channel: u16,
    pub(super) tag: u64,
    /// All publishes up to the tag are meant; tag 0 then means all of them.
    pub(super) multiple: bool,
    pub(super) answer: Answer,
    /// Mark of the first byte of the broker's method.
    pub(super) first: Mark,
    /// Mark of its last byte.
    pub(super) at: Mark,
}

/// The open exchanges of a connection.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    next: u64,
    open: BTreeMap<u64, Open>,
    /// Unconfirmed publishes by channel and number.
    confirms: BTreeMap<(u16, u64), u64>,
    /// Exchanges that wait for a method, by channel.
    calls: BTreeSet<(u16, u64)>,
    /// The answers of exchanges before this one may have been missed.
    doubt: u64,
}

impl Exchanges {
    /// An exchange begins.
    pub(super) fn begin(
        &mut self,
        message: Box<Message>,
        wait: Wait,
        first: Mark,
        at: Mark,
        out: &mut Vec<Event>,
    ) -> u64 {
        let exchange = self.next;
        self.next += 1;
        self.make_room(at, out);
        out.push(Event::Begin { exchange, first, at, incoming: None });
        match wait {
            Wait::Confirm { tag, .. } => {
                if let Some(before) = self.confirms.insert((message.channel, tag), exchange) {
                    self.end(before, Ended::Unconfirmed, at, out);
                }
            }
            Wait::Answer { .. } => {
                self.calls.insert((message.channel, exchange));
            }
            Wait::Sent | Wait::Close => {}
        }
        self.open.insert(exchange, Open { message, wait, replied: false });
        exchange
    }

    /// Gives up what is too old.
    fn make_room(&mut self, at: Mark, out: &mut Vec<Event>) {
        while let Some((&oldest, open)) = self.open.first_key_value() {
            let doubtful = match open.wait {
                Wait::Confirm { certain, .. } => !certain || oldest < self.doubt,
                Wait::Sent | Wait::Answer { .. } | Wait::Close => false,
            };
            let given_up = doubtful && oldest + MAX_DOUBT < self.next;
            if !given_up && self.open.len() < MAX_OPEN {
                return;
            }
            let ended =
                if matches!(open.wait, Wait::Confirm { .. }) { Ended::Unconfirmed } else { Ended::Gap };
            self.end(oldest, ended, at, out);
        }
    }

    /// The message of an open exchange.
    pub(super) fn message(&mut self, exchange: u64) -> Option<&mut Message> {
        self.open.get_mut(&exchange).map(|open| &mut *open.message)
    }

    /// The last byte of a publish has been sent.
    pub(super) fn sent(&mut self, exchange: u64, at: Mark, out: &mut Vec<Event>) {
        match self.open.get(&exchange) {
            Some(Open { wait: Wait::Sent, .. }) => self.end(exchange, Ended::Complete, at, out),
            Some(Open { message, wait: Wait::Confirm { .. }, .. }) => {
                out.push(Event::Sent { exchange, at, message: message.clone() });
            }
            // Nobody will take it, or it is known no more.
            Some(_) | None => {}
        }
    }

    /// The rest of a message will not be understood. A confirm can still tell how it ended.
    pub(super) fn torn(&mut self, exchange: u64, at: Mark, out: &mut Vec<Event>) {
        if self.open.get(&exchange).is_some_and(|open| matches!(open.wait, Wait::Sent | Wait::Answer { .. }))
        {
            self.end(exchange, Ended::Gap, at, out);
        }
    }

    /// The oldest exchange of the channel that this method answers. It is replied to from here on.
    pub(super) fn answered(
        &mut self,
        channel: u16,
        class: u16,
        id: u16,
        first: Mark,
        out: &mut Vec<Event>,
    ) -> Option<u64> {
        let answer = Wait::Answer { class, id };
        let mut calls = self.calls.range((channel, 0)..=(channel, u64::MAX)).map(|(_, exchange)| *exchange);
        let exchange =
            calls.find(|exchange| self.open.get(exchange).is_some_and(|open| open.wait == answer))?;
        self.calls.remove(&(channel, exchange));
        self.reply(exchange, first, out);
        Some(exchange)
    }

    fn reply(&mut self, exchange: u64, at: Mark, out: &mut Vec<Event>) {
        if let Some(open) = self.open.get_mut(&exchange)
            && !open.replied
        {
            open.replied = true;
            out.push(Event::Reply { exchange, at });
        }
    }

    /// The broker confirms, or refuses, publishes.
    pub(super) fn confirm(&mut self, confirm: Confirm, out: &mut Vec<Event>) {
        let Confirm { channel, tag, multiple, answer, first, at } = confirm;
        let from = if multiple { 0 } else { tag };
        let to = if multiple && tag == 0 { u64::MAX } else { tag };
        while let Some((&(_, tag), &exchange)) = self.confirms.range((channel, from)..=(channel, to)).next() {
            self.confirms.remove(&(channel, tag));
            self.reply(exchange, first, out);
            if let Some(message) = self.message(exchange) {
                message.answer = Some(answer);
                message.delivery_tag = tag;
            }
            self.end(exchange, Ended::Complete, at, out);
        }
    }

    /// So many publishes of the channel have been missed before those whose number is not certain.
    pub(super) fn renumber(&mut self, channel: u16, missed: u64) {
        let range = self.confirms.range((channel, 0)..=(channel, u64::MAX));
        let mut moved = Vec::new();
        for (key, exchange) in range {
            if let Some(Wait::Confirm { certain: false, .. }) = self.open.get(exchange).map(|open| open.wait)
            {
                moved.push((*key, *exchange));
            }
        }
        for (key, _) in &moved {
            self.confirms.remove(key);
        }
        for ((_, tag), exchange) in moved {
            let tag = tag.saturating_add(missed);
            self.confirms.insert((channel, tag), exchange);
            if let Some(open) = self.open.get_mut(&exchange) {
                open.wait = Wait::Confirm { tag, certain: false };
            }
        }
    }

    /// The broker sends a message back: it is the oldest one to the same destination.
    pub(super) fn returned(
        &mut self,
        channel: u16,
        exchange: &str,
        routing_key: &str,
        returned: (u16, String),
    ) {
        for (_, number) in self.confirms.range((channel, 0)..=(channel, u64::MAX)) {
            if let Some(Open { message, .. }) = self.open.get_mut(number)
                && message.mandatory
                && message.returned.is_none()
                && message.exchange == exchange
                && message.routing_key == routing_key
            {
                message.returned = Some(returned);
                return;
            }
        }
    }

    /// Ends an exchange.
    pub(super) fn end(&mut self, exchange: u64, ended: Ended, at: Mark, out: &mut Vec<Event>) {
        let Some(Open { mut message, wait, .. }) = self.open.remove(&exchange) else { return };
        match wait {
            Wait::Confirm { tag, .. } => {
                // Another may have taken the number.
                if self.confirms.get(&(message.channel, tag)) == Some(&exchange) {
                    self.confirms.remove(&(message.channel, tag));
                }
            }
            Wait::Answer { .. } => {
                self.calls.remove(&(message.channel, exchange));
            }
            Wait::Sent | Wait::Close => {}
        }
        message.ended = ended;
        out.push(Event::End { exchange, at, detail: Detail::Amqp(message) });
    }

    /// The channel is over, or with none given the connection.
    pub(super) fn close(
        &mut self,
        channel: Option<u16>,
        error: Option<&(u16, String)>,
        at: Mark,
        out: &mut Vec<Event>,
    ) {
        let open = self.open.iter().filter(|(_, open)| channel.is_none_or(|it| it == open.message.channel));
        let exchanges: Vec<u64> = open.map(|(exchange, _)| *exchange).collect();
        for exchange in exchanges {
            let doubt = self.doubt;
            let Some(open) = self.open.get_mut(&exchange) else { continue };
            open.message.error = error.cloned();
            let missed = match open.wait {
                Wait::Confirm { certain, .. } => !certain || exchange < doubt,
                Wait::Sent | Wait::Answer { .. } | Wait::Close => false,
            };
            let ended = if missed && error.is_none() { Ended::Unconfirmed } else { Ended::Cut };
            self.end(exchange, ended, at, out);
        }
    }

    /// Bytes of the broker are missing: answers may have been among them.
    pub(super) fn lose_answers(&mut self, at: Mark, out: &mut Vec<Event>) {
        self.doubt = self.next;
        for (_, exchange) in std::mem::take(&mut self.calls) {
            self.end(exchange, Ended::Gap, at, out);
        }
    }

    /// Exchanges that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        assert!(self.confirms.len() + self.calls.len() <= self.open.len(), "{self:?}");
        self.open.len()
    }
}
