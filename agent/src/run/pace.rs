//! How often the agent looks at what the kernel side has told.
//!
//! What costs a service most is not the time that the agent uses but how often it wakes: each time it takes a processor's caches, and
//! makes the scheduler move the services about. So it looks seldom while a service does what it has done before, and often while
//! something is new: then it has to put probes on and to read the names of functions before they are gone.

use std::time::{Duration, Instant};

/// Between two looks while something is new.
const QUICK: Duration = Duration::from_millis(25);
/// Between two looks else. A buffer that fills up before is announced by the kernel side, and so is a process that begins or ends.
const STEADY: Duration = Duration::from_millis(200);
/// Facts taken in one turn at most, so that everything else is done in time.
pub(super) const FACTS_PER_TURN: usize = 50_000;
/// How long something is new.
const NEW: Duration = Duration::from_secs(5);
/// So few facts have not filled the buffer: what has woken the agent was something else, and there may be much of it.
const FEW: usize = 2000;

/// When to look again.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the last turn was over.
    turned: Instant,
    /// How many facts there were.
    facts: usize,
    /// Until when something is new.
    new_until: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { turned: now, facts: 0, new_until: now + NEW }
    }

    /// A turn is over that has taken so many facts, and learned something new or not.
    pub(super) fn turned(&mut self, now: Instant, facts: usize, is_new: bool) {
        self.turned = now;
        self.facts = facts;
        if is_new {
            self.new_until = now + NEW;
        }
    }

    /// The next turn, if nothing is announced.
    pub(super) fn next(&self) -> Instant {
        match self.facts {
            // There are more.
            FACTS_PER_TURN.. => self.turned,
            _ if self.turned < self.new_until => self.turned + QUICK,
            _ => self.turned + STEADY,
        }
    }

    /// The next turn if something is announced now.
    pub(super) fn announced(&self, now: Instant) -> Instant {
        if self.facts < FEW { now.max(self.turned + QUICK) } else { now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_often_only_while_something_is_new() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.next(), start + QUICK);
        let later = start + NEW;
        pace.turned(later, 0, false);
        assert_eq!(pace.next(), later + STEADY);
        pace.turned(later, 0, true);
        assert_eq!(pace.next(), later + QUICK);
    }

    #[test]
    fn goes_on_with_what_it_has_left() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.turned(start + NEW, FACTS_PER_TURN, false);
        assert_eq!(pace.next(), start + NEW);
    }

    #[test]
    fn many_announcements_of_little_do_not_make_many_turns() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let now = start + Duration::from_millis(1);
        assert_eq!(pace.announced(now), start + QUICK);
        assert_eq!(pace.announced(start + STEADY), start + STEADY);
        pace.turned(start, FEW, false);
        assert_eq!(pace.announced(now), now);
    }
}
