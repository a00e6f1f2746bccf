//! Deliveries that are not settled yet.

use std::collections::BTreeMap;

use super::Outcome;
use crate::protocol::{Event, Mark};

/// Unsettled deliveries remembered of a connection; the oldest is given up for a newer one.
const MAX_UNSETTLED: usize = 65_536;

/// The unsettled deliveries of a connection.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    next: u64,
    /// Number of the delivery by channel and tag.
    by_tag: BTreeMap<(u16, u64), u64>,
    /// Channel and tag by number.
    by_age: BTreeMap<u64, (u16, u64)>,
}

impl Deliveries {
    /// The number of the next delivery.
    pub(super) fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// A delivery waits to be settled.
    pub(super) fn expect(&mut self, number: u64, channel: u16, tag: u64, at: Mark, out: &mut Vec<Event>) {
        if self.by_tag.contains_key(&(channel, tag)) {
            self.settle(channel, tag, false, Outcome::Lost, at, out);
        }
        if self.by_age.len() >= MAX_UNSETTLED
            && let Some((delivery, key)) = self.by_age.pop_first()
        {
            self.by_tag.remove(&key);
            out.push(Event::Settle { delivery, at, outcome: Outcome::Lost });
        }
        self.by_tag.insert((channel, tag), number);
        self.by_age.insert(number, (channel, tag));
    }

    /// Settles one delivery, or with `multiple` all of the channel up to it; tag 0 then means all of them.
    pub(super) fn settle(
        &mut self,
        channel: u16,
        tag: u64,
        multiple: bool,
        outcome: Outcome,
        at: Mark,
        out: &mut Vec<Event>,
    ) {
        let last = if multiple && tag == 0 { u64::MAX } else { tag };
        let first = if multiple { 0 } else { tag };
        while let Some((&key, &delivery)) = self.by_tag.range((channel, first)..=(channel, last)).next() {
            self.by_tag.remove(&key);
            self.by_age.remove(&delivery);
            out.push(Event::Settle { delivery, at, outcome });
        }
    }

    /// The connection is over.
    pub(super) fn end_all(&mut self, outcome: Outcome, at: Mark, out: &mut Vec<Event>) {
        self.by_tag.clear();
        for (delivery, _) in std::mem::take(&mut self.by_age) {
            out.push(Event::Settle { delivery, at, outcome });
        }
    }

    /// Deliveries that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        assert_eq!(self.by_tag.len(), self.by_age.len());
        self.by_tag.len()
    }
}
