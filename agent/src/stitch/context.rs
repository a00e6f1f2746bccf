//! Python contexts and threads: who does what because of whom.
//!
//! A context is known by its address, and addresses are reused at once: each task creation and each copy that the
//! kernel side reports begins a new generation. Contexts that nobody announces (uvloop makes one per connection,
//! asyncio one per handle) may stand at the address of a dead one; the rules in the parent module allow for that.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{
    DEPTH_MAX, HOLD_MAX,
    consumer::Consumer,
    job::{Files, Trigger, Turn},
    message::Delivered,
    received::{Reading, Received},
    stacks::StackId,
    unit::{OperationId, UnitId},
    writer::Sent,
};
use crate::conn::ConnectionId;

/// Contexts kept at most; beyond it those longest unused are forgotten.
const CONTEXTS_MAX: usize = 200_000;
/// How long a context whose address was given to another is kept for what it has done, of which the owner is found within
/// [`HOLD_MAX`], nanoseconds.
const REPLACED_KEPT: u64 = 2 * HOLD_MAX;

/// Number of one generation of a context; 0 means that there was none.
pub(super) type ContextId = u32;

/// What is known of a context.
#[derive(Clone, Debug)]
pub(super) struct Context {
    /// Context out of which it came.
    pub(super) parent: ContextId,
    /// When it was made, or first seen.
    pub(super) created: u64,
    /// Where in the code the task was made whose it is.
    pub(super) made_at: StackId,
    /// Its creation was seen.
    pub(super) announced: bool,
    /// It is a task's.
    pub(super) is_task: bool,
    /// When a timer of the loop has called in it.
    pub(super) called: u64,
    /// The inbound request that it was made for.
    pub(super) claim: Option<UnitId>,
    /// The claim stands against an older owner (see [`super::Engine`]) and wants the response's confirmation.
    pub(super) tentative: bool,
    /// The connection whose requests it serves one after the other, by the evidence of a response.
    pub(super) serves: Option<ConnectionId>,
    /// The connection on which it has answered once, where nobody has announced it: the task of one request does that
    /// too, and its address may be another's soon.
    pub(super) answered: Option<ConnectionId>,
    /// It has answered on several connections, or reads for all of them: it belongs to none.
    pub(super) common: bool,
    /// What it has sent last, of which a wake-up may tell who is behind it.
    pub(super) sent: Option<Box<Sent>>,
    /// Where it sends for others, whom it wakes when it has.
    pub(super) writer: Option<ConnectionId>,
    /// It reads or settles deliveries.
    pub(super) consumer: Option<Box<Consumer>>,
    /// The messages that it handles without acknowledging them.
    pub(super) received: Option<Box<Received>>,
    /// What it does since its last wait ran out, if it is a task.
    pub(super) turn: Option<Box<Turn>>,
    /// Its address now belongs to another.
    replaced: bool,
    last: u64,
}

/// All contexts.
#[derive(Default)]
pub(super) struct Contexts {
    by_address: FxHashMap<(u32, u64), ContextId>,
    all: FxHashMap<ContextId, Context>,
    next: ContextId,
}

impl Contexts {
    /// The context at this address now.
    pub(super) fn at(&mut self, pid: u32, address: u64, time: u64) -> ContextId {
        if address == 0 {
            return 0;
        }
        if let Some(id) = self.by_address.get(&(pid, address))
            && let Some(context) = self.all.get_mut(id)
        {
            context.last = time;
            return *id;
        }
        self.insert(pid, address, 0, time, false)
    }

    /// The context at this address now, of which nothing is heard by that.
    pub(super) fn known_at(&mut self, pid: u32, address: u64, time: u64) -> ContextId {
        match self.find_at(pid, address) {
            0 => self.at(pid, address, time),
            known => known,
        }
    }

    /// The context at this address, if any is known; 0 else.
    pub(super) fn find_at(&self, pid: u32, address: u64) -> ContextId {
        self.by_address
            .get(&(pid, address))
            .copied()
            .filter(|id| self.all.contains_key(id))
            .unwrap_or_default()
    }

    /// When the context at this address was last heard of.
    pub(super) fn active(&self, pid: u32, address: u64) -> u64 {
        let found = self.by_address.get(&(pid, address)).and_then(|id| self.all.get(id));
        found.map_or(0, |context| context.last)
    }

