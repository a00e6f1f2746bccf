//! Frames (RFC 9113 §4, §6): where they begin and end, and where they begin again after a loss.

use crate::protocol::{LossReason, Mark};

/// What a client says first: RFC 9113 §3.4.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's head.
const HEAD: usize = 9;
/// Longest field block that is read, bytes.
const BLOCK_MAX: usize = 64 * 1024;
/// Longest payload that is believed of a frame by which the way back is found: RFC 9113 §4.2.
const FOUND_MAX: u32 = 16_384;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

mod flag {
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const PADDED: u8 = 8;
    pub(super) const PRIORITY: u8 = 32;
}

/// What one half has said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A whole field block.
    Block {
        stream: u32,
        /// Nothing follows on the stream.
        ends: bool,
        /// Of a stream that the server promises, which nobody has asked for.
        promised: bool,
        block: Vec<u8>,
        /// Mark of its frame's first byte.
        first: Mark,
        /// It is the frame by which the way back was found, and must prove that it is one.
        found: bool,
    },
    /// A whole frame of a body.
    Data {
        stream: u32,
        bytes: u64,
        ends: bool,
    },
    Reset {
        stream: u32,
        code: u32,
    },
    /// Streams with higher numbers will not be answered.
    GoAway {
        last: u32,
    },
    /// A field block is not known, and what it has inserted neither.
    BlockLost,
    Lost {
        reason: LossReason,
        bytes: u64,
    },
}

#[derive(Clone, Copy, Debug, Default)]
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
    length: u32,
}

impl Head {
    fn read(bytes: [u8; HEAD]) -> Self {
        let [high, middle, low, kind, flags, stream @ ..] = bytes;
        // The highest bit is reserved, and ignored: RFC 9113 §4.1.
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        Self { kind, flags, stream, length: u32::from_be_bytes([0, high, middle, low]) }
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether a frame may have this head. Of kinds that nobody knows only the length tells.
    fn is_valid(&self) -> bool {
        match self.kind {
            kind::DATA | kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION => self.stream != 0,
            kind::PRIORITY => self.stream != 0 && self.length == 5,
            kind::RST_STREAM => self.stream != 0 && self.length == 4,
            kind::SETTINGS => self.stream == 0 && self.length.is_multiple_of(6),
            kind::PING => self.stream == 0 && self.length == 8,
            kind::GOAWAY => self.stream == 0 && self.length >= 8,
            kind::WINDOW_UPDATE => self.length == 4,
            _ => self.length <= FOUND_MAX,
        }
    }

    /// Whether somebody who looks for a frame takes this for the head of one. `highest` is the highest stream known.
    fn is_found(&self, highest: u32) -> bool {
        let odd = self.stream % 2 == 1;
        self.length <= FOUND_MAX
            && self.is_valid()
            && match self.kind {
                kind::DATA => odd && self.stream <= highest && self.flags & !9 == 0,
                kind::HEADERS => {
                    odd && self.flags & !0x2d == 0 && self.has(flag::END_HEADERS) && self.length > 0
                }
                kind::RST_STREAM => odd && self.stream <= highest && self.flags == 0,
                kind::SETTINGS => self.flags == 1 && self.length == 0 || self.flags == 0 && self.length > 0,
                kind::PING => self.flags & !1 == 0,
                kind::WINDOW_UPDATE => self.flags == 0 && (self.stream == 0 || odd && self.stream <= highest),
                kind::GOAWAY => self.flags == 0 && self.length < 1024,
                _ => false,
            }
    }
}

/// A field block that may go on in `CONTINUATION`s.
#[derive(Debug)]
struct Block {
    stream: u32,
    ends: bool,
    promised: bool,
    bytes: Vec<u8>,
    /// A part of it is lost, or it is too long.
    torn: bool,
    first: Mark,
}

#[derive(Debug)]
enum State {
    /// So many bytes of the preface are there.
    Preface(usize),
    /// Between frames, or within a head.
    Head,
    /// Within a payload, of which so much is left.
    Payload { left: u32 },
    /// Nobody knows where.
    Search,
}

/// One half of a connection.
#[derive(Debug)]
pub(super) struct Half {
    state: State,
    /// The bytes of a head, or those at which a head is looked for.
    window: [u8; HEAD],
    filled: usize,
    head: Head,
    /// The payload of a frame that is read as a whole.
    payload: Vec<u8>,
    /// The block that is being read.
    block: Option<Block>,
    /// Bytes of the payload or the block are missing, or there were too many.
    torn: bool,
    /// Mark of the first byte of the frame.
    first: Mark,
    /// The frame is the one by which the way back was found.
    found: bool,
    /// Bytes passed over in search.
    skipped: u64,
    /// The highest stream that is known.
    pub(super) highest: u32,
}

impl Half {
    /// A half of which nothing was seen; `from_start` where its first byte is the next one.
    pub(super) fn new(from_start: bool, client: bool) -> Self {
        let state = match (from_start, client) {
            (true, true) => State::Preface(0),
            (true, false) => State::Head,
            (false, _) => State::Search,
        };
        Self {
            state,
            window: [0; HEAD],
            filled: 0,
            head: Head::default(),
            payload: Vec::new(),
            block: None,
            torn: false,
            first: Mark::default(),
            found: false,
            skipped: 0,
            highest: 0,
        }
    }

