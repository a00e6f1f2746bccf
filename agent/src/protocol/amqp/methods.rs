//! The methods: their numbers, who sends them, what they carry.

use super::wire::Cursor;
use crate::protocol::Side;

/// Octets of a method's number: class and method.
pub(super) const ID: usize = 4;

/// Classes.
pub(super) mod class {
    pub(in super::super) const CONNECTION: u16 = 10;
    pub(in super::super) const CHANNEL: u16 = 20;
    pub(in super::super) const ACCESS: u16 = 30;
    pub(in super::super) const EXCHANGE: u16 = 40;
    pub(in super::super) const QUEUE: u16 = 50;
    pub(in super::super) const BASIC: u16 = 60;
    pub(in super::super) const CONFIRM: u16 = 85;
    pub(in super::super) const TX: u16 = 90;
}

/// Who sends a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Broker,
    Either,
}

impl Sender {
    pub(super) fn may_be(self, side: Side) -> bool {
        match self {
            Self::Client => side == Side::Request,
            Self::Broker => side == Side::Response,
            Self::Either => true,
        }
    }
}

/// A method as the specification defines it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) class: u16,
    pub(super) id: u16,
    pub(super) sender: Sender,
    /// Its arguments: `b` octet or bits, `h` two octets, `l` four, `q` eight, `s` short string, `S` long string or
    /// table.
    arguments: &'static str,
    pub(super) name: &'static str,
    /// The method of the same class that answers it; 0 where none does.
    pub(super) answer: u16,
    /// The bit that says that no answer is wanted.
    no_wait: u8,
}

const fn client(
    class: u16,
    id: u16,
    arguments: &'static str,
    name: &'static str,
    answer: u16,
    no_wait: u8,
) -> Method {
    Method { class, id, sender: Sender::Client, arguments, name, answer, no_wait }
}

const fn broker(class: u16, id: u16, arguments: &'static str, name: &'static str) -> Method {
    Method { class, id, sender: Sender::Broker, arguments, name, answer: 0, no_wait: 0 }
}

const fn either(class: u16, id: u16, arguments: &'static str, name: &'static str, answer: u16) -> Method {
    Method { class, id, sender: Sender::Either, arguments, name, answer, no_wait: 0 }
}

/// All of AMQP 0-9-1 and the extensions of `RabbitMQ`, sorted by number.
const METHODS: &[Method] = &[
    broker(class::CONNECTION, 10, "bbSSS", "connection.start"),
    client(class::CONNECTION, 11, "SsSs", "connection.start-ok", 0, 0),
    broker(class::CONNECTION, 20, "S", "connection.secure"),
    client(class::CONNECTION, 21, "S", "connection.secure-ok", 0, 0),
    broker(class::CONNECTION, 30, "hlh", "connection.tune"),
    client(class::CONNECTION, 31, "hlh", "connection.tune-ok", 0, 0),
    client(class::CONNECTION, 40, "ssb", "connection.open", 41, 0),
    broker(class::CONNECTION, 41, "s", "connection.open-ok"),
    either(class::CONNECTION, 50, "hshh", "connection.close", 51),
    either(class::CONNECTION, 51, "", "connection.close-ok", 0),
    broker(class::CONNECTION, 60, "s", "connection.blocked"),
    broker(class::CONNECTION, 61, "", "connection.unblocked"),
    client(class::CONNECTION, 70, "Ss", "connection.update-secret", 71, 0),
    broker(class::CONNECTION, 71, "", "connection.update-secret-ok"),
    client(class::CHANNEL, 10, "s", "channel.open", 11, 0),
    broker(class::CHANNEL, 11, "S", "channel.open-ok"),
    either(class::CHANNEL, 20, "b", "channel.flow", 21),
    either(class::CHANNEL, 21, "b", "channel.flow-ok", 0),
    either(class::CHANNEL, 40, "hshh", "channel.close", 41),
    either(class::CHANNEL, 41, "", "channel.close-ok", 0),
    client(class::ACCESS, 10, "sb", "access.request", 11, 0),
    broker(class::ACCESS, 11, "h", "access.request-ok"),
    client(class::EXCHANGE, 10, "hssbS", "exchange.declare", 11, 1 << 4),
    broker(class::EXCHANGE, 11, "", "exchange.declare-ok"),
    client(class::EXCHANGE, 20, "hsb", "exchange.delete", 21, 1 << 1),
    broker(class::EXCHANGE, 21, "", "exchange.delete-ok"),
    client(class::EXCHANGE, 30, "hsssbS", "exchange.bind", 31, 1),
    broker(class::EXCHANGE, 31, "", "exchange.bind-ok"),
    client(class::EXCHANGE, 40, "hsssbS", "exchange.unbind", 51, 1),
    broker(class::EXCHANGE, 51, "", "exchange.unbind-ok"),
    client(class::QUEUE, 10, "hsbS", "queue.declare", 11, 1 << 4),
    broker(class::QUEUE, 11, "sll", "queue.declare-ok"),
    client(class::QUEUE, 20, "hsssbS", "queue.bind", 21, 1),
    broker(class::QUEUE, 21, "", "queue.bind-ok"),
    client(class::QUEUE, 30, "hsb", "queue.purge", 31, 1),
    broker(class::QUEUE, 31, "l", "queue.purge-ok"),
    client(class::QUEUE, 40, "hsb", "queue.delete", 41, 1 << 2),
    broker(class::QUEUE, 41, "l", "queue.delete-ok"),
    client(class::QUEUE, 50, "hsssS", "queue.unbind", 51, 0),
    broker(class::QUEUE, 51, "", "queue.unbind-ok"),
    client(class::BASIC, 10, "lhb", "basic.qos", 11, 0),
    broker(class::BASIC, 11, "", "basic.qos-ok"),
    client(class::BASIC, 20, "hssbS", "basic.consume", 21, 1 << 3),
    broker(class::BASIC, 21, "s", "basic.consume-ok"),
    Method { no_wait: 1, ..either(class::BASIC, 30, "sb", "basic.cancel", 31) },
    either(class::BASIC, 31, "s", "basic.cancel-ok", 0),
    client(class::BASIC, 40, "hssb", "basic.publish", 0, 0),
    broker(class::BASIC, 50, "hsss", "basic.return"),
    broker(class::BASIC, 60, "sqbss", "basic.deliver"),
    client(class::BASIC, 70, "hsb", "basic.get", 71, 0),
    broker(class::BASIC, 71, "qbssl", "basic.get-ok"),
    broker(class::BASIC, 72, "s", "basic.get-empty"),
    either(class::BASIC, 80, "qb", "basic.ack", 0),
    client(class::BASIC, 90, "qb", "basic.reject", 0, 0),
    client(class::BASIC, 100, "b", "basic.recover-async", 0, 0),
    client(class::BASIC, 110, "b", "basic.recover", 111, 0),
    broker(class::BASIC, 111, "", "basic.recover-ok"),
    either(class::BASIC, 120, "qb", "basic.nack", 0),
    client(class::CONFIRM, 10, "b", "confirm.select", 11, 1),
    broker(class::CONFIRM, 11, "", "confirm.select-ok"),
    client(class::TX, 10, "", "tx.select", 11, 0),
    broker(class::TX, 11, "", "tx.select-ok"),
    client(class::TX, 20, "", "tx.commit", 21, 0),
    broker(class::TX, 21, "", "tx.commit-ok"),
    client(class::TX, 30, "", "tx.rollback", 31, 0),
    broker(class::TX, 31, "", "tx.rollback-ok"),
];

