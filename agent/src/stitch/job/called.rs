//! What a loop calls in a context that is no task's: because a time has come, or for a signal.

use adder_ebpf::Header;

use super::{AT_ONCE, DELAYED, Engine, Trigger, Turn};
use crate::stitch::context::{Context, ContextId, Thread};

impl Engine {
    /// A context is heard of, for the first time since the wait of its loop has run out, and nobody has woken it. If the loop
    /// has read and accepted nothing since, a timer has called there. A task was then cancelled in its wait: the time that
    /// `wait_for` has given it was up.
    pub(in crate::stitch) fn called_by_timer(&mut self, header: &Header) {
        let Some(thread) = self.threads.get(&(header.pid, header.tid)) else { return };
        let ran_out = thread.timed_at;
        if !thread.is_loop {
            return;
        }
        let active = self.contexts.active(header.pid, header.context);
        if active >= ran_out {
            // Others were heard of since: what the timer has called has returned, and its address is another's.
            if active < thread.last {
                let context = self.contexts.find_at(header.pid, header.context);
                let is_handle = |context: &&mut Context| !context.announced && !context.is_task;
                if let Some(context) = self.contexts.find_mut(context).filter(is_handle) {
                    context.called = 0;
                }
            }
            return;
        }
        // What is the next the thread does is of the timer however long the machine has let it wait.
        let within = if thread.facts == thread.timed { DELAYED } else { AT_ONCE };
        let at_once = thread.read_at < thread.timed && ran_out + within > header.time;
        let context = self.contexts.known_at(header.pid, header.context, header.time);
        if let Some(context) = self.contexts.find_mut(context).filter(|context| at_once || context.is_task) {
            context.called = if at_once { ran_out } else { header.time };
        }
    }

    /// A task was made that is for no request: perhaps by a timer of its loop, as that of `APScheduler` does. What a task
    /// makes is its own.
    pub(in crate::stitch) fn made_by_timer(&mut self, header: &Header, parent: ContextId, task: ContextId) {
        let is_task = self.contexts.find(parent).is_some_and(|parent| parent.is_task);
        let turning = if is_task { parent } else { task };
        self.turn_by_timer((header.pid, header.tid), parent, turning, header.time);
    }

    /// When a signal came for which a loop has called in a context, which is of no task, and `turning` goes on for the first time
    /// since. The wait of the loop is interrupted; by a socket of its own it is then told of which signals have come.
    pub(super) fn called_by_signal(
        &self,
        thread: (u32, u32),
        called: ContextId,
        turning: ContextId,
        now: u64,
    ) -> Option<u64> {
        let pid = thread.0;
        let thread = self.threads.get(&thread).filter(|thread| thread.signalled + AT_ONCE > now)?;
        let start = thread.signalled;
        // What the loop has read last was no answer that somebody waits for.
        let is_reader = thread.answered.0 == called || !thread.answered.1.is_empty();
        let is_handle = self.contexts.find(called).is_some_and(|context| !context.is_task);
        // A task that is older than the agent looks like one, until it is seen who wakes it.
        let is_handle = is_handle && (called != turning || self.sees_wakes(pid));
        let turn = self.contexts.find(turning).and_then(|context| context.turn.as_deref());
        (!is_reader && is_handle && turn.is_none_or(|turn| turn.start < start)).then_some(start)
    }

    /// A new turn of a context, if a timer has called in another, or in itself, or for a signal.
    pub(super) fn turn_by_timer(
        &mut self,
        thread: (u32, u32),
        called: ContextId,
        turning: ContextId,
        now: u64,
    ) {
        let Some(start) = self.contexts.find(called).map(|context| context.called) else { return };
        let signalled = self.called_by_signal(thread, called, turning, now);
        // A task that sleeps is woken, which shows only where it is watched.
        if signalled.is_none() && (start == 0 || !self.sees_wakes(thread.0)) {
            return;
        }
        let start = signalled.unwrap_or(start);
        // A machine may delay it, as long as its loop has read nothing.
        let is_in_turn = |thread: &Thread| {
            thread.timed_at == start && thread.read_at < thread.timed && start + DELAYED > now
        };
        if start + AT_ONCE < now && !self.threads.get(&thread).is_some_and(is_in_turn) {
            return;
        }
        let Some(found) = self.contexts.find(turning) else { return };
        if found.consumer.is_some() || found.received.is_some() || found.serves.is_some() {
            return;
        }
        if let Some(turn) = &found.turn
            && (turn.start >= start || turn.others > 0 || !self.is_quiet(turn, now))
        {
            return;
        }
        let trigger = if signalled.is_some() { Trigger::Signal } else { Trigger::Timer };
        let turn = Turn::new(trigger, start, turning, 0);
        let found = self.contexts.find_mut(turning);
        if let Some(before) = found.and_then(|found| found.turn.replace(Box::new(turn))) {
            self.turn_ends(*before);
        }
    }
}
