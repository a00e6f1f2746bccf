//! Calls that tasks make through `grpc.aio`. Its core sends most in the task that makes them; what is sent while another of its
//! threads is at the connection, that thread sends, of which Python knows nothing. The tasks are made in the order in which the
//! calls are sent: those between two that are known belong together, as in [`super::calls`].

use adder_ebpf::{Header, stacks};

use super::{
    Engine, HOLD_MAX, OperationId,
    calls::{Handling, Pair, SILENT},
    context::ContextId,
    unit::Shared,
};
use crate::protocol::Mark;

impl Engine {
    /// A task was made here.
    pub(super) fn stub_is_made(&mut self, header: &Header, task: ContextId) {
        if self.stacks.makes_call(self.stack) {
            self.stubs.entry(header.pid).or_default().is_made(header.time, Handling::Task(task));
        }
    }

    /// A request of HTTP/2 begins, of whichever library.
    pub(super) fn stub_sends(&mut self, id: OperationId, first: &Mark) {
        let is_own = self.stacks.is_in_stubs(first.stack);
        if is_own {
            self.want_stacks(first.pid, stacks::TASKS);
        }
        let Some(queue) = self.stubs.get_mut(&first.pid).filter(|_| is_own || first.context == 0) else {
            return;
        };
        queue.comes(id);
        if is_own {
            let pairs = queue.answered(id, Handling::Task(first.context), self.now);
            self.stubs_belong_together(&pairs);
        } else if let Some(operation) = self.operations.get_mut(&id) {
            operation.act.shared = Shared::Open;
        }
    }

    fn stubs_belong_together(&mut self, pairs: &[Pair<OperationId>]) {
        let is_open = |(id, time, _): &Pair<OperationId>| {
            let operation = self.operations.get(id);
            operation.filter(|operation| operation.act.shared == Shared::Open && operation.act.start >= *time)
        };
        // Who is first of several connections is not known.
        let mut connections: Vec<_> =
            pairs.iter().filter_map(is_open).map(|operation| operation.connection).collect();
        connections.dedup();
        let open: Vec<_> = pairs.iter().filter(|pair| is_open(pair).is_some()).copied().collect();
        for (id, _, handling) in open {
            if let Handling::Task(task) = handling
                && connections.len() == 1
            {
                let stack = self.contexts.find(task).map_or(0, |context| context.made_at);
                self.is_made_by(id, task, stack);
            } else if let Some(operation) = self.operations.get_mut(&id) {
                operation.act.shared = Shared::Closed;
            }
        }
    }

    /// Decides of calls behind which none was sent in its own task.
    pub(super) fn settle_stubs(&mut self, all: bool) {
        let since = if all { u64::MAX } else { self.now.saturating_sub(SILENT) };
        let silent: Vec<_> = self.stubs.values_mut().flat_map(|queue| queue.silent(since)).collect();
        self.stubs_belong_together(&silent);
    }

    /// Forgets what nothing has told of.
    pub(super) fn sweep_stubs(&mut self) {
        let (now, operations, processes) = (self.now, &self.operations, &self.processes);
        self.stubs.retain(|pid, _| processes.contains_key(pid));
        for queue in self.stubs.values_mut() {
            queue.calls.retain(|(_, id)| operations.contains_key(id));
            queue.handlings.retain(|(_, time, _)| time + HOLD_MAX > now);
        }
    }
}
