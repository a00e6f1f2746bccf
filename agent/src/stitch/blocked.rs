//! Event loops that were kept from running: a task, or what a loop has called, has not come back for long, and nothing else could
//! run meanwhile.
//!
//! The kernel side tells of each step of a loop that has lasted long, when it is over ([`Fact::Step`]); while it lasts, the agent
//! looks again and again where in the code the thread is, and in which context ([`Fact::LoopSample`]). From one look to the next a
//! step is made of *stretches*, each of one context. A stretch that has itself lasted long is an event of the span to which the
//! context belongs, with the function of the application that was found there most often.
//!
//! [`Fact::Step`]: crate::fact::Fact::Step
//! [`Fact::LoopSample`]: crate::fact::Fact::LoopSample

use adder_ebpf::{Header, Item};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::{
    Engine, HOLD_MAX, Unit, UnitId,
    context::{Context, ContextId},
    site::Site,
    stacks::StackId,
    unit::Act,
};
use crate::{
    fact::LoopSample,
    signal::{Attribute, SpanEvent, Value},
};

/// Stretches that wait for their unit to be certain, and those that one span tells of, at most.
const WAITING_MAX: usize = 256;
const EVENTS_MAX: usize = 8;
/// Stretches of one step, and different stacks in one stretch, at most.
const STRETCHES_MAX: usize = 64;
const STACKS_MAX: usize = 64;
/// When a step is over of which nothing is seen any more, nanoseconds: it is looked at many times a second.
const SILENCE: u64 = 1_000_000_000;
/// How exactly the kernel side's two ways of telling when a step has begun agree, nanoseconds.
const EXACT: u64 = 1_000_000;

/// What is made of event loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopOptions {
    /// From which time on a loop that is kept from running is told of, nanoseconds.
    pub blocked_after: u64,
}

impl LoopOptions {
    /// From which time on a step is looked at, so that it is seen more than once, and that it is over is told, nanoseconds.
    pub fn looked_at_after(self) -> u64 {
        self.blocked_after / 2
    }
}

impl Default for LoopOptions {
    fn default() -> Self {
        Self { blocked_after: 100_000_000 }
    }
}

/// The event loops of all processes.
#[derive(Default)]
pub(super) struct Loops {
    options: LoopOptions,
    /// Steps that have lasted for a while, by process and thread.
    steps: FxHashMap<(u32, u32), Step>,
    waiting: Vec<Blocked>,
}

/// A stretch that has lasted long, and whose it is.
struct Blocked {
    stretch: Stretch,
    act: Act,
}

/// A step.
struct Step {
    start: u64,
    stretches: Vec<Stretch>,
}

/// One context's part of it.
struct Stretch {
    /// Its address.
    address: u64,
    /// What was there when it was found first.
    context: ContextId,
    from: u64,
    to: u64,
    /// When it was found first, nanoseconds.
    seen: u64,
    /// Where the thread was found, and how often.
    samples: Vec<(StackId, u32)>,
}

impl Loops {
    pub(super) fn configure(&mut self, options: LoopOptions) {
        self.options = options;
    }

    /// A thread has done something in a context: as long at least has the last stretch lasted if it is that one's.
    pub(super) fn heard(&mut self, header: &Header) {
        if self.steps.is_empty() {
            return;
        }
        let last = self.steps.get_mut(&(header.pid, header.tid)).and_then(|step| step.stretches.last_mut());
        let is_under_way = |last: &&mut Stretch| last.to + SILENCE > header.time;
        if let Some(last) = last.filter(|last| last.address == header.context).filter(is_under_way) {
            last.to = last.to.max(header.time);
        }
    }

    /// Whether a step may still be told of in which a process was between these times.
    fn is_watching(&self, pid: u32, from: u64, to: u64) -> bool {
        self.steps.iter().any(|((of, _), step)| *of == pid && step.start <= to)
            || self
                .waiting
                .iter()
                .any(|Blocked { stretch, act }| act.pid == pid && stretch.from <= to && stretch.to >= from)
    }

    /// Steps of which this is so, in order.
    fn steps_that(&self, is_so: impl Fn(u32, &Step) -> bool) -> Vec<(u32, u32)> {
        let found = self.steps.iter().filter(|((pid, _), step)| is_so(*pid, step)).map(|(key, _)| *key);
        let mut found: Vec<_> = found.collect();
        found.sort_unstable();
        found
    }
}

