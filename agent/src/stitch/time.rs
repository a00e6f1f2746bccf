//! What the passing of time does: decisions that have waited, and what can no longer matter.

use super::{DISPATCHERS_KEPT, ENDED_KEPT, Engine, HOLD_MAX, SWEEP_EVERY, UNITS_MAX};
use crate::fact::Clock;

impl Engine {
    /// Time has passed.
    pub(super) fn tick(&mut self, clock: Clock) {
        self.clock = clock.offset;
        self.counters.forgotten_stacks = self.stacks.forgotten;
        self.counters.unread_codes = self.stacks.unread;
        self.measures.tick(self.unix(self.now));
        self.settle_unsettled();
        self.settle_all_untaken(false);
        self.settle_calls(false);
        self.settle_stubs(false);
        self.settle_behind(false);
        self.find_origins(false);
        // What was logged may belong into a span.
        self.settle_outputs(false);
        self.settle_blocked(false);
        self.emit_settled(false);
        if self.now >= self.swept + SWEEP_EVERY {
            self.swept = self.now;
            self.sweep();
        }
    }

    /// Nothing will follow: what has finished becomes spans with the evidence that there is.
    pub(super) fn finish(&mut self) {
        self.settle_all_untaken(true);
        self.settle_calls(true);
        self.settle_stubs(true);
        self.settle_behind(true);
        self.find_origins(true);
        self.settle_outputs(true);
        self.settle_blocked(true);
        self.emit_settled(true);
        self.counters.abandoned += self.operations.len() as u64;
    }

    /// Forgets what can no longer matter.
    fn sweep(&mut self) {
        let now = self.now;
        let queued = self.queued.values().map(|cause| cause.context);
        let working =
            self.threads.values().filter_map(|thread| thread.work?.cause).map(|cause| cause.context);
        let held: Vec<_> = queued.chain(working).collect();
        self.counters.forgotten_contexts += self.contexts.sweep(now, &held);
        self.threads.retain(|_, thread| thread.last + ENDED_KEPT > now);
        self.publishes.sweep(now);
        self.notifiers.sweep(now);
        self.queued.retain(|_, cause| cause.time + ENDED_KEPT > now);
        self.processes.retain(|_, process| process.ended.is_none_or(|ended| ended + HOLD_MAX * 2 > now));
        self.sweep_outputs();
        let processes = &self.processes;
        self.stacks.retain(|pid| processes.contains_key(&pid));
        self.routes.retain(|pid| processes.contains_key(&pid));
        self.measures.retain(|pid| processes.contains_key(&pid));
        let kept = if self.units.len() > UNITS_MAX { HOLD_MAX * 2 } else { ENDED_KEPT };
        self.units.retain(|_, unit| {
            unit.detail.is_some() || unit.is_busy() || unit.end.is_none_or(|end| end + kept > now)
        });
        let units = &self.units;
        self.tasks.retain(|_, unit| units.contains_key(unit));
        self.interactions.retain(|_, unit| units.contains_key(unit));
        self.exchanges.retain(|_, exchanges| {
            let idle = exchanges.units.is_empty()
                && exchanges.operations.is_empty()
                && exchanges.deliveries.is_empty()
                && exchanges.delivered + DISPATCHERS_KEPT < now;
            let served = exchanges.served.back().is_some_and(|(_, unit)| units.contains_key(unit));
            if !idle || served {
                return true;
            }
            let closed = *exchanges.closed.get_or_insert(now);
            closed + ENDED_KEPT > now
        });
        self.sweep_sharing();
        self.sweep_calls();
        self.sweep_stubs();
    }
}
