//! Loading and attaching, through aya.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use adder_ebpf::{Header, Lags, MarkKey, Offsets, Process, Step};
use aya::{
    Btf, Ebpf, EbpfLoader, Pod,
    maps::{HashMap, MapData, RingBuf},
    programs::{BtfTracePoint, FEntry, FExit, Program, RawTracePoint, UProbe},
};

use super::attacher::{Attached, Attacher, Programs};
use crate::python::Probe;

/// The compiled programs; `cargo xtask build-ebpf` puts them there.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/adder-programs"));

/// Programs that see process life, without the suffix of the way they are attached.
const LIFE: [(&str, &str); 3] =
    [("fork", "sched_process_fork"), ("exec", "sched_process_exec"), ("exit", "sched_process_exit")];

/// `fexit` programs and the functions of the system calls they are for.
const FEXIT: [(&str, &str); 31] = [
    ("fexit_read", "__x64_sys_read"),
    ("fexit_write", "__x64_sys_write"),
    ("fexit_close", "__x64_sys_close"),
    ("fexit_poll", "__x64_sys_poll"),
    ("fexit_select", "__x64_sys_select"),
    ("fexit_rt_sigtimedwait", "__x64_sys_rt_sigtimedwait"),
    ("fexit_nanosleep", "__x64_sys_nanosleep"),
    ("fexit_futex", "__x64_sys_futex"),
    ("fexit_clock_nanosleep", "__x64_sys_clock_nanosleep"),
    ("fexit_epoll_wait", "__x64_sys_epoll_wait"),
    ("fexit_pselect6", "__x64_sys_pselect6"),
    ("fexit_ppoll", "__x64_sys_ppoll"),
    ("fexit_epoll_pwait", "__x64_sys_epoll_pwait"),
    ("fexit_mmap", "__x64_sys_mmap"),
    ("fexit_readv", "__x64_sys_readv"),
    ("fexit_writev", "__x64_sys_writev"),
    ("fexit_sendfile", "__x64_sys_sendfile64"),
    ("fexit_connect", "__x64_sys_connect"),
    ("fexit_accept", "__x64_sys_accept"),
    ("fexit_sendto", "__x64_sys_sendto"),
    ("fexit_recvfrom", "__x64_sys_recvfrom"),
    ("fexit_sendmsg", "__x64_sys_sendmsg"),
    ("fexit_recvmsg", "__x64_sys_recvmsg"),
    ("fexit_splice", "__x64_sys_splice"),
    ("fexit_accept4", "__x64_sys_accept4"),
    ("fexit_preadv", "__x64_sys_preadv"),
    ("fexit_pwritev", "__x64_sys_pwritev"),
    ("fexit_recvmmsg", "__x64_sys_recvmmsg"),
    ("fexit_sendmmsg", "__x64_sys_sendmmsg"),
    ("fexit_preadv2", "__x64_sys_preadv2"),
    ("fexit_pwritev2", "__x64_sys_pwritev2"),
];

/// The program that sees the end of a step of an event loop at the entry of all system calls.
const STEP_PROGRAM: &str = "step_is_over";

/// `fentry` programs that see the end of a step of an event loop, likewise.
const FENTRY: [(&str, &str); 2] =
    [("fentry_epoll_wait", "__x64_sys_epoll_wait"), ("fentry_epoll_pwait", "__x64_sys_epoll_pwait")];

/// Programs on functions of `CPython` and of TLS libraries.
const UPROBES: [&str; 17] = [
    "task_init",
    "copy_context",
    "queue_put",
    "queue_get",
    "set_result",
    "stream_write",
    "buffer_append",
    "inflate",
    "tls_read_ex",
    "tls_read",
    "tls_write_ex",
    "tls_write_flags",
    "tls_write",
    "tls_return",
    "tls_accept",
    "tls_handshake",
    "tls_free",
];