/// The arguments that mean something here, in the order in which they are on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments<'a> {
    /// Short strings.
    pub(super) texts: [&'a [u8]; 4],
    /// The last octet or group of bits.
    pub(super) bits: u8,
    /// The first number of two octets.
    pub(super) short: u16,
    /// The first number of four octets.
    pub(super) long: u32,
    /// The number of eight octets.
    pub(super) tag: u64,
}

impl Arguments<'_> {
    /// A short string as text.
    pub(super) fn text(&self, at: usize) -> String {
        self.texts.get(at).map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
    }

    pub(super) fn bit(&self, number: u8) -> bool {
        self.bits & (1 << number) != 0
    }
}

impl Method {
    /// The method with which a payload begins; `None` where it is too short or no such method exists.
    pub(super) fn of(payload: &[u8]) -> Option<&'static Self> {
        let mut cursor = Cursor(payload);
        let number = (cursor.u16()?, cursor.u16()?);
        let at = METHODS.binary_search_by_key(&number, |method| (method.class, method.id)).ok()?;
        METHODS.get(at)
    }

    /// Reads the arguments off a payload. Only long strings and tables may be cut short.
    pub(super) fn read<'a>(&self, payload: &'a [u8]) -> Option<Arguments<'a>> {
        self.walk(payload).map(|(arguments, _)| arguments)
    }

    /// Says whether a payload is this method and nothing else.
    pub(super) fn is_exactly(&self, payload: &[u8]) -> bool {
        self.walk(payload).is_some_and(|(_, rest)| rest == Some(0))
    }

    /// Says whether a payload of this method may have this length.
    pub(super) fn accepts(&self, size: u32) -> bool {
        let least: u32 = self
            .arguments
            .bytes()
            .map(|kind| match kind {
                b'b' | b's' => 1,
                b'h' => 2,
                b'q' => 8,
                _ => 4,
            })
            .sum();
        let fixed = !self.arguments.bytes().any(|kind| kind.eq_ignore_ascii_case(&b's'));
        let size = size.checked_sub(ID as u32);
        if fixed { size == Some(least) } else { size >= Some(least) }
    }

    /// No answer is wanted.
    pub(super) fn is_no_wait(&self, arguments: &Arguments<'_>) -> bool {
        arguments.bits & self.no_wait != 0
    }

    /// The arguments, and how many bytes are behind them; `None` where the last ones are cut short.
    fn walk<'a>(&self, payload: &'a [u8]) -> Option<(Arguments<'a>, Option<usize>)> {
        let mut cursor = Cursor(payload.get(ID..)?);
        let mut arguments = Arguments::default();
        let mut texts = arguments.texts.iter_mut();
        let (mut short, mut long) = (None, None);
        for kind in self.arguments.bytes() {
            match kind {
                b'b' => arguments.bits = cursor.u8()?,
                b'h' => {
                    let value = cursor.u16()?;
                    short.get_or_insert(value);
                }
                b'l' => {
                    let value = cursor.u32()?;
                    long.get_or_insert(value);
                }
                b'q' => arguments.tag = cursor.u64()?,
                b's' => {
                    let text = cursor.short()?;
                    if let Some(slot) = texts.next() {
                        *slot = text;
                    }
                }
                _ if cursor.long().is_none() => {
                    arguments.short = short.unwrap_or_default();
                    arguments.long = long.unwrap_or_default();
                    return Some((arguments, None));
                }
                _ => {}
            }
        }
        arguments.short = short.unwrap_or_default();
        arguments.long = long.unwrap_or_default();
        Some((arguments, Some(cursor.0.len())))
    }
}

/// Says whether what begins like this carries credentials: they are neither kept nor searched.
pub(super) fn is_secret(payload: &[u8]) -> bool {
    Method::of(payload)
        .is_some_and(|method| method.class == class::CONNECTION && matches!(method.id, 11 | 20 | 21 | 70))
}
