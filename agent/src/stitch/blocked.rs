//! Event loops that were kept from running: the application has waited inside one of its tasks, and nothing else could.
//!
//! It shows where a wait runs out ([`adder_ebpf::kind::TIMER`]) on the thread of a loop, with functions of the application
//! inside of the loop's own: `time.sleep`, or a lock with a time-out, in a coroutine. What keeps it busy by computing makes no
//! system call, and does not show.

use adder_ebpf::{Header, Item};

use super::{Engine, HOLD_MAX, unit::Act};
use crate::signal::{Attribute, SpanEvent};

/// From which time on it is told of, nanoseconds.
const BLOCKED_MIN: u64 = 100_000_000;
/// Such waits whose unit is not certain yet, and those that one span tells of, at most.
const BLOCKED_MAX: usize = 256;
const EVENTS_MAX: usize = 8;
/// `epoll_wait` and `epoll_pwait`: the loop itself waits.
const LOOP_WAITS: [u64; 2] = [232, 281];

/// One wait.
pub(super) struct Blocked {
    act: Act,
    event: SpanEvent,
}

impl Engine {
    /// A wait has run out on the thread of a loop, that long after it was last heard of.
    pub(super) fn loop_waited(&mut self, item: &Item, waited: u64) {
        let Header { time, pid, tid, context, .. } = item.header;
        if waited < BLOCKED_MIN || LOOP_WAITS.contains(&item.item) {
            return;
        }
        let attributes = vec![Attribute::new("adder.asyncio.blocked.ms", (waited / 1_000_000) as i64)];
        let event =
            SpanEvent { time: self.unix(time - waited), name: "adder.asyncio.blocked".into(), attributes };
        let context = self.contexts.at(pid, context, time);
        let act = Act { pid, tid, start: time, context, stack: self.stack, ..Act::default() };
        let act = Act { job: self.job_of(&act), ..act };
        if self.blocked.len() < BLOCKED_MAX {
            self.blocked.push(Blocked { act, event });
        }
    }

    /// Time has passed: gives the waits to the spans in which they were.
    pub(super) fn settle_blocked(&mut self, all: bool) {
        let mut waiting = std::mem::take(&mut self.blocked);
        waiting.retain_mut(|blocked| {
            let act = &blocked.act;
            let settled = all || act.start + HOLD_MAX < self.now || self.act_settled(act, act.start, 0);
            // Its code may have been read only now.
            let site = if settled { self.stacks.site(act.stack).here() } else { None };
            let Some(site) = site else { return !settled };
            self.counters.blocked_loops += 1;
            blocked.event.attributes.extend(site);
            if let Some((owner, _)) = self.owner_of(act) {
                self.note_handler(owner, act, false);
                if let Some(unit) = self.units.get_mut(&owner)
                    && unit.events.len() < EVENTS_MAX
                {
                    unit.events.push(blocked.event.clone());
                }
            }
            !settled
        });
        self.blocked = waiting;
    }
}
