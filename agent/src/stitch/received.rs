//! What contexts and threads have received: bytes, and messages that nobody acknowledges.

use std::collections::VecDeque;

use adder_ebpf::{Header, flag};

use super::{Engine, context::ContextId, unit::UnitId};
use crate::conn::ConnectionId;

/// Messages of one context or thread that are remembered.
const REMEMBERED: usize = 64;

/// What a context or thread has received, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Received(VecDeque<Arrival>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) time: u64,
    /// Nothing where it began to wait anew.
    pub(super) unit: Option<UnitId>,
    /// It is a task that was made for this one message.
    pub(super) own: bool,
}

impl Received {
    pub(super) fn push(&mut self, arrival: Arrival) {
        self.0.push_back(arrival);
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }

    /// Whether what had come last at `time` was a message, and not the wait for another.
    pub(super) fn is_at_one(&self, time: u64) -> bool {
        self.at(time).is_some_and(|arrival| arrival.unit.is_some())
    }

    /// What was at hand at `time`, if anything had come yet.
    pub(super) fn at(&self, time: u64) -> Option<Arrival> {
        self.0.iter().rfind(|arrival| arrival.time <= time).copied()
    }
}

impl Arrival {
    /// The message, and when its work must not have been over to be still at hand at `time`.
    pub(super) fn message(self, time: u64) -> Option<(UnitId, u64)> {
        Some((self.unit?, if self.own { self.time } else { time }))
    }
}

/// A message that a thread has just read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) unit: UnitId,
    pub(super) connection: ConnectionId,
    /// Context in which it was read.
    pub(super) context: ContextId,
    /// [`super::Thread::facts`] when it was read.
    pub(super) facts: u64,
    /// The thread had nothing to do before.
    pub(super) rested: bool,
    /// By a server: the connection was accepted.
    pub(super) served: bool,
}

impl Engine {
    pub(super) fn receive(
        &mut self,
        context: ContextId,
        thread: (u32, u32),
        time: u64,
        unit: Option<UnitId>,
    ) {
        let arrival = Arrival { time, unit, own: false };
        if context != 0 {
            self.receive_in(context, arrival);
        } else if let Some(thread) = self.threads.get_mut(&thread) {
            thread.received.get_or_insert_default().push(arrival);
        }
    }

    pub(super) fn receive_in(&mut self, context: ContextId, arrival: Arrival) {
        if let Some(context) = self.contexts.find_mut(context) {
            context.received.get_or_insert_default().push(arrival);
        }
    }

    /// Whether what a context reads is for itself. A loop reads in the context of the connection, which is a copy of that in which
    /// the connection was made, and wakes whoever is to handle it.
    pub(super) fn handles_itself(&self, thread: (u32, u32), context: ContextId) -> bool {
        let by_loop = || self.threads.get(&thread).is_some_and(|thread| thread.is_loop);
        self.contexts.find(context).is_some_and(|context| context.is_task || context.announced && !by_loop())
    }

    /// A future has its result, or a task was made: it may be because of what was just read.
    pub(super) fn wakes_for_notice(
        &mut self,
        header: &Header,
        mut by: ContextId,
        child: ContextId,
        task: bool,
    ) {
        let Some(thread) = self.threads.get(&(header.pid, header.tid)) else { return };
        let Some(reading) = thread.reading else { return };
        let is_next = reading.facts + 1 == thread.facts;
        let uvloop = self.processes.get(&header.pid).is_some_and(|process| process.uvloop);
        if self.handles_itself((header.pid, header.tid), by) {
            // Who has read the message itself wakes others in his course. But a context that uvloop makes for a connection, which
            // nobody announces, may stand where a task's was.
            let at_once = reading.context != by && is_next && uvloop && !task;
            let exchanges = self.exchanges.get_mut(&reading.connection).filter(|_| at_once);
            if !exchanges.is_some_and(|exchanges| exchanges.waker.is_none() && exchanges.is_own(by)) {
                return;
            }
            self.contexts.renew(header.pid, header.context, header.time);
            by = self.contexts.at(header.pid, header.context, header.time);
            if let Some(exchanges) = self.exchanges.get_mut(&reading.connection) {
                exchanges.waker = Some(by);
            }
        }
        let Some(context) = self.contexts.find(by) else { return };
        if reading.context != by {
            // uvloop reads outside the connection's own context, in which it calls the protocol at once. What asyncio calls next
            // may be for anybody.
            let is_own = !context.common && (uvloop || !context.announced);
            let at_once = is_next && is_own;
            let announced = context.announced;
            let Some(exchanges) = self.exchanges.get_mut(&reading.connection).filter(|_| at_once) else {
                return;
            };
            // All connections that it has accepted have one context. One that is never at rest is known by time.
            let is_known = reading.rested || reading.served && uvloop;
            if is_known || exchanges.waker.is_none() && !announced && exchanges.is_soon_own(by) {
                exchanges.waker = Some(by);
            }
            if exchanges.waker != Some(by) {
                return;
            }
            // It may go on: several messages may have come.
            if let Some(reading) =
                self.threads.get_mut(&(header.pid, header.tid)).and_then(|thread| thread.reading.as_mut())
            {
                reading.context = by;
            }
        }
        self.receive_in(child, Arrival { time: header.time, unit: Some(reading.unit), own: task });
        self.take_notice(reading.unit, !task);
    }

    /// How many facts came from a thread.
    pub(super) fn facts_of(&self, thread: (u32, u32)) -> u64 {
        self.threads.get(&thread).map_or(0, |thread| thread.facts)
    }

    /// A thread has moved bytes that are not encrypted, or not yet, or no longer, through a socket or an `SSL` object.
    pub(super) fn moved(&mut self, header: &Header, through: u64, length: u64, context: ContextId) {
        let thread = self.thread(header);
        let received = header.flags & flag::RECEIVED != 0;
        if header.flags & flag::CONTINUED != 0 {
            thread.read += if received { length } else { 0 };
            return;
        }
        if received || thread.flush.0 != through {
            thread.flush = (if received { 0 } else { through }, 0);
        }
        if received {
            thread.reads += 1;
            thread.read_at = thread.facts;
            thread.answered.0 = context;
            thread.answered.1.clear();
            thread.reading = None;
            thread.read_for = 0;
            thread.read = length;
        }
    }
}
