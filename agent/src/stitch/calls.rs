//! Calls that somebody else hands out than who has read them: a server of grpcio reads and answers on threads of its own, of
//! which Python knows nothing.
//!
//! It tells of the calls in the order in which they have come, and one after the other gets what handles it: a piece of work,
//! which one thread puts into the queue of a pool, or a task, which one task makes, and perhaps more beside it, as many for each.
//! Whose it was shows when the call is answered from there. Where two answers agree on how many are made for each call, those
//! between are each other's too, if no other call was open then: of calls that nobody answers, or that another thread answers,
//! which was at it just then. Where they do not agree, or several were open (a server made from generated code takes one of each
//! method at a time), nothing is said: no parent is better than a wrong one.

mod queue;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

pub(super) use self::queue::{Handling, Pair, Queue};
use super::{
    Engine, HOLD_MAX,
    context::{Cause, ContextId},
    unit::{Act, UnitId},
};
use crate::{conn::ConnectionId, protocol::Mark};

/// How long after it was handed out a call that nobody has answered is believed to be the one at its place, nanoseconds.
pub(super) const SILENT: u64 = 1_000_000_000;
/// How long it may still show for which call something was done, nanoseconds.
const CALL_WAIT: u64 = 2 * SILENT;

/// Who hands out calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dispatcher {
    /// A thread of a process.
    Thread(u32, u32),
    /// A task.
    Task(ContextId),
}

/// All calls that are handed out.
#[derive(Debug, Default)]
pub(super) struct Calls {
    queues: BTreeMap<Dispatcher, Queue<UnitId>>,
    /// Whose pieces of work were.
    works: FxHashMap<u64, UnitId>,
}

impl Calls {
    /// Something was made by one who hands out calls: it is for one of them.
    fn made(&mut self, by: Dispatcher, handling: Handling, time: u64) {
        if let Some(queue) = self.queues.get_mut(&by) {
            queue.is_made(time, handling);
        }
    }

    /// Whether a thread hands out calls.
    pub(super) fn hands_out(&self, thread: (u32, u32)) -> bool {
        self.queues.contains_key(&Dispatcher::Thread(thread.0, thread.1))
    }

    /// The call that a piece of work was put into a queue for.
    pub(super) fn of_work(&self, cause: &Cause) -> Option<UnitId> {
        self.works.get(&cause.number).copied()
    }
}

impl Engine {
    /// A call has come on a connection.
    pub(super) fn call_comes(&mut self, id: UnitId, connection: ConnectionId) {
        let dispatcher = self.exchanges.get(&connection).and_then(|exchanges| exchanges.dispatcher);
        let queue = dispatcher.and_then(|dispatcher| self.calls.queues.get_mut(&dispatcher));
        if let (Some(queue), Some(unit)) = (queue, self.units.get(&id)) {
            queue.comes(unit.start, id);
        }
    }

    /// A thread has put a piece of work into a queue.
    pub(super) fn work_is_put(&mut self, cause: &Cause) {
        self.calls.made(Dispatcher::Thread(cause.by.0, cause.by.1), Handling::Work(cause.number), cause.time);
    }

    /// A task was made out of a context.
    pub(super) fn task_is_made(&mut self, parent: ContextId, task: ContextId, time: u64) {
        self.calls.made(Dispatcher::Task(parent), Handling::Task(task), time);
    }

    /// The head of the answer to a call has left, from a task that was made since the call came.
    pub(super) fn task_answers(&mut self, connection: ConnectionId, id: UnitId, task: ContextId) {
        let Some(context) = self.contexts.find(task).filter(|context| context.parent != 0) else { return };
        let dispatcher = Dispatcher::Task(context.parent);
        match context.claim {
            Some(claim) if claim != id => self.was_wrong(dispatcher),
            _ => self.is_answered(connection, dispatcher, id, Handling::Task(task)),
        }
    }

    /// The head of the answer to a call has left, from a thread.
    pub(super) fn thread_answers(&mut self, connection: ConnectionId, id: UnitId, at: Mark) {
        let own = Dispatcher::Thread(at.pid, at.tid);
        if let Some(queue) = self.calls.queues.get_mut(&own) {
            // Who hands it out refuses it.
            return queue.has_no_place(id);
        }
        let Some(thread) = self.threads.get_mut(&(at.pid, at.tid)) else { return };
        // What it sends along with an answer is another's.
        thread.flush.1 += 1;
        let Some(cause) = thread.work.and_then(|work| work.cause).filter(|_| thread.flush.1 == 1) else {
            return;
        };
        let is_later = self.units.get(&id).is_some_and(|unit| unit.start <= cause.time);
        let dispatcher = Dispatcher::Thread(cause.by.0, cause.by.1);
        match self.calls.of_work(&cause) {
            Some(known) if known == id => {}
            // One of the two is wrong.
            Some(_) => {
                self.calls.works.remove(&cause.number);
                self.was_wrong(dispatcher);
            }
            None if is_later && cause.number != 0 => {
                self.is_answered(connection, dispatcher, id, Handling::Work(cause.number));
            }
            None => {}
        }
    }

