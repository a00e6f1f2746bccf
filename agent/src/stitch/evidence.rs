//! Evidence: which request a context, a thread or a piece of work belongs to. The rules are in the parent module.

use adder_ebpf::{Header, kind};

use super::{
    Engine,
    context::{Cause, ContextId, Work},
    message::HANDED_OVER,
    unit::UnitId,
};
use crate::{conn::ConnectionId, protocol::Mark};

impl Engine {
    /// A context has come to be out of the current one. `facts` came from this thread before.
    pub(super) fn lineage(&mut self, header: &Header, child: u64, facts: u64) {
        if child == header.context {
            return;
        }
        let parent = self.contexts.at(header.pid, header.context, header.time);
        let child = self.contexts.create(header.pid, child, parent, header.time);
        let is_task = header.kind == kind::TASK;
        let handle = self.contexts.find(parent).filter(|context| !context.is_task && !is_task);
        let called = handle.map_or(0, |context| context.called);
        let stack = self.stack;
        if let Some(context) = self.contexts.find_mut(child) {
            context.made_at = stack;
            context.is_task = is_task;
            // What a handle of the loop has done later is still called by its timer.
            context.called = called;
        }
        if is_task {
            self.thread(header).is_loop = true;
            if let Some(process) = self.processes.get_mut(&header.pid) {
                process.has_tasks = true;
            }
            self.turn_waits_for_others(parent, 1);
            self.task_is_made(parent, child, header.time);
            self.stub_is_made(header, child);
            self.wakes_for_notice(header, parent, child, true);
        }
        let own_work = self.works(header, parent);
        let by_queue = || if own_work { self.by_queue(header) } else { None };
        if let Some(claim) = self.by_thread(header, parent).or_else(by_queue) {
            self.claim(child, claim, false);
            return;
        }
        let owner = if own_work { None } else { self.owner(parent, header.time).map(|(owner, _)| owner) };
        let dispatched = if own_work || !is_task { None } else { self.dispatched(header, parent, owner) };
        let fresh = match dispatched {
            Some((unit, false)) => Some((unit, false)),
            _ => self.fresh(header, parent, facts, owner).or(dispatched),
        };
        if let Some((unit, tentative)) = fresh {
            self.claim(child, unit, tentative);
            self.take_delivered((header.pid, header.tid), unit);
            if let Some(unit) = self.units.get_mut(&unit) {
                unit.claimed_by = child;
            }
        } else if owner.is_none() {
            match self.by_queue(header) {
                Some(unit) => self.claim(child, unit, false),
                None if is_task => self.made_by_timer(header, parent, child),
                None => {}
            }
        }
    }

    pub(super) fn claim(&mut self, context: ContextId, unit: UnitId, tentative: bool) {
        if let Some(context) = self.contexts.find_mut(context) {
            context.claim = Some(unit);
            context.tentative = tentative;
        }
    }

    /// The request that this thread has just read and that nothing has claimed, if a context made out of `parent`,
    /// which belongs to `owner`, can have been made for it; and whether the response has the last word on that.
    fn fresh(
        &self,
        header: &Header,
        parent: ContextId,
        facts: u64,
        owner: Option<UnitId>,
    ) -> Option<(UnitId, bool)> {
        let inbound = self.threads.get(&(header.pid, header.tid))?.inbound?;
        let unit = self.units.get(&inbound.unit)?;
        if unit.claimed_by != 0 || unit.replied.is_some() {
            return None;
        }
        let stale = owner.is_some_and(|owner| self.has_ended(owner));
        let at_once = inbound.facts == facts;
        if inbound.context == parent {
            // uvloop first reads from an encrypted connection in a context that nobody has announced, and which may
            // stand at the address of one whose request is still running.
            let taken = owner.is_some() && !stale && !(inbound.by_loop && at_once);
            return (!taken).then_some((inbound.unit, inbound.by_loop || stale));
        }
        // A loop that has read calls the protocol at once, which may start the task in a context of the connection or in
        // a new empty one (uvicorn). Nobody has announced either, and it may stand at the address of any that was.
        // Nothing of this thread lies between; whether that was chance, the response shows.
        at_once.then_some((inbound.unit, true))
    }

    pub(super) fn has_ended(&self, unit: UnitId) -> bool {
        self.units.get(&unit).is_none_or(|unit| unit.end.is_some())
    }

    /// What a context worked for at some time, and whether that wants the response's confirmation.
    pub(super) fn owner(&self, context: ContextId, time: u64) -> Option<(UnitId, bool)> {
        for (_, context, time) in self.contexts.line(context, time) {
            if let Some(connection) = context.serves
                && let Some(unit) = self.served(connection, time)
            {
                return Some((unit, false));
            }
            if let Some(unit) = context.claim {
                return Some((unit, context.tentative));
            }
        }
        None
    }

    /// The request of a connection that was the last to arrive before `time`.
    fn served(&self, connection: ConnectionId, time: u64) -> Option<UnitId> {
        let served = &self.exchanges.get(&connection)?.served;
        served.iter().rev().find(|(start, _)| *start <= time).map(|(_, unit)| *unit)
    }

