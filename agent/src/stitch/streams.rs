//! Requests of HTTP/2, of which many are on one connection at once: what was read last says nothing of what is done next,
//! and a connection has no context of its own. Who answers a stream has handled it.
//!
//! # Requests that tasks send for each other
//! httpcore's tasks put what they have to say into one buffer, wait for a lock, and who has it sends all that is there. What is
//! there first is the sender's own if it has put a request there since anything was sent before: who came earlier has
//! had his turn. Of all else nothing tells whose it is, and no parent is better than a wrong one.

use super::{Engine, OperationId, context::ContextId};
use crate::{conn::ConnectionId, protocol::Mark};

/// The last time that a task has sent what had gathered on a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flush {
    sender: ContextId,
    time: u64,
    /// [`super::context::Thread::facts`] then.
    facts: u64,
}

impl Engine {
    /// The head of a stream's response has left: the task that was made since the request came, and in which or out of which
    /// it was sent, is for that.
    pub(super) fn reply_stream(&mut self, connection: ConnectionId, exchange: u64, at: Mark) {
        let Some((id, claimed_by)) = self.replied(connection, exchange, at) else { return };
        let start = self.units.get(&id).map_or(0, |unit| unit.start);
        let task = self.task_since(at.context, at.time, start);
        if task == 0 || task == claimed_by {
            return;
        }
        self.refute(id, claimed_by);
        let other = self.contexts.find(task).and_then(|context| context.claim);
        if let Some(other) = other.and_then(|other| self.units.get_mut(&other))
            && other.claimed_by == task
        {
            other.claimed_by = 0;
        }
        self.claim(task, id, false);
        if let Some(unit) = self.units.get_mut(&id) {
            unit.claimed_by = task;
        }
    }

    /// A request begins that was sent in this context.
    pub(super) fn shared_begins(&mut self, id: OperationId, first: &Mark, connection: ConnectionId) {
        let Some(puts_request) = self.stacks.shares_writes(first.stack) else { return };
        let facts = self.threads.get(&(first.pid, first.tid)).map_or(0, |thread| thread.facts);
        let created = self.contexts.find(first.context).map_or(0, |context| context.created);
        let flush = Flush { sender: first.context, time: first.time, facts };
        let last = std::mem::replace(&mut self.exchanges.entry(connection).or_default().flush, flush);
        let since = last.sender == first.context || created > last.time;
        let own = last.facts != facts && since && puts_request;
        if let Some(operation) = self.operations.get_mut(&id) {
            operation.act.is_shared = true;
            operation.act.woken = if own { first.context } else { 0 };
        }
    }

    /// The outermost task that was made at `start` or since, and out of which a context came; 0 if there is none.
    fn task_since(&self, context: ContextId, time: u64, start: u64) -> ContextId {
        let line = self.contexts.line(context, time);
        let since =
            line.filter(|(_, context, _)| context.announced && context.is_task && context.created >= start);
        since.last().map_or(0, |(id, ..)| id)
    }
}
