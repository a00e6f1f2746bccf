//! Streams that began before the agent came, and what they refer back to.

use std::collections::VecDeque;

use super::{Connections, Happened, State};
use crate::protocol::{Mark, websocket::Window};

impl Connections {
    /// Processes that have received something since the last call that cannot be read; true: not yet.
    pub fn windowless(&mut self) -> Vec<(u32, bool)> {
        std::mem::take(&mut self.windowless)
    }

    /// A compressed stream of a process refers back to this: returns whether one of its connections can be read by that.
    pub fn window(&mut self, window: &Window<'_>, mark: Mark, out: &mut VecDeque<Happened>) -> bool {
        let of_process = self.by_socket.iter_mut().filter(|(_, connection)| {
            connection.descriptors.iter().any(|(pid, _)| *pid == mark.pid)
                || connection.tls.as_ref().and_then(|tls| tls.session).is_some_and(|key| key.0 == mark.pid)
        });
        let mut found = None;
        for (socket, connection) in of_process {
            let State::Parsing { parser, .. } = &mut connection.state else { continue };
            let before = self.events.len();
            let is_its_own = parser.window(window, &mut self.events);
            if is_its_own || self.events.len() > before {
                found = Some((*socket, is_its_own));
                break;
            }
        }
        let Some((socket, is_its_own)) = found else { return false };
        self.hand_out(socket, mark.pid, out);
        is_its_own
    }
}
