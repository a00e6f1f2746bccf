//! What a thread does that has waited at a file: a pipe, a terminal, inotify and their like.
//!
//! A job, and who handles a message, reads from pipes too: of the programs that it starts. Those are files from which its thread has
//! read for the first time since it started one, for the same work. What such a program says begins something all the same when it
//! goes on for long, and something is done for each that it says.

use std::collections::VecDeque;

use adder_ebpf::Item;

use super::{Engine, Job, QUIET, Trigger, WAITED, job_in};

/// Files of a thread that are remembered: those that it has read from last.
const FILES_MAX: usize = 8;
/// How long what a program says is for who has started it, nanoseconds.
const PROGRAM_MAX: u64 = 60_000_000_000;

/// Files that a thread has read from.
#[derive(Clone, Debug, Default)]
pub(in crate::stitch) struct Files {
    /// Those of which that was last come last.
    read: VecDeque<Read>,
    /// When it has last started a program.
    forked: u64,
}

/// A file that was read from.
#[derive(Clone, Copy, Debug)]
struct Read {
    file: u64,
    /// When it was first, and when last before.
    first: u64,
    last: u64,
    /// It is of a program that was started for what the thread did then.
    is_programs: bool,
}

impl Files {
    /// The thread has made a process.
    pub(in crate::stitch) fn forked(&mut self, time: u64) {
        self.forked = time;
    }

    /// The thread has read from a file, in what it does since a time.
    fn note(&mut self, file: u64, time: u64, since: u64) -> Read {
        let known = self.read.iter().position(|read| read.file == file);
        let is_programs = self.forked != 0 && self.forked >= since;
        let new = Read { file, first: time, last: time, is_programs };
        let found = known.and_then(|place| self.read.remove(place)).unwrap_or(new);
        if self.read.len() == FILES_MAX {
            self.read.pop_front();
        }
        self.read.push_back(Read { last: time, ..found });
        found
    }
}

impl Engine {
    /// A thread without a loop has read something from a file that may be waited at.
    pub(in crate::stitch) fn read_from_file(&mut self, item: &Item) {
        let header = &item.header;
        let (key, now) = ((header.pid, header.tid), header.time);
        let starting = self.processes.get(&header.pid).and_then(|process| process.starting);
        let starting = starting.filter(|turn| header.tid == header.pid && now < self.start_lasts_until(turn));
        let context = self.contexts.find_at(header.pid, header.context);
        let is_asked = self.contexts.find(context).is_some_and(|context| {
            context.received.is_some() || context.consumer.is_some() || context.claim.is_some()
        });
        let Some(thread) = self.threads.get_mut(&key) else { return };
        let turn = starting.or(thread.turn);
        let work = thread.work.map_or(0, |work| work.time);
        let given = thread.work.and_then(|work| work.cause?.unit);
        let since = turn.map_or(work, |turn| turn.start.max(work));
        let is_at_work = turn.is_some() || given.is_some();
        let read = thread.files.note(item.item, now, if is_at_work { since } else { u64::MAX });
        // That it was not busy means that it has waited. Who handles a message or a request does not do that at a file.
        let is_asked =
            is_asked || thread.received.is_some() || thread.consumer.is_some() || thread.inbound.is_some();
        if thread.rested < WAITED || is_asked {
            return;
        }
        if given.is_some_and(|unit| self.units.get(&unit).is_some_and(|unit| unit.job.is_none())) {
            return;
        }
        let job = turn.and_then(|turn| turn.unit).or(given).and_then(|unit| job_in(&self.units, unit));
        let is_running = job.is_some_and(|job| job.running > 0);
        // What a job reads that something else has begun may be for it: from its workers, or a program that stays.
        let is_new = since + QUIET > now && turn.is_none_or(|turn| turn.trigger != Trigger::File);
        let is_for_it = is_new && job.is_some_and(Job::has_worked);
        let has_acted = job.is_some_and(|job| job.active > read.last);
        let is_programs = read.is_programs && (read.first + PROGRAM_MAX > now || !has_acted);
        if is_running || is_for_it || is_programs {
            return;
        }
        self.start_has_waited(header);
        self.turn_begins(header, Trigger::File);
    }
}