    fn was_wrong(&mut self, by: Dispatcher) {
        if let Some(queue) = self.calls.queues.get_mut(&by) {
            queue.was_wrong();
        }
    }

    fn is_answered(&mut self, connection: ConnectionId, by: Dispatcher, id: UnitId, handling: Handling) {
        if let Some(exchanges) = self.exchanges.get_mut(&connection) {
            exchanges.dispatcher = Some(by);
        }
        let pairs = self.calls.queues.entry(by).or_default().answered(id, handling, self.now);
        self.belong_together(pairs);
    }

    fn belong_together(&mut self, pairs: Vec<Pair<UnitId>>) {
        for (id, time, handling) in pairs {
            let unit = self.units.get(&id).filter(|unit| unit.start <= time);
            let unit = unit.filter(|unit| unit.end.is_none_or(|end| end >= time));
            match handling {
                Handling::Work(number) => {
                    if unit.is_some() {
                        self.calls.works.insert(number, id);
                    }
                }
                Handling::Task(task) => {
                    let is_free = self.contexts.find(task).is_some_and(|context| context.claim.is_none());
                    if is_free && unit.is_some_and(|unit| unit.claimed_by == 0) {
                        self.claim(task, id, false);
                        if let Some(unit) = self.units.get_mut(&id) {
                            unit.claimed_by = task;
                        }
                    }
                }
            }
        }
    }

    /// Whether it may yet show for which call something was done that ended at `end`.
    pub(super) fn awaits_call(&self, act: &Act, end: u64) -> bool {
        if self.calls.queues.is_empty() || end + CALL_WAIT <= self.now {
            return false;
        }
        let is_open = |by, handling| self.calls.queues.get(&by).is_some_and(|queue| queue.is_open(handling));
        let cause = act.work.and_then(|work| work.cause);
        cause.is_some_and(|cause| {
            is_open(Dispatcher::Thread(cause.by.0, cause.by.1), Handling::Work(cause.number))
        }) || self
            .contexts
            .line(act.context, act.start)
            .any(|(id, context, _)| is_open(Dispatcher::Task(context.parent), Handling::Task(id)))
    }

    /// Decides of calls that nobody has answered.
    pub(super) fn settle_calls(&mut self, all: bool) {
        let now = self.now;
        let since = if all { u64::MAX } else { now.saturating_sub(SILENT) };
        let silent: Vec<_> = self.calls.queues.values_mut().flat_map(|queue| queue.silent(since)).collect();
        self.belong_together(silent);
    }

    /// Facts were lost: who was made for what is not known.
    pub(super) fn calls_are_unclear(&mut self) {
        self.calls.queues.values_mut().for_each(Queue::misses);
        self.stubs.values_mut().for_each(|stubs| stubs.queue.misses());
    }

    /// Bytes of a connection were lost: calls may be missing.
    pub(super) fn calls_are_missing(&mut self, connection: ConnectionId, pid: u32) {
        let dispatcher = self.exchanges.get(&connection).and_then(|exchanges| exchanges.dispatcher);
        if let Some(queue) = dispatcher.and_then(|dispatcher| self.calls.queues.get_mut(&dispatcher)) {
            queue.misses();
        }
        if let Some(stubs) = self.stubs.get_mut(&pid) {
            stubs.queue.misses();
        }
    }

    /// The threads of a process are no more.
    pub(super) fn calls_end(&mut self, pid: u32) {
        self.stubs.remove(&pid);
        self.calls.queues.retain(|by, _| !matches!(by, Dispatcher::Thread(other, _) if *other == pid));
    }

    /// A new thread has a number that another may have had.
    pub(super) fn thread_is_new(&mut self, pid: u32, tid: u32) {
        self.calls.queues.remove(&Dispatcher::Thread(pid, tid));
    }

    /// Forgets what no answer has told of.
    pub(super) fn sweep_calls(&mut self) {
        let (now, units) = (self.now, &self.units);
        let is_new = |id: &UnitId| units.get(id).is_some_and(|unit| unit.start + HOLD_MAX > now);
        let Calls { queues, works } = &mut self.calls;
        for queue in queues.values_mut() {
            queue.sweep(now, is_new);
        }
        works.retain(|_, unit| units.contains_key(unit));
        let (processes, contexts) = (&self.processes, &self.contexts);
        queues.retain(|dispatcher, _| match dispatcher {
            Dispatcher::Thread(pid, _) => processes.contains_key(pid),
            Dispatcher::Task(context) => contexts.find(*context).is_some(),
        });
    }
}