    /// Bytes passed over since the last call.
    pub(super) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// Bytes of a frame that has begun.
    pub(super) fn unfinished(&self) -> u64 {
        match self.state {
            State::Payload { left } => u64::from(self.head.length - left) + HEAD as u64,
            State::Head | State::Search => self.filled as u64,
            State::Preface(seen) => seen as u64,
        }
    }

    /// Takes bytes until something was said, or all.
    pub(super) fn step(&mut self, bytes: &mut &[u8], mark: Mark) -> Option<Step> {
        loop {
            match self.state {
                State::Preface(seen) => {
                    let (&byte, rest) = bytes.split_first()?;
                    if PREFACE.get(seen) != Some(&byte) {
                        self.skipped += seen as u64;
                        self.state = State::Search;
                        continue;
                    }
                    *bytes = rest;
                    self.state =
                        if seen + 1 == PREFACE.len() { State::Head } else { State::Preface(seen + 1) };
                }
                State::Head => {
                    if self.filled == 0 && !bytes.is_empty() {
                        self.first = mark;
                    }
                    let taken = bytes.len().min(HEAD - self.filled);
                    let (now, rest) = bytes.split_at(taken);
                    self.window[self.filled..self.filled + taken].copy_from_slice(now);
                    self.filled += taken;
                    *bytes = rest;
                    if self.filled < HEAD {
                        return None;
                    }
                    self.filled = 0;
                    let head = Head::read(self.window);
                    let continues = head.kind == kind::CONTINUATION;
                    let in_order = match &self.block {
                        Some(block) => continues && head.stream == block.stream,
                        None => !continues,
                    };
                    if !head.is_valid() || !in_order {
                        return Some(self.lose(LossReason::Malformed, HEAD as u64));
                    }
                    if let Some(step) = self.begin(head, false) {
                        return Some(step);
                    }
                }
                State::Payload { left } => {
                    let taken = bytes.len().min(left as usize);
                    let (now, rest) = bytes.split_at(taken);
                    self.keep(now);
                    *bytes = rest;
                    let left = left - taken as u32;
                    self.state = State::Payload { left };
                    if left > 0 {
                        return None;
                    }
                    if let Some(step) = self.end() {
                        return Some(step);
                    }
                }
                State::Search => {
                    let (&byte, rest) = bytes.split_first()?;
                    *bytes = rest;
                    if self.filled == HEAD {
                        self.window.copy_within(1.., 0);
                        self.filled -= 1;
                        self.skipped += 1;
                    }
                    self.window[self.filled] = byte;
                    self.filled += 1;
                    if self.filled < HEAD {
                        continue;
                    }
                    let head = Head::read(self.window);
                    if head.is_found(self.highest) {
                        self.filled = 0;
                        self.first = mark;
                        if let Some(step) = self.begin(head, true) {
                            return Some(step);
                        }
                    }
                }
            }
        }
    }

