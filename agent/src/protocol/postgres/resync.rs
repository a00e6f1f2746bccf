//! Finding the next message boundary after bytes that were hidden or not understood.

use super::{detect, wire};
use crate::protocol::{Mark, Side};

/// Bytes remembered: before a possible anchor enough for an error or a notice with its details, of a write enough for
/// most first messages.
const WINDOW: usize = 2048;
/// Skipped bytes are reported in portions of this size while the search goes on.
const REPORT: u64 = 1 << 16;

/// `ReadyForQuery` up to its status byte. Nothing else on the response side is as certain.
const READY: &[u8] = b"Z\x00\x00\x00\x05";
/// `Sync`.
const SYNC: &[u8] = b"S\x00\x00\x00\x04";
/// Bytes of a message's header.
const HEADER: usize = 5;

/// Looks for `ReadyForQuery` in a response stream that has lost its place.
#[derive(Debug, Default)]
pub(super) struct Search {
    window: Vec<u8>,
    skipped: u64,
}

/// What a search came to.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Whole messages up to and with `ReadyForQuery`; empty where the search goes on.
    pub(super) messages: Vec<u8>,
    /// Bytes given up for lost.
    pub(super) lost: u64,
}

impl Search {
    /// Takes bytes off the front of `rest`, up to and with a `ReadyForQuery` or all of them.
    pub(super) fn advance(&mut self, rest: &mut &[u8]) -> Found {
        while let Some((&byte, tail)) = rest.split_first() {
            *rest = tail;
            if self.window.len() >= 2 * WINDOW {
                self.window.drain(..WINDOW);
                self.skipped += WINDOW as u64;
            }
            self.window.push(byte);
            if self.at_anchor() {
                // However the bytes came, only the last `WINDOW` of them are looked at.
                let oldest = self.window.len().saturating_sub(WINDOW);
                let first = self.earliest_chain(oldest);
                let messages = self.window.split_off(first);
                let lost = self.skipped + std::mem::take(&mut self.window).len() as u64;
                self.skipped = 0;
                return Found { messages, lost };
            }
        }
        Found { messages: Vec::new(), lost: portions(&mut self.skipped) }
    }

    /// Gives up: how many bytes were skipped and not yet reported.
    pub(super) fn abandon(&mut self) -> u64 {
        std::mem::take(&mut self.skipped) + std::mem::take(&mut self.window).len() as u64
    }

    fn at_anchor(&self) -> bool {
        self.window
            .split_last()
            .is_some_and(|(status, before)| matches!(status, b'I' | b'T' | b'E') && before.ends_with(READY))
    }

    /// Where the longest chain of whole messages begins that ends with the anchor.
    fn earliest_chain(&self, oldest: usize) -> usize {
        let anchor = self.window.len() - READY.len() - 1;
        let mut first = anchor;
        for at in (oldest..anchor).rev() {
            let here = self.window.get(at..first).unwrap_or_default();
            // Row data is no anchor: a lone byte in it may look like a short message.
            if matches!(here.first(), Some(kind) if b"CsIEN123tnTDSAGHWdcV".contains(kind)) && is_one(here) {
                first = at;
            }
        }
        first
    }
}

/// Says whether these bytes are exactly one plausible response message.
fn is_one(bytes: &[u8]) -> bool {
    let length = bytes.get(1..5).and_then(|length| length.try_into().ok()).map(u32::from_be_bytes);
    length.is_some_and(|length| length as usize + 1 == bytes.len()) && detect::is_chain(Side::Response, bytes)
}

/// Takes what is to be reported of the bytes skipped: however they came, the same of the same.
fn portions(skipped: &mut u64) -> u64 {
    let rest = *skipped % REPORT;
    std::mem::replace(skipped, rest) - rest
}

/// Looks for a message boundary in a request stream that has lost its place: the beginning of a write, since writes
/// begin with messages, or what follows a `Sync`.
#[derive(Debug, Default)]
pub(super) struct RequestSearch {
    /// Mark of the write under way: another one begins the next.
    write: Mark,
    /// All bytes of the write are in the window, and may still begin with a message.
    fresh: bool,
    window: Vec<u8>,
    skipped: u64,
}

/// Where requests go on.
#[derive(Debug)]
pub(super) struct RequestFound {
    /// Bytes from the boundary on.
    pub(super) messages: Vec<u8>,
    /// A `Sync` stands before the boundary.
    pub(super) synced: bool,
}

impl RequestSearch {
    /// Begins to search, behind a loss inside this write.
    pub(super) fn begin(&mut self, write: Mark) {
        *self = Self { write, ..Self::default() };
    }

    /// Takes bytes off the front of `rest`, as far as is needed to be sure of a boundary or all of them. Beside it, how
    /// many bytes are given up for lost.
    pub(super) fn advance(&mut self, rest: &mut &[u8], mark: Mark) -> (Option<RequestFound>, u64) {
        if mark != self.write && !rest.is_empty() {
            let synced = self.window.ends_with(SYNC);
            self.skipped = self.abandon();
            *self = Self { write: mark, fresh: true, window: Vec::new(), skipped: self.skipped };
            if synced {
                return self.found(0, true);
            }
        }
        while let Some((&byte, tail)) = rest.split_first() {
            *rest = tail;
            self.window.push(byte);
            if self.fresh {
                match detect::judge(Side::Request, &self.window) {
                    Some(true) => return self.found(0, false),
                    Some(false) if self.window.len() < WINDOW => {}
                    _ => self.fresh = false,
                }
            }
            if let Some(at) = self.behind_sync() {
                return self.found(at, true);
            }
            if !self.fresh {
                let surplus = self.window.len().saturating_sub(SYNC.len() + HEADER - 1);
                self.window.drain(..surplus);
                self.skipped += surplus as u64;
            }
        }
        (None, portions(&mut self.skipped))
    }

    /// Gives up: how many bytes were skipped and not yet reported.
    pub(super) fn abandon(&mut self) -> u64 {
        std::mem::take(&mut self.skipped) + std::mem::take(&mut self.window).len() as u64
    }

    /// Ends the search at this place in the window.
    fn found(&mut self, at: usize, synced: bool) -> (Option<RequestFound>, u64) {
        let messages = self.window.split_off(at);
        (Some(RequestFound { messages, synced }), self.abandon())
    }

    /// Where in the window the message begins of which the last bytes are the header, if a `Sync` stands before it. A
    /// text that ends with `S` before a four-byte parameter looks like a `Sync`; what follows does not.
    fn behind_sync(&self) -> Option<usize> {
        let at = self.window.len().checked_sub(HEADER)?;
        let (before, &[kind, b0, b1, b2, b3]) = self.window.split_last_chunk()?;
        let found = before.ends_with(SYNC)
            && wire::accepts(Side::Request, kind, u32::from_be_bytes([b0, b1, b2, b3]));
        found.then_some(at)
    }
}
