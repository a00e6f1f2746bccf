//! Interactions of Discord: messages that whoever handles them names in his answer.
//!
//! A bot's gateway task makes a task for each event that it takes from its queue. Which task is for which event shows
//! only where one has come alone; a bot that answers an interaction says so in the path of its request
//! (`/interactions/{id}/{token}/callback`), and that is certain. The task that has made the request, or the one out of
//! which that came that was made after the event had come, is the interaction's, with all that it did before.

use super::{Engine, OperationId, context::ContextId, unit::UnitId};
use crate::protocol::{Detail, Mark};

/// Interactions that wait for their answer.
const EXPECTED_MAX: usize = 10_000;

impl Engine {
    /// Whoever handles this unit will name it.
    pub(super) fn expect_answer(&mut self, name: u64, unit: UnitId, at: Mark) {
        if self.interactions.len() < EXPECTED_MAX {
            self.interactions.insert(name, unit);
        } else {
            self.counters.unqueued += 1;
        }
        if let Some(process) = self.processes.get_mut(&at.pid) {
            process.open.insert(unit, at.time);
        }
    }

    /// Whether a message and the one that came with it are not to be one batch.
    pub(super) fn stands_alone(&self, other: UnitId, detail: &Detail) -> bool {
        let named = matches!(detail, Detail::WebSocket(message) if message.interaction().is_some());
        named || self.is_named(other)
    }

    /// Whether others have come with a message.
    pub(super) fn is_crowded(&self, unit: UnitId) -> bool {
        let notice = self.units.get(&unit).and_then(|unit| unit.notice.as_deref());
        notice.is_some_and(super::notice::Notice::is_crowded)
    }

    pub(super) fn is_named(&self, unit: UnitId) -> bool {
        let notice = self.units.get(&unit).and_then(|unit| unit.notice.as_deref());
        notice.is_some_and(super::notice::Notice::is_named)
    }

    /// Others have come with a message: what was done for which does not show by the order.
    pub(super) fn crowd(&mut self, unit: UnitId) {
        if let Some(notice) = self.notice_mut(unit) {
            notice.crowd();
        }
    }

    /// An operation has answered an interaction.
    pub(super) fn answers_interaction(&mut self, id: OperationId, name: u64) {
        let Some(unit) = self.interactions.get(&name).copied() else { return };
        let Some(start) = self.units.get(&unit).map(|unit| unit.start) else { return };
        let Some(operation) = self.operations.get(&id) else { return };
        let (pid, context) = (operation.act.pid, operation.act.context);
        let Some(holder) = self.made_for(context, operation.act.start, start) else { return };
        let claimed_by = self.units.get(&unit).map_or(0, |unit| unit.claimed_by);
        if claimed_by != 0 {
            return;
        }
        self.claim(holder, unit, false);
        if let Some(unit) = self.units.get_mut(&unit) {
            unit.claimed_by = holder;
        }
        if let Some(process) = self.processes.get_mut(&pid) {
            process.open.remove(&unit);
        }
        let mut before: Vec<(OperationId, ContextId)> = self
            .operations
            .iter()
            .filter(|(_, operation)| {
                operation.act.pid == pid && self.contexts.descends(operation.act.context, holder)
            })
            .map(|(id, operation)| (*id, operation.act.context))
            .collect();
        // The table's order is not the recording's.
        before.sort_unstable();
        for (id, context) in before {
            self.work_was_not(id);
            self.work_begins(id, context);
        }
    }

    /// The first of a line of contexts that was made after `since`: the task for what came then.
    fn made_for(&self, context: ContextId, time: u64, since: u64) -> Option<ContextId> {
        let line = self.contexts.line(context, time);
        line.take_while(|(_, context, _)| context.announced && context.created >= since)
            .last()
            .map(|(id, ..)| id)
    }
}