/// How the system calls are seen, cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachWay {
    /// `fexit` on the functions of the calls: costs other processes nothing.
    Fexit,
    /// BTF raw tracepoint `sys_exit`.
    BtfTracepoint,
    /// Raw tracepoint `sys_exit`.
    RawTracepoint,
}

impl AttachWay {
    /// All ways, cheapest first.
    pub const ALL: [Self; 3] = [Self::Fexit, Self::BtfTracepoint, Self::RawTracepoint];

    /// The name used in logs and in `ADDER_ATTACH`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fexit => "fexit",
            Self::BtfTracepoint => "tp_btf",
            Self::RawTracepoint => "raw_tp",
        }
    }
}

/// Why the kernel side could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not enough rights.
    #[error(
        "not allowed to load BPF programs ({0}): run as root, or give the container `privileged: true`, or grant \
         CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH and CAP_NET_ADMIN"
    )]
    Denied(String),
    /// Root, and refused all the same.
    #[error(
        "the kernel refuses BPF programs even to root ({0}): give the container `privileged: true`; outside a \
         container, look whether /sys/kernel/security/lockdown says `confidentiality`"
    )]
    Confined(String),
    /// The kernel lacks something that Adder cannot do without.
    #[error(
        "this kernel cannot run Adder's programs: {0} (Linux 5.10 or later is needed; see `adder doctor`)"
    )]
    Unsupported(String),
    /// A kernel structure is unknown.
    #[error(transparent)]
    Offsets(#[from] super::OffsetsError),
}

/// What to capture.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most bytes from the front of each buffer, both ways.
    pub max_bytes: u32,
    /// Report `execve` of every process, to find new ones by name.
    pub report_every_exec: bool,
    /// How long a step of an event loop lasts at least that is reported.
    pub step_min: Duration,
    /// Use this way only (tests, and `ADDER_ATTACH`).
    pub only: Option<AttachWay>,
}

/// Run time of one program, as the kernel counts it while `kernel.bpf_stats_enabled` is set.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ProgramStat {
    /// Name of the program.
    pub name: String,
    /// How often it ran.
    pub runs: u64,
    /// Nanoseconds that took.
    pub nanoseconds: u64,
}

#[repr(transparent)]
#[derive(Clone, Copy)]
struct Plain<T: Copy>(T);
// SAFETY: used with the `repr(C)` structures of `adder_ebpf` alone, which have no padding and only integers.
unsafe impl<T: Copy + 'static> Pod for Plain<T> {}

/// What was in the ring buffer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// How many facts.
    pub facts: usize,
    /// How much room they had.
    pub bytes: u64,
}

/// The loaded kernel side. Dropping it detaches everything.
pub struct Bpf {
    ebpf: Ebpf,
    facts: RingBuf<MapData>,
    /// An epoll instance that tells when facts are announced.
    announced: OwnedFd,
    processes: HashMap<MapData, u32, Plain<Process>>,
    dropped: HashMap<MapData, u32, u64>,
    marks: HashMap<MapData, Plain<MarkKey>, u32>,
    loops: HashMap<MapData, u32, Plain<Step>>,
    lags: HashMap<MapData, u32, Plain<Lags>>,
    uprobes: Attacher,
    way: AttachWay,
    /// Steps of event loops are seen.
    steps: bool,
}

impl Bpf {
    /// Loads the programs and attaches all but the uprobes.
    pub fn load(settings: Settings) -> Result<Self, LoadError> {
        let offsets = super::kernel_offsets()?;
        // Before Linux 5.11 maps count against this limit; later it does not matter, and raising it may be refused.
        // SAFETY: plain system call on a local value.
        unsafe {
            let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
        }
        let mut failures = Vec::new();
        for way in AttachWay::ALL {
            if settings.only.is_some_and(|only| only != way) {
                continue;
            }
            match Self::load_way(settings, offsets, way) {
                Ok(bpf) => return Ok(bpf),
                Err(error) => {
                    tracing::debug!(way = way.name(), "cannot attach this way: {error:#}");
                    failures.push((way, error));
                }
            }
        }
        // SAFETY: plain system call.
        let root = unsafe { libc::geteuid() } == 0;
        let text = failures
            .iter()
            .map(|(way, error)| format!("{}: {}", way.name(), brief(error)))
            .collect::<Vec<_>>();
        let text = text.join("; ");
        if !root {
            return Err(LoadError::Denied(text));
        }
        if text.contains("os error 1)") {
            return Err(LoadError::Confined(text));
        }
        Err(LoadError::Unsupported(text))
    }

