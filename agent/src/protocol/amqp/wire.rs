//! The wire: one direction cut into frames, and the values in them.
//!
//! Source: *AMQP 0-9-1 specification*, sections 4.2.2 (protocol header), 4.2.3 (frames), 4.2.5 (values).

use crate::protocol::Mark;

use super::methods;

/// The protocol header with which a client of AMQP 0-9-1 begins.
pub(super) const PREAMBLE: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
/// Last octet of every frame.
pub(super) const FRAME_END: u8 = 0xce;
/// Octets of a frame before its payload.
pub(super) const HEAD: usize = 7;
/// Octets of a frame around its payload.
pub(super) const OVERHEAD: u32 = 8;

/// Largest frame where none was negotiated, bytes: the default of `RabbitMQ` and of its clients.
pub(super) const DEFAULT_FRAME: u32 = 131_072;
/// Smallest frame that every peer takes, bytes (`frame-min-size`).
const MIN_FRAME: u32 = 4096;
/// Largest frame that is believed where the peers agreed on no limit, bytes.
const MAX_FRAME: u32 = 1 << 27;

/// Bytes kept of a method: more than the longest short strings of any.
const MAX_METHOD: usize = 2048;
/// Bytes kept of a content header.
const MAX_HEADER: usize = 1 << 16;

/// Types of frames.
pub(super) mod frame {
    pub(in super::super) const METHOD: u8 = 1;
    pub(in super::super) const HEADER: u8 = 2;
    pub(in super::super) const BODY: u8 = 3;
    pub(in super::super) const HEARTBEAT: u8 = 8;
}

/// What the peers agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Longest payload, bytes.
    payload: u32,
    /// Highest channel number.
    channel: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { payload: DEFAULT_FRAME - OVERHEAD, channel: u16::MAX }
    }
}

impl Limits {
    /// From the `connection.tune-ok`; there 0 means no limit.
    pub(super) fn tuned(channel_max: u16, frame_max: u32) -> Self {
        let frame = if frame_max == 0 { MAX_FRAME } else { frame_max.clamp(MIN_FRAME, MAX_FRAME) };
        Self { payload: frame - OVERHEAD, channel: if channel_max == 0 { u16::MAX } else { channel_max } }
    }

    /// Payload of a full frame, bytes.
    pub(super) fn payload(self) -> u32 {
        self.payload
    }

    /// Says whether a frame may begin like this.
    pub(super) fn accept(self, head: Head) -> bool {
        let sound = match head.kind {
            frame::METHOD => head.size >= 4,
            frame::HEADER => head.size >= 14 && head.channel > 0,
            frame::BODY => head.channel > 0,
            frame::HEARTBEAT => head.size == 0 && head.channel == 0,
            _ => false,
        };
        sound && head.size <= self.payload && head.channel <= self.channel
    }
}

/// The beginning of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Type, see [`frame`].
    pub(super) kind: u8,
    /// Channel.
    pub(super) channel: u16,
    /// Length of the payload in bytes.
    pub(super) size: u32,
}

impl Head {
    /// Reads the first seven octets.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor(bytes);
        Some(Self { kind: cursor.u8()?, channel: cursor.u16()?, size: cursor.u32()? })
    }

    fn octets(self) -> [u8; HEAD] {
        let ([c0, c1], [s0, s1, s2, s3]) = (self.channel.to_be_bytes(), self.size.to_be_bytes());
        [self.kind, c0, c1, s0, s1, s2, s3]
    }
}

/// A frame that is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// How it began.
    pub(super) head: Head,
    /// No byte is missing in what was kept of it.
    pub(super) whole: bool,
    /// Mark of its first byte.
    pub(super) first: Mark,
}

/// What comes out of the framer.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// Part of a body.
    Body { channel: u16, bytes: &'a [u8] },
    /// A frame has ended with the byte before.
    Frame(Frame),
    /// A protocol header.
    Preamble,
    /// What stands where a frame should begin is none. The framer has lost its place.
    BadHead { bytes: [u8; 8], have: usize, first: Mark },
    /// So many bytes of a frame came, and then not its end but this byte. The framer has lost its place.
    BadEnd { bytes: u64, byte: u8 },
}

#[derive(Debug)]
enum State {
    /// Between frames (`have` is 0) or in the first octets of one.
    Head { bytes: [u8; 8], have: usize, first: Mark },
    /// In a payload of which `left` bytes are to come.
    Payload { frame: Frame, left: u32 },
    /// Where the next frame begins is not known.
    Lost,
}

/// Cuts one direction into frames.
#[derive(Debug)]
pub(super) struct Framer {
    state: State,
    kept: Vec<u8>,
}

impl Framer {
    /// One that does not know yet where frames begin.
    pub(super) fn lost() -> Self {
        Self { state: State::Lost, kept: Vec::new() }
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// The next byte is the first of a frame.
    pub(super) fn resume(&mut self) {
        self.state = State::Head { bytes: [0; 8], have: 0, first: Mark::default() };
        self.kept.clear();
    }

    pub(super) fn lose(&mut self) {
        self.state = State::Lost;
        self.kept = Vec::new();
    }

    /// What was kept of the frame that has just ended.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.kept)
    }

    /// Gives the buffer back.
    pub(super) fn recycle(&mut self, mut kept: Vec<u8>) {
        if kept.capacity() <= 4096 {
            kept.clear();
            self.kept = kept;
        }
    }

