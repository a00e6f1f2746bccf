//! Content headers: the properties of a message, and what its headers tell of where it comes from.
//!
//! Source: *AMQP 0-9-1 specification*, section 4.2.6.1 and class `basic`; for the types of table values *`RabbitMQ`:
//! AMQP 0-9-1 errata*, section 3.

use super::{
    Death, Message, Task,
    methods::class,
    wire::{Cursor, Digest},
};
use crate::protocol::Incoming;

/// Longest value of a header that is kept, bytes.
const MAX_VALUE: usize = 512;

/// The queue name by which a client asks for direct replies; the broker appends an address to it.
pub(super) const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to";

/// Bits of the property flags, most significant first.
mod flag {
    pub(super) const CONTENT_TYPE: u16 = 1 << 15;
    pub(super) const CONTENT_ENCODING: u16 = 1 << 14;
    pub(super) const HEADERS: u16 = 1 << 13;
    pub(super) const DELIVERY_MODE: u16 = 1 << 12;
    pub(super) const PRIORITY: u16 = 1 << 11;
    pub(super) const CORRELATION_ID: u16 = 1 << 10;
    pub(super) const REPLY_TO: u16 = 1 << 9;
    pub(super) const EXPIRATION: u16 = 1 << 8;
    pub(super) const MESSAGE_ID: u16 = 1 << 7;
    pub(super) const TIMESTAMP: u16 = 1 << 6;
    pub(super) const TYPE: u16 = 1 << 5;
    pub(super) const USER_ID: u16 = 1 << 4;
    pub(super) const APP_ID: u16 = 1 << 3;
    pub(super) const CLUSTER_ID: u16 = 1 << 2;
    /// Another word of flags follows. No class has that many properties.
    pub(super) const MORE: u16 = 1;
}

/// Properties as they are on the wire.
#[derive(Debug, Default)]
struct Raw<'a> {
    content_type: Option<&'a [u8]>,
    headers: Option<&'a [u8]>,
    delivery_mode: Option<u8>,
    priority: Option<u8>,
    correlation_id: Option<&'a [u8]>,
    reply_to: Option<&'a [u8]>,
    message_id: Option<&'a [u8]>,
    timestamp: Option<u64>,
    type_: Option<&'a [u8]>,
    app_id: Option<&'a [u8]>,
}

/// The length of the body that a content header announces, in bytes.
pub(super) fn body_size(payload: &[u8]) -> Option<u64> {
    let mut cursor = Cursor(payload);
    let (class, _weight) = (cursor.u16()?, cursor.u16()?);
    if class == class::BASIC { cursor.u64() } else { None }
}

/// Reads a content header into the message, as far as it is there.
pub(super) fn read(payload: &[u8], message: &mut Message) {
    let mut raw = Raw::default();
    // What stands before the place where it is cut off is read all the same.
    let _ = walk(payload, &mut raw);
    message.properties_digest = digest(&raw);
    message.content_type = raw.content_type.map(text);
    message.delivery_mode = raw.delivery_mode;
    message.priority = raw.priority;
    message.correlation_id = raw.correlation_id.map(text);
    message.reply_to = raw.reply_to.map(text);
    message.message_id = raw.message_id.map(text);
    message.timestamp = raw.timestamp;
    message.type_ = raw.type_.map(text);
    message.app_id = raw.app_id.map(text);
    if let Some(table) = raw.headers {
        read_headers(table, message);
    }
}

/// Says whether a payload is a content header and nothing else.
pub(super) fn is_exactly(payload: &[u8]) -> bool {
    let mut raw = Raw::default();
    payload.starts_with(&[0, class::BASIC as u8, 0, 0]) && walk(payload, &mut raw) == Some(0)
}

/// Reads properties; says how many bytes are behind them, if they are complete.
fn walk<'a>(payload: &'a [u8], raw: &mut Raw<'a>) -> Option<usize> {
    let mut cursor = Cursor(payload);
    let (_class, _weight, _size) = (cursor.u16()?, cursor.u16()?, cursor.u64()?);
    let flags = cursor.u16()?;
    let has = |flag: u16| flags & flag != 0;
    if has(flag::MORE) {
        return None;
    }
    if has(flag::CONTENT_TYPE) {
        raw.content_type = Some(cursor.short()?);
    }
    if has(flag::CONTENT_ENCODING) {
        cursor.short()?;
    }
    if has(flag::HEADERS) {
        let length = cursor.u32()? as usize;
        let table = cursor.bytes(length.min(cursor.0.len()))?;
        raw.headers = Some(table);
        if table.len() < length {
            return None;
        }
    }
    if has(flag::DELIVERY_MODE) {
        raw.delivery_mode = Some(cursor.u8()?);
    }
    if has(flag::PRIORITY) {
        raw.priority = Some(cursor.u8()?);
    }
    if has(flag::CORRELATION_ID) {
        raw.correlation_id = Some(cursor.short()?);
    }
    if has(flag::REPLY_TO) {
        raw.reply_to = Some(cursor.short()?);
    }
    if has(flag::EXPIRATION) {
        cursor.short()?;
    }
    if has(flag::MESSAGE_ID) {
        raw.message_id = Some(cursor.short()?);
    }
    if has(flag::TIMESTAMP) {
        raw.timestamp = Some(cursor.u64()?);
    }
    if has(flag::TYPE) {
        raw.type_ = Some(cursor.short()?);
    }
    if has(flag::USER_ID) {
        cursor.short()?;
    }
    if has(flag::APP_ID) {
        raw.app_id = Some(cursor.short()?);
    }
    if has(flag::CLUSTER_ID) {
        cursor.short()?;
    }
    Some(cursor.0.len())
}

