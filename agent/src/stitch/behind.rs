//! What a task that writes for others (AMQP) has written while the end of something large had not left yet: it lies in the memory of
//! the loop, which sends it when the socket takes more, and whoever has asked for it may have been woken before.
//!
//! Bytes leave in the order in which they were written. So what the loop sends is, one after the other, of those whom the task has
//! woken. But not everything has somebody who waits until it was written: only if as much has left as were woken is each of the one
//! at its place. Else nothing is said: no parent is better than a wrong one.

use super::{Engine, OperationId, context::ContextId, sharing::SHARED_WAIT, unit::Shared};
use crate::{conn::ConnectionId, protocol::Mark, protocol::amqp};

/// How long nothing must have left, or nobody been woken, for all of it to have left, nanoseconds.
const QUIET: u64 = 50_000_000;
/// What is remembered of one connection at most, each.
const WAITING_MAX: usize = 4096;

/// What has happened on a connection since its socket took no more.
#[derive(Debug)]
pub(super) struct Behind {
    /// Whom the task has woken without having sent anything itself.
    woken: Vec<ContextId>,
    /// What the loop has sent.
    left: Vec<Left>,
    /// When something was last added.
    last: u64,
}

/// Something that has left.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left {
    /// An operation has begun.
    Operation(OperationId),
    /// A delivery was acknowledged or refused.
    Settled {
        /// Its number.
        delivery: u64,
        /// When, and where.
        at: Mark,
        /// How.
        outcome: amqp::Outcome,
    },
}

impl Engine {
    /// A task that writes for others on a connection wakes one of them, and has sent nothing for it.
    pub(super) fn wakes_before(&mut self, connection: ConnectionId, child: ContextId, time: u64) {
        if self.stacks.makes_room(self.stack) {
            return;
        }
        let behind = self.falls_behind(connection, time);
        behind.woken.push(child);
        let (woken, left) = (behind.woken.len(), behind.left.len());
        if woken == left || woken > WAITING_MAX {
            // The last to be woken is whose the last was that has left.
            self.catches_up(connection);
        }
    }

    /// The end of something has not left, and its task writes the next.
    pub(super) fn falls_behind(&mut self, connection: ConnectionId, time: u64) -> &mut Behind {
        let none = || Behind { woken: Vec::new(), left: Vec::new(), last: time };
        let behind = self.behind.entry(connection).or_insert_with(none);
        behind.last = time;
        behind
    }

    /// Something has left. Whether the loop has sent it, for whom will show.
    pub(super) fn is_left_behind(&mut self, connection: ConnectionId, at: &Mark, left: Left) -> bool {
        let Some(writer) = self.exchanges.get(&connection).map(|exchanges| exchanges.writer) else {
            return false;
        };
        let behind = self.behind.get(&connection);
        // uvloop's callbacks are in the context of the loop, asyncio's in that of who has written first.
        let by_loop = if at.context == writer {
            let is_awaited = || {
                let uvloop = self.processes.get(&at.pid).is_some_and(|process| process.uvloop);
                !uvloop && behind.is_some_and(|behind| !behind.woken.is_empty())
            };
            self.stacks.is_sent_by_loop(at.stack).unwrap_or_else(is_awaited)
        } else {
            let is_task = || self.contexts.find(at.context).is_some_and(|context| context.is_task);
            writer != 0 && at.context != 0 && !is_task()
        };
        if !by_loop || behind.is_some_and(|behind| behind.left.len() >= WAITING_MAX) {
            self.catches_up(connection);
            return false;
        }
        self.falls_behind(connection, at.time).left.push(left);
        if let Left::Operation(id) = left {
            self.is_shared(id, Shared::Open);
        }
        true
    }

    /// All that was written has left.
    fn catches_up(&mut self, connection: ConnectionId) {
        let Some(behind) = self.behind.remove(&connection) else { return };
        let is_clear = behind.woken.len() == behind.left.len();
        for (place, left) in behind.left.into_iter().enumerate() {
            let child = if is_clear { behind.woken[place] } else { 0 };
            match left {
                Left::Operation(id) if child != 0 => self.is_made_by(id, child, 0),
                Left::Operation(id) => self.is_shared(id, Shared::Closed),
                Left::Settled { delivery, at, outcome } => {
                    self.settle_for(connection, delivery, at, outcome, child);
                }
            }
        }
    }

    /// Facts were lost, or bytes of these connections: what is whose is not known.
    pub(super) fn behind_is_unclear(&mut self, is_it: impl Fn(ConnectionId) -> bool) {
        for connection in self.behind.keys().copied().filter(|id| is_it(*id)).collect::<Vec<_>>() {
            if let Some(behind) = self.behind.get_mut(&connection) {
                behind.woken.clear();
            }
            self.catches_up(connection);
        }
    }

    /// Time has passed: what will not show any more whose it is.
    pub(super) fn settle_behind(&mut self, all: bool) {
        let now = self.now;
        let is_over = |behind: &Behind| {
            let is_clear = !behind.left.is_empty() && behind.woken.len() == behind.left.len();
            all || behind.last + if is_clear { QUIET } else { SHARED_WAIT } < now
        };
        let over =
            self.behind.iter().filter(|(_, behind)| is_over(behind)).map(|(connection, _)| *connection);
        for connection in over.collect::<Vec<_>>() {
            self.catches_up(connection);
        }
    }
}

#[cfg(test)]
mod tests;
