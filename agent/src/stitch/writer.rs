//! Tasks that write for others (aiormq's): whom they wake right after something has left has asked for it.

use adder_ebpf::Header;

use super::{
    Engine,
    context::ContextId,
    unit::{OperationId, UnitId},
};
use crate::{conn::ConnectionId, protocol::Mark};

/// What a context has sent last, of which a wake-up right after tells who is behind it.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Thread.
    pub(super) tid: u32,
    pub(super) connection: ConnectionId,
    /// [`super::Thread::facts`] when it was sent.
    pub(super) facts: u64,
    /// A publish or another operation.
    pub(super) operation: Option<OperationId>,
    /// Deliveries that it has settled.
    pub(super) settled: Vec<UnitId>,
}

impl Engine {
    /// A future has its result: the context that waits for it runs because of the current one.
    pub(super) fn woken(&mut self, header: &Header, child: u64) {
        let active = self.contexts.active(header.pid, header.context);
        let heard = self.contexts.active(header.pid, child);
        let by = self.contexts.at(header.pid, header.context, header.time);
        let child = self.contexts.at(header.pid, child, header.time);
        self.woken_by_loop(header, by, child, active, heard);
        if by == child {
            return;
        }
        self.wakes_for_notice(header, by, child, false);
        if self.has_given_for(header, by, child) {
            return;
        }
        // It wakes at once, or (a large body) when all has left, which is known of one that has done so before.
        if !self.was_sent_for(header, by, child, |sent, facts, is_writer| sent + 1 == facts || is_writer)
            && let Some(connection) = self.contexts.find(by).and_then(|context| context.writer)
        {
            self.wakes_before(connection, child, header.pid, header.time);
        }
    }

    /// What a task has just sent it has sent for the one that it has woken before.
    pub(super) fn has_sent_for(&mut self, header: &Header, by: ContextId, child: ContextId) {
        if child != 0 && child != by {
            self.was_sent_for(header, by, child, |sent, facts, _| sent == facts);
        }
    }

    /// What a context has sent last it has sent for another, if `fits` says so: of the numbers of its thread's facts then and now, and
    /// whether it is known to send for others. False where it has sent nothing.
    fn was_sent_for(
        &mut self,
        header: &Header,
        by: ContextId,
        child: ContextId,
        fits: impl FnOnce(u64, u64, bool) -> bool,
    ) -> bool {
        let facts = self.facts_of((header.pid, header.tid));
        let sent = self.contexts.find_mut(by).and_then(|context| {
            let is_writer = context.writer.is_some();
            let is_it = |sent: &mut Box<Sent>| sent.tid == header.tid && fits(sent.facts, facts, is_writer);
            let sent = context.sent.take_if(is_it)?;
            context.writer = Some(sent.connection);
            Some(sent)
        });
        let Some(sent) = sent else { return false };
        if let Some(exchanges) = self.exchanges.get_mut(&sent.connection) {
            exchanges.writer = by;
        }
        if let Some(operation) = sent.operation.and_then(|operation| self.operations.get_mut(&operation)) {
            operation.act.woken = child;
            self.works_on(child, (header.pid, header.tid), header.time);
        }
        if let Some(id) = sent.operation {
            self.job_moves(id, child);
            self.work_begins(id, child);
        }
        for unit in sent.settled {
            if let Some(consumer) = self.contexts.find_mut(by).and_then(|context| context.consumer.as_mut()) {
                consumer.settled.retain(|(_, known)| *known != unit);
            }
            let time = self.units.get(&unit).and_then(|unit| unit.end).unwrap_or(header.time);
            let at = Mark { time, pid: header.pid, tid: header.tid, context: child, stack: 0 };
            self.settled_for(&at, child, unit);
        }
        true
    }
}
