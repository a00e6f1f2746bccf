//! Where messages come from: the publish behind each.

use super::{
    Engine,
    message::Delivery,
    notice::Publisher,
    publishes::{Place, Sought},
    unit::UnitId,
};
use crate::{protocol::Detail, signal::Link};

/// How long a sender may take to read that its message was sent, nanoseconds: what it has sent is known only then, where it
/// is a command or a statement.
const ANSWERED_LATE: u64 = 2_000_000_000;

/// The publish behind a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Not looked for yet: both may be reported in either order.
    Unknown,
    /// None was seen.
    None,
    /// Its parent.
    Parent(u64),
    /// Long ago: linked.
    Linked(u64),
}

impl Engine {
    /// Looks for the publishes of deliveries that are old enough for both to have been reported.
    pub(super) fn find_origins(&mut self, all: bool) {
        let now = self.now;
        let mut all_waiting = std::mem::take(&mut self.unoriginated);
        let mut later = Vec::new();
        while let Some(waiting) = all_waiting.pop_front() {
            let last = waiting.time + super::JOIN_WINDOW;
            if !all && last > now {
                all_waiting.push_front(waiting);
                break;
            }
            let origin = match &waiting.publisher {
                Publisher::Amqp => {
                    self.find_publish(waiting.unit, last);
                    continue;
                }
                Publisher::Redis(sought) => self.publishes.find(sought, last),
                Publisher::Session(notification) => {
                    let listener = self.listener(waiting.unit);
                    let found = self.notifiers.find(notification, listener, waiting.time);
                    found.map(|(operation, place, sent)| self.publishes.adopt(operation, place, sent))
                }
            };
            if origin.is_none() && !all && waiting.time + ANSWERED_LATE > now {
                later.push(waiting);
            } else {
                self.found_origin(&waiting, origin);
            }
        }
        for waiting in later.into_iter().rev() {
            all_waiting.push_front(waiting);
        }
        self.unoriginated = all_waiting;
    }

    /// Looks for the publish of a delivery, which was sent before `last`.
    fn find_publish(&mut self, id: UnitId, last: u64) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        let (start, Some(delivery)) = (unit.start, &mut unit.delivery) else { return };
        let Some(Detail::Amqp(message)) = &unit.detail else { return };
        delivery.origin = match self.publishes.find(&Sought::of(message, delivery.connection), last) {
            None => Origin::None,
            Some(id) => {
                let sent = self.publishes.sent(id).unwrap_or(start);
                if start.saturating_sub(sent) > self.options.link_after {
                    Origin::Linked(id)
                } else {
                    self.counters.joined += 1;
                    Origin::Parent(id)
                }
            }
        };
    }

    /// The publish that is the parent of a delivery.
    pub(super) fn origin(&self, delivery: &Delivery) -> Option<Place> {
        let Origin::Parent(id) = delivery.origin else { return None };
        self.publishes.place(id)
    }

    /// The link of a delivery to a publish of long ago.
    pub(super) fn link(&self, delivery: &Delivery) -> Option<Link> {
        let Origin::Linked(id) = delivery.origin else { return None };
        match self.publishes.place(id)? {
            Place::Made(trace_id, span_id) => Some(Link { trace_id, span_id }),
            Place::Open(_) => None,
        }
    }
}
