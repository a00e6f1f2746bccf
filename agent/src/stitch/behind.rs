//! What a task that writes for others (AMQP) has written while the end of something large had not left yet: it lies in the memory of
//! the loop, which sends it when the socket takes more, and whoever has asked for it may have been woken before.
//!
//! Bytes leave in the order in which they were written. So what the loop sends is, one after the other, of those whom the task has
//! woken. But not everything has somebody who waits until it was written. So it shows only when all has left, which is when the
//! task sends something itself: if as much has left as were woken, each is of the one at its place. Else nothing is said: no
//! parent is better than a wrong one.

use adder_ebpf::stacks;

use super::{Engine, OperationId, UnitId, context::ContextId, sharing::SHARED_WAIT, unit::Shared};
use crate::{conn::ConnectionId, protocol::Mark};

/// How long nothing must have happened, after something that is complete, for all of it to have left, nanoseconds.
const QUIET: u64 = 500_000_000;
/// What is remembered of one connection at most, each.
const WAITING_MAX: usize = 4096;

/// What has happened on a connection since its task has sent something itself.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// Whom the task has woken without having sent anything itself.
    woken: Vec<ContextId>,
    /// What the loop has sent.
    left: Vec<Left>,
    /// When something was last added.
    last: u64,
    /// Something is not known of what was written or has left.
    is_unclear: bool,
}

/// Something that has left.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left {
    /// An operation has begun.
    Operation(OperationId),
    /// A delivery was acknowledged or refused then.
    Settled(UnitId, Mark),
}

impl Engine {
    /// A task that writes for others on a connection wakes one of them, and has sent nothing for it.
    pub(super) fn wakes_before(&mut self, connection: ConnectionId, child: ContextId, pid: u32, time: u64) {
        // Where a queue is full, who waits for room there is woken in between.
        self.want_stacks(pid, stacks::WAKES);
        if self.stacks.makes_room(self.stack) {
            return;
        }
        let behind = self.behind.entry(connection).or_default();
        behind.last = time;
        if behind.woken.len() >= WAITING_MAX {
            self.is_unclear_behind(connection);
        } else if !behind.is_unclear {
            behind.woken.push(child);
        }
    }

    /// Something has left. Whether the loop has sent it: for whom will show.
    pub(super) fn is_left_behind(&mut self, connection: ConnectionId, at: &Mark, left: Left) -> bool {
        if self.exchanges.get(&connection).is_none_or(|exchanges| exchanges.writer == 0) {
            return false;
        }
        if !self.stacks.is_sent_by_loop(at.stack) {
            self.catches_up(connection);
            return false;
        }
        let behind = self.behind.entry(connection).or_default();
        behind.last = at.time;
        behind.left.push(left);
        let is_unclear = behind.is_unclear || behind.left.len() >= WAITING_MAX;
        if let Left::Operation(id) = left {
            self.is_shared(id, Shared::Open);
        }
        if is_unclear {
            self.is_unclear_behind(connection);
        }
        true
    }

    /// All that was written has left.
    fn catches_up(&mut self, connection: ConnectionId) {
        let Some(behind) = self.behind.remove(&connection) else { return };
        let is_clear = !behind.is_unclear && behind.woken.len() == behind.left.len();
        let woken = behind.woken.into_iter().map(|child| if is_clear { child } else { 0 });
        for (left, child) in behind.left.into_iter().zip(woken.chain(std::iter::repeat(0))) {
            match left {
                Left::Operation(id) if child != 0 => self.is_made_by(id, child, 0),
                Left::Operation(id) => self.is_shared(id, Shared::Closed),
                Left::Settled(unit, at) if child != 0 => self.settled_for(&at, child, unit),
                Left::Settled(..) => {}
            }
        }
    }

    /// What has left, and what leaves until the task sends something itself, is nobody's.
    fn is_unclear_behind(&mut self, connection: ConnectionId) {
        self.behind.entry(connection).or_default().is_unclear = true;
        self.catches_up(connection);
        self.behind.insert(connection, Behind { is_unclear: true, ..Behind::default() });
    }

    /// Facts were lost, or bytes of these connections.
    pub(super) fn behind_is_unclear(&mut self, is_it: impl Fn(ConnectionId) -> bool) {
        let written = self.exchanges.iter().filter(|(id, exchanges)| exchanges.writer != 0 && is_it(**id));
        for connection in written.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.is_unclear_behind(connection);
        }
    }

    /// Whether everything that was written has left, as far as can be seen.
    fn has_left(&self, behind: &Behind) -> bool {
        let is_complete = match behind.left.last() {
            Some(Left::Operation(id)) => self.publishes.has(*id),
            Some(Left::Settled(..)) => true,
            None => false,
        };
        is_complete && behind.woken.len() == behind.left.len() && behind.last + QUIET < self.now
    }

    /// Time has passed: what will not show any more whose it is.
    pub(super) fn settle_behind(&mut self, all: bool) {
        let now = self.now;
        self.behind.retain(|connection, _| self.exchanges.contains_key(connection));
        let over = |(connection, behind): (&ConnectionId, &Behind)| {
            let is_over = all || self.has_left(behind);
            let is_late = !behind.is_unclear && behind.last + SHARED_WAIT < now;
            (is_over || is_late).then_some((*connection, is_over))
        };
        for (connection, is_over) in self.behind.iter().filter_map(over).collect::<Vec<_>>() {
            if is_over {
                self.catches_up(connection);
            } else {
                self.is_unclear_behind(connection);
            }
        }
    }
}

#[cfg(test)]
mod tests;