    /// A new context has come to be at this address.
    pub(super) fn create(&mut self, pid: u32, address: u64, parent: ContextId, time: u64) -> ContextId {
        self.insert(pid, address, parent, time, true)
    }

    /// What is at this address now belongs to nothing that was there before.
    pub(super) fn renew(&mut self, pid: u32, address: u64, time: u64) {
        if address != 0 {
            self.insert(pid, address, 0, time, false);
        }
    }

    fn insert(&mut self, pid: u32, address: u64, parent: ContextId, time: u64, announced: bool) -> ContextId {
        self.next = self.next.wrapping_add(1).max(1);
        let id = self.next;
        if let Some(before) = self.by_address.insert((pid, address), id)
            && let Some(before) = self.all.get_mut(&before)
        {
            before.replaced = true;
        }
        let context = Context {
            parent,
            made_at: 0,
            created: time,
            announced,
            is_task: false,
            called: 0,
            claim: None,
            tentative: false,
            serves: None,
            answered: None,
            common: false,
            sent: None,
            writer: None,
            consumer: None,
            received: None,
            turn: None,
            replaced: false,
            last: time,
        };
        self.all.insert(id, context);
        id
    }

    pub(super) fn find(&self, id: ContextId) -> Option<&Context> {
        self.all.get(&id)
    }

    pub(super) fn find_mut(&mut self, id: ContextId) -> Option<&mut Context> {
        self.all.get_mut(&id)
    }

    /// A context at some time, the one out of which it came at the time when it did, and so on.
    pub(super) fn line(&self, id: ContextId, time: u64) -> impl Iterator<Item = (ContextId, &Context, u64)> {
        let mut next = (id, time);
        (0..DEPTH_MAX).map_while(move |_| {
            let (id, time) = next;
            let context = self.all.get(&id)?;
            next = (context.parent, context.created);
            Some((id, context, time))
        })
    }

    /// Whether `ancestor` is `id` or one of the contexts out of which it came.
    pub(super) fn descends(&self, id: ContextId, ancestor: ContextId) -> bool {
        id == ancestor || self.line(id, 0).any(|(_, context, _)| context.parent == ancestor)
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Forgets what can no longer matter; returns how many went only because there were too many. `held` are those behind
    /// work that waits in a queue, or that a thread does.
    pub(super) fn sweep(&mut self, now: u64, held: &[ContextId]) -> u64 {
        let mut forgotten = 0;
        let matters = |context: &Context| !context.replaced || context.last + REPLACED_KEPT > now;
        // Those out of which one came that still matters: it may live much longer, and work for the same request.
        let mut needed = FxHashSet::default();
        let living = self.all.values().filter(|context| matters(context)).map(|context| context.parent);
        for mut parent in living.chain(held.iter().copied()) {
            for _ in 0..DEPTH_MAX {
                let Some(outer) = self.all.get(&parent).filter(|outer| !matters(outer)) else { break };
                if !needed.insert(parent) {
                    break;
                }
                parent = outer.parent;
            }
        }
        self.all.retain(|id, context| matters(context) || needed.contains(id));
        if self.all.len() > CONTEXTS_MAX {
            let mut ages: Vec<(u64, ContextId)> =
                self.all.iter().map(|(id, context)| (context.last, *id)).collect();
            ages.sort_unstable();
            for (_, id) in ages.into_iter().take(CONTEXTS_MAX / 4) {
                self.all.remove(&id);
                forgotten += 1;
            }
        }
        let all = &self.all;
        self.by_address.retain(|_, id| all.contains_key(id));
        forgotten
    }

    /// Forgets the contexts of a process.
    pub(super) fn exit(&mut self, pid: u32) {
        let all = &mut self.all;
        self.by_address.retain(|key, id| {
            let keep = key.0 != pid;
            if !keep && let Some(context) = all.get_mut(id) {
                context.replaced = true;
            }
            keep
        });
    }
}

/// The request that a thread has last read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inbound {
    /// The request.
    pub(super) unit: UnitId,
    /// Context in which it was read.
    pub(super) context: ContextId,
    /// Read by the event loop for whoever it concerns (uvloop), not by the code that handles it.
    pub(super) by_loop: bool,
    /// [`Thread::facts`] when it was read.
    pub(super) facts: u64,
}