    fn load_way(settings: Settings, offsets: Offsets, way: AttachWay) -> anyhow::Result<Self> {
        let captured = adder_ebpf::Settings {
            head_sent: settings.max_bytes.min(adder_ebpf::HEAD_MAX as u32),
            head_received: settings.max_bytes.min(adder_ebpf::HEAD_MAX as u32),
            tail: adder_ebpf::TAIL_MAX as u32,
            report_every_exec: u32::from(settings.report_every_exec),
            step_min: u32::try_from(settings.step_min.as_micros()).unwrap_or(u32::MAX),
        };
        let btf = Btf::from_sys_fs()?;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("OFFSETS", &Plain(offsets), true)
            .override_global("SETTINGS", &Plain(captured), true)
            .load(PROGRAMS)?;
        for (name, tracepoint) in LIFE {
            if way == AttachWay::RawTracepoint {
                attach_raw(&mut ebpf, &format!("{name}_raw"), tracepoint)?;
            } else {
                attach_btf(&mut ebpf, &format!("{name}_btf"), tracepoint, &btf)?;
            }
        }
        match way {
            AttachWay::Fexit => {
                for (name, function) in FEXIT {
                    let program: &mut FExit = program(&mut ebpf, name)?.try_into()?;
                    program.load(function, &btf)?;
                    program.attach()?;
                }
            }
            AttachWay::BtfTracepoint => attach_btf(&mut ebpf, "sys_exit_btf", "sys_exit", &btf)?,
            AttachWay::RawTracepoint => attach_raw(&mut ebpf, "sys_exit_raw", "sys_exit")?,
        }
        let steps = attach_steps(&mut ebpf, way, &btf)
            .inspect_err(|error| {
                tracing::info!("the lag of event loops is not measured: {}", brief(error));
            })
            .is_ok();
        let mut uprobes = Programs::new();
        for name in UPROBES {
            let program: &mut UProbe = program(&mut ebpf, name)?.try_into()?;
            program.load()?;
            uprobes.insert(name, (program.fd()?.as_fd().try_clone_to_owned()?, program.kind()));
        }
        let map =
            |ebpf: &mut Ebpf, name: &str| ebpf.take_map(name).ok_or_else(|| anyhow::anyhow!("no map {name}"));
        let facts = RingBuf::try_from(map(&mut ebpf, "FACTS")?)?;
        let processes = HashMap::try_from(map(&mut ebpf, "PROCESSES")?)?;
        let dropped = HashMap::try_from(map(&mut ebpf, "DROPPED")?)?;
        let marks = HashMap::try_from(map(&mut ebpf, "MARKS")?)?;
        let loops = HashMap::try_from(map(&mut ebpf, "LOOPS")?)?;
        let lags = HashMap::try_from(map(&mut ebpf, "LAGS")?)?;
        Ok(Self {
            ebpf,
            announced: announced(&facts)?,
            facts,
            processes,
            dropped,
            marks,
            loops,
            lags,
            uprobes: Attacher::new(uprobes),
            way,
            steps,
        })
    }

    /// How the system calls are seen.
    pub fn way(&self) -> AttachWay {
        self.way
    }

    /// Watches a process (again), with what is proven of its interpreter.
    pub fn watch(&mut self, pid: u32, process: Process) -> anyhow::Result<()> {
        Ok(self.processes.insert(pid, Plain(process), 0)?)
    }

