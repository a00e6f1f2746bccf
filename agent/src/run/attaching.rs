//! What is proven of a process, and the probes that follow from it.

use std::{
    mem,
    time::{Duration, Instant},
};

use super::{
    Facts,
    loops::tell_lags,
    watch::{RETRIES, Watcher, head},
};
use crate::{
    discover,
    fact::{Fact, PythonInfo},
    probe::Attached,
    python::{self, Attribution, Proof, ProofError},
    stitch::Need,
};

/// Probes that are being put on a process.
pub(super) struct Attaching {
    /// The number of the job.
    job: u64,
    pid: u32,
    /// What is proven of the process, and holds once they are there; `None` where they are what it needs besides.
    proof: Option<Box<Proof>>,
}

impl Watcher {
    /// Looks at a process's interpreter, and attaches what there is to attach.
    pub(super) fn look(&mut self, pid: u32) {
        // What a watched process has started may be handed work by it (a Celery worker's pool).
        let started = discover::parent(pid).is_some_and(|parent| self.watched.contains_key(&parent));
        let is_attaching = self.is_attaching(pid);
        let Some(watched) = self.watched.get_mut(&pid) else { return };
        watched.due = None;
        if is_attaching {
            watched.due = Some(Instant::now() + Duration::from_millis(RETRIES[0]));
            return;
        }
        match python::prove(pid) {
            Ok(mut proof) => {
                proof.process.pipes = u32::from(started);
                let silent = self.silent.contains(&watched.report.service);
                proof.process.output = u32::from(self.logs && !silent);
                proof.process.steps = u32::from(self.bpf.sees_steps() && (proof.asyncio || proof.uvloop));
                if !self.code {
                    proof.process.frame = 0;
                }
                if let Some(before) = &watched.proof
                    && proof.codes.is_none()
                    && before.process.runtime == proof.process.runtime
                {
                    // No thread has shown its frames this time.
                    proof.keep_frames(before);
                }
                if self.code && proof.codes.is_none() {
                    let pause = RETRIES.get(watched.tries).copied();
                    watched.tries += 1;
                    watched.due = pause.map(|pause| Instant::now() + Duration::from_millis(pause));
                }
                self.proven(pid, proof);
            }
            Err(error) => {
                let pause = RETRIES.get(watched.tries).copied();
                watched.tries += 1;
                if let (Some(pause), true) = (pause, error != ProofError::NotPython || watched.tries < 8) {
                    watched.due = Some(Instant::now() + Duration::from_millis(pause));
                } else {
                    watched.report.attribution = Some(Attribution::Thread);
                }
                watched.report.notes = vec![error.to_string()];
            }
        }
    }

    /// Whether probes are being put on a process that follow from what is proven of it.
    pub(super) fn is_attaching(&self, pid: u32) -> bool {
        self.attaching.iter().any(|attaching| attaching.pid == pid && attaching.proof.is_some())
    }

    /// Nothing of what is being put on this process is wanted any more.
    pub(super) fn forget_attaching(&mut self, pid: u32) {
        self.attaching.retain(|attaching| attaching.pid != pid);
    }

    fn proven(&mut self, pid: u32, mut proof: Proof) {
        let Some(watched) = self.watched.get_mut(&pid) else { return };
        if let Some(before) = &mut watched.proof {
            proof.keep_wishes(before);
            if before.process == proof.process && before.probes == proof.probes {
                // Threads come and go, and libraries that may be needed.
                before.states = proof.states;
                before.more = proof.more;
                return self.attach_needed(pid);
            }
        }
        let known = watched.proof.as_ref().map_or(&[][..], |before| &before.probes);
        let new = proof.probes.iter().filter(|probe| !known.contains(probe)).cloned().collect();
        let job = self.bpf.attach(pid, new);
        self.attaching.push(Attaching { job, pid, proof: Some(Box::new(proof)) });
    }

    /// Takes up what has been attached since.
    pub(super) fn take_attached(&mut self, facts: &mut Facts<'_>) {
        while let Some(attached) = self.bpf.attached(false) {
            self.attached(attached, facts);
        }
    }

    /// Waits until all is attached that is to be.
    pub(super) fn settle(&mut self, facts: &mut Facts<'_>) {
        while !self.attaching.is_empty()
            && let Some(attached) = self.bpf.attached(true)
        {
            self.attached(attached, facts);
        }
    }

    fn attached(&mut self, attached: Attached, facts: &mut Facts<'_>) {
        let Attached { job, programs, notes } = attached;
        // It may have ended, or begun another program.
        let Some(at) = self.attaching.iter().position(|attaching| attaching.job == job) else { return };
        let Attaching { pid, proof, .. } = self.attaching.swap_remove(at);
        let Some(watched) = self.watched.get_mut(&pid) else { return };
        watched.report.probes.extend(programs);
        watched.report.probes.sort_unstable();
        watched.report.probes.dedup();
        match proof {
            Some(proof) => self.is_right(pid, *proof, notes, facts),
            None => watched.report.notes.extend(notes),
        }
    }

