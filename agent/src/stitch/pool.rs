//! Pools of processes: work that one process hands to another through a pipe, as Celery's prefork pool does.
//!
//! The main process of a worker reads the message of a task and writes what it says to the pipe of a free child, the
//! task's id first. So what a child reads from a pipe tells for which delivery it works until it reads the next one.

use adder_ebpf::Header;

use super::{
    Engine,
    context::{Cause, Work},
    unit::UnitId,
};

/// Deliveries remembered at most.
const TASKS_MAX: usize = 65_536;

/// Length of a UUID as text (RFC 9562, section 4).
const UUID: usize = 36;

impl Engine {
    /// A message of a task was received: a process of the pool may be handed it.
    pub(super) fn expect_task(&mut self, id: &str, unit: UnitId) {
        if self.tasks.len() < TASKS_MAX {
            self.tasks.insert(id.to_owned(), unit);
        } else {
            self.counters.unqueued += 1;
        }
    }

    /// A process has read from a pipe.
    pub(super) fn piped(&mut self, header: &Header, head: &[u8]) {
        self.start_is_over(header.pid);
        let Some(id) = first_uuid(head) else { return };
        let unit = self.tasks.get(id).copied();
        let context = self.contexts.at(header.pid, header.context, header.time);
        // An id that is not known ends the work before all the same.
        let cause = unit.map(|unit| Cause { time: header.time, unit: Some(unit), ..Cause::default() });
        let thread = self.thread(header);
        thread.work = Some(Work { cause, context, time: header.time });
        thread.inbound = None;
        if let Some(unit) = unit {
            self.hand_to_process(unit);
        }
    }
}

/// The first UUID in what was read.
fn first_uuid(bytes: &[u8]) -> Option<&str> {
    let is_uuid = |window: &&[u8]| {
        window.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
    };
    bytes.windows(UUID).find(is_uuid).and_then(|window| std::str::from_utf8(window).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_uuid_is_found_wherever_it_stands() {
        let id = "0af76519-16cd-43dd-8448-eb211c80319c";
        for text in [id.to_owned(), format!("\u{1}\u{2}task\u{94}{id}x{id}"), format!("abcdef-{id}-")] {
            assert_eq!(first_uuid(text.as_bytes()), Some(id), "{text:?}");
        }
        for text in
            ["", "0af7651916cd43dd8448eb211c80319c", &id[..35], "0af76519-16cd-43dd-8448-eb211c80319g"]
        {
            assert_eq!(first_uuid(text.as_bytes()), None, "{text:?}");
        }
    }
}
