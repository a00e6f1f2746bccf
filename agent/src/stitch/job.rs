//! Jobs: what a thread or task does on its own account when its time has come.
//!
//! A daemon has no request to start from. Its unit of work goes from the end of a wait that ran out (`time.sleep`, `select`
//! with a time-out, `Event.wait`, `asyncio.sleep`) to the next wait, and is a root span of kind `INTERNAL` if anything was done in
//! it that no other unit did.
//!
//! 1. *Thread.* The system call that waited has run out ([`adder_ebpf::kind::TIMER`]), and what the thread then does in the same context
//!    is for that.
//! 2. *Task.* The loop has woken the task, not because of what was read, nor another task: a timer of the loop calls in a copy
//!    of the context of the task that waits. It is no new job while the answer to something is awaited, or (as after
//!    `gather`) others may have woken it.
//! 3. *Queue.* A piece of work that was put into a queue because a time had come, by a thread that did nothing itself
//!    (`APScheduler`).
//! 4. *Signal.* The system call that waited was interrupted; Python's handler runs before it waits on.
//! 5. *File.* A thread has waited at a pipe, a terminal, inotify or their like, and read something from there ([`file`]).
//! 6. *Start.* The main thread of a process that has begun, until the process first waits so or is asked for something.
//!
//! A job is the weakest of all owners: what belongs to a request or a message by any evidence is not its. Its end cannot
//! be seen before the next wait has run out, so it is the end of what was done last.

mod called;
mod file;
mod queued;
mod span;
#[cfg(test)]
mod tests;

pub(super) use self::file::Files;

use std::sync::Arc;

use adder_ebpf::{Header, Item, flag};
use rustc_hash::FxHashMap;

use super::{
    Engine, Finished, Need, OperationId, UnitId,
    context::{Context, ContextId},
    stacks::StackId,
    unit::{Act, Unit},
};
use crate::{protocol::Mark, signal::Endpoints};

/// How long after its last sign of life a job is shown, nanoseconds. What it does later is still below it.
const QUIET: u64 = 2_000_000_000;
/// The same for one that has found nothing so far.
const HELD_QUIET: u64 = 60_000_000_000;
/// How long a process may take until it does something for the first time, nanoseconds.
const START_MAX: u64 = 60_000_000_000;
/// How long after a signal its handler has done something, nanoseconds.
const HANDLED_WITHIN: u64 = 1_000_000_000;
/// A thread that was busy until then has not waited, nanoseconds: the call only looked.
const WAITED: u64 = 1_000_000;

/// How long after the wait of a loop has run out it has called its timers, nanoseconds.
const AT_ONCE: u64 = 10_000_000;
/// The same where the loop has read nothing since, or this is the next it does.
const DELAYED: u64 = 100_000_000;
/// How long after the last answer nothing more is expected of a job that waits, nanoseconds.
const AT_REST: u64 = 5_000_000;
/// How long the answer to something that was begun in a job is waited for, nanoseconds.
const OPEN_MAX: u64 = 600_000_000_000;
/// Seconds in which something had no owner, after which it is watched who wakes whom in a process.
const OWNERLESS_MAX: u32 = 3;

/// What a job began with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Trigger {
    /// The process has begun.
    Start,
    /// A wait has run out.
    #[default]
    Timer,
    /// A wait was interrupted.
    Signal,
    /// Something has come in a file.
    File,
}

impl Trigger {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Timer => "timer",
            Self::Signal => "signal",
            Self::File => "file",
        }
    }
}

/// The time from one wait to the next, of a thread or a context, or from the beginning of a process to the first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    trigger: Trigger,
    /// When the wait ran out.
    start: u64,
    /// The context in which that was.
    context: ContextId,
    /// Where the thread has waited.
    stack: StackId,
    /// How often it may be woken because others have done something for it.
    others: u8,
    /// The job, once anything was done.
    unit: Option<UnitId>,
}

impl Turn {
    /// A wait has run out then, in this context.
    pub(super) fn new(trigger: Trigger, start: u64, context: ContextId, stack: StackId) -> Self {
        Self { trigger, start, context, stack, others: 0, unit: None }
    }
}

/// Whose a turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Process,
    Thread,
    Task(ContextId),
}