    /// Says what is known of a function of a process.
    pub fn mark(&mut self, pid: u32, code: u64, mark: u32) -> anyhow::Result<()> {
        Ok(self.marks.insert(Plain(MarkKey { code, pid, reserved: 0 }), mark, 0)?)
    }

    /// Forgets it.
    pub fn forget_mark(&mut self, pid: u32, code: u64) {
        let _ = self.marks.remove(&Plain(MarkKey { code, pid, reserved: 0 }));
    }

    /// Whether steps of event loops are seen.
    pub fn sees_steps(&self) -> bool {
        self.steps
    }

    /// Begins to count how long the steps of a process's event loops last.
    pub fn count_steps(&mut self, pid: u32) -> anyhow::Result<()> {
        // It may be counted already: it was looked at again.
        if self.lags.get(&pid, 0).is_err() {
            self.lags.insert(pid, Plain(Lags::default()), 0)?;
        }
        Ok(())
    }

    /// Ends that: the process has a new program.
    pub fn forget_steps(&mut self, pid: u32) {
        // It is there only if it was counted.
        let _ = self.lags.remove(&pid);
    }

    /// How long they have lasted; `None` where that is not counted.
    pub fn lags(&self, pid: u32) -> Option<Lags> {
        self.lags.get(&pid, 0).ok().map(|lags| lags.0)
    }

    /// What the threads of event loops are at that do not wait, by kernel `pid`.
    pub fn steps(&self) -> Vec<(u32, Step)> {
        let steps = self.loops.iter().filter_map(Result::ok);
        steps.map(|(tid, step)| (tid, step.0)).filter(|(_, step)| step.start != 0).collect()
    }

    /// What this one is at.
    pub fn step(&self, tid: u32) -> Option<Step> {
        self.loops.get(&tid, 0).ok().map(|step| step.0)
    }

    /// Stops watching a process.
    pub fn forget(&mut self, pid: u32) {
        // It may be gone from the map already: the kernel side removes processes that end.
        let _ = self.processes.remove(&pid);
        self.forget_steps(pid);
        self.detach(pid);
    }

    /// Puts uprobes on instructions of one process, in the background; returns the number of the job, of which
    /// [`Self::attached`] tells when it is done.
    pub fn attach(&mut self, pid: u32, probes: Vec<Probe>) -> u64 {
        self.uprobes.attach(pid, probes)
    }

    /// A job that is done, oldest first; with `wait` it waits for one, and may be called only if one is under way.
    pub fn attached(&self, wait: bool) -> Option<Attached> {
        self.uprobes.attached(wait)
    }

    /// Removes the uprobes of a process, in the background.
    pub fn detach(&mut self, pid: u32) {
        self.uprobes.detach(pid);
    }

