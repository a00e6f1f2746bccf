//! What a thread does that has waited at a file: a pipe, a terminal, inotify and their like.
//!
//! A job reads from pipes too, of the programs that it starts. Those are files from which its thread has read for the first time
//! since it started one, in the same turn.

use std::collections::VecDeque;

use adder_ebpf::Item;

use super::{Engine, Job, QUIET, Trigger, WAITED, job_in};

/// Files of a thread that are remembered: those that it has read from last.
const FILES_MAX: usize = 8;

/// Files that a thread has read from.
#[derive(Clone, Debug, Default)]
pub(in crate::stitch) struct Files {
    /// And when first; those of which that was last.
    read: VecDeque<(u64, u64)>,
    /// When it has last started a program.
    forked: u64,
}

impl Files {
    /// The thread has made a process.
    pub(in crate::stitch) fn forked(&mut self, time: u64) {
        self.forked = time;
    }

    /// The thread has read from a file: when it did so first.
    fn note(&mut self, file: u64, time: u64) -> u64 {
        let known = self.read.iter().position(|(known, _)| *known == file);
        let entry = known.and_then(|place| self.read.remove(place)).unwrap_or((file, time));
        if self.read.len() == FILES_MAX {
            self.read.pop_front();
        }
        self.read.push_back(entry);
        entry.1
    }

    /// Whether a file that was read at this time first is of a program that was started since another.
    fn is_programs(&self, first: u64, since: u64) -> bool {
        self.forked >= since && first >= self.forked
    }
}

impl Engine {
    /// A thread without a loop has read something from a file that may be waited at.
    pub(in crate::stitch) fn read_from_file(&mut self, item: &Item) {
        let header = &item.header;
        let starting = self.processes.get(&header.pid).and_then(|process| process.starting);
        let starting =
            starting.filter(|turn| header.tid == header.pid && header.time < self.start_lasts_until(turn));
        let Some(thread) = self.threads.get_mut(&(header.pid, header.tid)) else { return };
        let first = thread.files.note(item.item, header.time);
        // That it was not busy means that it has waited.
        if thread.rested < WAITED {
            return;
        }
        if let Some(turn) = starting.or(thread.turn) {
            // What a job reads that something else has begun may be for it: from its workers, or a program that stays.
            let is_new = turn.start + QUIET > header.time;
            let job = turn.unit.and_then(|unit| job_in(&self.units, unit));
            let is_for_it = turn.trigger != Trigger::File && is_new && job.is_some_and(Job::has_worked);
            if is_for_it || thread.files.is_programs(first, turn.start) || self.is_running(&turn) {
                return;
            }
        }
        self.start_has_waited(header);
        self.turn_begins(header, Trigger::File);
    }
}