/// What only a job has.
#[derive(Debug, Default)]
pub(super) struct Job {
    trigger: Trigger,
    /// What was begun in it, is not a span yet, and not held back.
    pub(super) open: u32,
    /// What was begun in it and has not ended.
    running: u32,
    /// When anything that was begun in it last began or was answered.
    active: u64,
    /// When the last of what is its own ended.
    pub(super) last: u64,
    /// When the first of that began, and its name.
    pub(super) first: Option<(u64, String)>,
    /// What has found nothing, as long as nothing else was done.
    pub(super) held: Vec<OperationId>,
    /// The next wait has run out.
    over: bool,
}

impl Job {
    /// Whether something that was begun in it is not a span yet.
    pub(super) fn is_open(&self) -> bool {
        self.open > 0 || !self.held.is_empty()
    }

    /// Whether anything was done in it.
    fn has_worked(&self) -> bool {
        self.is_open() || self.first.is_some()
    }

    /// How long nothing is heard of it before it is shown. One that has found nothing may think about that.
    fn patience(&self) -> u64 {
        if self.held.is_empty() { QUIET } else { HELD_QUIET }
    }
}

impl Engine {
    /// A thread has waited until its time was up, or a signal came.
    pub(super) fn timer(&mut self, item: &Item) {
        let header = &item.header;
        let trigger = if header.flags & flag::INTERRUPTED != 0 { Trigger::Signal } else { Trigger::Timer };
        if trigger == Trigger::Signal && header.tid != header.pid {
            // Python's handlers run in the main thread.
            return;
        }
        self.start_has_waited(header);
        let Some(thread) = self.threads.get_mut(&(header.pid, header.tid)) else { return };
        if trigger == Trigger::Timer {
            (thread.timed, thread.timed_at) = (thread.facts, header.time);
        }
        thread.read_for = 0;
        if thread.is_loop {
            if trigger == Trigger::Signal {
                thread.signalled = header.time;
                self.needs_more(header.pid, Need::Wakes);
            }
            return;
        }
        if thread.rested < WAITED && trigger == Trigger::Timer {
            return;
        }
        // psycopg 3 waits for an answer a tenth of a second at a time.
        let job = thread.turn.and_then(|turn| job_in(&self.units, turn.unit?));
        if job.is_some_and(|job| job.running > 0) {
            return;
        }
        self.turn_begins(header, trigger);
    }

    /// A thread does something on its own account from now on.
    fn turn_begins(&mut self, header: &Header, trigger: Trigger) {
        let context = self.contexts.at(header.pid, header.context, header.time);
        let Some(thread) = self.threads.get_mut(&(header.pid, header.tid)) else { return };
        // It is no longer at what a job has given it to do, nor at what it has received.
        let cause = thread.work.and_then(|work| work.cause);
        if cause.and_then(|cause| job_in(&self.units, cause.unit?)).is_some() {
            thread.work = None;
        }
        if let Some(before) = thread.turn.replace(Turn::new(trigger, header.time, context, self.stack)) {
            self.turn_ends(before);
        }
        let received = match self.contexts.find(context) {
            Some(context) => context.received.is_some(),
            None => {
                self.threads.get(&(header.pid, header.tid)).is_some_and(|thread| thread.received.is_some())
            }
        };
        if received {
            self.receive(context, (header.pid, header.tid), header.time, None);
        }
    }

