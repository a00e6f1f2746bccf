//! Requests of HTTP/2 that tasks send for each other.
//!
//! httpcore's tasks put what they have to say into one buffer and wait for a lock; who has it sends all that is there. What is
//! there first is the sender's own if it has put a request there since anything was sent before: who came earlier has had his
//! turn. Whose the others are, the lock tells. It is had in the order in which it was asked for, which is the order in which
//! requests were put there, and so the order on the wire: the tasks that have the lock with a request, one after the other, are
//! those of the requests, one after the other. Who hands the lock on wakes the next, and its stack at that moment tells whether
//! it had come with a request. Of the last, for whom nobody waits, only the number of requests tells.
//!
//! They are compared whenever there are as many tasks as requests. A task that is cancelled while it waits has put a request there
//! and never has the lock: from then on there are more requests than tasks, and none of them is believed before it is known
//! again that all have had their turn. Under load some are open all the time. Then those are believed that are followed by
//! enough others ([`AGREED`]) of which each was sent only after its task had last been woken: if one were missing, each would be
//! taken for the one before it, and soon one for what was sent while its task still did something else.
//!
//! No parent is better than a wrong one.

#[cfg(test)]
mod tests;

use adder_ebpf::{Header, stacks};

use super::{
    Engine, OperationId,
    context::{Context, ContextId},
    stacks::{StackId, Stacks},
    unit::Shared,
};
use crate::{conn::ConnectionId, protocol::Mark};

/// How long after the last sign that the lock is handed on nobody has it, nanoseconds.
const FREE_AFTER: u64 = 1_000_000_000;
/// How long after its end it may still show whose a request is, nanoseconds.
pub(super) const SHARED_WAIT: u64 = 2 * FREE_AFTER;
/// How many that follow must agree where some are open all the time.
const AGREED: usize = 16;
/// Requests that are kept at most until it is known whose they are.
const REQUESTS_MAX: usize = 4096;

/// With what a task has come to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// With a request of its own.
    WithRequest,
    /// With something else.
    Otherwise,
    /// Its code is not known.
    Unknown,
}

/// What tasks send for each other on a connection.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    pid: u32,
    /// Who has the lock, or had it last.
    holder: ContextId,
    /// When that one was last woken before, or made.
    after: u64,
    /// It is known with what that one has come.
    is_told: bool,
    /// Requests in the order in which they were put there.
    requests: Vec<OperationId>,
    /// Those who have put them, in the order in which they have had the lock.
    turns: Vec<Turn>,
    /// They are all those since a time when none was open.
    is_whole: bool,
    /// Since when every wake-up was seen; 0 where not.
    followed: u64,
    /// When anything was seen of it.
    seen: u64,
    /// The last time that requests were sent, and by whom.
    sent: (u64, ContextId),
}

/// One has had the lock.
#[derive(Clone, Copy, Debug)]
struct Turn {
    context: ContextId,
    /// Where it was.
    stack: StackId,
    /// When it was last woken before by something else, or made: it has put its request there later.
    after: u64,
    /// It has come with a request; else that is not known yet.
    is_sure: bool,
}

impl Sharing {
    fn has_lock(&mut self, context: ContextId, after: u64, time: u64) {
        (self.holder, self.after, self.is_told, self.seen) = (context, after, false, time);
    }

    /// With what who has the lock has come for it.
    fn tells(&mut self, came: Came, stack: StackId) {
        if !std::mem::replace(&mut self.is_told, true) && came != Came::Otherwise {
            let is_sure = came == Came::WithRequest;
            self.turns.push(Turn { context: self.holder, stack, after: self.after, is_sure });
        }
    }

    /// What has become known since of where those were who had the lock.
    fn look_again(&mut self, stacks: &Stacks) {
        self.turns.retain_mut(|turn| {
            let came = if turn.is_sure { Some(Came::WithRequest) } else { stacks.shares_writes(turn.stack) };
            turn.is_sure = came == Some(Came::WithRequest);
            came != Some(Came::Otherwise)
        });
    }

    fn misses(&mut self) {
        (self.is_whole, self.followed) = (false, 0);
    }
}

