//! What is known of a process.

use std::sync::Arc;

use adder_ebpf::Header;
use rustc_hash::FxHashMap;

use super::{
    Engine, emit,
    job::{Trigger, Turn},
    late::{Buffers, Given},
    unit::UnitId,
};
use crate::{
    fact::{ProcessInfo, PythonInfo},
    signal::Resource,
};

/// How long after its beginning a process is found, nanoseconds; processes that have begun and are remembered until then,
/// at most.
const FOUND_WITHIN: u64 = 10_000_000_000;
const BEGUN_MAX: usize = 4096;

/// What costs something and would help to see in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Who wakes whom: [`adder_ebpf::kind::WAKE`].
    Wakes,
    /// Who has given what its loop sends later: [`adder_ebpf::kind::BUFFERED`].
    Buffers,
    /// What compressed streams refer back to: [`adder_ebpf::kind::WINDOW`].
    Windows,
    /// That it connects anew to Discord's gateway: its stream cannot be read.
    Reconnect,
    /// That it asks Discord's gateway for JSON.
    Encoding,
}

pub(super) struct ProcessState {
    pub(super) resource: Arc<Resource>,
    pub(super) uvloop: bool,
    pub(super) late_writes: bool,
    /// It is told what is given to its loop.
    pub(super) tells_given: bool,
    /// What that was, by descriptor.
    pub(super) given: FxHashMap<i32, Given>,
    /// The descriptor of the last of that, and [`super::Thread::facts`] then.
    pub(super) last_given: Option<(i32, u64)>,
    /// Who has given what its loop sends later ([`adder_ebpf::kind::BUFFERED`]).
    pub(super) buffered: Buffers,
    /// What would help to see in it besides, and has been asked for.
    pub(super) needed: Vec<Need>,
    /// It is seen who wakes whom in it.
    pub(super) wakes_seen: bool,
    /// Requests that were read and have not been answered yet.
    pub(super) open: FxHashMap<UnitId, u64>,
    /// Where its stacks are wanted besides.
    pub(super) stacks_wanted: u32,
    /// It has connections that speak AMQP.
    pub(super) has_amqp: bool,
    /// When it has last received something that cannot be read without what it refers back to; 0: it is read.
    pub(super) windowless: u64,
    /// When a statement was last executed whose text is not known.
    pub(super) untold: u64,
    /// The last second in which something had no owner, and how many such there were.
    pub(super) ownerless: (u64, u32),
    /// What its main thread does before the process waits, or is asked for anything, for the first time.
    pub(super) starting: Option<Turn>,
    /// It was seen where in the code a thread of it is.
    pub(super) has_stacks: bool,
    /// It has made tasks of an event loop.
    pub(super) has_tasks: bool,
    /// When it ended.
    pub(super) ended: Option<u64>,
}

impl ProcessState {
    pub(super) fn new(resource: Arc<Resource>) -> Self {
        Self {
            resource,
            uvloop: false,
            late_writes: false,
            tells_given: false,
            given: FxHashMap::default(),
            last_given: None,
            buffered: Buffers::default(),
            needed: Vec::new(),
            wakes_seen: false,
            open: FxHashMap::default(),
            stacks_wanted: 0,
            has_amqp: false,
            windowless: 0,
            untold: 0,
            ownerless: (0, 0),
            starting: None,
            has_stacks: false,
            has_tasks: false,
            ended: None,
        }
    }

    /// The state of a process that this one has forked: a server's workers start with it.
    pub(super) fn forked(&self, time: u64) -> Self {
        Self {
            uvloop: self.uvloop,
            late_writes: self.late_writes,
            has_amqp: self.has_amqp,
            starting: self.starting.map(|_| start(time)),
            ..Self::new(self.resource.clone())
        }
    }
}

fn start(time: u64) -> Turn {
    Turn::new(Trigger::Start, time, 0, 0)
}

impl Engine {
    /// A process has a new program.
    pub(super) fn executed(&mut self, pid: u32, time: u64) {
        self.start_is_over(pid);
        if let Some(process) = self.processes.get_mut(&pid) {
            process.starting = Some(start(time));
            (process.late_writes, process.tells_given) = (false, false);
            process.given.clear();
            process.buffered = Buffers::default();
            self.shared_objects.retain(|(of, _), _| *of != pid);
        } else {
            if self.begun.len() >= BEGUN_MAX {
                self.begun.retain(|_, begun| *begun + FOUND_WITHIN > time);
            }
            if self.begun.len() < BEGUN_MAX {
                self.begun.insert(pid, time);
            }
        }
    }

    /// A process is watched.
    pub(super) fn process(&mut self, pid: u32, info: &ProcessInfo) {
        let resource = Arc::new(emit::resource(info));
        if let Some(process) = self.processes.get_mut(&pid) {
            process.resource = resource;
            return;
        }
        let begun = self.begun.remove(&pid).filter(|begun| begun + FOUND_WITHIN > self.now);
        let state = ProcessState { starting: begun.map(start), ..ProcessState::new(resource) };
        self.processes.insert(pid, state);
    }

    pub(super) fn python(&mut self, pid: u32, info: &PythonInfo) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.uvloop = info.uvloop;
        }
    }

    /// Whether it is seen in a process who wakes whom.
    pub(super) fn sees_wakes(&self, pid: u32) -> bool {
        self.processes.get(&pid).is_some_and(|process| process.wakes_seen)
    }

    /// A thread has waited until its time was up. Others than the main one may do so all the time, and so does who waits for
    /// an answer.
    pub(super) fn start_has_waited(&mut self, header: &Header) {
        let starting = self.processes.get(&header.pid).and_then(|process| process.starting);
        if header.tid == header.pid && starting.is_some_and(|turn| !self.is_running(&turn)) {
            self.start_is_over(header.pid);
        }
    }

    /// A process was asked for something, or has ended: what it does from now on is for that.
    pub(super) fn start_is_over(&mut self, pid: u32) {
        if let Some(turn) = self.processes.get_mut(&pid).and_then(|process| process.starting.take()) {
            self.turn_ends(turn);
        }
    }
}
