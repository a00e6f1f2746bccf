//! A child process with its own process group and a log file, ended with all its children on drop.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::wait_until;

/// How long a process may take to obey a signal before it is killed.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long a server may take to become ready: longer than any does on a machine that stands still for half a minute.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Bytes at the end of a log that an error message shows.
const LOG_TAIL: usize = 4000;

static SESSIONS: AtomicBool = AtomicBool::new(false);

/// From now on each child has a session of its own, not only a process group.
pub fn in_sessions() {
    SESSIONS.store(true, Ordering::Relaxed);
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    status: Option<ExitStatus>,
    log: PathBuf,
    signal: i32,
    patience: Duration,
}

impl Process {
    /// Starts `command` with its output in the file `log`; `signal` is what ends it politely.
    pub fn start(command: &mut Command, log: &Path, signal: i32) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command.stdout(file.try_clone()?).stderr(file);
        Self::start_with_output(command, log, signal)
    }

    /// The same, where the caller has already said where the output goes.
    pub(crate) fn start_with_output(command: &mut Command, log: &Path, signal: i32) -> Result<Self> {
        command.stdin(Stdio::null());
        if SESSIONS.load(Ordering::Relaxed) {
            // SAFETY: `setsid` may be called between fork and exec (signal-safety(7)).
            unsafe {
                command.pre_exec(|| match libc::setsid() {
                    -1 => Err(io::Error::last_os_error()),
                    _ => Ok(()),
                });
            }
        } else {
            command.process_group(0);
        }
        let child =
            command.spawn().with_context(|| format!("starting {}", command.get_program().display()))?;
        Ok(Self { child, status: None, log: log.to_path_buf(), signal, patience: PATIENCE })
    }

    /// The same process, but it may take this long to obey its signal.
    pub(crate) const fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Waits until `is_ready`; an error with the end of the log if the process ends before, or takes too long.
    pub fn wait_ready(&self, mut is_ready: impl FnMut() -> bool) -> Result<()> {
        let mut ended = false;
        let settled = wait_until(START_LIMIT, || {
            ended = self.has_ended();
            ended || is_ready()
        });
        if settled && !ended {
            return Ok(());
        }
        let what = if ended {
            "ended at its start".to_owned()
        } else {
            format!("did not become ready; its threads: {}", self.threads())
        };
        bail!("process {} {what}; its log {} ends with:\n{}", self.pid(), self.log.display(), self.log_tail())
    }

    /// What its threads do: name, state, processor time, where in the kernel they wait, and in which system call (proc(5)).
    fn threads(&self) -> String {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).into_iter().flatten().flatten();
        let told = tasks.filter_map(|task| {
            let stat = Stat::read(task.file_name().to_str()?.parse().ok()?)?;
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let (name, place, call) = (read("comm"), read("wchan"), read("syscall"));
            let state = char::from(stat.state);
            Some(format!("{} {state} {:.1?} {place} [{}]", name.trim(), stat.cpu, call.trim()))
        });
        told.collect::<Vec<_>>().join("; ")
    }

    /// The id of the process, which is also that of its group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The end of the log, for error messages.
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL)..]).into_owned()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Whether the process has ended. It stays a zombie, so that its id and its group's stay its own.
    pub fn has_ended(&self) -> bool {
        if self.status.is_some() {
            return true;
        }
        // SAFETY: siginfo_t is plain data for which zero is a valid value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `info` lives for the call; the child is ours and has not been reaped.
        let result = unsafe { libc::waitid(libc::P_PID, self.pid(), &raw mut info, options) };
        // SAFETY: waitid has filled the structure; the id in it stays 0 while the child runs.
        result != 0 || unsafe { info.si_pid() } != 0
    }

    /// Sends the polite signal, waits, kills what is left of the group; how the process ended.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        self.signal(self.signal);
        wait_until(self.patience, || self.has_ended());
        self.reap()
    }

    /// Kills the whole group at once, as the kernel's memory killer would.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.status.map_or_else(|| self.reap(), Ok)
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: i32) {
        if self.status.is_none() {
            // SAFETY: kill has no memory effects; the child has not been reaped, so the id is its own.
            unsafe { libc::kill(self.pid() as i32, signal) };
        }
    }

    /// Whether all threads of the group are stopped (proc(5)): a signal only asks for it, one thread tells the others when it has the
    /// processor, and they go on until then.
    pub fn is_stopped(&self) -> bool {
        let threads =
            self.group().into_iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok());
        let mut threads =
            threads.flatten().flatten().filter_map(|thread| thread.file_name().to_str()?.parse().ok());
        threads.all(|thread| Stat::read(thread).is_none_or(|stat| matches!(stat.state, b'T' | b'Z' | b'X')))
    }

    /// The processes of the group, in ascending order.
    pub fn group(&self) -> Vec<u32> {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut group: Vec<u32> = processes
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| Stat::read(*pid).is_some_and(|stat| stat.group == self.pid()))
            .collect();
        group.sort_unstable();
        group
    }

    /// CPU time that the group's present processes have used, user and system.
    pub fn cpu_time(&self) -> Duration {
        self.group().into_iter().filter_map(Stat::read).map(|stat| stat.cpu).sum()
    }

    /// Resident memory of the group's present processes, bytes; shared pages count in each.
    pub fn resident(&self) -> u64 {
        self.group().into_iter().filter_map(Stat::read).map(|stat| stat.resident).sum()
    }

    fn reap(&mut self) -> Result<ExitStatus> {
        // SAFETY: as in `signal`; the group's id is the child's.
        unsafe { libc::kill(-(self.pid() as i32), libc::SIGKILL) };
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = self.stop();
    }
}

/// What the rig wants of `/proc/PID/stat` (`proc_pid_stat(5)`).
struct Stat {
    state: u8,
    group: u32,
    cpu: Duration,
    resident: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold blanks and parentheses; what follows its last one does not. Fields count from 3 here.
        let rest = text.rsplit_once(") ")?.1;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        // SAFETY: sysconf has no preconditions.
        let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
        Some(Self {
            state: *rest.as_bytes().first()?,
            group: u32::try_from(number(5)?).ok()?,
            cpu: Duration::from_secs_f64((number(14)? + number(15)?) as f64 / ticks as f64),
            resident: number(24)? * page as u64,
        })
    }
}
