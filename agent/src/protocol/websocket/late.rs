//! Connections that are older than the agent: nothing was seen of the handshake, nor of what a compressed stream has said before.

use std::collections::VecDeque;

use super::{Inflate, Opening, WebSocket};
use crate::protocol::{Side, discord::Gateway};

/// First octets of an unmasked frame that is a message by itself: text, and binary.
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
/// With what each message of a stream of zlib ends (`Z_SYNC_FLUSH`): an empty stored block (RFC 1951, section 3.2.4).
const SYNC: [u8; 4] = [0, 0, 0xff, 0xff];
/// Least bytes of blocks of zstd that are believed.
const BLOCKS_MIN: usize = 8;
/// The highest opcode that Discord sends: the answer to a heartbeat.
const OPCODE_MAX: u8 = 11;
/// Most bytes of messages that are kept until they can be read.
const KEPT_MAX: usize = 256 * 1024;
/// Most messages that are kept.
const MESSAGES_MAX: usize = 1024;
/// How many messages may come that a window might have fitted until it is believed that none will.
const PATIENCE: u32 = 256;
/// How long after it was received a message is given to `inflate`, nanoseconds.
const GIVEN_WITHIN: u64 = 1_000_000_000;

/// What a compressed stream of a process refers back to, when a call of `inflate` begins.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    /// When that was.
    pub time: u64,
    /// The first bytes that the call is given.
    pub front: &'a [u8],
    /// How many bytes it is given.
    pub length: usize,
    /// The window: what came first, and what behind it.
    pub history: [&'a [u8]; 2],
}

impl<'a> Window<'a> {
    /// Out of a kernel fact and the circle behind it; `None` where they cannot be one.
    pub fn of(window: &'a adder_ebpf::Window, circle: &'a [u8]) -> Option<Self> {
        let (have, next) = (window.have as usize, window.next as usize);
        let length = window.length as usize;
        if have == 0 || length < adder_ebpf::INFLATED_MIN as usize {
            return None;
        }
        // zlib begins anew at the front when the window is full (`updatewindow` in inflate.c).
        let history = if have < circle.len() {
            [circle.get(..have)?, &[]]
        } else {
            [circle.get(next..)?, circle.get(..next)?]
        };
        Some(Self { time: window.header.time, front: &window.front, length, history })
    }
}

/// Messages that cannot be read yet, and when they came.
#[derive(Debug, Default)]
pub(super) struct Kept {
    messages: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    /// How many were kept that could be told from others.
    come: u32,
}

impl Kept {
    /// Adds one; returns how many bytes were dropped for it.
    pub(super) fn push(&mut self, time: u64, message: Vec<u8>) -> usize {
        let all = self.bytes + message.len();
        self.bytes = all;
        self.come += u32::from(message.len() >= adder_ebpf::INFLATED_MIN as usize);
        self.messages.push_back((time, message));
        while (self.bytes > KEPT_MAX || self.messages.len() > MESSAGES_MAX)
            && let Some((_, first)) = self.messages.pop_front()
        {
            self.bytes -= first.len();
        }
        all - self.bytes
    }

    /// A message is missing; returns the bytes of those before.
    pub(super) fn clear(&mut self) -> usize {
        self.messages.clear();
        std::mem::take(&mut self.bytes)
    }

    /// Whether a window may yet fit.
    pub(super) fn has_patience(&self) -> bool {
        self.come < PATIENCE
    }

    /// The place of the message from which on the call was given what has come, if there is just one. What is short says little: answers
    /// to heartbeats are alike, also those of different connections.
    pub(super) fn place(&self, window: &Window<'_>) -> Option<usize> {
        if window.length < adder_ebpf::INFLATED_MIN as usize {
            return None;
        }
        let is_given = |first: usize| {
            let mut left = window.length;
            let is_front = |(time, message): &(u64, Vec<u8>)| {
                let both = message.len().min(window.front.len());
                both > 0 && message[..both] == window.front[..both] && time + GIVEN_WITHIN > window.time
            };
            self.messages.get(first).is_some_and(is_front)
                && self.messages.iter().skip(first).any(|(_, message)| {
                    left = left.checked_sub(message.len()).unwrap_or(usize::MAX);
                    left == 0
                })
        };
        let mut places = (0..self.messages.len()).filter(|first| is_given(*first));
        places.next().filter(|_| places.next().is_none())
    }

    /// The messages from a place on.
    pub(super) fn behind(&self, place: usize) -> impl Iterator<Item = &[u8]> {
        self.messages.iter().skip(place).map(|(_, message)| message.as_slice())
    }
}

impl WebSocket {
    /// A connection of which the agent sees the first bytes that the watched process receives as a client: Discord's gateway, where
    /// they begin with a whole message that shows it.
    pub fn late(bytes: &[u8]) -> Option<Self> {
        let (first, payload) = message(bytes)?;
        let (gateway, kept) = match first {
            BINARY if payload.ends_with(&SYNC) => (Gateway::in_stream(Inflate::raw()), Some(Kept::default())),
            BINARY if is_blocks(payload) => (Gateway::in_stream(Inflate::zstd()?), None),
            TEXT if payload.starts_with(b"{") && has_opcode(payload) => (Gateway::plain(), None),
            _ => return None,
        };
        Some(Self { gateway: Some(gateway), kept, ..Self::new(&Opening::default(), Side::Response) })
    }
}

/// The payload of the frame at the beginning, if it is all there, and unmasked.
fn message(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [first, short, rest @ ..] = bytes else { return None };
    let (length, rest) = match short {
        126 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), rest.get(2..)?),
        127 => (usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).ok()?, rest.get(8..)?),
        0..126 => (usize::from(*short), rest),
        _ => return None,
    };
    Some((*first, rest.get(..length)?))
}

/// Whether these are whole blocks of zstd, none of which is the last (RFC 8878, section 3.1.1.2).
fn is_blocks(mut bytes: &[u8]) -> bool {
    // Of fewer bytes it says little.
    let mut is_it = bytes.len() >= BLOCKS_MIN;
    while is_it && let Some((&[first, second, third], rest)) = bytes.split_first_chunk() {
        let header = u32::from_le_bytes([first, second, third, 0]);
        let (last, kind, size) = (header & 1, header >> 1 & 3, (header >> 3) as usize);
        // One byte that is repeated; the fourth kind is reserved.
        let behind = rest.get(if kind == 1 { 1 } else { size }..);
        is_it = last == 0 && kind < 3 && behind.is_some();
        bytes = behind.unwrap_or_default();
    }
    is_it && bytes.is_empty()
}

/// Whether a JSON object says which kind of gateway payload it is.
fn has_opcode(object: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Payload {
        op: u8,
        #[serde(rename = "s")]
        _sequence: Option<u64>,
        #[serde(rename = "t")]
        _event: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Payload>(object).is_ok_and(|payload| payload.op <= OPCODE_MAX)
}
