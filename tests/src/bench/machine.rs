//! CPU time and memory, of single processes and of the machine.

use std::{fs, time::Duration};

/// CPU time that a process has used, with its ended threads. The process clock counts nanoseconds, where
/// `/proc/PID/stat` counts ticks of 10 ms: too coarse for an agent that uses a few per second.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    let mut clock = 0;
    // SAFETY: a valid place to write to.
    if unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) } != 0 {
        return None;
    }
    read_clock(clock)
}

/// CPU time that this process has used.
pub(crate) fn own_cpu_time() -> Duration {
    read_clock(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or_default()
}

/// CPU time that this thread has used.
pub(crate) fn thread_cpu_time() -> Duration {
    read_clock(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or_default()
}

fn read_clock(clock: libc::clockid_t) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place to write to.
    let failed = unsafe { libc::clock_gettime(clock, &raw mut time) } != 0;
    (!failed).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// A process and its children.
pub(crate) fn family(parent: u32) -> Vec<u32> {
    let children = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // `pid (name) state ppid …`; the name may hold blanks and parentheses.
        let found: u32 = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        (found == parent).then_some(pid)
    });
    std::iter::once(parent).chain(children).collect()
}

/// CPU time of the whole machine (`proc_stat(5)`, first line).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MachineTime {
    /// Time of all processors together.
    pub(crate) all: Duration,
    /// The part of it in which something ran, here or (steal) on the host.
    pub(crate) busy: Duration,
}

impl MachineTime {
    pub(crate) fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        // user nice system idle iowait irq softirq steal; guest time is in user already.
        let ticks = text.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1).take(8);
        let ticks: Vec<u64> = ticks.map(|word| word.parse().unwrap_or(0)).collect();
        // SAFETY: sysconf has no preconditions.
        let second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / second);
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        let all: u64 = ticks.iter().sum();
        Self { all: time(all), busy: time(all - idle) }
    }
}

/// Memory of a process (`proc_pid_status(5)`), bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Resident.
    pub(crate) resident: u64,
    /// The part that is neither files nor shared; the ring buffer, for one, is mapped and therefore not in it.
    pub(crate) anonymous: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
                * 1024
        };
        Self { resident: field("VmRSS"), anonymous: field("RssAnon") }
    }
}
