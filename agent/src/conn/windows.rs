//! Streams that began before the agent came, and what they refer back to.

use std::collections::{BTreeSet, VecDeque};

use super::{Connection, Connections, Happened, State};
use crate::protocol::{Mark, Unread, websocket::Window};

impl Connections {
    /// Processes that have received something since the last call that cannot be read, and what it wants.
    pub fn unread(&mut self) -> BTreeSet<(u32, Unread)> {
        std::mem::take(&mut self.unread)
    }

    /// A compressed stream of a process refers back to this. Returns whether all of its connections can be read now.
    pub fn window(&mut self, window: &Window<'_>, mark: Mark, out: &mut VecDeque<Happened>) -> bool {
        let is_its_own = |connection: &Connection| {
            connection.descriptors.iter().any(|(pid, _)| *pid == mark.pid)
                || connection.tls.as_ref().and_then(|tls| tls.session).is_some_and(|key| key.0 == mark.pid)
        };
        let (mut waiting, mut fitting) = (0, Vec::new());
        for (socket, connection) in self.by_socket.iter_mut().filter(|(_, known)| is_its_own(known)) {
            if let State::Parsing { parser, .. } = &mut connection.state
                && let Some(late) = parser.windowless()
            {
                waiting += 1;
                fitting.extend(late.awaits(window).then_some(*socket));
            }
        }
        // Whose it is is not known where it might be several's.
        let &[socket] = fitting.as_slice() else { return waiting == 0 };
        if let Some(connection) = self.by_socket.get_mut(&socket)
            && let State::Parsing { parser, .. } = &mut connection.state
            && let Some(late) = parser.windowless()
            && late.resume(window, &mut self.events)
        {
            waiting -= 1;
        }
        self.hand_out(socket, mark.pid, out);
        waiting == 0
    }
}