    /// A task has been woken: perhaps by its timer. `active` is when something was last heard of what has woken it, `heard` when
    /// of the task.
    pub(super) fn woken_by_loop(
        &mut self,
        header: &Header,
        by: ContextId,
        task: ContextId,
        active: u64,
        heard: u64,
    ) {
        if let Some(process) = self.processes.get_mut(&header.pid) {
            process.wakes_seen = true;
        }
        let is_for_other = self.read_is_for_other((header.pid, header.tid), task, header.time);
        let Some(thread) = self.threads.get_mut(&(header.pid, header.tid)) else { return };
        if thread.read_at + 1 == thread.facts && !is_for_other {
            thread.read_for = by;
        }
        let Some(thread) = self.threads.get(&(header.pid, header.tid)) else { return };
        // What asyncio has called in a copy of the task's own context was its timer, if it has waited since.
        let ran_out = thread.timed_at;
        let is_at_rest = || {
            let turn = self.contexts.find(task).and_then(|task| task.turn.as_deref());
            turn.is_some_and(|turn| self.is_quiet(turn, header.time))
        };
        let is_timer = |handle: &Context| {
            handle.called != 0 && handle.called == ran_out
                || handle.announced && handle.parent == task && heard < ran_out && is_at_rest()
        };
        // Else the machine has not let it go on.
        let has_paused = adder_ebpf::nanoseconds_ago(header.buffer).is_none_or(|ago| ago <= thread.rested);
        let has_waited = thread.rested >= WAITED && has_paused
            || thread.timed + 1 == thread.facts
            || self.contexts.find(by).filter(|by| !by.is_task).is_some_and(is_timer);
        // A protocol wakes whoever waits for what was read, in the context in which it was read, or (uvloop) in its own at once.
        let has_read = !is_for_other && (thread.answered.0 == by || thread.read_for == by);
        // A timer is called in a copy of the context of the task that waits, which uvloop does not announce: it may stand at the
        // address of a task that is no more.
        let by_task = by != task
            && active + WAITED > header.time
            && self.contexts.find(by).is_some_and(|by| by.announced && by.parent != task);
        // However long it took the machine to go on after the read.
        let for_read = has_read && thread.read_at > thread.timed;
        let signalled = self.called_by_signal((header.pid, header.tid), by, task, header.time);
        let by_signal = signalled.is_some();
        let Some(found) = self.contexts.find_mut(task) else { return };
        // One that is older than the agent.
        found.is_task |= !found.announced;
        if !by_signal && (for_read || (has_read || by_task) && !has_waited) {
            if let Some(turn) = found.turn.as_deref_mut().filter(|_| by_task) {
                turn.others = turn.others.saturating_sub(1);
            }
            return;
        }
        if let Some(turn) = &mut found.turn {
            let job = turn.unit.and_then(|unit| job_in(&self.units, unit));
            if job.is_some_and(|job| job.running > 0) {
                return;
            }
            // If this is what it has waited for, the next is not.
            if turn.others > 0 && !has_waited && !by_signal {
                turn.others -= 1;
                return;
            }
        }
        let turn = match signalled {
            Some(start) => Turn::new(Trigger::Signal, start, task, 0),
            None => Turn::new(Trigger::Timer, header.time, task, 0),
        };
        if let Some(before) = found.turn.replace(Box::new(turn)) {
            self.turn_ends(*before);
        }
    }

    /// Whether a task that has been at rest is woken next to the answer to what another has asked: by its own timer, then.
    fn read_is_for_other(&self, thread: (u32, u32), task: ContextId, now: u64) -> bool {
        let Some(thread) = self.threads.get(&thread) else { return false };
        if thread.read_at + 1 != thread.facts || thread.answered.1.is_empty() {
            return false;
        }
        let turn = self.contexts.find(task).and_then(|task| task.turn.as_deref());
        let asked_by = |id: &OperationId| {
            let act = &self.operations.get(id)?.act;
            Some(if act.woken == 0 { act.context } else { act.woken })
        };
        let mut asked = thread.answered.1.iter().map(asked_by);
        turn.is_some_and(|turn| turn.others == 0 && self.is_quiet(turn, now))
            && asked.all(|by| by.is_some_and(|by| by != 0 && !self.are_related(by, task)))
    }

    fn are_related(&self, one: ContextId, other: ContextId) -> bool {
        self.contexts.descends(one, other) || self.contexts.descends(other, one)
    }

    /// Whether something is under way in a turn.
    pub(super) fn is_running(&self, turn: &Turn) -> bool {
        turn.unit.and_then(|unit| job_in(&self.units, unit)).is_some_and(|job| job.running > 0)
    }

    /// Whether nothing is under way in a turn, and nothing was a moment ago.
    fn is_quiet(&self, turn: &Turn, now: u64) -> bool {
        let job = turn.unit.and_then(|unit| job_in(&self.units, unit));
        let active = job.map_or(turn.start, |job| job.active);
        !self.is_running(turn) && active + AT_REST < now
    }

    /// A task has made another, has given work to a thread or connects: it may wait for that, and be woken so often.
    pub(super) fn turn_waits_for_others(&mut self, context: ContextId, wakes: u8) {
        if let Some(turn) = self.contexts.find_mut(context).and_then(|context| context.turn.as_deref_mut()) {
            turn.others = turn.others.max(wakes);
        }
    }