impl Engine {
    /// A request begins that was sent in this context.
    pub(super) fn shared_begins(&mut self, id: OperationId, first: &Mark, connection: ConnectionId) {
        let Some(came) = self.stacks.shares_writes(first.stack) else {
            // What had no room in the socket's buffer is sent by the loop.
            if let Some(sharing) = self.sharing.get_mut(&connection) {
                sharing.requests.push(id);
                self.is_shared(id, 0);
            } else if !self.is_sent_along(first) {
                self.stub_sends(id, first);
            } else if let Some(operation) = self.operations.get_mut(&id) {
                operation.act.shared = Shared::Closed;
            }
            return;
        };
        self.wants_wakes(first.pid);
        self.want_stacks(first.pid, stacks::WAKES);
        let sharing = self.sharing.entry(connection).or_default();
        sharing.pid = first.pid;
        let (time, sender) = sharing.sent;
        let mut owner = 0;
        if (time, sender) != (first.time, first.context) {
            let is_handed = sharing.holder == first.context && !sharing.is_told;
            if is_handed {
                self.match_turns(connection);
            } else {
                self.lock_is_free(connection, first.time);
            }
            let context = self.contexts.find(first.context);
            let created = context.map_or(0, |context| context.created);
            let after = context.map_or(0, Context::waited_until);
            if came == Came::WithRequest && (sender == first.context || created > time) {
                owner = first.context;
                self.none_is_open(connection, first.time);
            }
            if let Some(sharing) = self.sharing.get_mut(&connection) {
                sharing.sent = (first.time, first.context);
                if !is_handed {
                    sharing.has_lock(first.context, after, first.time);
                }
                sharing.tells(came, first.stack);
            }
        }
        if let Some(sharing) = self.sharing.get_mut(&connection) {
            sharing.requests.push(id);
        }
        self.is_shared(id, owner);
    }

    /// Whether a request is not the first that a thread sends in one call: at most that is its own, the others were there already.
    fn is_sent_along(&mut self, first: &Mark) -> bool {
        let Some(thread) = self.threads.get_mut(&(first.pid, first.tid)) else { return false };
        let (told, begun) = thread.stacks;
        thread.stacks.1 = told;
        told != 0 && told == begun
    }

    fn is_shared(&mut self, id: OperationId, owner: ContextId) {
        if let Some(operation) = self.operations.get_mut(&id) {
            (operation.act.shared, operation.act.woken) = (Shared::Open, owner);
        }
    }

    /// A task wakes another: it may hand on the lock.
    /// `after` is when that one was last woken before, or made.
    pub(super) fn hands_over(&mut self, header: &Header, by: ContextId, child: ContextId, after: u64) {
        if self.sharing.is_empty() || by == 0 {
            return;
        }
        if self.stack != 0
            && let Some(process) = self.processes.get_mut(&header.pid)
        {
            process.wakes_placed.get_or_insert(header.time);
        }
        // It may have had that of another connection before.
        let held = self.sharing.iter_mut().filter(|(_, sharing)| sharing.holder == by);
        let Some((connection, sharing)) = held.max_by_key(|(_, sharing)| sharing.seen) else { return };
        if self.stack == 0 {
            return sharing.misses();
        }
        let connection = *connection;
        let Some(came) = self.stacks.hands_over(self.stack) else { return };
        self.match_turns(connection);
        if let Some(sharing) = self.sharing.get_mut(&connection) {
            sharing.tells(came, self.stack);
            sharing.has_lock(child, after, header.time);
        }
    }

    /// Bytes of a connection were lost: requests may be missing.
    pub(super) fn sharing_misses(&mut self, connection: ConnectionId) {
        if let Some(sharing) = self.sharing.get_mut(&connection) {
            sharing.misses();
        }
    }

    /// Facts were lost: who has had a lock is not known.
    pub(super) fn sharing_is_unclear(&mut self) {
        self.sharing.values_mut().for_each(Sharing::misses);
    }

    /// Decides whose requests those are on connections whose lock nobody has any more, or on all.
    pub(super) fn settle_all_sharing(&mut self, all: bool) {
        let open = self.sharing.iter().filter(|(_, sharing)| !sharing.requests.is_empty());
        let open: Vec<_> = open.map(|(connection, _)| *connection).collect();
        for connection in open {
            self.match_turns(connection);
        }
        let is_over = |sharing: &Sharing| all || sharing.seen + FREE_AFTER < self.now;
        let over =
            self.sharing.iter().filter(|(_, sharing)| !sharing.requests.is_empty() && is_over(sharing));
        let over: Vec<_> = over.map(|(connection, _)| *connection).collect();
        for connection in over {
            self.match_last(connection);
            if let Some(sharing) = self.sharing.get_mut(&connection)
                && !sharing.requests.is_empty()
            {
                sharing.misses();
                self.forget_turns(connection);
            }
        }
    }

    /// Nobody has the lock: whoever had it is done, and all that was put there is sent.
    fn lock_is_free(&mut self, connection: ConnectionId, now: u64) {
        self.match_last(connection);
        let Some(sharing) = self.sharing.get_mut(&connection) else { return };
        let followed = std::mem::replace(&mut sharing.followed, now);
        let pid = sharing.pid;
        if followed != 0 && self.are_wakes_placed(pid, followed) {
            // From one who had the lock to the last, and nobody has handed it on.
            self.none_is_open(connection, now);
        } else {
            self.forget_turns(connection);
        }
    }

