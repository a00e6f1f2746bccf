//! How the agent shares the processors with what it watches: services go first, as long as it keeps up.
//!
//! What wakes in the agent does not interrupt what runs (`SCHED_BATCH`), and what wakes in a service interrupts the agent, which
//! is nicer (sched(7)). On a machine that is busy all the time that would leave it too little: the ring buffer would run over. So
//! for as long as the agent is kept waiting it takes the same share as everybody.

use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

/// The nice value of an agent that keeps up: a tenth of the weight of others (`sched_prio_to_weight` in kernel/sched/core.c), and twice
/// what it needs.
const NICE: i32 = 10;
/// A turn that was kept waiting longer than this, beside its own pause, came too late.
const LATE: Duration = Duration::from_millis(100);
/// How long the agent is not nice after that, at least and at most.
const HOLD: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(640)];

/// When to be nice.
#[derive(Debug)]
struct Manners {
    is_nice: bool,
    /// When that has changed, or was found right again.
    since: Instant,
    hold: Duration,
}

impl Manners {
    fn new(now: Instant) -> Self {
        Self { is_nice: true, since: now, hold: HOLD[0] }
    }

    /// After a turn: whether the agent is to be nice from now on, where that changes.
    fn after_turn(&mut self, now: Instant, is_late: bool) -> Option<bool> {
        let passed = now.saturating_duration_since(self.since);
        if self.is_nice && is_late {
            // It was not long ago that there was not enough for all.
            self.hold = if passed < self.hold { (self.hold * 2).min(HOLD[1]) } else { HOLD[0] };
        } else if !self.is_nice && is_late {
            self.since = now;
            return None;
        } else if self.is_nice || passed < self.hold {
            return None;
        }
        (self.is_nice, self.since) = (!self.is_nice, now);
        Some(self.is_nice)
    }
}

/// The priority of all threads of the agent.
#[derive(Debug)]
pub(super) struct Priority {
    /// `None` where the agent may not take back what it gives.
    manners: Option<Manners>,
    /// When the last turn was over, and how much of the processor this thread had used.
    last: Option<(Instant, Duration)>,
}

impl Priority {
    /// Gives way. Threads that start later inherit it. A policy or a nice value that somebody has chosen for the agent is kept; that it is
    /// refused costs little.
    pub(super) fn begin() -> Self {
        let parameter = libc::sched_param { sched_priority: 0 };
        // SAFETY: plain system calls, with a value that lives until they are over.
        let is_plain = unsafe {
            let is_plain = libc::sched_getscheduler(0) == libc::SCHED_OTHER
                && libc::getpriority(libc::PRIO_PROCESS, 0) == 0;
            if is_plain {
                libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter);
            }
            is_plain
        };
        // Tried by a thread that ends.
        let tried = thread::spawn(|| set(0, 1).and_then(|()| set(0, 0)).is_ok());
        let may = is_plain && tried.join().unwrap_or(false);
        if may {
            set_all(NICE);
        }
        Self { manners: may.then(|| Manners::new(Instant::now())), last: None }
    }

    /// After each turn, which pauses for up to this time.
    pub(super) fn after_turn(&mut self, pause: Duration) {
        let Some(manners) = &mut self.manners else { return };
        let (now, used) = (Instant::now(), used());
        let Some((before, used_before)) = self.last.replace((now, used)) else { return };
        let waited = (now - before).saturating_sub(used.saturating_sub(used_before));
        if let Some(is_nice) = manners.after_turn(now, waited > pause + LATE) {
            tracing::debug!(is_nice, ?waited, "priority");
            set_all(if is_nice { NICE } else { 0 });
        }
    }
}

/// Processor time that this thread has used.
fn used() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Sets the nice value of one thread, 0 for this one.
fn set(tid: u32, nice: i32) -> io::Result<()> {
    // SAFETY: plain system call.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, tid, nice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets that of all threads.
fn set_all(nice: i32) {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    for tid in tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()) {
        // A thread may have ended meanwhile.
        let _ = set(tid, nice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_nice_until_it_is_kept_waiting() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut manners = Manners::new(start);
        assert_eq!(manners.after_turn(at(30), false), None);
        assert_eq!(manners.after_turn(at(60), true), Some(false), "late");
        assert_eq!(manners.after_turn(at(61), false), None, "not at once");
        assert_eq!(manners.after_turn(at(65), true), None, "late although it is not nice");
        assert_eq!(manners.after_turn(at(74), false), None);
        assert_eq!(manners.after_turn(at(75), false), Some(true));
        // Too early, as it turns out: twice as long.
        assert_eq!(manners.after_turn(at(80), true), Some(false));
        assert_eq!(manners.after_turn(at(99), false), None);
        assert_eq!(manners.after_turn(at(100), false), Some(true));
        // Long after.
        assert_eq!(manners.after_turn(at(200), true), Some(false));
        assert_eq!(manners.after_turn(at(210), false), Some(true));
    }

    #[test]
    fn on_a_machine_that_is_always_full_it_tries_seldom() {
        let mut now = Instant::now();
        let mut manners = Manners::new(now);
        let mut tries = 0;
        for _ in 0..36_000 {
            now += Duration::from_millis(100);
            let is_nice = manners.is_nice;
            tries += u32::from(manners.after_turn(now, is_nice) == Some(true));
        }
        assert!((5..=12).contains(&tries), "{tries} in an hour");
    }
}
