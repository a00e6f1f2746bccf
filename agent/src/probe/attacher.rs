//! The thread that puts uprobes on instructions and takes them off.
//!
//! Where a uprobe is taken off, the kernel waits under a lock of its own until no CPU can be in it (`perf_uprobe_destroy` in
//! `kernel/trace/trace_event_perf.c`, `uprobe_unregister_sync`): 0.1 s and more for each, in which none can be put on
//! either. Facts are read meanwhile, because this is a thread of its own, and what is to be put on goes first: a worker that takes
//! the place of one that has died does not wait until all of the dead one's probes are gone.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, OwnedFd},
    sync::mpsc::{self, Receiver, Sender, TryRecvError},
    thread::{self, JoinHandle},
};

use aya::programs::ProbeKind;

use super::{perf, uprobe};
use crate::python::Probe;

/// What the thread is to do.
enum Request {
    Attach { job: u64, pid: u32, probes: Vec<Probe> },
    Detach { pid: u32 },
}

/// What has become of the probes of one call of [`Attacher::attach`].
#[derive(Debug)]
pub struct Attached {
    /// The number that the call has returned.
    pub job: u64,
    /// The programs that are there now.
    pub programs: Vec<&'static str>,
    /// Why others are not, in words for the attach report.
    pub notes: Vec<String>,
}

/// The loaded programs, by name.
pub(super) type Programs = HashMap<&'static str, (OwnedFd, ProbeKind)>;

/// The thread. Dropping this takes all probes off.
pub(super) struct Attacher {
    requests: Sender<Request>,
    done: Receiver<Attached>,
    jobs: u64,
    thread: Option<JoinHandle<()>>,
}

impl Attacher {
    pub(super) fn new(programs: Programs) -> Self {
        let (requests, received) = mpsc::channel();
        let (results, done) = mpsc::channel();
        let thread = thread::spawn(move || work(&programs, &received, &results));
        Self { requests, done, jobs: 0, thread: Some(thread) }
    }

    /// Puts probes on a process, in the order of the calls; returns the number of the job.
    pub(super) fn attach(&mut self, pid: u32, probes: Vec<Probe>) -> u64 {
        self.jobs += 1;
        // The thread is there as long as this is.
        let _ = self.requests.send(Request::Attach { job: self.jobs, pid, probes });
        self.jobs
    }

    /// Takes off those that were put on a process by the calls before.
    pub(super) fn detach(&self, pid: u32) {
        let _ = self.requests.send(Request::Detach { pid });
    }

    /// A job that is done; `wait` for one, if there is none yet.
    pub(super) fn attached(&self, wait: bool) -> Option<Attached> {
        if wait { self.done.recv().ok() } else { self.done.try_recv().ok() }
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        // The thread ends when nobody can ask for more.
        self.requests = mpsc::channel().0;
        if let Some(thread) = self.thread.take() {
            // Nothing in it can panic.
            let _ = thread.join();
        }
    }
}

fn work(programs: &Programs, requests: &Receiver<Request>, done: &Sender<Attached>) {
    let mut links: HashMap<u32, Vec<perf::Link>> = HashMap::new();
    let mut released = Vec::new();
    loop {
        let request = match requests.try_recv() {
            Ok(request) => request,
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                // One at a time: there may be something to be put on before the next.
                if released.pop().is_some() {
                    continue;
                }
                released = Vec::new();
                let Ok(request) = requests.recv() else { return };
                request
            }
        };
        match request {
            Request::Attach { job, pid, probes } => {
                let mut attached = Attached { job, programs: Vec::new(), notes: Vec::new() };
                for probe in probes {
                    match attach(programs, pid, &probe) {
                        Ok(link) => {
                            links.entry(pid).or_default().push(link);
                            attached.programs.push(probe.program);
                        }
                        Err(error) => attached.notes.push(format!(
                            "{} cannot be attached at {:#x} in {}: {error}",
                            probe.program,
                            probe.offset,
                            probe.file.display()
                        )),
                    }
                }
                // It is not wanted any more when the agent ends.
                let _ = done.send(attached);
            }
            Request::Detach { pid } => released.append(&mut links.remove(&pid).unwrap_or_default()),
        }
    }
}

fn attach(programs: &Programs, pid: u32, probe: &Probe) -> std::io::Result<perf::Link> {
    let (program, kind) = programs.get(probe.program).ok_or(std::io::ErrorKind::NotFound)?;
    uprobe::attach(program.as_fd(), *kind, pid, &probe.file, probe.offset)
}