impl Engine {
    /// The thread of a loop was found somewhere, in a step that has lasted for a while.
    pub(super) fn loop_sampled(&mut self, header: &Header, sample: &LoopSample) {
        let key = (header.pid, header.tid);
        if !self.is_loop(key) {
            return;
        }
        if self.loops.steps.get(&key).is_some_and(|step| step.start != sample.start) {
            // That it was over was lost.
            self.finish_step(key);
        }
        let stack = self.stacks.take(header.pid, sample.frames.iter().copied(), sample.cut);
        let context = self.contexts.find_at(header.pid, header.context);
        let step = self.loops.steps.entry(key).or_insert(Step { start: sample.start, stretches: Vec::new() });
        let from = step.stretches.last().map_or(sample.start, |last| last.to);
        let time = header.time.max(from);
        let address = header.context;
        if step.stretches.last().is_none_or(|last| last.address != address) {
            if step.stretches.len() >= STRETCHES_MAX {
                self.counters.unseen_steps += 1;
                return;
            }
            let samples = Vec::new();
            step.stretches.push(Stretch { address, context, from, to: time, seen: time, samples });
        }
        let Some(last) = step.stretches.last_mut() else { return };
        last.to = time;
        if let Some((_, count)) = last.samples.iter_mut().find(|(known, _)| *known == stack) {
            *count += 1;
        } else if last.samples.len() < STACKS_MAX {
            last.samples.push((stack, 1));
        }
    }

    /// Whether a thread has made tasks. Others wait in the same way: the hub of a Celery worker.
    fn is_loop(&self, key: (u32, u32)) -> bool {
        self.threads.get(&key).is_some_and(|thread| thread.is_loop)
    }

    /// A step is over that has lasted for a while.
    pub(super) fn loop_stepped(&mut self, item: &Item) {
        let Header { time, pid, tid, .. } = item.header;
        let (key, start) = ((pid, tid), time.saturating_sub(item.item));
        if !self.is_loop(key) {
            return;
        }
        let is_long = item.item >= self.loops.options.blocked_after;
        self.counters.blocked_loops += u64::from(is_long);
        match self.loops.steps.get_mut(&key).filter(|step| step.start.abs_diff(start) < EXACT) {
            Some(step) => {
                if let Some(last) = step.stretches.last_mut() {
                    last.to = last.to.max(time);
                }
                self.finish_step(key);
            }
            None => self.counters.unseen_steps += u64::from(is_long),
        }
    }

    /// A process is no more, or has a new program.
    pub(super) fn steps_end(&mut self, pid: u32) {
        for key in self.loops.steps_that(|of, _| of == pid) {
            self.finish_step(key);
        }
    }

    /// A step is over. Those of its stretches that have lasted long wait for their unit.
    fn finish_step(&mut self, key: (u32, u32)) {
        let Some(step) = self.loops.steps.remove(&key) else { return };
        let (pid, tid) = key;
        for stretch in step.stretches {
            if stretch.to - stretch.from < self.loops.options.blocked_after {
                continue;
            }
            if self.loops.waiting.len() >= WAITING_MAX {
                self.counters.unseen_steps += 1;
                continue;
            }
            let (mut context, mut start) = (stretch.context, stretch.seen);
            // That a task was made is told with what its thread does next, which may have been this.
            let now = self.contexts.known_at(pid, stretch.address, stretch.to);
            if context == 0 {
                context = now;
            }
            let is_its = |task: &&Context| task.is_task && (step.start..=stretch.to).contains(&task.created);
            if let Some(task) = self.contexts.find(now).filter(is_its) {
                (context, start) = (now, start.max(task.created));
            }
            let stack = stretch.samples.first().map_or(0, |(stack, _)| *stack);
            let act = Act { pid, tid, start, context, stack, ..Act::default() };
            let act = Act { job: self.job_of(&act), ..act };
            self.loops.waiting.push(Blocked { stretch, act });
        }
    }

    /// Whether a step of a loop may still be told of with a unit: it is under way since before that has ended.
    pub(super) fn awaits_step(&self, id: UnitId) -> bool {
        let Some(unit) = self.units.get(&id) else { return false };
        self.loops.is_watching(unit.pid, unit.start, unit.end.unwrap_or(self.now))
    }

