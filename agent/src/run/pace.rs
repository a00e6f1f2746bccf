//! How often the agent looks at what the kernel side has told.
//!
//! What costs a service most is not the time that the agent uses but how often it wakes: each time it takes a processor's caches, and
//! makes the scheduler move the services about. So it looks seldom while a service does what it has done before, and often while
//! something is new: then it has to put probes on and to read the names of functions before they are gone.

use std::time::{Duration, Instant};

use adder_ebpf::RING_WAKE;

use crate::probe::Taken;

/// Between two looks while something is new.
const QUICK: Duration = Duration::from_millis(25);
/// Between two looks else. A buffer that fills up before is announced by the kernel side, and so is a process that begins or ends.
const STEADY: Duration = Duration::from_millis(200);
/// Facts taken in one turn at most, so that everything else is done in time.
pub(super) const FACTS_PER_TURN: usize = 50_000;
/// How long something is new.
const NEW: Duration = Duration::from_secs(5);
/// So few bytes have not made the kernel side announce them: it was something else, of which there may be much.
const LITTLE: u64 = RING_WAKE / 2;

/// When to look again.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the last turn was over.
    turned: Instant,
    /// What was taken in it.
    taken: Taken,
    /// Something was announced before it. The fact that was meant may have come only behind one that was not whole yet.
    was_announced: bool,
    is_announced: bool,
    /// Until when something is new.
    new_until: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            turned: now,
            taken: Taken::default(),
            was_announced: false,
            is_announced: false,
            new_until: now + NEW,
        }
    }

    /// A turn is over that has taken so much, and learned something new or not.
    pub(super) fn turned(&mut self, now: Instant, taken: Taken, is_new: bool) {
        self.turned = now;
        self.taken = taken;
        self.was_announced = std::mem::take(&mut self.is_announced);
        if is_new {
            self.new_until = now + NEW;
        }
    }

    /// The next turn, if nothing is announced; `soon` where something is waited for.
    pub(super) fn next(&self, soon: bool) -> Instant {
        if self.taken.facts >= FACTS_PER_TURN {
            // There are more.
            self.turned
        } else if soon || self.was_announced || self.turned < self.new_until {
            self.turned + QUICK
        } else {
            self.turned + STEADY
        }
    }

    /// Something is announced; the next turn.
    pub(super) fn announced(&mut self, now: Instant) -> Instant {
        self.is_announced = true;
        if self.taken.bytes < LITTLE { now.max(self.turned + QUICK) } else { now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Taken = Taken { facts: 0, bytes: 0 };

    #[test]
    fn looks_often_only_while_something_is_new() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.next(false), start + QUICK);
        let later = start + NEW;
        pace.turned(later, NOTHING, false);
        assert_eq!((pace.next(false), pace.next(true)), (later + STEADY, later + QUICK));
        pace.turned(later, NOTHING, true);
        assert_eq!(pace.next(false), later + QUICK);
    }

    #[test]
    fn goes_on_with_what_it_has_left() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.turned(start + NEW, Taken { facts: FACTS_PER_TURN, bytes: 0 }, false);
        assert_eq!(pace.next(false), start + NEW);
    }

    #[test]
    fn many_announcements_of_little_do_not_make_many_turns() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let now = start + Duration::from_millis(1);
        assert_eq!(pace.announced(now), start + QUICK);
        assert_eq!(pace.announced(start + STEADY), start + STEADY);
        // A few large facts fill the buffer.
        pace.turned(start, Taken { facts: 60, bytes: LITTLE }, false);
        assert_eq!(pace.announced(now), now);
    }

    #[test]
    fn what_was_announced_is_looked_for_twice() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.announced(start + NEW);
        pace.turned(start + NEW, NOTHING, false);
        assert_eq!(pace.next(false), start + NEW + QUICK);
        pace.turned(start + NEW, NOTHING, false);
        assert_eq!(pace.next(false), start + NEW + STEADY);
    }
}