    /// Matches them when the last has had its turn.
    fn match_last(&mut self, connection: ConnectionId) {
        let Some(sharing) = self.sharing.get_mut(&connection) else { return };
        sharing.look_again(&self.stacks);
        let untold = (!std::mem::replace(&mut sharing.is_told, true)).then_some(sharing.holder);
        if let Some(last) = untold
            && sharing.turns.len() + 1 == sharing.requests.len()
            && sharing.turns.iter().all(|turn| turn.context != last)
            && !self.has_open_request(connection, last)
            && let Some(sharing) = self.sharing.get_mut(&connection)
        {
            sharing.turns.push(Turn { context: last, stack: 0, after: sharing.after, is_sure: true });
        }
        self.match_turns(connection);
    }

    /// All who have put a request there before have had their turn.
    fn none_is_open(&mut self, connection: ConnectionId, now: u64) {
        self.forget_turns(connection);
        let Some(sharing) = self.sharing.get(&connection) else { return };
        let pid = sharing.pid;
        let is_whole = self.are_wakes_placed(pid, now);
        if let Some(sharing) = self.sharing.get_mut(&connection) {
            sharing.is_whole = is_whole;
        }
    }

    /// Whether wake-ups of a process were seen with their stacks before a time.
    fn are_wakes_placed(&self, pid: u32, time: u64) -> bool {
        let placed = self.processes.get(&pid).and_then(|process| process.wakes_placed);
        placed.is_some_and(|since| since < time)
    }

    /// Whose the requests were that are open is not to be found out.
    fn forget_turns(&mut self, connection: ConnectionId) {
        let Some(sharing) = self.sharing.get_mut(&connection) else { return };
        sharing.is_whole = false;
        sharing.turns.clear();
        for id in std::mem::take(&mut sharing.requests) {
            if let Some(operation) = self.operations.get_mut(&id) {
                operation.act.shared = Shared::Closed;
            }
        }
    }

    /// As many have had the lock with a request as there are requests: each has the one at its place.
    fn match_turns(&mut self, connection: ConnectionId) {
        let Some(sharing) = self.sharing.get_mut(&connection) else { return };
        sharing.look_again(&self.stacks);
        if sharing.requests.len() > REQUESTS_MAX {
            return self.forget_turns(connection);
        }
        let known = sharing.turns.iter().take_while(|turn| turn.is_sure).count();
        let mut pairs = sharing.turns[..known].iter().zip(&sharing.requests);
        let agrees = pairs.all(|(turn, id)| {
            self.operations.get(id).is_none_or(|operation| operation.act.start > turn.after)
        });
        if !agrees {
            sharing.misses();
            return self.forget_turns(connection);
        }
        if !sharing.is_whole {
            return;
        }
        if known == sharing.turns.len() && known == sharing.requests.len() {
            self.match_first(connection, known);
        } else if known >= 2 * AGREED && known <= sharing.requests.len() {
            self.match_first(connection, known - AGREED);
        }
    }

    fn match_first(&mut self, connection: ConnectionId, count: usize) {
        let Some(sharing) = self.sharing.get_mut(&connection) else { return };
        let requests: Vec<_> = sharing.requests.drain(..count).collect();
        let turns: Vec<_> = sharing.turns.drain(..count).collect();
        for (id, turn) in requests.into_iter().zip(turns) {
            self.is_made_by(id, turn.context, turn.stack);
        }
    }

    /// It shows whose a request is, where it was not known.
    pub(super) fn is_made_by(&mut self, id: OperationId, context: ContextId, stack: StackId) {
        let Some(operation) = self.operations.get_mut(&id) else { return };
        let act = &mut operation.act;
        act.shared = Shared::Closed;
        if act.woken == 0 {
            (act.woken, act.stack) = (context, stack);
            let (thread, start) = ((act.pid, act.tid), act.start);
            self.works_on(context, thread, start);
            self.job_moves(id, context);
            self.work_begins(id, context);
        }
    }

    /// Whether a task waits for an answer on a connection: what it sends then is no request.
    fn has_open_request(&self, connection: ConnectionId, context: ContextId) -> bool {
        let open = self.exchanges.get(&connection).into_iter().flat_map(|exchanges| &exchanges.operations);
        let mut open = open.filter_map(|(_, id)| self.operations.get(id));
        open.any(|operation| operation.act.woken == context && operation.end.is_none())
    }
}