fn digest(raw: &Raw<'_>) -> u64 {
    let mut digest = Digest::default();
    let direct = raw.reply_to.filter(|name| name.starts_with(DIRECT_REPLY.as_bytes()));
    let reply_to = if direct.is_some() { Some(DIRECT_REPLY.as_bytes()) } else { raw.reply_to };
    for text in [raw.message_id, raw.correlation_id, reply_to, raw.type_, raw.app_id, raw.content_type] {
        match text {
            // Short strings: the length is one octet.
            Some(text) => {
                digest.update(&[1, text.len() as u8]);
                digest.update(text);
            }
            None => digest.update(&[0]),
        }
    }
    match raw.timestamp {
        Some(timestamp) => {
            digest.update(&[1]);
            digest.update(&timestamp.to_be_bytes());
        }
        None => digest.update(&[0]),
    }
    digest.value()
}

/// A value of a table, as far as it means something here.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Text(&'a [u8]),
    Number(u64),
    Table(&'a [u8]),
    Array(&'a [u8]),
    Other,
}

impl<'a> Value<'a> {
    fn text(self) -> Option<&'a [u8]> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

fn value<'a>(cursor: &mut Cursor<'a>) -> Option<Value<'a>> {
    let skipped = match cursor.u8()? {
        b'S' | b'x' => return cursor.long().map(Value::Text),
        b'F' => return cursor.long().map(Value::Table),
        b'A' => return cursor.long().map(Value::Array),
        b'l' | b'L' => return cursor.u64().map(Value::Number),
        b'I' | b'i' => return cursor.u32().map(|number| Value::Number(u64::from(number))),
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' | b'U' => 2,
        b'f' => 4,
        b'D' => 5,
        b'd' | b'T' => 8,
        // Its length is not known, so neither is the place of what follows.
        _ => return None,
    };
    cursor.bytes(skipped).map(|_| Value::Other)
}

/// The next name and value of a table.
fn entry<'a>(cursor: &mut Cursor<'a>) -> Option<(&'a [u8], Value<'a>)> {
    Some((cursor.short()?, value(cursor)?))
}

fn read_headers(table: &[u8], message: &mut Message) {
    let mut cursor = Cursor(table);
    let (mut incoming, mut death) = (Incoming::default(), Death::default());
    let (mut name, mut id, mut root, mut parent) = (None, None, None, None);
    while let Some((key, value)) = entry(&mut cursor) {
        let kept = value.text().filter(|text| text.len() <= MAX_VALUE);
        match (key, value) {
            (b"traceparent", _) => incoming.traceparent = kept.map(text).unwrap_or_default(),
            (b"tracestate", _) => incoming.tracestate = kept.map(text).unwrap_or_default(),
            (b"task", _) => name = kept,
            (b"id", _) => id = kept,
            (b"root_id", _) => root = kept,
            (b"parent_id", _) => parent = kept,
            (b"x-first-death-queue", _) => death.first_queue = kept.map(text),
            (b"x-first-death-exchange", _) => death.first_exchange = kept.map(text),
            (b"x-first-death-reason", _) => death.first_reason = kept.map(text),
            (b"x-death", Value::Array(array)) => read_deaths(array, &mut death),
            _ => {}
        }
    }
    message.incoming = (!incoming.traceparent.is_empty()).then(|| Box::new(incoming));
    message.task = name.zip(id).map(|(name, id)| {
        let (root_id, parent_id) = (root.map(text), parent.map(text));
        Box::new(Task { name: text(name), id: text(id), root_id, parent_id })
    });
    message.death = (death != Death::default()).then(|| Box::new(death));
}

/// Reads `x-death`: the latest entry comes first.
fn read_deaths(array: &[u8], death: &mut Death) {
    let mut deaths = Cursor(array);
    while let Some(value) = value(&mut deaths) {
        let Value::Table(table) = value else { continue };
        let is_latest = death.entries == 0;
        let mut count = 1;
        let mut cursor = Cursor(table);
        while let Some((key, value)) = entry(&mut cursor) {
            let kept = value.text().filter(|text| is_latest && text.len() <= MAX_VALUE);
            match (key, value, kept) {
                (b"count", Value::Number(number), _) => count = number,
                (b"queue", _, Some(kept)) => death.queue = text(kept),
                (b"exchange", _, Some(kept)) => death.exchange = text(kept),
                (b"reason", _, Some(kept)) => death.reason = text(kept),
                _ => {}
            }
        }
        death.entries = death.entries.saturating_add(1);
        death.count = death.count.saturating_add(count);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
