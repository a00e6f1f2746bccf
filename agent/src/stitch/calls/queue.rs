//! Calls and what is made for them, in order.

use std::collections::VecDeque;

use crate::stitch::{HOLD_MAX, context::ContextId};

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
    /// Calls in the order in which they came, and when.
    pub(super) calls: VecDeque<(u64, u64, Call)>,
    /// What was made, and when.
    handlings: VecDeque<(u64, u64, Handling)>,
    /// The next numbers.
    next: (u64, u64),
    /// The last two that belong together; all before are dealt with.
    last: Option<Last>,
    /// How many are made for each call.
    each: u64,
    /// That is known.
    in_step: bool,
    /// The last answer did not agree with it.
    differed: bool,
    /// Both come in the same order, however many are open; what handles a call is made before it.
    in_order: bool,
}

/// Numbers and times of two that belong together.
#[derive(Clone, Copy, Debug)]
struct Last {
    number: u64,
    made: u64,
    called_at: u64,
    made_at: u64,
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
            in_order: false,
        }
    }
}

impl<Call: Copy + PartialEq> Queue<Call> {
    /// Of calls that come in the order of what was made for them, one for each.
    pub(in crate::stitch) fn in_order() -> Self {
        Self { in_order: true, each: 1, in_step: true, ..Self::default() }
    }

    pub(in crate::stitch) fn comes(&mut self, time: u64, call: Call) {
        if self.calls.len() < WAITING_MAX {
            self.calls.push_back((self.next.0, time, call));
        }
        self.next.0 += 1;
    }

    pub(in crate::stitch) fn is_made(&mut self, time: u64, handling: Handling) {
        if self.handlings.len() < WAITING_MAX {
            self.handlings.push_back((self.next.1, time, handling));
        }
        self.next.1 += 1;
    }

    /// Something may be missing: what is there does not say what belongs together.
    pub(in crate::stitch) fn misses(&mut self) {
        self.calls.clear();
        self.handlings.clear();
        (self.last, self.in_step, self.differed) = (None, self.in_order, false);
    }

    /// A call has no place: it is handled by nobody, or by what was made before anything was known.
    pub(in crate::stitch) fn has_no_place(&mut self, call: Call) {
        let Some(place) = self.calls.iter().position(|(.., known)| *known == call) else { return };
        self.calls.remove(place);
        self.calls.iter_mut().skip(place).for_each(|(number, ..)| *number -= 1);
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
        let place = self.calls.iter().position(|(.., known)| *known == call);
        let own = self.handlings.iter().position(|(.., known)| *known == handling);
        let called = place.and_then(|place| self.calls.get(place)).map(|(number, time, _)| (*number, *time));
        let made = own.and_then(|own| self.handlings.get(own)).map(|(made, time, _)| (*made, *time));
        let pair = (call, made.map_or(now, |(_, time)| time), handling);
        match (called, made) {
            (Some((number, called_at)), Some((made, made_at))) => {
                let since = |last: Last| (number.saturating_sub(last.number), made.saturating_sub(last.made));
                let (calls, handlings) = self.last.map_or((0, 0), since);
                let agrees = calls * self.each == handlings;
                let is_doubtful = self.in_step && !agrees && !self.in_order;
                if is_doubtful && !std::mem::replace(&mut self.differed, true) {
                    // It may have been answered along with another.
                    return Vec::new();
                }
                self.differed = false;
                let mut pairs = Vec::new();
                if self.in_step && agrees {
                    while let Some(next) = self.next_pair().filter(|(last, _)| last.number < number) {
                        pairs.extend(self.takes(next));
                    }
                } else if !self.in_order {
                    // How many are made for each is still to be learnt.
                    self.in_step = agrees && calls != 0;
                    if handlings.checked_rem(calls) == Some(0) {
                        self.each = handlings / calls;
                    }
                }
                pairs.push(pair);
                self.dealt_with(Last { number, made, called_at, made_at });
                pairs
            }
            (None, Some(_)) => {
                self.is_for_older(own.unwrap_or_default());
                vec![pair]
            }
            // Its handling came before that was known, or both did, or both are dealt with.
            (_, None) => {
                self.has_no_place(call);
                vec![pair]
            }
        }
    }

    /// An answer has shown that one of those that were believed to belong together do not.
    pub(in crate::stitch) fn was_wrong(&mut self) {
        self.in_step = false;
    }

    /// The two behind the last that belong together, by their places, and the pair that they are.
    fn next_pair(&self) -> Option<(Last, Pair<Call>)> {
        let last = self.last?;
        let (number, made) = (last.number + 1, last.made + self.each);
        let (called_at, call) = self.call(number)?;
        let (made_at, handling) = self.handling(made)?;
        Some((Last { number, made, called_at, made_at }, (call, made_at, handling)))
    }

    fn call(&self, number: u64) -> Option<(u64, Call)> {
        let place = self.calls.binary_search_by_key(&number, |(known, ..)| *known).ok()?;
        self.calls.get(place).map(|(_, time, call)| (*time, *call))
    }

    fn handling(&self, made: u64) -> Option<(u64, Handling)> {
        let place = self.handlings.binary_search_by_key(&made, |(known, ..)| *known).ok()?;
        self.handlings.get(place).map(|(_, time, handling)| (*time, *handling))
    }

    /// Goes on to the next two. They are a pair if they come in order anyway, or no other call was open meanwhile: who has several
    /// open may take them in any order, as a server with a queue for each method does.
    fn takes(&mut self, (next, pair): (Last, Pair<Call>)) -> Option<Pair<Call>> {
        let last = self.last?;
        let call = self.call(next.number + 1).map(|(time, _)| time);
        let handling = self.handling(next.made + self.each).map(|(time, _)| time);
        let is_alone = last.made_at < next.called_at
            && next.called_at <= next.made_at
            && match (call, handling) {
                (None, None) => true,
                (Some(call), None) => next.made_at < call,
                (Some(call), Some(handling)) => next.made_at < call && call <= handling,
                (None, Some(_)) => false,
            };
        self.dealt_with(next);
        (is_alone || self.in_order && next.made_at <= next.called_at).then_some(pair)
    }

    fn dealt_with(&mut self, last: Last) {
        self.last = Some(last);
        self.calls.retain(|(known, ..)| *known > last.number);
        self.handlings.retain(|(known, ..)| *known > last.made);
    }

    /// The pairs that have been silent since.
    pub(in crate::stitch) fn silent(&mut self, since: u64) -> Vec<Pair<Call>> {
        let mut pairs = Vec::new();
        // Where the order tells, none may be missing.
        let is_whole = self.last.is_some_and(|last| {
            let calls = self.next.0.saturating_sub(last.number);
            let handlings = self.next.1.saturating_sub(last.made);
            !self.in_order || calls * self.each == handlings
        });
        while is_whole
            && self.in_step
            && !self.differed
            && let Some(next) = self.next_pair().filter(|(last, _)| last.called_at.max(last.made_at) < since)
        {
            pairs.extend(self.takes(next));
        }
        pairs
    }

    /// Forgets what nothing has told of.
    pub(in crate::stitch) fn sweep(&mut self, now: u64, is_kept: impl Fn(&Call) -> bool) {
        self.calls.retain(|(.., call)| is_kept(call));
        self.handlings.retain(|(_, time, _)| time + HOLD_MAX > now);
    }

    /// Whether it is not known what this is for.
    pub(in crate::stitch) fn is_open(&self, handling: Handling) -> bool {
        self.handlings.iter().any(|(.., known)| *known == handling)
    }
}
