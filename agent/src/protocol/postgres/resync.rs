//! Finding the next message boundary after bytes that were hidden or not understood.

use super::{detect, wire};
use crate::protocol::Side;

/// Bytes remembered before a possible anchor: enough for an error or a notice with its details.
const WINDOW: usize = 2048;
/// Skipped bytes are reported at least this often.
const REPORT: u64 = 1 << 16;

/// `ReadyForQuery` up to its status byte. Nothing else on the response side is as certain.
const READY: &[u8] = b"Z\x00\x00\x00\x05";
/// `Sync`.
const SYNC: &[u8] = b"S\x00\x00\x00\x04";

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
        if self.skipped < REPORT {
            return Found::default();
        }
        Found { messages: Vec::new(), lost: std::mem::take(&mut self.skipped) }
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

/// Looks for a message boundary in request bytes that follow hidden ones: the beginning of a write, or what follows
/// a `Sync`. Unlike all else, this depends on how the bytes are cut: writes begin with messages.
pub(super) fn request_boundary(bytes: &[u8]) -> Option<usize> {
    if detect::begins_message(Side::Request, bytes) {
        return Some(0);
    }
    bytes
        .windows(SYNC.len())
        .enumerate()
        .filter(|(_, window)| *window == SYNC)
        .map(|(at, _)| at + SYNC.len())
        .find(|&end| {
            let rest = bytes.get(end..).unwrap_or_default();
            // A text that ends with `S` before a four-byte parameter looks like a Sync; what follows does not.
            rest.is_empty()
                || rest.get(..5).is_some_and(|head| {
                    let (kind, length) =
                        (head[0], head.iter().skip(1).fold(0, |sum, &b| (sum << 8) | u32::from(b)));
                    wire::accepts(Side::Request, kind, length)
                })
        })
}