    /// Takes missing bytes until something follows from that, or all.
    pub(super) fn gap(&mut self, length: &mut u64) -> Option<Step> {
        if *length == 0 {
            return None;
        }
        match self.state {
            State::Payload { left } if u64::from(left) >= *length => {
                let left = left - *length as u32;
                *length = 0;
                self.torn = true;
                self.state = State::Payload { left };
                if left == 0 { self.end() } else { None }
            }
            State::Search => {
                self.skipped += self.filled as u64;
                self.filled = 0;
                let bytes = std::mem::take(length);
                Some(Step::Lost { reason: LossReason::Gap, bytes })
            }
            _ => {
                let bytes = std::mem::take(length) + self.unfinished();
                Some(self.lose(LossReason::Gap, bytes))
            }
        }
    }

    /// What seemed to be found was no frame.
    pub(super) fn reject(&mut self) {
        self.skipped += HEAD as u64 + u64::from(self.head.length);
        self.state = State::Search;
        self.filled = 0;
    }

    /// What is known of the half ends here.
    fn lose(&mut self, reason: LossReason, bytes: u64) -> Step {
        self.state = State::Search;
        self.filled = 0;
        self.block = None;
        self.payload = Vec::new();
        Step::Lost { reason, bytes }
    }

    fn begin(&mut self, head: Head, found: bool) -> Option<Step> {
        self.head = head;
        self.found = found;
        self.torn = false;
        self.payload.clear();
        self.state = State::Payload { left: head.length };
        if head.length == 0 { self.end() } else { None }
    }

    /// Keeps what a frame needs of its payload.
    fn keep(&mut self, bytes: &[u8]) {
        let most = match self.head.kind {
            kind::DATA if self.head.has(flag::PADDED) => 1,
            kind::RST_STREAM => 4,
            kind::GOAWAY => 8,
            kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION => BLOCK_MAX,
            _ => 0,
        };
        let room = most - self.payload.len().min(most);
        self.torn |= most == BLOCK_MAX && bytes.len() > room;
        self.payload.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// A frame is complete.
    fn end(&mut self) -> Option<Step> {
        self.state = State::Head;
        let head = self.head;
        let (stream, ends) = (head.stream, head.has(flag::END_STREAM));
        match head.kind {
            kind::DATA => {
                let padding = if head.has(flag::PADDED) {
                    self.payload.first().map_or(0, |padding| u64::from(*padding) + 1)
                } else {
                    0
                };
                Some(Step::Data { stream, bytes: u64::from(head.length).saturating_sub(padding), ends })
            }
            kind::HEADERS | kind::PUSH_PROMISE => {
                let promised = head.kind == kind::PUSH_PROMISE;
                let (ends, bytes) = (ends && !promised, Vec::new());
                self.block = Some(Block { stream, ends, promised, bytes, torn: false, first: self.first });
                self.collect(fragment(head, &self.payload))
            }
            kind::CONTINUATION => self.collect(Some(0..self.payload.len())),
            kind::RST_STREAM => Some(Step::Reset { stream, code: word(&self.payload, 0)? }),
            kind::GOAWAY => Some(Step::GoAway { last: word(&self.payload, 0)? & 0x7fff_ffff }),
            _ => None,
        }
    }

    /// Takes a part of a block.
    fn collect(&mut self, fragment: Option<std::ops::Range<usize>>) -> Option<Step> {
        let block = self.block.as_mut()?;
        let part = fragment.and_then(|range| self.payload.get(range)).filter(|_| !self.torn);
        if let Some(part) = part.filter(|part| block.bytes.len() + part.len() <= BLOCK_MAX) {
            block.bytes.extend_from_slice(part);
        } else {
            (block.torn, block.bytes) = (true, Vec::new());
        }
        if !self.head.has(flag::END_HEADERS) {
            return None;
        }
        let Block { stream, ends, promised, bytes: block, torn, first } = self.block.take()?;
        let whole = Step::Block { stream, ends, promised, block, first, found: self.found };
        Some(if torn { Step::BlockLost } else { whole })
    }
}

/// Where in the payload of `HEADERS` or `PUSH_PROMISE` the block is: RFC 9113 §6.2, §6.6.
fn fragment(head: Head, payload: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut start = 0;
    let mut padding = 0;
    if head.has(flag::PADDED) {
        padding = usize::from(*payload.first()?);
        start += 1;
    }
    if head.kind == kind::PUSH_PROMISE {
        start += 4;
    } else if head.has(flag::PRIORITY) {
        start += 5;
    }
    let end = payload.len().checked_sub(padding)?;
    (start <= end).then_some(start..end)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}