    pub(super) fn turn_ends(&mut self, turn: Turn) {
        if let Some(job) = turn.unit.and_then(|unit| self.job_mut(unit)) {
            job.over = true;
        }
    }

    /// A request or a message has come to a thread: what it does now is for that, and its process has started.
    pub(super) fn is_asked(&mut self, thread: (u32, u32)) {
        self.turn_is_over(thread);
        self.start_is_over(thread.0);
    }

    /// What a thread does now is for something else.
    pub(super) fn turn_is_over(&mut self, thread: (u32, u32)) {
        if let Some(turn) = self.threads.get_mut(&thread).and_then(|thread| thread.turn.take()) {
            self.turn_ends(turn);
        }
    }

    /// The job in which something is done, if nothing else is behind it.
    pub(super) fn job_of(&mut self, act: &Act) -> Option<UnitId> {
        self.turn_by_timer((act.pid, act.tid), act.context, act.context, act.start);
        let (turn, holder) = self.turn_of(act)?;
        if let Some(unit) = turn.unit.filter(|unit| self.units.contains_key(unit)) {
            return Some(unit);
        }
        let id = UnitId(self.number());
        let at =
            Mark { time: turn.start, pid: act.pid, tid: act.tid, context: turn.context, stack: turn.stack };
        let unit = Unit {
            replied: Some(turn.start),
            end: Some(turn.start),
            job: Some(Box::new(Job { trigger: turn.trigger, last: turn.start, ..Job::default() })),
            ..self.unit(&at, turn.start, Arc::new(Endpoints::default()))
        };
        self.units.insert(id, unit);
        self.finished.push_back(Finished::Unit(id));
        let turn = match holder {
            Holder::Task(context) => {
                self.contexts.find_mut(context).and_then(|context| context.turn.as_deref_mut())
            }
            Holder::Thread => {
                self.threads.get_mut(&(act.pid, act.tid)).and_then(|thread| thread.turn.as_mut())
            }
            Holder::Process => self.processes.get_mut(&act.pid).and_then(|process| process.starting.as_mut()),
        };
        if let Some(turn) = turn {
            turn.unit = Some(id);
        }
        Some(id)
    }

    /// The turn in which something is done, and whose that is.
    fn turn_of(&self, act: &Act) -> Option<(Turn, Holder)> {
        for (id, context, time) in self.contexts.line(act.context, act.start) {
            let received = context.received.as_ref().is_some_and(|received| received.is_at_one(time));
            if context.consumer.is_some() || received || context.serves.is_some() {
                // It handles messages or requests: if it is not known for which of them, it is for one all the same.
                return None;
            }
            if let Some(turn) = context.turn.as_deref().copied().filter(|turn| turn.start <= time) {
                return Some((turn, Holder::Task(id)));
            }
        }
        let thread = self.threads.get(&(act.pid, act.tid))?;
        if self.is_foreign((act.pid, act.tid), act.context) {
            return None;
        }
        let starting = self.processes.get(&act.pid).and_then(|process| process.starting);
        if let Some(turn) = starting.filter(|turn| act.tid == act.pid && turn.start <= act.start) {
            return (act.start < self.start_lasts_until(&turn)).then_some((turn, Holder::Process));
        }
        let turn = thread.turn.filter(|_| thread.consumer.is_none())?;
        let is_late = turn.unit.is_none() && turn.start + HANDLED_WITHIN < act.start;
        if turn.trigger == Trigger::Signal && act.tid == act.pid && is_late {
            // There was nothing to do; what it has waited for since has come.
            return None;
        }
        // A thread may get its context only when it needs one.
        let new = || {
            let found = self.contexts.find(act.context);
            turn.context == 0
                && found.is_none_or(|context| !context.announced && context.created >= turn.start)
        };
        (!thread.is_loop && (turn.context == act.context || new())).then_some((turn, Holder::Thread))
    }

    /// When what a process does first is over: it may never wait so, and ends when it is done all the same.
    fn start_lasts_until(&self, turn: &Turn) -> u64 {
        let Some(unit) = turn.unit else { return turn.start + START_MAX };
        job_in(&self.units, unit)
            .map_or(0, |job| job.active.max(job.last) + if job.running > 0 { OPEN_MAX } else { QUIET })
    }

    /// Something was begun in a job.
    pub(super) fn job_begins(&mut self, unit: UnitId) {
        let now = self.now;
        if let Some(job) = self.job_mut(unit) {
            job.open += 1;
            job.running += 1;
            job.active = now;
        }
    }

