//! Looking at event loops that do not come back to their wait.
//!
//! The kernel side tells when a step has begun (`ebpf/src/loops.rs`). One that lasts is looked at from here, again and again: the
//! thread need not make a system call for that, nor run.

use std::{collections::BTreeMap, time::Duration};

use adder_ebpf::Header;

use super::{
    Facts,
    codes::CodeReader,
    monotonic,
    watch::{Watched, head},
};
use crate::{
    fact::{Fact, LagInfo, LoopSample},
    probe::Bpf,
    python::{self, Memory},
    stitch::LoopOptions,
};

/// Time between two looks at whether a step lasts.
pub(super) const LOOK: Duration = Duration::from_millis(25);
/// Time between two looks at where it is, at least.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks at the steps of event loops.
pub(super) struct LoopWatch {
    /// How long a step has lasted when it is looked at first. Half as long as what is told of: it is then seen more than once.
    after: u64,
    /// When that was done last.
    looked: u64,
}

impl LoopWatch {
    pub(super) fn new(options: LoopOptions) -> Self {
        Self { after: options.looked_at_after(), looked: 0 }
    }

    /// Whether there is a step to be looked at.
    pub(super) fn is_late(&self, bpf: &Bpf) -> bool {
        let now = monotonic();
        bpf.steps().iter().any(|(_, step)| step.start + self.after <= now)
    }

    /// Looks, if it is time.
    pub(super) fn look(
        &mut self,
        bpf: &Bpf,
        watched: &BTreeMap<u32, Watched>,
        codes: &mut CodeReader,
        facts: &mut Facts<'_>,
    ) {
        let now = monotonic();
        if !bpf.sees_steps() || now < self.looked + PAUSE.as_nanos() as u64 {
            return;
        }
        self.looked = now;
        for (tid, step) in bpf.steps() {
            if step.start + self.after > now {
                continue;
            }
            let Some(proof) = watched.get(&step.pid).and_then(|watched| watched.proof.as_ref()) else {
                continue;
            };
            let Some(found) = python::whereabouts(Memory::of(step.pid), &proof.process, step.state) else {
                continue;
            };
            // Another step may have begun meanwhile.
            if bpf.step(tid) != Some(step) {
                continue;
            }
            codes.note_frames(step.pid, found.frames.iter().copied());
            let header = Header { time: monotonic(), tid, context: found.context, ..head(step.pid) };
            let sample = LoopSample { start: step.start, frames: found.frames, cut: found.cut };
            facts.own(&Fact::LoopSample(header, sample));
        }
    }
}

/// Tells how long the steps of a process have lasted so far.
pub(super) fn tell_lags(bpf: &Bpf, pid: u32, facts: &mut Facts<'_>) {
    if let Some(lags) = bpf.lags(pid) {
        let info = LagInfo { buckets: lags.buckets.to_vec(), sum: lags.sum };
        facts.own(&Fact::Lags(head(pid), info));
    }
}
