//! Finding the next frame after bytes that were hidden or not understood, or on a connection seen from the middle.
//!
//! A single frame is proof enough where it is a method, a content header or a heartbeat: class and method must exist
//! and be this side's, and the arguments must fill the frame to its end octet. Body frames prove nothing.

use super::{
    methods::{self, Method, Sender, class},
    properties,
    wire::{self, Cursor, FRAME_END, HEAD, Head, Limits, OVERHEAD, PREAMBLE, frame},
};
use crate::protocol::{Mark, Side};

/// Longest payload of a frame that is looked for, bytes: methods and common content headers are shorter.
const MAX_PAYLOAD: u32 = 4096;

/// What bytes look like at a place where a frame may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// No frame that could be known alone.
    No,
    /// So many bytes are needed to say more.
    More(usize),
    /// A frame, or a protocol header, of so many bytes.
    Frame {
        /// Its length with all that belongs to it.
        length: usize,
        /// Who sends such.
        sender: Sender,
    },
}

/// Looks at the beginning of these bytes. What it says of some bytes it says of any more that follow.
pub(super) fn look(bytes: &[u8], limits: Limits) -> Look {
    match bytes.first() {
        None => return Look::More(1),
        Some(b'A') => {
            return match bytes.get(..PREAMBLE.len()) {
                Some(head) if head == PREAMBLE => Look::Frame { length: head.len(), sender: Sender::Client },
                None if PREAMBLE.starts_with(bytes) => Look::More(PREAMBLE.len()),
                _ => Look::No,
            };
        }
        Some(&(frame::METHOD | frame::HEADER | frame::HEARTBEAT)) => {}
        Some(_) => return Look::No,
    }
    let Some(head) = Head::read(bytes) else { return Look::More(HEAD) };
    if !limits.accept(head) {
        return Look::No;
    }
    let payload = bytes.get(HEAD..).unwrap_or_default();
    let sender = match head.kind {
        frame::HEARTBEAT => Sender::Either,
        _ if payload.len() < methods::ID => return Look::More(HEAD + methods::ID),
        frame::METHOD => match Method::of(payload) {
            Some(method) if method.accepts(head.size) => {
                if (method.class == class::CONNECTION) != (head.channel == 0) {
                    return Look::No;
                }
                method.sender
            }
            _ => return Look::No,
        },
        _ if payload.starts_with(&[0, class::BASIC as u8, 0, 0]) => Sender::Either,
        _ => return Look::No,
    };
    let length = head.size as usize + OVERHEAD as usize;
    let mut cursor = Cursor(payload);
    let (Some(payload), Some(end)) = (cursor.bytes(head.size as usize), cursor.u8()) else {
        return Look::More(length);
    };
    let exact = match head.kind {
        frame::METHOD => Method::of(payload).is_some_and(|method| method.is_exactly(payload)),
        frame::HEADER => properties::is_exactly(payload),
        _ => true,
    };
    if exact && end == FRAME_END { Look::Frame { length, sender } } else { Look::No }
}

/// The search in one direction.
#[derive(Default)]
pub(super) struct Search {
    /// A possible frame, from its first byte on.
    window: Vec<u8>,
    /// Where in the window bytes of another call begin, and its mark.
    marks: Vec<(usize, Mark)>,
    /// Bytes that the window must hold before it is looked at again.
    need: usize,
    /// A frame may begin at the next byte although none has ended before it.
    fresh: bool,
    /// The byte before was the end octet of a frame, or looked like it.
    ended: bool,
    /// Bytes passed over.
    skipped: u64,
}

/// A frame that was found, and what is already known of the bytes behind it.
#[derive(Debug)]
pub(super) struct Found {
    window: Vec<u8>,
    marks: Vec<(usize, Mark)>,
    /// Bytes passed over before it.
    pub(super) skipped: u64,
}

