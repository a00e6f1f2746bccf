//! How the agent shares the processors with the services.

use std::{io, mem};

/// How long the agent asks to run in one go, nanoseconds: several times what the scheduler gives others (`base_slice`, 3 ms and less), and
/// little enough that who was there before does not wait long for an agent that has much to do.
const SLICE: u64 = 20_000_000;

/// Lets the services run first, on all threads that start later, too. What wakes in the agent does not interrupt what runs
/// (`SCHED_BATCH`, sched(7)), and what wakes in a service interrupts the agent: from Linux 6.12 on a task that wakes goes before one that has
/// asked for longer slices (`PREEMPT_SHORT` in kernel/sched/features.h), from another control group too, unless the agent shares its own
/// with others. An older kernel does not look at what was asked. The agent's share of the processors stays the same, so that it keeps up
/// where there is no end of work.
///
/// A policy that somebody has chosen for it is kept. That this is refused costs little.
pub(super) fn give_way() {
    let Ok(mut attributes) = attributes() else { return };
    if attributes.sched_policy == libc::SCHED_OTHER as u32 {
        attributes.sched_policy = libc::SCHED_BATCH as u32;
        attributes.sched_runtime = SLICE;
        // SAFETY: a valid structure that says its own size.
        unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    }
}

/// How this thread is scheduled (`sched_getattr(2)`).
fn attributes() -> io::Result<libc::sched_attr> {
    // SAFETY: a structure of integers.
    let mut attributes: libc::sched_attr = unsafe { mem::zeroed() };
    let size = size_of_val(&attributes);
    // SAFETY: room for as much as is said.
    match unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) } {
        0 => Ok(attributes),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn threads_that_start_later_give_way_too() {
        // On a thread of its own, for the others of the tests stay as they are.
        let of_a_child = thread::spawn(|| {
            let before = attributes().expect("how a thread is scheduled");
            give_way();
            let later = thread::spawn(attributes).join().expect("a thread").expect("how it is scheduled");
            (before, later)
        });
        let (before, later) = of_a_child.join().expect("a thread");
        assert_eq!(later.sched_policy, libc::SCHED_BATCH as u32);
        assert_eq!(later.sched_nice, before.sched_nice);
        // Linux says so from 6.12 on, and 0 before.
        assert!([0, SLICE].contains(&later.sched_runtime), "{} ns", later.sched_runtime);
    }
}