    /// What a thread works for because it has read it itself, in this context or when it had none yet.
    pub(super) fn by_thread(&self, header: &Header, context: ContextId) -> Option<UnitId> {
        let inbound = self.threads.get(&(header.pid, header.tid))?.inbound?;
        let own = inbound.context == context || inbound.context == 0;
        (own && !inbound.by_loop).then_some(inbound.unit)
    }

    /// What a thread works for because it has taken it from a queue.
    pub(super) fn by_queue(&self, header: &Header) -> Option<UnitId> {
        self.cause(&self.threads.get(&(header.pid, header.tid))?.work?.cause?)
    }

    /// Whether this thread does a piece of work from a queue, and `context` is its own meanwhile.
    fn works(&self, header: &Header, context: ContextId) -> bool {
        let work = self.threads.get(&(header.pid, header.tid)).and_then(|thread| thread.work);
        work.is_some_and(|work| self.is_of_work(&work, context))
    }

    /// Whether a context is the thread's own while it does a piece of work: the one in which it was taken, or, where
    /// there was none, one that was there before (a copy that the work brought along, or a dead one's address).
    pub(super) fn is_of_work(&self, work: &Work, context: ContextId) -> bool {
        let older = || self.contexts.find(context).is_none_or(|context| context.created < work.time);
        work.context == context || work.context == 0 && older()
    }

    pub(super) fn cause(&self, cause: &Cause) -> Option<UnitId> {
        self.owner(cause.context, cause.time).map(|(unit, _)| unit).or(cause.unit)
    }

    /// The first byte of a response has left: the request that it answers, and what that was claimed by.
    pub(super) fn replied(
        &mut self,
        connection: ConnectionId,
        exchange: u64,
        at: Mark,
    ) -> Option<(UnitId, ContextId)> {
        let exchanges = self.exchanges.get_mut(&connection)?;
        let (_, id) = *exchanges.units.iter().find(|(number, _)| *number == exchange)?;
        exchanges.answered_by = at.context;
        let unit = self.units.get_mut(&id)?;
        unit.replied = Some(at.time);
        if let Some(process) = self.processes.get_mut(&unit.pid) {
            process.open.remove(&id);
        }
        Some((id, unit.claimed_by))
    }

    /// Its context is evidence.
    pub(super) fn reply(&mut self, connection: ConnectionId, exchange: u64, at: Mark, flags: u16) {
        let Some((id, claimed_by)) = self.replied(connection, exchange, at) else { return };
        let header = Header { pid: at.pid, tid: at.tid, ..Header::default() };
        if self.is_late(&at, flags) || at.context == 0 || self.by_queue(&header) == Some(id) {
            return;
        }
        if claimed_by != 0 && self.contexts.descends(at.context, claimed_by) {
            if let Some(context) = self.contexts.find_mut(claimed_by) {
                context.tentative = false;
            }
            return;
        }
        if self.by_thread(&header, at.context) == Some(id) {
            // Who has read it answers; a task that was certainly made for it may still work on it.
            if self.contexts.find(claimed_by).is_some_and(|context| context.tentative) {
                self.refute(id, claimed_by);
            }
            return;
        }
        let owner = self.owner(at.context, at.time).map(|(owner, _)| owner);
        if owner == Some(id) {
            // The task that serves the connection: what seemed to be made for the request was another's.
            self.refute(id, claimed_by);
            return;
        }
        let Some(context) = self.contexts.find_mut(at.context) else { return };
        if context.common || !context.announced && owner.is_none() && claimed_by != 0 {
            // A loop's own context flushes for everybody: no evidence.
            return;
        }
        if !context.announced
            && context.serves.is_none()
            && context.answered.replace(connection) != Some(connection)
        {
            return;
        }
        match context.serves {
            Some(other) if other != connection => {
                context.serves = None;
                context.common = true;
            }
            _ => context.serves = Some(connection),
        }
        // Whatever it was believed to have been made for.
        let refuted = context.claim.take();
        context.tentative = false;
        let announced = context.announced;
        if let Some(unit) = refuted.and_then(|unit| self.units.get_mut(&unit))
            && unit.claimed_by == at.context
        {
            unit.claimed_by = 0;
        }
        // Another context was believed to have been made for this request.
        if claimed_by != at.context && announced {
            self.refute(id, claimed_by);
        }
    }

    /// Takes the claim of a context on a request back; 0 stands for none.
    pub(super) fn refute(&mut self, unit: UnitId, claimed_by: ContextId) {
        if claimed_by == 0 || claimed_by == HANDED_OVER {
            return;
        }
        self.counters.refuted += 1;
        if let Some(context) = self.contexts.find_mut(claimed_by) {
            context.claim = None;
            context.tentative = false;
        }
        if let Some(unit) = self.units.get_mut(&unit) {
            unit.claimed_by = 0;
        }
    }
}