/// Who is behind a piece of work that went through a queue, noted when it was put there.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cause {
    /// Context of whoever put it.
    pub(super) context: ContextId,
    /// When.
    pub(super) time: u64,
    /// What the thread of whoever put it was serving by the rule for threads.
    pub(super) unit: Option<UnitId>,
    /// Why it was put, where nothing else is behind it: it will be a job of its own.
    pub(super) turns: Option<Trigger>,
    /// The thread that has put it.
    pub(super) by: (u32, u32),
    /// Its number; 0 for what no thread of Python has put.
    pub(super) number: u64,
}

/// A piece of work that a thread took from a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Who is behind it; `None` where its way into the queue was not seen.
    pub(super) cause: Option<Cause>,
    /// Context in which it was taken: the thread's own, 0 where it had none yet.
    pub(super) context: ContextId,
    /// When it was taken.
    pub(super) time: u64,
}

/// What is known of a thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Thread {
    /// The request it has last read.
    pub(super) inbound: Option<Inbound>,
    /// The piece of work that it took from a queue.
    pub(super) work: Option<Work>,
    /// Deliveries that it has read and that nothing has taken yet.
    pub(super) delivered: VecDeque<Delivered>,
    /// It reads or settles deliveries in no context.
    pub(super) consumer: Option<Box<Consumer>>,
    /// The operations that what it has read last answers, and the context in which it was read.
    pub(super) answered: (ContextId, Vec<OperationId>),
    /// The message that it has just read, which nobody will acknowledge.
    pub(super) reading: Option<Reading>,
    /// [`Thread::facts`] when it has read last.
    pub(super) read_at: u64,
    /// How often it has read.
    pub(super) reads: u64,
    /// It runs an event loop.
    pub(super) is_loop: bool,
    /// The socket that it is writing to, with nothing between, and how many messages and settlements it has written so.
    pub(super) flush: (u64, u32),
    /// How many bytes it has read last at a time.
    pub(super) read: u64,
    /// Such messages that it handles in no context.
    pub(super) received: Option<Box<Received>>,
    /// What it does since its last wait ran out.
    pub(super) turn: Option<Turn>,
    /// Files that it has read from.
    pub(super) files: Files,
    /// The context in which somebody was woken right after it has read.
    pub(super) read_for: ContextId,
    /// [`Thread::facts`] when its last wait ran out, and when that was.
    pub(super) timed: u64,
    pub(super) timed_at: u64,
    /// When the wait of its loop was last interrupted.
    pub(super) signalled: u64,
    /// Time from the fact before to its last one, nanoseconds.
    pub(super) rested: u64,
    /// Where it makes its next fact, and when that was told; a task's is told where it is made.
    pub(super) stack: StackId,
    pub(super) stack_at: u64,
    /// For which stream of HTTP/2 it is there: the object that stands for the connection, and the number.
    pub(super) stream: Option<(u64, u32)>,
    /// How often that was told, and how often when it has last begun a stream of HTTP/2.
    pub(super) stacks: (u64, u64),
    /// How many facts came from it.
    pub(super) facts: u64,
    /// When it was last heard of.
    pub(super) last: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 7;
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_a_living_context_came_out_of_is_kept() {
        let mut contexts = Contexts::default();
        let request = contexts.create(PID, 16, 0, SECOND);
        let handler = contexts.create(PID, 32, request, SECOND);
        let background = contexts.create(PID, 48, handler, SECOND);
        let other = contexts.create(PID, 64, request, SECOND);
        for address in [16, 32, 64] {
            contexts.renew(PID, address, 2 * SECOND);
        }
        contexts.sweep(3 * SECOND, &[]);
        assert!(contexts.find(other).is_some(), "what it has done may not be settled yet");
        contexts.sweep(3600 * SECOND, &[other]);
        assert!(contexts.find(other).is_some(), "work waits that it has given away");
        contexts.sweep(3600 * SECOND, &[]);
        assert!(contexts.find(other).is_none());
        assert!(contexts.descends(background, request));
        contexts.renew(PID, 48, 3601 * SECOND);
        contexts.sweep(7200 * SECOND, &[]);
        assert!(contexts.find(request).is_none() && contexts.find(background).is_none());
    }
}
