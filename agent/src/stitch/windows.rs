//! Streams that cannot be read: of those that began before the agent came it is wanted what they refer back to.

use adder_ebpf::flag;

use super::{Engine, Need};
use crate::protocol::{Unread, websocket::Window};

/// How long after the last message that cannot be read windows are wanted, nanoseconds: longer than the gateway's heartbeats are apart.
const WANTED: u64 = 90_000_000_000;

impl Engine {
    /// Notes which processes have received something that cannot be read.
    pub(super) fn note_unread(&mut self) {
        for (pid, want) in self.connections.unread() {
            let need = match want {
                Unread::Window => Need::Windows,
                Unread::Reconnect => Need::Reconnect,
                Unread::Encoding => Need::Encoding,
            };
            self.needs_more(pid, need);
            if want == Unread::Window
                && let Some(process) = self.processes.get_mut(&pid)
            {
                process.windowless = self.now;
            }
        }
    }

    /// Whether something that a process receives cannot be read without what it refers back to.
    pub fn wants_windows(&self, pid: u32) -> bool {
        let since = self.processes.get(&pid).map_or(0, |process| process.windowless);
        since != 0 && since + WANTED > self.now
    }

    /// What a compressed stream of a process refers back to.
    pub(super) fn has_window(&mut self, window: &adder_ebpf::Window, circle: &[u8]) {
        let mark = self.mark(&window.header);
        let is_read = Window::of(window, circle)
            .is_some_and(|window| self.connections.window(&window, mark, &mut self.happened));
        if is_read && let Some(process) = self.processes.get_mut(&mark.pid) {
            process.windowless = 0;
        }
        self.handle(flag::DETACHED);
    }
}
