//! What both directions share on the wire: lengths and digests.

/// Longest bulk string that is believed, bytes. Redis allows 512 MiB (`proto-max-bulk-len`) and can be told more.
pub(super) const MAX_BULK: u64 = 1 << 36;

/// Most elements of an aggregate that are believed. Redis stops at `INT_MAX` arguments of a command.
pub(super) const MAX_ELEMENTS: u64 = i32::MAX as u64;

/// A length as it stands after `*`, `$` and their like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// So many bytes or elements.
    Known(u64),
    /// `-1`: the null of RESP2.
    Null,
    /// `?`: streamed, the end is marked (RESP3).
    Streamed,
}

/// A length being read, up to its CRLF.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct LengthReader {
    value: u64,
    digits: u8,
    minus: bool,
    streamed: bool,
    carriage_return: bool,
}

/// What the next byte of a length meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LengthStep {
    /// More bytes are needed.
    More,
    /// The line is complete.
    Done(Length),
    /// No length.
    Bad,
}

/// Digits of the largest length that is believed.
const MAX_DIGITS: u8 = 11;

impl LengthReader {
    pub(super) fn push(&mut self, byte: u8) -> LengthStep {
        match byte {
            b'\n' if self.carriage_return => LengthStep::Done(match (self.minus, self.streamed) {
                (true, _) => Length::Null,
                (_, true) => Length::Streamed,
                _ => Length::Known(self.value),
            }),
            _ if self.carriage_return => LengthStep::Bad,
            b'\r' if self.streamed || self.digits > 0 && (!self.minus || self.value == 1) => {
                self.carriage_return = true;
                LengthStep::More
            }
            b'-' if !self.minus && !self.streamed && self.digits == 0 => {
                self.minus = true;
                LengthStep::More
            }
            b'?' if !self.minus && !self.streamed && self.digits == 0 => {
                self.streamed = true;
                LengthStep::More
            }
            b'0'..=b'9' if !self.streamed && self.digits < MAX_DIGITS => {
                self.digits += 1;
                self.value = self.value * 10 + u64::from(byte - b'0');
                LengthStep::More
            }
            _ => LengthStep::Bad,
        }
    }
}

/// Bytes of a payload that its digest is made of: what is captured of a large one is its beginning.
const MAX_DIGESTED: u64 = 1024;

/// FNV-1a over 64 bits of a payload's beginning, see the draft by Fowler, Noll, Vo and Eastlake.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Digest {
    hash: u64,
    left: u64,
    whole: bool,
}

impl Default for Digest {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, left: MAX_DIGESTED, whole: true }
    }
}

impl Digest {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        for byte in take(&mut bytes, self.left) {
            self.left -= 1;
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Bytes are missing: no digest can be given, if they belong to it.
    pub(super) fn skip(&mut self, length: u64) {
        self.whole &= self.left == 0 || length == 0;
    }

    pub(super) fn finish(self) -> Option<u64> {
        self.whole.then_some(self.hash)
    }
}

/// Splits off the first `count` bytes of what is left to read.
pub(super) fn take<'a>(bytes: &mut &'a [u8], count: u64) -> &'a [u8] {
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len());
    let (head, tail) = bytes.split_at(count);
    *bytes = tail;
    head
}
