//! What uvloop up to 0.22 sends: all of a turn at its end, in nobody's name.
//!
//! It is told what is given to the loop (`UVStream.write`), and what was given leaves in that order. Of `bytes` it is told how many;
//! so each byte that leaves is of who has given it. Where that is not known of all that waits, what leaves in one turn is of whoever
//! has given something in it, if only one has. A task that writes for all (AMQP) wakes right after who has asked it to.
//!
//! pika puts each frame into a `deque`, out of which its loop sends it from the same place in memory, in the context of whoever came
//! first.

use std::collections::VecDeque;

use adder_ebpf::{Data, Header, Item, flag};
use rustc_hash::FxHashMap;

use super::{Engine, context::ContextId, stacks::StackId};
use crate::{conn::Protocol, protocol::Mark};

/// Descriptors of one process that are remembered.
const GIVEN_MAX: usize = 65_536;
/// Pieces that wait to leave on one, each of which is known.
const PIECES_MAX: usize = 1024;
/// Room that is kept for the next.
const PIECES_KEPT: usize = 16;

/// Frames of one process that wait in its memory, and how long at most, nanoseconds.
const BUFFERED_MAX: usize = 65_536;
const BUFFERED_WITHIN: u64 = 60_000_000_000;
/// How long it takes at least until it is looked again which of too many have waited too long.
const LOOKED_EVERY: u64 = 1_000_000_000;

/// What waits in the memory of a process for its loop to send it.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// By [`Header::buffer`].
    frames: FxHashMap<u32, Buffered>,
    /// It is told what is put there.
    is_told: bool,
    /// When it was looked what has waited too long.
    looked: u64,
}

/// Who has put a frame where its loop sends it from.
#[derive(Clone, Copy, Debug)]
struct Buffered {
    time: u64,
    /// Of the frame, bytes.
    length: u64,
    context: ContextId,
    stack: StackId,
}

impl Buffers {
    /// A frame was put there. False where too many are.
    fn add(&mut self, buffer: u32, buffered: Buffered) -> bool {
        let now = buffered.time;
        self.is_told = true;
        if self.frames.len() >= BUFFERED_MAX && self.looked + LOOKED_EVERY <= now {
            self.looked = now;
            self.frames.retain(|_, buffered| buffered.time + BUFFERED_WITHIN > now);
        }
        let has_room = self.frames.len() < BUFFERED_MAX;
        if has_room {
            self.frames.insert(buffer, buffered);
        }
        has_room
    }
}

/// What was given to a connection.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// What has not left yet, where the length of each piece is known.
    pieces: VecDeque<Piece>,
    /// The length of one is not known; the first of them tells who has given something.
    is_vague: bool,
    /// Others have given it something in the same turn.
    several: bool,
    /// [`super::Thread::facts`] when the last of it left, where the length is not known.
    left: Option<u64>,
    /// Place in the stream behind what has left.
    end: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    giver: Giver,
    /// Bytes that have not left.
    length: u64,
}

/// Who has given something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Giver {
    context: ContextId,
    /// Where in the code, and for which stream of HTTP/2.
    stack: StackId,
    stream: Option<(u64, u32)>,
    /// Whom it has woken right after.
    woken: ContextId,
}

impl Given {
    /// Something was given. False where too much waits to know whose it is.
    fn add(&mut self, piece: Piece) -> bool {
        if self.left.is_some() || self.pieces.is_empty() && !self.is_vague {
            // All of it has left.
            self.pieces.clear();
            self.pieces.shrink_to(PIECES_KEPT);
            (self.is_vague, self.several, self.left) = (false, false, None);
        }
        let first = self.pieces.front().map_or(piece.giver.context, |first| first.giver.context);
        self.several |= first != piece.giver.context;
        self.is_vague |= piece.length == 0;
        let has_room = self.pieces.len() < PIECES_MAX;
        if has_room {
            self.pieces.push_back(piece);
        } else {
            self.is_unclear();
        }
        has_room
    }

    /// Whose that is which leaves in this turn is not known.
    fn is_unclear(&mut self) {
        (self.is_vague, self.several) = (true, true);
    }

    /// So many bytes leave, when the thread has made so many facts: who has given the first of them. The parts of one call follow each
    /// other; what a full socket did not take leaves some time later.
    fn leaves(&mut self, data: &Data, facts: u64) -> Option<Giver> {
        let length = data.length;
        if self.end.replace(data.offset + length).is_some_and(|end| end != data.offset) {
            // It is not known what has left before.
            self.is_unclear();
        }
        if !self.is_vague {
            let first = self.pieces.front_mut()?;
            let giver = first.giver;
            if let Some(rest) = first.length.checked_sub(length) {
                first.length = rest;
                self.pieces.pop_front_if(|first| first.length == 0);
                return Some(giver);
            }
            // Each piece is a part of its own; something else has left.
            self.is_unclear();
        }
        if self.left.is_some_and(|left| left != facts && left + 1 != facts) {
            return None;
        }
        self.left = Some(facts);
        let giver = self.pieces.front().filter(|_| !self.several)?.giver;
        // For whom the one or the other of them is does not show.
        let woken = if self.pieces.len() == 1 { giver.woken } else { 0 };
        Some(Giver { woken, ..giver })
    }
}

