//! Requests of HTTP/2, of which many are on one connection at once: what was read last says nothing of what is done next,
//! and a connection has no context of its own. Who answers a stream has handled it.

use super::{Engine, context::ContextId};
use crate::{conn::ConnectionId, protocol::Mark};

impl Engine {
    /// The head of a stream's response has left: the task that was made since the request came, and in which or out of which
    /// it was sent, is for that.
    pub(super) fn reply_stream(&mut self, connection: ConnectionId, exchange: u64, at: Mark) {
        let Some((id, claimed_by)) = self.replied(connection, exchange, at) else { return };
        let start = self.units.get(&id).map_or(0, |unit| unit.start);
        let task = self.task_since(at.context, at.time, start);
        if task == 0 {
            return self.thread_answers(connection, id, at);
        }
        self.task_answers(connection, id, task);
        if task == claimed_by {
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

    /// The outermost task that was made at `start` or since, and out of which a context came; 0 if there is none.
    fn task_since(&self, context: ContextId, time: u64, start: u64) -> ContextId {
        let line = self.contexts.line(context, time);
        let since =
            line.filter(|(_, context, _)| context.announced && context.is_task && context.created >= start);
        since.last().map_or(0, |(id, ..)| id)
    }
}
