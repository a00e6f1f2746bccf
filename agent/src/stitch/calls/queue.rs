//! Calls and what is made for them, in order.

use std::collections::VecDeque;

use crate::stitch::context::ContextId;

/// Calls, and handlings, of one queue that are kept at most until it is known which belong together.
const WAITING_MAX: usize = 4096;

/// What handles a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::stitch) enum Handling {
    /// A piece of work: [`super::Cause::number`].
    Work(u64),
    /// A task.
    Task(ContextId),
}

/// What a dispatcher has to do. All are numbered, so that it shows which are beside each other.
#[derive(Debug)]
pub(in crate::stitch) struct Queue<Call> {
    /// Calls in the order in which they came.
    pub(in crate::stitch) calls: VecDeque<(u64, Call)>,
    /// What was made, and when.
    pub(in crate::stitch) handlings: VecDeque<(u64, u64, Handling)>,
    /// The next numbers.
    next: (u64, u64),
    /// The last two that belong together; all before are dealt with.
    last: Option<(u64, u64)>,
    /// How many are made for each call.
    each: u64,
    /// That is known.
    pub(in crate::stitch) in_step: bool,
    /// The last answer did not agree with it.
    differed: bool,
}

/// Two that belong together.
pub(in crate::stitch) type Pair<Call> = (Call, u64, Handling);

impl<Call> Default for Queue<Call> {
    fn default() -> Self {
        Self {
            calls: VecDeque::new(),
            handlings: VecDeque::new(),
            next: (0, 0),
            last: None,
            each: 0,
            in_step: false,
            differed: false,
        }
    }
}

impl<Call: Copy + PartialEq> Queue<Call> {
    pub(in crate::stitch) fn comes(&mut self, call: Call) {
        if self.calls.len() < WAITING_MAX {
            self.calls.push_back((self.next.0, call));
        }
        self.next.0 += 1;
    }

    pub(in crate::stitch) fn is_made(&mut self, time: u64, handling: Handling) {
        if self.handlings.len() < WAITING_MAX {
            self.handlings.push_back((self.next.1, time, handling));
        }
        self.next.1 += 1;
    }

    /// A call is handled by nobody.
    pub(in crate::stitch) fn is_refused(&mut self, call: Call) {
        let Some(place) = self.calls.iter().position(|(_, known)| *known == call) else { return };
        self.calls.remove(place);
        self.calls.iter_mut().skip(place).for_each(|(number, _)| *number -= 1);
        self.next.0 -= 1;
    }

    /// What was made, and what beside it, is for a call that came before it was known that calls are handed out.
    fn is_for_older(&mut self, place: usize) {
        let each = self.each.max(1);
        let Some((first, ..)) = self.handlings.remove(place) else { return };
        self.handlings.retain(|(number, ..)| *number <= first || *number >= first + each);
        for (number, ..) in self.handlings.iter_mut().filter(|(number, ..)| *number > first) {
            *number -= each;
        }
        // What is not made yet has a number beside it too.
        self.next.1 = self.next.1.max(first + each) - each;
    }

    /// A handling has answered a call. Returns the pairs that are certain by that.
    pub(in crate::stitch) fn answered(
        &mut self,
        call: Call,
        handling: Handling,
        now: u64,
    ) -> Vec<Pair<Call>> {
        let place = self.calls.iter().position(|(_, known)| *known == call);
        let own = self.handlings.iter().position(|(.., known)| *known == handling);
        let number = place.and_then(|place| self.calls.get(place)).map(|(number, _)| *number);
        let made = own.and_then(|own| self.handlings.get(own)).map(|(made, time, _)| (*made, *time));
        let pair = (call, made.map_or(now, |(_, time)| time), handling);
        match (number, made) {
            (Some(number), Some((made, _))) => {
                let since = |last: (u64, u64)| (number.saturating_sub(last.0), made.saturating_sub(last.1));
                let (calls, handlings) = self.last.map_or((0, 0), since);
                let agrees = calls * self.each == handlings;
                if self.in_step && !agrees && !std::mem::replace(&mut self.differed, true) {
                    // It may have been answered along with another.
                    return Vec::new();
                }
                self.differed = false;
                let mut pairs = Vec::new();
                if self.in_step && agrees {
                    let between = calls.min(self.calls.len() as u64 + 1);
                    pairs.extend((1..between).filter_map(|ahead| self.ahead(ahead)));
                } else if calls != 0 && handlings % calls == 0 {
                    self.in_step = agrees;
                    self.each = handlings / calls;
                } else {
                    self.in_step = false;
                }
                pairs.push(pair);
                self.dealt_with(number, made);
                pairs
            }
            (None, Some(_)) => {
                self.is_for_older(own.unwrap_or_default());
                vec![pair]
            }
            // Its handling came before that was known, or both did, or both are dealt with.
            (_, None) => {
                self.is_refused(call);
                vec![pair]
            }
        }
    }

    /// The pair that is this far ahead of the last one.
    fn ahead(&self, ahead: u64) -> Option<Pair<Call>> {
        let (number, made) = self.last?;
        let (number, made) = (number + ahead, made + ahead * self.each);
        let call = self.calls.binary_search_by_key(&number, |(known, _)| *known).ok()?;
        let own = self.handlings.binary_search_by_key(&made, |(known, ..)| *known).ok()?;
        let ((_, call), (_, time, handling)) = (self.calls.get(call)?, self.handlings.get(own)?);
        Some((*call, *time, *handling))
    }

    fn dealt_with(&mut self, number: u64, made: u64) {
        self.last = Some((number, made));
        self.calls.retain(|(known, _)| *known > number);
        self.handlings.retain(|(known, ..)| *known > made);
    }

    /// The pairs that have been silent since.
    pub(in crate::stitch) fn silent(&mut self, since: u64) -> Vec<Pair<Call>> {
        let mut pairs = Vec::new();
        while self.in_step
            && !self.differed
            && let Some((number, made)) = self.last
            // Else not all were made for calls.
            && self.next.0.saturating_sub(number) * self.each >= self.next.1.saturating_sub(made)
            && let Some(pair) = self.ahead(1).filter(|(_, time, _)| *time < since)
        {
            pairs.push(pair);
            self.dealt_with(number + 1, made + self.each);
        }
        pairs
    }

    /// Whether it is not known what this is for.
    pub(in crate::stitch) fn is_open(&self, handling: Handling) -> bool {
        self.handlings.iter().any(|(.., known)| *known == handling)
    }
}