    /// Waits at most this long until the kernel side announces facts, or a signal comes; whether that was so. That there are
    /// some is not enough: it announces them when much is waiting, or a process begins or ends.
    pub fn wait(&self, time: Duration) -> bool {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // Rounded up, so that time is up when this returns.
        let milliseconds = i32::try_from(time.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: room for one event.
        unsafe { libc::epoll_wait(self.announced.as_raw_fd(), &raw mut event, 1, milliseconds) != 0 }
    }

    /// Hands out the facts that are there, oldest first, at most `limit`.
    pub fn drain(&mut self, limit: usize, mut take: impl FnMut(&[u8])) -> Taken {
        let mut taken = Taken::default();
        while taken.facts < limit {
            let Some(item) = self.facts.next() else { break };
            if item.len() >= size_of::<Header>() {
                take(&item);
            }
            taken.facts += 1;
            taken.bytes += item.len() as u64;
        }
        taken
    }

    /// Facts that found no room, by process.
    pub fn dropped(&self) -> Vec<(u32, u64)> {
        self.dropped.iter().filter_map(Result::ok).collect()
    }

    /// Forgets the count of a process that has ended.
    pub fn clear_dropped(&mut self, pid: u32) {
        // It is there only if something was dropped since the last look.
        let _ = self.dropped.remove(&pid);
    }

    /// The processes that the kernel side watches.
    pub fn watched(&self) -> Vec<u32> {
        self.processes.keys().filter_map(Result::ok).collect()
    }

    /// Run counts and times of the loaded programs.
    pub fn stats(&self) -> Vec<ProgramStat> {
        let mut stats = Vec::new();
        for (name, program) in self.ebpf.programs() {
            if let Ok(info) = program.info() {
                let nanoseconds = info.run_time().as_nanos() as u64;
                stats.push(ProgramStat { name: name.to_owned(), runs: info.run_count(), nanoseconds });
            }
        }
        stats.sort_by(|a, b| a.name.cmp(&b.name));
        stats
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Program> {
    ebpf.program_mut(name).ok_or_else(|| anyhow::anyhow!("the object has no program {name}"))
}

fn attach_btf(ebpf: &mut Ebpf, name: &str, tracepoint: &str, btf: &Btf) -> anyhow::Result<()> {
    let program: &mut BtfTracePoint = program(ebpf, name)?.try_into()?;
    program.load(tracepoint, btf)?;
    program.attach()?;
    Ok(())
}

/// Attaches what sees the end of a step of an event loop. Where the system calls are seen by a tracepoint, all threads go by those
/// of the calls anyhow, and one more look at a number costs them hardly more.
fn attach_steps(ebpf: &mut Ebpf, way: AttachWay, btf: &Btf) -> anyhow::Result<()> {
    if way != AttachWay::Fexit {
        return attach_raw(ebpf, STEP_PROGRAM, "sys_enter");
    }
    for (name, function) in FENTRY {
        let program: &mut FEntry = program(ebpf, name)?.try_into()?;
        program.load(function, btf)?;
        program.attach()?;
    }
    Ok(())
}

/// An epoll instance that is ready each time the kernel side announces facts (`EPOLLET`, epoll(7)): `poll(2)` would come back as
/// long as there are any.
fn announced(facts: &RingBuf<MapData>) -> io::Result<OwnedFd> {
    let mut event = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: 0 };
    // SAFETY: a descriptor that nobody else has, and a valid event.
    unsafe {
        let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        let epoll = OwnedFd::from_raw_fd(epoll);
        let facts = facts.as_fd().as_raw_fd();
        match libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, facts, &raw mut event) {
            0 => Ok(epoll),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn attach_raw(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> anyhow::Result<()> {
    let program: &mut RawTracePoint = program(ebpf, name)?.try_into()?;
    program.load()?;
    program.attach(tracepoint)?;
    Ok(())
}

/// The causes of an error in one line; of a verifier's log the line with its reason, which is the last but for counts and what
/// else caused the error.
fn brief(error: &anyhow::Error) -> String {
    let text = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let mut lines = text.lines().map(str::trim).filter(|line| {
        let counts = ["processed ", "verification time ", "stack depth ", "mark_precise", ": "];
        !line.is_empty() && !counts.iter().any(|word| line.starts_with(word))
    });
    let cut = |line: &str| line.chars().take(200).collect::<String>();
    let first = cut(lines.next().unwrap_or_default());
    match lines.next_back() {
        Some(last) => format!("{first} … {}", cut(last)),
        None => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_verifier_is_shown() {
        let log = "the call failed. Verifier output: 0: R1=ctx()\n1: (79) r0 = *(u64 *)(r1 +0)\nR1 invalid mem access\n\
                   processed 12 insns (limit 1000000)\n";
        let brief = brief(&anyhow::anyhow!("Permission denied (os error 13)").context(log));
        assert_eq!(brief, "the call failed. Verifier output: 0: R1=ctx() … R1 invalid mem access");
        assert_eq!(super::brief(&anyhow::anyhow!("no such file")), "no such file");
    }
}