impl Engine {
    /// Something was given to a descriptor's connection, perhaps ciphertext.
    pub(super) fn given(&mut self, header: &Header, item: &Item, ciphertext: bool) {
        let (fd, length) = (item.item as i32, item.item >> 32);
        let mark = self.mark(header);
        self.connections.given(mark, fd);
        let last = (!ciphertext).then(|| (fd, self.facts_of((header.pid, header.tid))));
        let Some(process) = self.processes.get_mut(&header.pid) else { return };
        process.tells_given = true;
        process.last_given = last;
        let giver = Giver { context: mark.context, stack: mark.stack, stream: self.stream, woken: 0 };
        let has_room = (process.given.len() < GIVEN_MAX || process.given.contains_key(&fd))
            && process.given.entry(fd).or_default().add(Piece { giver, length });
        self.counters.unqueued += u64::from(!has_room);
    }

    /// A context wakes another: perhaps because it has just given what that one has asked it to send.
    pub(super) fn has_given_for(&mut self, header: &Header, by: ContextId, child: ContextId) -> bool {
        let facts = self.facts_of((header.pid, header.tid));
        let Some(process) = self.processes.get_mut(&header.pid) else { return false };
        let Some((fd, _)) = process.last_given.take().filter(|(_, given)| given + 1 == facts) else {
            return false;
        };
        let piece = process.given.get_mut(&fd).and_then(|given| given.pieces.back_mut());
        let Some(piece) = piece.filter(|piece| piece.giver.context == by) else { return false };
        piece.giver.woken = child;
        true
    }

    /// Whose the bytes are that a thread has moved, the fact's flags as they are for him, and for whom he has sent it. Nobody's where
    /// it is not known.
    pub(super) fn sender(&mut self, header: &Header, data: &Data) -> (Mark, u16, ContextId) {
        let mark = self.mark(header);
        let process = self.processes.get(&header.pid).filter(|_| header.flags & flag::RECEIVED == 0);
        let Some(process) = process else { return (mark, header.flags, 0) };
        let is_late = header.flags & flag::FILE_CALL != 0 && process.tells_given;
        if process.buffered.is_told && self.connections.protocol(data.socket) == Some(Protocol::Amqp) {
            if let Some(mark) = self.buffered_by(header, data.length) {
                return (mark, header.flags & !flag::FILE_CALL, 0);
            }
            if self.is_of_unknown(header) {
                return (Mark { context: 0, ..mark }, header.flags, 0);
            }
        }
        if !is_late {
            return (mark, header.flags, 0);
        }
        let facts = self.facts_of((header.pid, header.tid));
        let given = self.processes.get_mut(&header.pid).and_then(|process| process.given.get_mut(&data.fd));
        let giver = given.and_then(|given| given.leaves(data, facts));
        let Some(giver) = giver.filter(|giver| giver.context != 0) else {
            return (Mark { context: 0, ..mark }, header.flags, 0);
        };
        (self.stack, self.stream) = (giver.stack, giver.stream);
        let is_amqp = self.connections.protocol(data.socket) == Some(Protocol::Amqp);
        let mark = Mark { context: giver.context, stack: giver.stack, ..mark };
        (mark, header.flags & !flag::FILE_CALL, if is_amqp { giver.woken } else { 0 })
    }

    /// A frame was put where its loop will take it from. What is put into a queue for other ends is never sent from there.
    pub(super) fn buffered(&mut self, header: &Header, item: &Item) {
        let mark = self.mark(header);
        let Some(process) = self.processes.get_mut(&header.pid) else { return };
        let (length, context, stack) = (item.item, mark.context, mark.stack);
        let buffered = Buffered { time: mark.time, length, context, stack };
        self.counters.unqueued += u64::from(!process.buffered.add(header.buffer, buffered));
    }

    /// A descriptor was closed: what was given to it and has not left is sent no more.
    pub(super) fn gives_up(&mut self, header: &Header, fd: i32) {
        let is_amqp = self.connections.protocol_at(header.pid, fd) == Some(Protocol::Amqp);
        if let Some(process) = self.processes.get_mut(&header.pid) {
            process.given.remove(&fd);
            if is_amqp {
                process.buffered.frames.clear();
            }
        }
    }

    /// In whose name that is which a thread sends, if it was put there before.
    pub(super) fn buffered_by(&mut self, header: &Header, length: u64) -> Option<Mark> {
        if header.flags & flag::RECEIVED != 0 || header.buffer == 0 {
            return None;
        }
        let buffered = self.processes.get_mut(&header.pid)?.buffered.frames.remove(&header.buffer)?;
        if buffered.time + BUFFERED_WITHIN < header.time || buffered.length < length {
            return None;
        }
        self.stack = buffered.stack;
        // Nothing leaves along with it.
        self.thread(header).flush = (0, 0);
        Some(Mark { context: buffered.context, stack: buffered.stack, ..self.mark(header) })
    }

    /// Whether a loop sends, where it is told what is put there, something that was put there by nobody knows whom: before that was
    /// seen, or too long ago.
    fn is_of_unknown(&self, header: &Header) -> bool {
        header.flags & flag::CONTINUED == 0
            && self.threads.get(&(header.pid, header.tid)).is_some_and(|thread| thread.is_loop)
            && self.stacks.flushes(self.stack)
    }

    /// Facts of a process were lost: what was given may be among them.
    pub(super) fn given_is_unclear(&mut self, pid: u32) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.buffered.frames.clear();
            process.given.values_mut().for_each(Given::is_unclear);
        }
    }

    /// Whether what was sent first of an operation was sent in nobody's name; `flags` are those of the fact that shows the
    /// operation, which may be its answer.
    pub(super) fn is_late(&self, first: &Mark, flags: u16) -> bool {
        self.processes.get(&first.pid).is_some_and(|process| {
            process.late_writes
                && flags & flag::FILE_CALL != 0
                && (flags & flag::RECEIVED == 0 || first.context == 0 || !process.tells_given)
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
