//! Two watched processes at the ends of one connection: which request of the server is which operation of the client.
//!
//! Both sides are reported at the end of their system calls. A client that does not run again at once after it has sent a
//! request reports it late, by milliseconds where processors are few, and the server may have read and answered it by then.
//! So times of the two sides are compared only where one cannot be before the other: a client without a request open has
//! read the answer to the one before, the server reads the next one later than that, and it reads each one earlier than the
//! client reads its answer.

use std::collections::VecDeque;

use super::{Engine, JOIN_WINDOW, Operation, OperationId, Unit, UnitId};
use crate::{
    conn::{ConnectionId, Happened, Protocol},
    protocol::Event,
};

/// Requests or operations of one connection that wait for their other side.
const UNJOINED_MAX: usize = 64;

/// What of one connection waits for its other side, with the numbers of the exchanges.
#[derive(Default)]
pub(super) struct Unjoined {
    units: VecDeque<(u64, UnitId)>,
    operations: VecDeque<(u64, OperationId)>,
    /// When its client has read the last answer, 0 where none was seen.
    pub(super) answered: u64,
}

impl Unjoined {
    /// An operation is forgotten: it has no other side.
    pub(super) fn forget(&mut self, id: OperationId) {
        self.operations.retain(|(_, known)| *known != id);
    }
}

/// Takes out what has this number.
fn take<T>(waiting: &mut VecDeque<(u64, T)>, number: u64) -> Option<T> {
    let place = waiting.iter().position(|(known, _)| *known == number)?;
    waiting.remove(place).map(|(_, found)| found)
}

/// Leaves something to be found from its other side.
fn leave<T>(waiting: &mut VecDeque<(u64, T)>, number: u64, left: T) {
    if waiting.len() >= UNJOINED_MAX {
        waiting.pop_front();
    }
    waiting.push_back((number, left));
}

impl Engine {
    /// Finds the caller's side of a request, or leaves the request to be found from there.
    pub(super) fn join_unit(&mut self, id: UnitId, peer: ConnectionId, happened: &Happened, start: u64) {
        let Event::Begin { exchange, .. } = &happened.event else { return };
        let operations = &self.operations;
        let waiting = self.exchanges.get_mut(&peer).map(|exchanges| &mut exchanges.unjoined.operations);
        let caller = waiting.and_then(|waiting| {
            if happened.protocol == Protocol::Http2 {
                // Both sides know the number of a stream.
                return take(waiting, *exchange);
            }
            // What was answered before is an earlier request, whose other side was not seen.
            let open = |operation: &Operation| operation.end.is_none_or(|end| end >= start);
            std::iter::from_fn(|| waiting.pop_front())
                .map(|(_, operation)| operation)
                .find(|operation| operations.get(operation).is_some_and(open))
        });
        if let Some(caller) = caller {
            self.join(id, caller);
        } else {
            let exchanges = self.exchanges.entry(happened.connection).or_default();
            leave(&mut exchanges.unjoined.units, *exchange, id);
        }
    }

    /// Finds the request that an operation has become, or leaves the operation to be found from there. It is not yet among
    /// those of its connection.
    pub(super) fn join_operation(&mut self, id: OperationId, happened: &Happened, start: u64) {
        let Event::Begin { exchange, .. } = &happened.event else { return };
        let exchanges = self.exchanges.entry(happened.connection).or_default();
        // Since when nothing is open, as the client knows it. An answer that came before a loss says nothing of what came behind it.
        let answered = exchanges.unjoined.answered;
        let free = (answered > exchanges.lost).then_some(answered).or(happened.whole.then_some(0));
        let free = free.filter(|_| exchanges.operations.is_empty());
        let peer = self.connections.peer(happened.netns, &happened.endpoints);
        let waiting = peer.and_then(|peer| self.exchanges.get_mut(&peer));
        let unit = waiting.and_then(|waiting| {
            let waiting = &mut waiting.unjoined.units;
            // The trace of an older one stands (`Engine::unit_settled`).
            let is_open = |unit: &Unit| unit.start + JOIN_WINDOW >= self.now;
            if happened.protocol == Protocol::Http2 {
                return take(waiting, *exchange).filter(|unit| self.units.get(unit).is_some_and(is_open));
            }
            let fits = |unit: &Unit| match free {
                Some(free) => unit.start > free,
                // One that has ended before this began may be an earlier exchange of a connection that is kept open.
                None => unit.end.is_none_or(|end| end > start),
            };
            // Older ones are of requests that were not seen here.
            std::iter::from_fn(|| waiting.pop_front())
                .map(|(_, unit)| unit)
                .find(|unit| self.units.get(unit).is_some_and(|unit| is_open(unit) && fits(unit)))
        });
        if let Some(unit) = unit {
            self.join(unit, id);
        } else if let Some(exchanges) = self.exchanges.get_mut(&happened.connection) {
            // The other end of a new connection is seen only when it is accepted, after the first request has left.
            leave(&mut exchanges.unjoined.operations, *exchange, id);
        }
    }

    fn join(&mut self, id: UnitId, caller: OperationId) {
        if let Some(unit) = self.units.get_mut(&id) {
            unit.caller = Some(caller);
            self.counters.joined += 1;
        }
        if let Some(operation) = self.operations.get_mut(&caller) {
            operation.joined = Some(id);
        }
    }
}

#[cfg(test)]
mod tests;