    /// What is proven of a process holds from now on: its probes are there.
    fn is_right(&mut self, pid: u32, mut proof: Proof, mut notes: Vec<String>, facts: &mut Facts<'_>) {
        let Some(watched) = self.watched.get_mut(&pid) else { return };
        if let Some(before) = &watched.proof {
            proof.keep_wishes(before);
        }
        notes.splice(0..0, mem::take(&mut proof.notes));
        if proof.process.steps != 0 {
            match self.bpf.count_steps(pid) {
                // From now on.
                Ok(()) => tell_lags(&self.bpf, pid, facts),
                Err(error) => notes.push(format!("the lag of its event loops is not counted: {error:#}")),
            }
        }
        // The probes first: a request whose bytes are seen must have its task seen too.
        if let Err(error) = self.bpf.watch(pid, proof.process) {
            tracing::warn!(pid, "cannot configure this process: {error:#}");
            return;
        }
        watched.report.python.clone_from(&proof.version);
        watched.report.interpreter.clone_from(&proof.interpreter);
        watched.report.attribution = Some(proof.attribution);
        watched.report.r#loop = match (proof.uvloop, proof.asyncio) {
            (true, _) => "uvloop",
            (false, true) => "asyncio",
            (false, false) => "",
        };
        for note in &notes {
            tracing::debug!(pid, service = watched.report.service, "{note}");
        }
        notes.extend(watched.unread.iter().map(|why| (*why).to_owned()));
        watched.report.notes = notes;
        tracing::info!(
            pid,
            service = watched.report.service,
            python = proof.version,
            r#loop = watched.report.r#loop,
            exact = proof.attribution == Attribution::Context,
            "attached"
        );
        if proof.process.output != 0 {
            facts.own(&Fact::Output(head(pid), discover::output(pid, &proof.version)));
        }
        let info = PythonInfo { attribution: proof.attribution, uvloop: proof.uvloop };
        let late = proof.late_writes;
        // Where it is told what is given to the loop, who is woken tells no more.
        if late && proof.process.late == 0 || self.all {
            watched.needed.extend(program_for(Need::Wakes));
        }
        if self.all {
            watched.needed.extend([Need::Buffers, Need::Windows].into_iter().filter_map(program_for));
        }
        watched.proof = Some(proof);
        facts.own(&Fact::Python(head(pid), info));
        if late {
            facts.own(&Fact::LateWrites(head(pid)));
        }
        self.attach_needed(pid);
    }

    /// A process needs more programs than others.
    pub(super) fn need(&mut self, pid: u32, need: Need) {
        if let Some(watched) = self.watched.get_mut(&pid) {
            let more = watched.proof.as_ref().map_or(&[][..], |proof| &proof.more);
            let program = program_for(need);
            let why = match need {
                Need::Wakes | Need::Buffers => None,
                Need::Windows | Need::Reconnect => {
                    (!more.iter().any(|probe| Some(probe.program) == program)).then_some(UNREADABLE)
                }
                Need::Encoding => Some(ENCODING),
            };
            if let Some(why) = why.filter(|why| !watched.unread.contains(why)) {
                tracing::warn!(pid, service = watched.report.service, "{why}");
                watched.report.notes.push(why.into());
                watched.unread.push(why);
            }
            watched.needed.extend(program);
            self.attach_needed(pid);
        }
    }

    /// Attaches what a process needs besides.
    fn attach_needed(&mut self, pid: u32) {
        let Some(watched) = self.watched.get_mut(&pid) else { return };
        let Some(proof) = &watched.proof else { return };
        let is_new = |program| watched.needed.contains(program) && !watched.asked.contains(program);
        let new: Vec<_> = proof.more.iter().filter(|probe| is_new(probe.program)).cloned().collect();
        if new.is_empty() {
            return;
        }
        watched.asked.extend(new.iter().map(|probe| probe.program));
        let job = self.bpf.attach(pid, new);
        self.attaching.push(Attaching { job, pid, proof: None });
    }
}

/// What is said where that is not possible.
const UNREADABLE: &str = "a connection to Discord's gateway cannot be read: its stream began before the agent came, or bytes of it were \
                          lost, and it is zstd's, or zlib was not found in the process. It is read from its next reconnect on";

/// What is said of a gateway whose messages are terms of Erlang's.
const ENCODING: &str = "the bot has asked Discord's gateway for Erlang's external term format (`encoding=etf`), which is not read: \
                        no span comes of its events until it asks for `encoding=json`";

/// The program that tells what is needed.
const fn program_for(need: Need) -> Option<&'static str> {
    match need {
        Need::Wakes => Some("set_result"),
        Need::Buffers => Some("buffer_append"),
        Need::Windows => Some("inflate"),
        Need::Reconnect | Need::Encoding => None,
    }
}
