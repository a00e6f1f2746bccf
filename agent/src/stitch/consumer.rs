//! Contexts and threads that settle deliveries themselves, one after the other: for which of them they work.

use std::collections::VecDeque;

use super::{Engine, context::ContextId, unit::UnitId};
use crate::conn::ConnectionId;

/// Settlements of one context or thread that are remembered.
const SETTLED_MAX: usize = 1024;
/// How long after it has settled a delivery a context still works for it, where nothing else shows, nanoseconds.
const AFTERWARDS: u64 = 1_000_000_000;
/// Deliveries that a consumer has settled without having done anything, at which it is clear that it always does.
const SETTLED_FIRST: u32 = 3;
/// A consumer that has settled and done nothing for this time has nothing at hand, nanoseconds.
const IDLE: u64 = 20_000_000;

/// A context or thread that settles deliveries itself, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub(super) connection: ConnectionId,
    /// When it has settled what.
    pub(super) settled: VecDeque<(u64, UnitId)>,
    /// It is a task's: it was woken by whoever sent for it.
    pub(super) is_task: bool,
    /// When it last did something.
    worked: u64,
    /// How often it has settled a delivery that came when nothing else was at hand: without having done anything
    /// before, and after work.
    first_settled: u32,
    first_worked: u32,
}

impl Consumer {
    pub(super) fn new(connection: ConnectionId) -> Self {
        Self {
            connection,
            settled: VecDeque::new(),
            is_task: false,
            worked: 0,
            first_settled: 0,
            first_worked: 0,
        }
    }

    /// It has settled a delivery that came at `start`.
    pub(super) fn settle(&mut self, unit: UnitId, start: u64, at: u64) {
        // What comes while something else is at hand does not tell whether the work before it was for it. Before it
        // has settled anything it was not known as a consumer, and nobody has noted its work.
        let idle = self.settled.back().is_some_and(|(last, _)| last + IDLE < start);
        if idle && (self.worked >= start || self.worked + IDLE < start) {
            let count = if self.worked >= start { &mut self.first_worked } else { &mut self.first_settled };
            *count += 1;
        }
        self.settled.push_back((at, unit));
        if self.settled.len() > SETTLED_MAX {
            self.settled.pop_front();
        }
    }

    /// Whether it acknowledges first and works then; `None` while that cannot be told.
    fn settles_first(&self) -> Option<bool> {
        match (self.first_worked, self.first_settled) {
            (0, SETTLED_FIRST..) => Some(true),
            (0, 1..SETTLED_FIRST) => None,
            _ => Some(false),
        }
    }
}

impl Engine {
    /// The delivery for which a context (or a thread without one) that settles deliveries itself worked at `time`, and
    /// whether that is certain.
    pub(super) fn consumed(
        &self,
        context: ContextId,
        thread: (u32, u32),
        time: u64,
    ) -> Option<(UnitId, bool)> {
        if context == 0 {
            return self.consumed_by(self.threads.get(&thread)?.consumer.as_deref()?, time);
        }
        for (depth, (_, context, time)) in self.contexts.line(context, time).enumerate() {
            let consumer = context.consumer.as_deref();
            // The thread's own, or the loop's: everything comes out of that.
            let base = depth > 0 && !context.announced && consumer.is_none_or(|consumer| !consumer.is_task);
            if base {
                return None;
            }
            if let Some(found) = consumer.and_then(|consumer| self.consumed_by(consumer, time)) {
                return Some(found);
            }
        }
        None
    }

    fn consumed_by(&self, consumer: &Consumer, time: u64) -> Option<(UnitId, bool)> {
        let waiting = self.exchanges.get(&consumer.connection);
        if waiting.is_some_and(|exchanges| exchanges.is_doubted(time)) {
            // It may be for one that was not seen.
            return None;
        }
        let begun = |unit: &UnitId| self.units.get(unit).is_some_and(|unit| unit.start <= time);
        let before = || consumer.settled.iter().rfind(|(settled, _)| *settled < time);
        match (consumer.settles_first(), before()) {
            (Some(true), before) => return before.map(|(_, unit)| (*unit, true)),
            // Of two messages this may be for either.
            (None, Some(_)) => return None,
            (None | Some(false), _) => {}
        }
        let after = consumer.settled.iter().find(|(settled, unit)| *settled >= time && begun(unit));
        if let Some((settled, unit)) = after {
            // Settled at one stroke with others: which of them it was for cannot be told.
            let alone = consumer.settled.iter().filter(|(other, _)| other == settled).count() == 1;
            return alone.then_some((*unit, true));
        }
        let waiting = waiting.and_then(|exchanges| {
            exchanges.deliveries.iter().map(|(_, unit)| unit).find(|unit| begun(unit) && self.is_free(**unit))
        });
        if let Some(unit) = waiting {
            return Some((*unit, false));
        }
        before().filter(|(settled, _)| settled + AFTERWARDS > time).map(|(_, unit)| (*unit, true))
    }

    /// A context (or a thread without one) does something.
    pub(super) fn works_on(&mut self, context: ContextId, thread: (u32, u32), time: u64) {
        if context == 0 {
            if let Some(consumer) = self.threads.get_mut(&thread).and_then(|thread| thread.consumer.as_mut())
            {
                consumer.worked = time;
            }
            return;
        }
        let found = self.contexts.line(context, time).find(|(_, context, _)| context.consumer.is_some());
        let Some(id) = found.map(|(id, ..)| id) else { return };
        if let Some(consumer) = self.contexts.find_mut(id).and_then(|context| context.consumer.as_mut()) {
            consumer.worked = time;
        }
    }

    /// Whether nobody certainly handles a delivery.
    fn is_free(&self, unit: UnitId) -> bool {
        let Some(claimed_by) = self.units.get(&unit).map(|unit| unit.claimed_by) else { return false };
        claimed_by == 0 || self.contexts.find(claimed_by).is_some_and(|context| context.tentative)
    }
}
