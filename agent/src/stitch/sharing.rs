//! Requests of HTTP/2 that tasks send for each other.
//!
//! httpcore's tasks (or threads) put what they have to say into one buffer and wait for a lock; who has it sends all that is there,
//! and reads for all likewise. So neither who sends a request nor who reads its response tells whose it is. But each of the functions
//! that do it for one request has the number of its stream in a local variable: the kernel side reads it where a task sends
//! something or hands a lock on, where a thread sends or reads ([`adder_ebpf::Stream`]). Most tasks do one or the other; a request
//! whose task does neither has no parent.
//!
//! No parent is better than a wrong one.

#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;

use adder_ebpf::{Header, flag, stacks};

use super::{Engine, Need, OperationId, context::ContextId, stacks::StackId, unit::Shared};
use crate::{code::Sharers, conn::ConnectionId, protocol::Mark};

/// How long after its end it may still show whose a request is, nanoseconds.
pub(super) const SHARED_WAIT: u64 = 2_000_000_000;
/// Streams kept at most of whose request or whose task nothing is known yet, each.
const STREAMS_MAX: usize = 4096;

/// What tasks send for each other on a connection.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    /// Requests of which it is not known whose they are.
    requests: BTreeMap<u32, OperationId>,
    /// Who has the care of streams that have not begun.
    owners: BTreeMap<u32, (ContextId, StackId)>,
}

impl Engine {
    /// A request begins that was sent in this context.
    pub(super) fn shared_begins(
        &mut self,
        id: OperationId,
        first: &Mark,
        connection: ConnectionId,
        stream: u32,
    ) {
        if let Some(sharers) = self.stacks.shares_writes(first.stack) {
            // Tasks wake each other; a thread that has not sent its request itself may read.
            match sharers {
                Sharers::Tasks => {
                    self.needs_more(first.pid, Need::Wakes);
                    self.want_stacks(first.pid, stacks::WAKES);
                }
                Sharers::Threads => self.want_stacks(first.pid, stacks::RECEIVED),
            }
            let told = self.stream.filter(|_| first.stack == self.stack);
            if let Some((object, number)) = told {
                self.shared_objects.insert((first.pid, object), connection);
                let sharing = self.sharing.entry(connection).or_default();
                if sharers == Sharers::Threads && number == stream {
                    // What the thread works for tells.
                    return self.is_shared(id, Shared::Own);
                } else if first.context != 0 {
                    sharing.owners.insert(number, (first.context, first.stack));
                }
            }
        } else if !self.sharing.contains_key(&connection) {
            // What had no room in the socket's buffer is sent by the loop, but not before anything else has been.
            if self.is_sent_along(first) {
                return self.is_shared(id, Shared::Closed);
            }
            return self.stub_sends(id, first);
        }
        self.is_shared(id, Shared::Open);
        let sharing = self.sharing.entry(connection).or_default();
        // Numbers only grow (RFC 9113, section 5.1.1).
        sharing.owners = sharing.owners.split_off(&stream);
        if let Some((context, stack)) = sharing.owners.remove(&stream) {
            self.is_made_by(id, context, stack);
        } else if sharing.requests.len() < STREAMS_MAX {
            sharing.requests.insert(stream, id);
        } else {
            self.counters.unqueued += 1;
        }
    }

    /// How a request is sent is known.
    pub(super) fn is_shared(&mut self, id: OperationId, shared: Shared) {
        if let Some(operation) = self.operations.get_mut(&id) {
            operation.act.shared = shared;
        }
    }

    /// Whether a request is not the first that a thread sends in one call: at most that is its own, the others were there already.
    fn is_sent_along(&mut self, first: &Mark) -> bool {
        let Some(thread) = self.threads.get_mut(&(first.pid, first.tid)) else { return false };
        let (told, begun) = thread.stacks;
        thread.stacks.1 = told;
        told != 0 && told == begun
    }

    /// A task does something for a stream.
    pub(super) fn cares_for_stream(&mut self, header: &Header) {
        // What leaves late was told of when it was given.
        let Some((object, number)) = self.stream.filter(|_| header.flags & flag::STACKED != 0) else {
            return;
        };
        let Some(connection) = self.shared_objects.get(&(header.pid, object)) else { return };
        let context = self.contexts.at(header.pid, header.context, header.time);
        let Some(sharing) = self.sharing.get_mut(connection).filter(|_| context != 0) else { return };
        if let Some(id) = sharing.requests.remove(&number) {
            self.is_made_by(id, context, self.stack);
        } else if sharing.owners.len() < STREAMS_MAX {
            sharing.owners.insert(number, (context, self.stack));
        } else {
            self.counters.unqueued += 1;
        }
    }

    /// It shows whose a request is, where it was not known.
    pub(super) fn is_made_by(&mut self, id: OperationId, context: ContextId, stack: StackId) {
        let Some(operation) = self.operations.get_mut(&id) else { return };
        let act = &mut operation.act;
        act.shared = Shared::Closed;
        if act.woken == 0 {
            (act.woken, act.stack) = (context, stack);
            let (thread, start) = ((act.pid, act.tid), act.start);
            self.works_on(context, thread, start);
            self.job_moves(id, context);
            self.work_begins(id, context);
        }
    }

    /// Forgets connections that are no more, and requests that are over.
    pub(super) fn sweep_sharing(&mut self) {
        let (exchanges, operations) = (&self.exchanges, &self.operations);
        self.sharing.retain(|connection, _| exchanges.contains_key(connection));
        for sharing in self.sharing.values_mut() {
            sharing.requests.retain(|_, id| operations.contains_key(id));
        }
        let sharing = &self.sharing;
        self.shared_objects.retain(|_, connection| sharing.contains_key(connection));
    }
}