    /// Time has passed: gives stretches to the spans to which they belong.
    pub(super) fn settle_blocked(&mut self, all: bool) {
        let now = self.now;
        let over = self.loops.steps_that(|_, step| {
            let seen = step.stretches.last().map_or(step.start, |last| last.to);
            all || seen + SILENCE < now
        });
        for key in over {
            self.finish_step(key);
        }
        let mut waiting = std::mem::take(&mut self.loops.waiting);
        waiting.retain(|Blocked { stretch, act }| {
            let late = all || stretch.to + HOLD_MAX < now;
            let place = self.place_of(stretch, late);
            let is_known = place != Site::Unknown && self.act_settled(act, act.start, 0);
            if !(late || is_known) {
                return true;
            }
            match place {
                Site::Here(place) => self.tell_of(stretch, act, place),
                Site::Unknown => self.counters.unseen_steps += 1,
                Site::Nowhere => {}
            }
            false
        });
        self.loops.waiting = waiting;
    }

    /// The function of the application in which a thread was found most often, and there the line. Of what is not known by the
    /// end, because the code has not been read or the stack changed while it was, nothing is said.
    fn place_of(&self, stretch: &Stretch, late: bool) -> Site {
        let mut unknown = false;
        let mut places: Vec<([Attribute; 3], u32)> = Vec::new();
        for (stack, count) in &stretch.samples {
            match self.stacks.site(*stack) {
                Site::Here(place) => match places.iter_mut().find(|(known, _)| *known == place) {
                    Some((_, times)) => *times += count,
                    None => places.push((place, *count)),
                },
                Site::Unknown => unknown = true,
                Site::Nowhere => {}
            }
        }
        if unknown && (!late || places.is_empty()) {
            return Site::Unknown;
        }
        let is_same = |one: &[Attribute; 3], other: &[Attribute; 3]| one[..2] == other[..2];
        let times = |place: &[Attribute; 3]| -> u32 {
            places.iter().filter(|(other, _)| is_same(place, other)).map(|(_, times)| times).sum()
        };
        // Of several the one that was found first.
        let best = places.iter().rev().max_by_key(|(place, at)| (times(place), *at));
        best.map_or(Site::Nowhere, |(place, _)| Site::Here(place.clone()))
    }

    fn tell_of(&mut self, stretch: &Stretch, act: &Act, place: [Attribute; 3]) {
        if let Value::Str(function) = &place[0].value {
            self.measures.blocked(act.pid, function);
        }
        let Some((owner, _)) = self.owner_of(act) else { return };
        self.note_handler(owner, act, false);
        let time = self.unix(stretch.from);
        // Of a request that was answered before, and what it has started, only the count tells.
        let has_left = |unit: &&mut Unit| unit.end.is_some() && unit.detail.is_none() && unit.job.is_none();
        let Some(unit) = self.units.get_mut(&owner).filter(|unit| !has_left(unit)) else { return };
        if unit.events.len() >= EVENTS_MAX {
            self.counters.unseen_steps += 1;
        } else {
            let lasted = (stretch.to - stretch.from) / 1_000_000;
            let mut attributes = vec![Attribute::new("adder.asyncio.blocked.ms", lasted as i64)];
            attributes.extend(place);
            unit.events.push(SpanEvent { time, name: "adder.asyncio.blocked".into(), attributes });
        }
    }
}

#[cfg(test)]
mod tests {
    use adder_ebpf::{Close, Lineage, kind};

    use super::*;
    use crate::{
        code::CodeInfo,
        fact::{Clock, Fact, ProcessInfo},
        signal::{Metric, Points},
        stitch::Options,
    };

    const MS: u64 = 1_000_000;
    const LIBRARY: u64 = 0x1000;

    fn header(time: u64, context: u64) -> Header {
        Header { time: time * MS, context, pid: 7, tid: 7, ..Header::default() }
    }

    /// An engine that knows a process, two functions of it and one of a library.
    fn engine() -> Engine {
        let mut engine = Engine::new(Options { seed: 1, ..Options::default() });
        engine.fact(&Fact::Process(header(1, 0), ProcessInfo::default()));
        engine.fact(&Fact::Clock(header(1, 0), Clock { offset: 0 }));
        let task = Header { kind: kind::TASK, ..header(1, 0x9000) };
        engine.fact(&Fact::Task(Lineage { header: task, child: 0x9100 }));
        let files =
            [("f", "/app/a.py", 0x2000), ("g", "/app/a.py", 0x3000), ("l", "/x/site-packages/l.py", LIBRARY)];
        for (name, file, address) in files {
            let code = CodeInfo {
                address,
                name: name.into(),
                file: file.into(),
                first_line: 3,
                ..CodeInfo::default()
            };
            engine.fact(&Fact::Code(header(1, 0), code));
        }
        engine
    }

    fn sample(engine: &mut Engine, time: u64, context: u64, start: u64, frames: &[u64]) {
        let sample = LoopSample { start: start * MS, frames: frames.to_vec(), cut: false };
        engine.fact(&Fact::LoopSample(header(time, context), sample));
    }