    /// Takes bytes off the front of `rest` up to the next step; `None` when they are used up or the place is lost.
    pub(super) fn advance<'a>(
        &mut self,
        rest: &mut &'a [u8],
        mark: Mark,
        limits: Limits,
    ) -> Option<Step<'a>> {
        loop {
            let (&byte, tail) = rest.split_first()?;
            match &mut self.state {
                State::Lost => return None,
                State::Head { bytes, have, first } => {
                    *rest = tail;
                    if *have == 0 {
                        *first = mark;
                    }
                    if let Some(slot) = bytes.get_mut(*have) {
                        *slot = byte;
                    }
                    *have += 1;
                    let (bytes, have, first) = (*bytes, *have, *first);
                    match begin(bytes, have, limits) {
                        Begin::More => {}
                        Begin::Preamble => {
                            self.resume();
                            return Some(Step::Preamble);
                        }
                        Begin::Frame(head) => {
                            let frame = Frame { head, whole: true, first };
                            self.state = State::Payload { frame, left: head.size };
                        }
                        Begin::Bad => {
                            self.lose();
                            return Some(Step::BadHead { bytes, have, first });
                        }
                    }
                }
                State::Payload { frame, left: 0 } => {
                    *rest = tail;
                    let frame = *frame;
                    if byte == FRAME_END {
                        self.state = State::Head { bytes: [0; 8], have: 0, first: Mark::default() };
                        return Some(Step::Frame(frame));
                    }
                    self.lose();
                    return Some(Step::BadEnd { bytes: HEAD as u64 + u64::from(frame.head.size), byte });
                }
                State::Payload { frame, left } => {
                    let bytes = take(rest, u64::from(*left));
                    *left -= bytes.len() as u32;
                    if frame.head.kind == frame::BODY {
                        return Some(Step::Body { channel: frame.head.channel, bytes });
                    }
                    // What follows a hole has no known place in the frame.
                    if frame.whole {
                        keep(&mut self.kept, frame.head.kind, bytes);
                    }
                }
            }
        }
    }

    /// Walks over missing bytes inside a payload. Says how many bytes of a body were among them, and of which channel.
    pub(super) fn skip(&mut self, length: &mut u64) -> Option<(u16, u64)> {
        let State::Payload { frame, left } = &mut self.state else { return None };
        let walked = u64::from(*left).min(*length);
        *left -= walked as u32;
        *length -= walked;
        frame.whole &= walked == 0;
        (frame.head.kind == frame::BODY).then_some((frame.head.channel, walked))
    }

    /// Takes a missing end octet for granted.
    pub(super) fn skip_end(&mut self) -> Option<Frame> {
        let State::Payload { frame, left: 0 } = self.state else { return None };
        self.state = State::Head { bytes: [0; 8], have: 0, first: Mark::default() };
        Some(frame)
    }

    /// Walks over missing octets at the beginning of a frame that must be this one. False if what was seen of it says
    /// otherwise.
    pub(super) fn skip_head(&mut self, expected: Head, length: &mut u64, mark: Mark) -> bool {
        let State::Head { bytes, have, first } = &mut self.state else { return false };
        let octets = expected.octets();
        if bytes.get(..*have) != octets.get(..*have) {
            return false;
        }
        if *have == 0 {
            *first = mark;
        }
        let walked = ((HEAD - *have) as u64).min(*length);
        *length -= walked;
        *have += walked as usize;
        for (slot, octet) in bytes.iter_mut().zip(octets) {
            *slot = octet;
        }
        if *have == HEAD {
            let frame = Frame { head: expected, whole: true, first: *first };
            self.state = State::Payload { frame, left: expected.size };
        }
        true
    }

    /// How many bytes of a frame's head have been seen.
    pub(super) fn begun(&self) -> u64 {
        match self.state {
            State::Head { have, .. } => have as u64,
            State::Payload { .. } | State::Lost => 0,
        }
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.kept.len()
    }
}

/// What the first octets at a boundary say.
enum Begin {
    More,
    Preamble,
    Frame(Head),
    Bad,
}

fn begin(bytes: [u8; 8], have: usize, limits: Limits) -> Begin {
    match bytes[0] {
        // A broker that refuses answers with the version it would like, which may be another.
        b'A' if have < PREAMBLE.len() => Begin::More,
        b'A' if bytes.starts_with(b"AMQP") => Begin::Preamble,
        frame::METHOD | frame::HEADER | frame::BODY | frame::HEARTBEAT => match Head::read(&bytes) {
            _ if have < HEAD => Begin::More,
            Some(head) if limits.accept(head) => Begin::Frame(head),
            _ => Begin::Bad,
        },
        _ => Begin::Bad,
    }
}

/// Keeps the beginning of a method or content header, but nothing that authenticates anyone.
fn keep(kept: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    let mut bytes = bytes;
    let bound = if kind == frame::METHOD {
        let missing = methods::ID.saturating_sub(kept.len());
        kept.extend_from_slice(take(&mut bytes, missing as u64));
        if methods::is_secret(kept) { methods::ID } else { MAX_METHOD }
    } else {
        MAX_HEADER
    };
    let room = bound.saturating_sub(kept.len());
    kept.extend_from_slice(take(&mut bytes, room as u64));
}

/// Splits off the first `count` bytes of what is left to read.
pub(super) fn take<'a>(bytes: &mut &'a [u8], count: u64) -> &'a [u8] {
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len());
    let (head, tail) = bytes.split_at(count);
    *bytes = tail;
    head
}

/// Reads values off the front of a slice; `None` where it is too short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A short string: one octet of length.
    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.bytes(usize::from(length))
    }

    /// A long string, a table or an array: four octets of length.
    pub(super) fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.bytes(length as usize)
    }
}

/// FNV-1a over 64 bits, see the draft by Fowler, Noll, Vo and Eastlake.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn value(self) -> u64 {
        self.0
    }
}