    /// It has ended.
    pub(super) fn job_is_answered(&mut self, unit: UnitId) {
        let now = self.now;
        if let Some(job) = self.job_mut(unit) {
            job.running = job.running.saturating_sub(1);
            job.active = now;
        }
    }

    /// Something, which may have ended, was not begun in a job after all.
    pub(super) fn job_loses(&mut self, unit: UnitId, ended: bool) {
        if let Some(job) = self.job_mut(unit) {
            job.open = job.open.saturating_sub(1);
            job.running = job.running.saturating_sub(u32::from(!ended));
        }
    }

    /// It turns out that something was done for the task in this context.
    pub(super) fn job_moves(&mut self, id: OperationId, context: ContextId) {
        let Some(operation) = self.operations.get(&id) else { return };
        let is_held = |unit| job_in(&self.units, unit).is_some_and(|job| job.held.contains(&id));
        if operation.act.job.is_some_and(is_held) {
            return;
        }
        let act = Act { context, ..operation.act.clone() };
        let job = self.job_of(&act);
        let Some(operation) = self.operations.get_mut(&id) else { return };
        let ended = operation.end.is_some();
        let before = std::mem::replace(&mut operation.act.job, job);
        if let Some(unit) = before {
            self.job_loses(unit, ended);
        }
        if let Some(unit) = job {
            self.job_begins(unit);
            if ended {
                self.job_is_answered(unit);
            }
        }
    }

    /// Of what was begun in a job the span is made: it is the job's own, or another's.
    pub(super) fn job_goes_on(&mut self, id: OperationId, owner: Option<UnitId>, name: &str) {
        let Some(operation) = self.operations.get(&id) else { return };
        let (start, end) = (operation.act.start, operation.end.unwrap_or(operation.act.start));
        let Some(id) = operation.act.job else { return };
        let Some(unit) = self.units.get_mut(&id) else { return };
        let Some(job) = &mut unit.job else { return };
        job.open = job.open.saturating_sub(1);
        if owner == Some(id) && !name.is_empty() {
            job.last = job.last.max(end);
            unit.end = Some(job.last);
            if job.first.as_ref().is_none_or(|(first, _)| start < *first) {
                job.first = Some((start, name.to_owned()));
            }
        }
    }

    /// Something has no owner. Where that happens time and again a task may be woken by its own timer, and it helps to
    /// see that.
    pub(super) fn notice_ownerless(&mut self, pid: u32, context: ContextId) {
        let second = self.now / 1_000_000_000;
        let Some(process) = self.processes.get_mut(&pid).filter(|_| context != 0) else { return };
        if process.ownerless.0 != second {
            process.ownerless = (second, process.ownerless.1 + 1);
            if process.ownerless.1 >= OWNERLESS_MAX {
                self.needs_more(pid, Need::Wakes);
            }
        }
    }

    /// When a job was last heard of; one in which something is open is waited for.
    pub(super) fn job_end(job: &Job) -> u64 {
        if job.open > 0 { job.last + OPEN_MAX } else { job.last + job.patience() - QUIET }
    }

    /// Whether a job is over, as far as can be seen.
    pub(super) fn job_is_over(&self, job: &Job) -> bool {
        job.open == 0 && (job.over || job.last + job.patience() < self.now)
    }

    /// Whether something is known to be a job's own.
    pub(super) fn job_is_certain(&self, unit: UnitId) -> bool {
        job_in(&self.units, unit).is_none_or(|job| job.first.is_some() || self.job_is_over(job))
    }

    /// Whether a unit is a job in which nothing of its own was done.
    pub(super) fn is_empty_job(&self, unit: UnitId) -> bool {
        job_in(&self.units, unit).is_some_and(|job| job.first.is_none())
    }

    /// Whether a unit is a job.
    pub(super) fn is_job(&self, unit: UnitId) -> bool {
        job_in(&self.units, unit).is_some()
    }

    fn job_mut(&mut self, unit: UnitId) -> Option<&mut Job> {
        self.units.get_mut(&unit)?.job.as_deref_mut()
    }
}

/// The job that a unit is.
fn job_in(units: &FxHashMap<UnitId, Unit>, unit: UnitId) -> Option<&Job> {
    units.get(&unit)?.job.as_deref()
}