    fn step(engine: &mut Engine, time: u64, lasted: u64) {
        short(engine, time, lasted);
        engine.fact(&Fact::Clock(header(time + 6000, 0), Clock { offset: 0 }));
    }

    fn short(engine: &mut Engine, time: u64, lasted: u64) {
        let header = Header { kind: kind::STEP, ..header(time, 0) };
        engine.fact(&Fact::Step(Item { header, item: lasted * MS }));
    }

    #[test]
    fn the_end_of_another_step_ends_nothing() {
        let mut engine = engine();
        sample(&mut engine, 1160, 9, 1100, &[0x2000]);
        // It comes late.
        short(&mut engine, 1090, 60);
        sample(&mut engine, 1200, 9, 1100, &[0x2000]);
        step(&mut engine, 1210, 110);
        assert_eq!(told(&mut engine), [("f".to_owned(), 1)]);
    }

    /// How often each function has held a loop.
    fn told(engine: &mut Engine) -> Vec<(String, u64)> {
        let sums = engine.metrics().into_iter().filter_map(|metric| match metric {
            Metric { name: "adder.asyncio.loop.blocked", points: Points::Sum(points), .. } => Some(points),
            _ => None,
        });
        let name = |attributes: &[Attribute]| match &attributes[0].value {
            Value::Str(name) => name.to_string(),
            other => panic!("a name: {other:?}"),
        };
        sums.flatten().map(|(attributes, count)| (name(&attributes), count)).collect()
    }

    #[test]
    fn the_function_found_most_often_has_held_the_loop() {
        let mut engine = engine();
        sample(&mut engine, 1060, 9, 1000, &[0x3000, 0x2000]);
        sample(&mut engine, 1080, 9, 1000, &[LIBRARY, 0x2000]);
        sample(&mut engine, 1100, 9, 1000, &[0x2000]);
        step(&mut engine, 1110, 110);
        assert_eq!(told(&mut engine), [("f".to_owned(), 1)]);
        assert_eq!((engine.counters().blocked_loops, engine.counters().unseen_steps), (1, 0));
    }

    #[test]
    fn each_context_is_judged_by_its_own_time() {
        let mut engine = engine();
        // 70 ms of one context, 110 of another.
        sample(&mut engine, 1060, 9, 1000, &[0x3000]);
        sample(&mut engine, 1070, 9, 1000, &[0x3000]);
        sample(&mut engine, 1090, 10, 1000, &[0x2000]);
        step(&mut engine, 1180, 180);
        assert_eq!(told(&mut engine), [("f".to_owned(), 1)]);
    }

    #[test]
    fn a_step_that_is_short_in_the_end_is_not_told_of() {
        let mut engine = engine();
        sample(&mut engine, 1060, 9, 1000, &[0x2000]);
        short(&mut engine, 1070, 70);
        // What the same task does when it has waited is no part of it.
        let header = Header { context: 9, ..header(1400, 9) };
        engine.fact(&Fact::Close(Close { header, ..Close::default() }));
        sample(&mut engine, 1500, 9, 1450, &[0x3000]);
        step(&mut engine, 1560, 110);
        assert_eq!(told(&mut engine), [("g".to_owned(), 1)]);
        assert_eq!((engine.counters().blocked_loops, engine.counters().unseen_steps), (1, 0));
    }

    #[test]
    fn what_only_a_library_does_is_nobodys() {
        let mut engine = engine();
        sample(&mut engine, 1060, 9, 1000, &[LIBRARY]);
        step(&mut engine, 1200, 200);
        assert_eq!(told(&mut engine), []);
        step(&mut engine, 1900, 200);
        assert_eq!((engine.counters().blocked_loops, engine.counters().unseen_steps), (2, 1));
    }

    #[test]
    fn a_step_whose_end_is_lost_ends() {
        let mut engine = engine();
        sample(&mut engine, 1060, 9, 1000, &[0x2000]);
        sample(&mut engine, 1160, 9, 1000, &[0x2000]);
        engine.fact(&Fact::Clock(header(2000, 0), Clock { offset: 0 }));
        let all = u64::MAX;
        assert!(engine.loops.is_watching(7, 0, all));
        engine.fact(&Fact::Clock(header(9000, 0), Clock { offset: 0 }));
        assert!(!engine.loops.is_watching(7, 0, all));
        assert_eq!(told(&mut engine), [("f".to_owned(), 1)]);
    }
}
