//! Calls that tasks make through `grpc.aio`. Its core sends most in the task that makes them; what is sent while another of its
//! threads is at the connection, that thread sends, of which Python knows nothing. The tasks are made in the order in which the
//! calls are sent: those between two that are known belong together, as in [`super::calls`]. That is so on one connection: where a process
//! calls over several in turn, nothing is said.

#[cfg(test)]
mod tests;

use adder_ebpf::{Header, stacks};

use super::{
    Engine, Operation, OperationId,
    calls::{Handling, Pair, Queue, SILENT},
    context::ContextId,
    unit::Shared,
};
use crate::{conn::ConnectionId, protocol::Mark};

/// The calls of a process.
#[derive(Debug)]
pub(super) struct Stubs {
    pub(super) queue: Queue<OperationId>,
    /// Over which the last was made.
    connection: Option<ConnectionId>,
}

impl Default for Stubs {
    fn default() -> Self {
        Self { queue: Queue::in_order(), connection: None }
    }
}

impl Engine {
    /// The task of a call was made where its thread's last stack was reported. It is told of only with the next fact of the thread,
    /// perhaps when the answer to the call has woken it.
    pub(super) fn stub_is_made(&mut self, header: &Header, task: ContextId) {
        if self.stacks.makes_call(self.stack)
            && let Some(thread) = self.threads.get(&(header.pid, header.tid))
        {
            let stubs = self.stubs.entry(header.pid).or_default();
            stubs.queue.is_made(thread.stack_at, Handling::Task(task));
        }
    }

    /// A request of HTTP/2 begins, of whichever library.
    pub(super) fn stub_sends(&mut self, id: OperationId, first: &Mark) {
        let is_own = self.stacks.is_in_stubs(first.stack);
        if is_own {
            self.want_stacks(first.pid, stacks::TASKS);
        }
        let is_core = self.is_foreign((first.pid, first.tid), first.context);
        let stubs = self.stubs.get_mut(&first.pid).filter(|_| is_own || is_core);
        let (Some(stubs), Some(operation)) = (stubs, self.operations.get(&id)) else { return };
        if stubs.connection.replace(operation.connection) != Some(operation.connection) {
            stubs.queue.misses();
        }
        stubs.queue.comes(first.time, id);
        if is_own {
            let pairs = stubs.queue.answered(id, Handling::Task(first.context), self.now);
            self.stubs_belong_together(&pairs);
        } else {
            self.is_shared(id, Shared::Open);
        }
    }

    fn stubs_belong_together(&mut self, pairs: &[Pair<OperationId>]) {
        for (id, _, handling) in pairs {
            let is_open = |operation: &Operation| operation.act.shared == Shared::Open;
            if let Handling::Task(task) = handling
                && self.operations.get(id).is_some_and(is_open)
            {
                let stack = self.contexts.find(*task).map_or(0, |context| context.made_at);
                self.is_made_by(*id, *task, stack);
            }
        }
    }

    /// Decides of calls behind which none was sent in its own task.
    pub(super) fn settle_stubs(&mut self, all: bool) {
        let since = if all { u64::MAX } else { self.now.saturating_sub(SILENT) };
        let silent: Vec<_> = self.stubs.values_mut().map(|stubs| stubs.queue.silent(since)).collect();
        for pairs in silent {
            self.stubs_belong_together(&pairs);
        }
    }

    /// Forgets what nothing has told of.
    pub(super) fn sweep_stubs(&mut self) {
        let (now, operations, processes) = (self.now, &self.operations, &self.processes);
        self.stubs.retain(|pid, _| processes.contains_key(pid));
        for Stubs { queue, .. } in self.stubs.values_mut() {
            queue.sweep(now, |id| operations.contains_key(id));
        }
    }
}