impl Found {
    /// The bytes call by call, the last call first.
    pub(super) fn into_pieces(self) -> Vec<(Vec<u8>, Mark)> {
        let mut window = self.window;
        self.marks.iter().rev().map(|(begin, mark)| (window.split_off(*begin), *mark)).collect()
    }
}

impl std::fmt::Debug for Search {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Search")
            .field("window", &self.window.len())
            .field("skipped", &self.skipped)
            .finish_non_exhaustive()
    }
}

impl Search {
    /// A search at a place where a frame may begin: the first byte seen of a connection, or the first behind a hole.
    pub(super) fn fresh() -> Self {
        Self { fresh: true, ..Self::default() }
    }

    /// A hole: what was kept does not join what follows.
    pub(super) fn gap(&mut self) {
        self.skipped += self.window.len() as u64;
        *self = Self { fresh: true, skipped: self.skipped, ..Self::default() };
    }

    /// Bytes passed over or kept and not reported.
    pub(super) fn abandon(&mut self) -> u64 {
        let skipped = self.skipped + self.window.len() as u64;
        *self = Self::default();
        skipped
    }

    /// Takes bytes off the front of `rest`, up to the end of a frame or all of them.
    pub(super) fn advance(
        &mut self,
        rest: &mut &[u8],
        mark: Mark,
        side: Side,
        limits: Limits,
    ) -> Option<Found> {
        while !rest.is_empty() {
            if self.window.is_empty() {
                if !(self.fresh || self.ended) {
                    let end = rest.iter().position(|byte| *byte == FRAME_END);
                    let passed = end.map_or(rest.len(), |at| at + 1);
                    self.skipped += wire::take(rest, passed as u64).len() as u64;
                    self.ended = end.is_some();
                    continue;
                }
                self.fresh = false;
                self.ended = false;
                self.need = 1;
            }
            let wanted = self.need.saturating_sub(self.window.len());
            let bytes = wire::take(rest, wanted as u64);
            if self.marks.last().is_none_or(|last| last.1 != mark) {
                self.marks.push((self.window.len(), mark));
            }
            self.window.extend_from_slice(bytes);
            if self.window.len() >= self.need && self.judge(side, limits) {
                let found = Found {
                    window: std::mem::take(&mut self.window),
                    marks: std::mem::take(&mut self.marks),
                    skipped: self.skipped,
                };
                *self = Self::default();
                return Some(found);
            }
        }
        None
    }

    /// Looks at the window, and drops from its front what begins no frame. True if it is a frame.
    fn judge(&mut self, side: Side, limits: Limits) -> bool {
        while !self.window.is_empty() {
            match look(&self.window, limits) {
                Look::Frame { sender, .. } if sender.may_be(side) => return true,
                Look::More(need) if need <= (MAX_PAYLOAD + OVERHEAD) as usize && !self.is_secret() => {
                    self.need = need;
                    return false;
                }
                _ => self.shift(),
            }
        }
        false
    }

    /// Credentials are passed over byte by byte, not kept until they are complete.
    fn is_secret(&self) -> bool {
        self.window.first() == Some(&frame::METHOD) && self.window.get(HEAD..).is_some_and(methods::is_secret)
    }

    /// Drops bytes up to the next end octet.
    fn shift(&mut self) {
        let end = self.window.iter().position(|byte| *byte == FRAME_END);
        let dropped = end.map_or(self.window.len(), |at| at + 1);
        self.window.drain(..dropped);
        self.skipped += dropped as u64;
        self.ended = end.is_some();
        let mark = self.marks.iter().rev().find(|(begin, _)| *begin <= dropped).map(|(_, mark)| *mark);
        self.marks.retain_mut(|(begin, _)| match begin.checked_sub(dropped) {
            Some(at) => {
                *begin = at;
                true
            }
            None => false,
        });
        if self.window.is_empty() {
            self.marks.clear();
        } else if let Some(mark) = mark
            && self.marks.first().is_none_or(|first| first.0 > 0)
        {
            self.marks.insert(0, (0, mark));
        }
    }

    /// Bytes that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.window.len()
    }
}
