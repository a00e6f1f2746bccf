//! What a thread or task puts into a queue because its time has come, or something else that begins a job.

use adder_ebpf::Header;

use super::{Engine, Holder, Job, Trigger, Turn, job_in};
use crate::stitch::{
    UnitId,
    context::{Cause, ContextId},
    unit::Act,
};

impl Engine {
    /// Work is put into a queue: the job behind it, if that has done something itself; else it will be a job of its own, for the
    /// reason for which it was put there.
    pub(in crate::stitch) fn job_behind(
        &self,
        header: &Header,
        context: ContextId,
    ) -> (Option<UnitId>, Option<Trigger>) {
        let act = Act { pid: header.pid, tid: header.tid, start: header.time, context, ..Act::default() };
        let Some((turn, holder)) = self.turn_of(&act) else { return (None, None) };
        if holder == Holder::Process {
            // A thread that is started may live as long as the process.
            return (None, None);
        }
        let job = turn.unit.filter(|unit| job_in(&self.units, *unit).is_some_and(Job::has_worked));
        (job, job.is_none().then_some(turn.trigger))
    }

    /// A thread has taken work out of a queue.
    pub(in crate::stitch) fn takes_work(
        &mut self,
        header: &Header,
        cause: Option<Cause>,
        context: ContextId,
    ) {
        self.turn_is_over((header.pid, header.tid));
        let Some(thread) = self.threads.get_mut(&(header.pid, header.tid)) else { return };
        if let Some(trigger) = cause.and_then(|cause| cause.turns) {
            thread.turn = Some(Turn::new(trigger, header.time, context, 0));
        }
    }
}
