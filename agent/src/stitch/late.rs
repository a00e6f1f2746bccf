//! What uvloop up to 0.22 sends: all of a turn at its end, in nobody's name.
//!
//! It is told what is given to the loop (`UVStream.write`), so what leaves on a connection is of whoever has given it something in
//! this turn. Where several have, nothing is known. AMQP has one task that writes for all: there whom the loop wakes right after an
//! answer was read has asked.

use adder_ebpf::{Data, Header, flag};

use super::{Engine, context::ContextId, stacks::StackId};
use crate::{conn::Protocol, protocol::Mark};

/// Descriptors of one process that are remembered.
const GIVEN_MAX: usize = 65_536;

/// What was given to a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    /// By whom, and where in the code.
    by: (ContextId, StackId),
    /// Others have given it something in the same turn.
    several: bool,
    /// [`super::Thread::facts`] when the last of it left.
    left: Option<u64>,
}

impl Engine {
    /// Something was given to a descriptor's connection.
    pub(super) fn given(&mut self, header: &Header, fd: i32) {
        let mark = self.mark(header);
        self.connections.given(mark, fd);
        let by = (mark.context, mark.stack);
        let Some(process) = self.processes.get_mut(&header.pid) else { return };
        process.tells_given = true;
        let before = process.given.get_mut(&fd);
        if let Some(before) = before.filter(|before| before.left.is_none()) {
            before.several |= before.by.0 != by.0;
        } else if process.given.len() < GIVEN_MAX {
            process.given.insert(fd, Given { by, several: false, left: None });
        } else {
            self.counters.unqueued += 1;
        }
    }

    /// Whose the bytes are that a thread has moved, and the fact's flags as they are for him. Nobody's where several have given
    /// something.
    pub(super) fn sender(&mut self, header: &Header, data: &Data) -> (Mark, u16) {
        let mark = self.mark(header);
        let is_late = header.flags & (flag::FILE_CALL | flag::RECEIVED) == flag::FILE_CALL
            && self.processes.get(&header.pid).is_some_and(|process| process.tells_given)
            && self.connections.protocol(data.socket) != Some(Protocol::Amqp);
        match is_late.then(|| self.giver(header, data.fd)) {
            Some(Some((context, stack))) => {
                (Mark { context, stack, ..mark }, header.flags & !flag::FILE_CALL)
            }
            Some(None) => (Mark { context: 0, ..mark }, header.flags),
            None => (mark, header.flags),
        }
    }

    /// Whether what was sent first of an operation was sent in nobody's name; `flags` are those of the fact that shows the
    /// operation, which may be its answer.
    pub(super) fn is_late(&self, first: &Mark, flags: u16) -> bool {
        self.processes.get(&first.pid).is_some_and(|process| {
            process.late_writes
                && flags & flag::FILE_CALL != 0
                && (flags & flag::RECEIVED == 0 || first.context == 0 || !process.tells_given)
        })
    }

    /// Who has given what leaves now at the end of a turn: a context, and where in the code. The parts of one call follow each
    /// other; what a full socket did not take leaves some time later.
    fn giver(&mut self, header: &Header, fd: i32) -> Option<(ContextId, StackId)> {
        let facts = self.threads.get(&(header.pid, header.tid))?.facts;
        let process = self.processes.get_mut(&header.pid)?;
        let given = process.given.get_mut(&fd)?;
        if given.left.is_some_and(|left| left + 1 != facts) {
            process.given.remove(&fd);
            return None;
        }
        given.left = Some(facts);
        (!given.several && given.by.0 != 0).then_some(given.by)
    }

    /// uvloop up to 0.22: what was just read is for whoever is woken.
    pub(super) fn woken_by_read(&mut self, header: &Header, by: ContextId, child: ContextId) {
        let Some(thread) = self.threads.get_mut(&(header.pid, header.tid)) else { return };
        // The loop reads outside the connection's own context, in which it calls the protocol at once. A wake-up next to the
        // read in another context is another's.
        let at_once = thread.read_at + 1 == thread.facts;
        if thread.answered.0 == by || at_once {
            let same = thread.answered.0 == by;
            for id in std::mem::take(&mut thread.answered.1) {
                let Some(operation) = self.operations.get_mut(&id).filter(|operation| operation.act.late)
                else {
                    continue;
                };
                let exchanges = self.exchanges.get_mut(&operation.connection);
                if same || exchanges.is_some_and(|exchanges| exchanges.is_own(by)) {
                    operation.act.woken = child;
                    self.job_moves(id, child);
                }
            }
        }
        let Some(thread) = self.threads.get(&(header.pid, header.tid)) else { return };
        let Some(inbound) = thread.inbound.filter(|inbound| inbound.by_loop && inbound.context == by) else {
            return;
        };
        let adjacent = inbound.facts + 1 == thread.facts;
        let late = self.processes.get(&header.pid).is_some_and(|process| process.late_writes);
        let Some(unit) = self.units.get(&inbound.unit).filter(|unit| unit.claimed_by == 0) else { return };
        if adjacent
            && late
            && unit.replied.is_none()
            && let Some(context) = self.contexts.find_mut(child).filter(|context| context.announced)
        {
            context.serves = Some(inbound.connection);
        }
    }
}

#[cfg(test)]
mod tests;
