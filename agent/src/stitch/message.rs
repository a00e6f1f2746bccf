//! Messages: who published what, what a delivery is the other side of, and who handles it.
//!
//! A delivery is a unit of work. Whose work it is, evidence tells, strongest first:
//!
//! 1. *Settling.* Whoever acknowledges delivery n handles it. Where the acknowledgement leaves through a task that
//!    writes for all (aiormq), it is whoever that task wakes right after the bytes have left. A context or thread that
//!    settles one delivery after the other (a queue iterator, pika's callbacks) works, between two settlements, for the
//!    later one.
//! 2. *Dispatch.* The tasks that a connection's reader makes are for its deliveries, in their order: a guess until
//!    an acknowledgement shows which context is that reader.
//! 3. *Reading.* Who reads frame by frame (py-amqp: a head of seven bytes, the payload, the end mark) holds nothing back:
//!    until it reads the next delivery it works for this one, whenever it acknowledges.
//! 4. *Handing over.* What the reading thread puts into a work queue, or starts as a thread, is for the first delivery
//!    that it has not handed over yet.
//!
//! The same wake-ups tell who is behind a publish that the writing task sends, and behind small writes that uvloop up
//! to 0.22 does when all tasks have run.

use super::{
    Engine, Need,
    behind::Left,
    consumer::Consumer,
    context::{Cause, Context, ContextId},
    notice::{Publisher, Waiting},
    origin::Origin,
    unit::UnitId,
    writer::Sent,
};
use crate::{
    conn::{ConnectionId, Happened, Protocol},
    protocol::{Detail, Event, Mark, amqp},
};
use adder_ebpf::Header;

/// Deliveries that a thread has read and nobody has taken yet, remembered at most.
const DELIVERED_MAX: usize = 4096;
/// How long after its last sign of life the work for a delivery that is not settled at all is over, nanoseconds.
const QUIET: u64 = 1_000_000_000;

/// How long a delivery is waited for whose consumer may not acknowledge at all, nanoseconds.
const UNSETTLED: u64 = 2_000_000_000;
/// Times of doubt that are remembered.
const DOUBTED_MAX: usize = 64;
/// How long nothing must have come for all deliveries to be done with, nanoseconds.
const DONE: u64 = 100_000_000;

/// [`super::Unit::claimed_by`] of a delivery that was handed to another thread.
pub(super) const HANDED_OVER: ContextId = ContextId::MAX;

/// A delivery that a thread has read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivered {
    unit: UnitId,
    connection: ConnectionId,
    channel: u16,
    /// Context in which it was read.
    context: ContextId,
    /// [`super::Thread::reads`] when it was read.
    reads: u64,
}

/// What only deliveries have.
pub(super) struct Delivery {
    pub(super) connection: ConnectionId,
    channel: u16,
    /// The publish behind it, as far as it was looked for.
    pub(super) origin: Origin,
    outcome: Option<amqp::Outcome>,
    /// Who reads it has read nothing beyond it.
    exact: bool,
    /// Another process works for it, whatever becomes of its acknowledgement.
    by_process: bool,
    /// When something was last done for it.
    pub(super) last: u64,
}

impl Delivery {
    /// Whether the publish behind it has been looked for.
    pub(super) fn is_placed(&self) -> bool {
        self.origin != Origin::Unknown
    }

    /// Whether its work may go on after it was settled.
    pub(super) fn outlives(&self) -> bool {
        self.by_process || self.exact || self.outcome == Some(amqp::Outcome::Auto)
    }

    /// How it was settled.
    pub(super) fn outcome(&self) -> Option<amqp::Outcome> {
        self.outcome
    }
}

impl Engine {
    /// What a thread puts into a queue, or starts as another thread, is for this.
    pub(super) fn origin_of_work(&mut self, header: &Header, context: ContextId) -> Option<UnitId> {
        if let Some(unit) = self.by_thread(header, context) {
            return Some(unit);
        }
        let owned = self.owner(context, header.time).is_some();
        if owned {
            return None;
        }
        let at_hand = self.noticed(context, (header.pid, header.tid), header.time);
        let at_hand = at_hand.filter(|unit| {
            self.units.get(unit).is_some_and(|unit| unit.notice.is_some() || unit.claimed_by == 0)
        });
        if let Some(unit) = at_hand {
            self.hand_over(unit);
        }
        at_hand.or_else(|| self.handed_over(header, context))
    }

    /// Who is behind a piece of work that a thread puts into a queue, or starts a thread for.
    pub(super) fn cause_of_work(&mut self, header: &Header, context: ContextId) -> Cause {
        let unit = self.origin_of_work(header, context);
        let thread = (header.pid, header.tid);
        let (job, turns) = if self.calls.hands_out(thread) {
            (None, None)
        } else if unit.is_none() && self.owner(context, header.time).is_none() {
            self.job_behind(header, context)
        } else {
            (None, None)
        };
        let number = self.number();
        Cause { context, time: header.time, unit: unit.or(job), turns, by: thread, number }
    }

    /// What would help to see in processes besides, since the last call.
    pub fn needs(&mut self) -> Vec<(u32, Need)> {
        for (protocol, pid) in self.connections.found() {
            let Some(process) = self.processes.get_mut(&pid) else { continue };
            process.has_amqp |= protocol == Protocol::Amqp;
            if matches!(protocol, Protocol::Amqp | Protocol::WebSocket) {
                self.needs_more(pid, Need::Wakes);
            }
        }
        self.note_unread();
        std::mem::take(&mut self.needed)
    }

    /// Whether a process has had connections that speak AMQP: where frames begin in what goes through them tells which
    /// bytes of it matter.
    pub fn has_amqp(&self, pid: u32) -> bool {
        self.processes.get(&pid).is_some_and(|process| process.has_amqp)
    }

    /// It would help to see that in a process.
    pub(super) fn needs_more(&mut self, pid: u32, need: Need) {
        if let Some(process) = self.processes.get_mut(&pid)
            && !process.needed.contains(&need)
        {
            process.needed.push(need);
            self.needed.push((pid, need));
        }
    }

    /// A message has been sent completely.
    pub(super) fn published(
        &mut self,
        connection: ConnectionId,
        exchange: u64,
        message: &amqp::Message,
        at: Mark,
    ) {
        if let Some(operation) = self.operation_of(connection, exchange) {
            self.publishes.insert_once(operation, message, at.time);
        }
    }

    /// A message was delivered: a unit of work begins.
    pub(super) fn begin_delivery(&mut self, happened: Happened) {
        let Event::Delivery { delivery, first, at, detail } = happened.event else { return };
        let Detail::Amqp(message) = &detail else { return };
        self.is_asked((at.pid, at.tid));
        let id = UnitId(self.number());
        let channel = message.channel;
        let connection = happened.connection;
        if let Some(task) = &message.task {
            self.expect_task(&task.id, id);
        }
        if message.no_ack.is_none() {
            self.unsettled.push_back(id);
        }
        let mut unit = self.unit(&at, first.time, happened.endpoints);
        unit.remote = message.incoming.as_deref().and_then(super::RemoteParent::parse);
        unit.delivery = Some(Box::new(Delivery {
            connection,
            channel,
            origin: Origin::Unknown,
            outcome: None,
            exact: false,
            by_process: false,
            last: at.time,
        }));
        unit.detail = Some(detail);
        self.units.insert(id, unit);
        if let Some(process) = self.processes.get_mut(&at.pid) {
            process.open.insert(id, first.time);
        }
        let exchanges = self.exchanges.entry(connection).or_default();
        if exchanges.deliveries.is_empty() && exchanges.delivered + DONE < at.time {
            let over = exchanges.doubted.take_if(|_| exchanges.lost + DONE < at.time);
            exchanges.were_doubted.extend(over.map(|since| (since, at.time)));
            if exchanges.were_doubted.len() > DOUBTED_MAX {
                exchanges.were_doubted.pop_front();
            }
        }
        exchanges.deliveries.push_back((delivery, id));
        exchanges.delivered = at.time;
        self.unoriginated.push_back(Waiting { unit: id, time: first.time, publisher: Publisher::Amqp });
        let thread = self.threads.entry((at.pid, at.tid)).or_default();
        // The end mark of a frame is read by itself.
        let exact = thread.read == 1;
        if at.context == 0 && !exact {
            // Who reads handles it, where there are no contexts that could tell more.
            thread.consumer.get_or_insert_with(|| Box::new(Consumer::new(connection))).connection =
                connection;
        }
        thread.delivered.push_back(Delivered {
            unit: id,
            connection,
            channel,
            context: at.context,
            reads: thread.reads,
        });
        if thread.delivered.len() > DELIVERED_MAX {
            thread.delivered.pop_front();
        }
        if exact {
            if let Some(delivery) = self.units.get_mut(&id).and_then(|unit| unit.delivery.as_mut()) {
                delivery.exact = true;
            }
            self.receive(at.context, (at.pid, at.tid), at.time, Some(id));
        }
    }

    /// A delivery was acknowledged or refused.
    pub(super) fn settle(
        &mut self,
        connection: ConnectionId,
        delivery: u64,
        at: Mark,
        outcome: amqp::Outcome,
    ) {
        let is_lost = matches!(outcome, amqp::Outcome::Lost | amqp::Outcome::Cut { .. });
        let is_word = !is_lost && outcome != amqp::Outcome::Auto;
        if let Some(exchanges) = self.exchanges.get_mut(&connection) {
            exchanges.acknowledges |= is_word;
        }
        let Some(id) = self.is_settled(connection, delivery, at, outcome) else { return };
        if !is_word {
            // A guess that no acknowledgement will confirm any more is none.
            let claimed_by = self.units.get(&id).map_or(0, |unit| unit.claimed_by);
            let guess = self.contexts.find(claimed_by).is_some_and(|context| context.tentative);
            if guess && is_lost {
                self.refute(id, claimed_by);
            }
            return;
        }
        if self.is_left_behind(connection, &at, Left::Settled(id, at)) || self.is_flushed_along(&at) {
            return;
        }
        let facts = self.facts_of((at.pid, at.tid));
        if let Some(context) = self.contexts.find_mut(at.context) {
            match &mut context.sent {
                Some(sent) if sent.facts == facts && sent.tid == at.tid => sent.settled.push(id),
                sent => {
                    let (tid, settled) = (at.tid, vec![id]);
                    *sent = Some(Box::new(Sent { tid, connection, facts, operation: None, settled }));
                }
            }
            if context.writer.is_some() {
                // Whom it wakes will tell.
                return;
            }
        }
        self.settled_by(&at, at.context, id);
    }

    /// The work for a delivery is over.
    fn is_settled(
        &mut self,
        connection: ConnectionId,
        delivery: u64,
        at: Mark,
        outcome: amqp::Outcome,
    ) -> Option<UnitId> {
        let exchanges = self.exchanges.get_mut(&connection)?;
        let place = exchanges.deliveries.iter().position(|(number, _)| *number == delivery)?;
        let (_, id) = exchanges.deliveries.remove(place)?;
        let unit = self.units.get_mut(&id)?;
        unit.replied = Some(at.time);
        if let Some(delivery) = &mut unit.delivery {
            delivery.outcome = Some(outcome);
        }
        self.finish_unit(id, at.time);
        self.take_delivered((at.pid, at.tid), id);
        Some(id)
    }

    /// A delivery was settled for a task that has asked another to send that.
    pub(super) fn settled_for(&mut self, at: &Mark, child: ContextId, unit: UnitId) {
        self.settled_by(&Mark { context: child, stack: 0, ..*at }, child, unit);
        if let Some(consumer) = self.contexts.find_mut(child).and_then(|context| context.consumer.as_mut()) {
            consumer.is_task = true;
        }
    }

    /// Whether something leaves behind something else in one flush of an event loop's thread: pika's asyncio connection
    /// writes all that has gathered in the context of whoever came first, so that context tells only of the first.
    pub(super) fn is_flushed_along(&mut self, at: &Mark) -> bool {
        let Some(thread) = self.threads.get_mut(&(at.pid, at.tid)) else { return false };
        thread.flush.1 += 1;
        let follows = thread.is_loop && thread.flush.1 > 1;
        if thread.is_loop && self.stacks.flushes(at.stack) {
            self.needs_more(at.pid, Need::Buffers);
        }
        follows && self.contexts.find(at.context).is_some_and(|context| context.writer.is_none())
    }

    /// Deliveries to consumers that are older than the agent and acknowledge nothing need no acknowledgement.
    pub(super) fn settle_unsettled(&mut self) {
        while let Some(id) = self.unsettled.front().copied() {
            let unit = self.units.get(&id).filter(|unit| unit.end.is_none());
            let open = unit.and_then(|unit| Some((unit.pid, unit.delivery.as_deref()?)));
            let found = open.and_then(|(pid, delivery)| {
                let exchanges = self.exchanges.get(&delivery.connection).filter(|all| !all.acknowledges)?;
                let number = exchanges.deliveries.iter().find(|(_, unit)| *unit == id)?.0;
                Some((
                    delivery.connection,
                    number,
                    Mark { time: delivery.last, pid, tid: 0, ..Mark::default() },
                ))
            });
            if let Some((connection, number, at)) = found {
                if at.time + UNSETTLED > self.now {
                    return;
                }
                self.settle(connection, number, at, amqp::Outcome::Auto);
            }
            self.unsettled.pop_front();
        }
    }

    /// A context (or, where there is none, a thread) has settled a delivery.
    fn settled_by(&mut self, at: &Mark, context: ContextId, id: UnitId) {
        let Some(unit) = self.units.get(&id) else { return };
        let (start, claimed_by, Some(delivery)) = (unit.start, unit.claimed_by, &unit.delivery) else {
            return;
        };
        let (connection, channel) = (delivery.connection, delivery.channel);
        if claimed_by == HANDED_OVER || delivery.exact {
            return;
        }
        if claimed_by != 0 && self.contexts.descends(context, claimed_by) {
            self.confirm(claimed_by, connection, channel);
            return;
        }
        if let Some((holder, other)) = self.holder(context)
            && other != id
            && self.units.get(&other).is_some_and(|unit| unit.delivery.is_some())
        {
            // Made for a delivery, but for this one.
            if let Some(other) = self.units.get_mut(&other) {
                other.claimed_by = 0;
            }
            self.refute(id, claimed_by);
            self.claim(holder, id, false);
            if let Some(unit) = self.units.get_mut(&id) {
                unit.claimed_by = holder;
            }
            self.confirm(holder, connection, channel);
            self.doubt(connection);
            return;
        }
        self.refute(id, claimed_by);
        let consumer = if context == 0 {
            &mut self.threads.entry((at.pid, at.tid)).or_default().consumer
        } else {
            let Some(context) = self.contexts.find_mut(context).filter(|context| !context.common) else {
                return;
            };
            &mut context.consumer
        };
        let consumer = consumer.get_or_insert_with(|| Box::new(Consumer::new(connection)));
        consumer.connection = connection;
        consumer.settle(id, start, at.time);
    }

    /// The claim of a context was right: what made it is the one that dispatches the channel's deliveries.
    fn confirm(&mut self, claimed_by: ContextId, connection: ConnectionId, channel: u16) {
        let Some(context) = self.contexts.find_mut(claimed_by) else { return };
        context.tentative = false;
        let parent = context.parent;
        if let Some(exchanges) = self.exchanges.get_mut(&connection) {
            exchanges.dispatchers.insert(channel, parent);
        }
    }

    /// The tasks of a connection are not made for its deliveries in their order, or some were not seen.
    pub(super) fn doubt(&mut self, connection: ConnectionId) {
        let now = self.now;
        if let Some(exchanges) = self.exchanges.get_mut(&connection) {
            exchanges.doubted.get_or_insert(now);
            exchanges.lost = now;
        }
    }

    /// The context among `id` and its ancestors that was made for a unit, and the unit.
    fn holder(&self, id: ContextId) -> Option<(ContextId, UnitId)> {
        let mut line = self.contexts.line(id, 0);
        line.find_map(|(at, context, _)| context.claim.map(|unit| (at, unit)))
    }

    /// A task was made in `parent`, whose owner is `owner`: the delivery that it is for, and whether that is a guess.
    pub(super) fn dispatched(
        &self,
        header: &Header,
        parent: ContextId,
        owner: Option<UnitId>,
    ) -> Option<(UnitId, bool)> {
        let thread = self.threads.get(&(header.pid, header.tid))?;
        let works = owner.is_some_and(|owner| !self.has_ended(owner));
        thread.delivered.iter().filter(|delivered| self.is_untaken(delivered.unit)).find_map(|delivered| {
            let exchanges = self.exchanges.get(&delivered.connection)?;
            let known = exchanges.dispatchers.get(&delivered.channel);
            let guess = match known {
                _ if exchanges.doubted.is_some() => None,
                Some(dispatcher) => (*dispatcher == parent).then_some(false),
                // Its reader, perhaps. Whoever works for something or settles deliveries itself is not.
                None => (!works
                    && (delivered.context != parent || thread.reads == delivered.reads)
                    && !self.settles(parent))
                .then_some(true),
            };
            Some((delivered.unit, guess?))
        })
    }

    fn is_untaken(&self, unit: UnitId) -> bool {
        let unit = self.units.get(&unit);
        unit.is_some_and(|unit| unit.claimed_by == 0 && (unit.end.is_none() || unit.is_automatic()))
    }

    /// Whether a context, or one out of which it came, settles deliveries itself.
    fn settles(&self, id: ContextId) -> bool {
        let settled = |context: &Context| context.consumer.as_ref().is_some_and(|by| !by.settled.is_empty());
        self.contexts.line(id, 0).any(|(_, context, _)| settled(context))
    }

    /// What a thread hands to another (by a work queue, or as a thread's first work) is for this delivery.
    fn handed_over(&mut self, header: &Header, context: ContextId) -> Option<UnitId> {
        let thread = self.threads.get(&(header.pid, header.tid))?;
        let fits = |delivered: &&Delivered| delivered.context == context && self.is_untaken(delivered.unit);
        let unit = thread.delivered.iter().find(fits)?.unit;
        self.take_delivered((header.pid, header.tid), unit);
        self.units.get_mut(&unit)?.claimed_by = HANDED_OVER;
        Some(unit)
    }

    /// Another thread works for a message from now on.
    fn hand_over(&mut self, unit: UnitId) {
        if let Some(unit) = self.units.get_mut(&unit).filter(|unit| unit.delivery.is_some()) {
            unit.claimed_by = HANDED_OVER;
        }
    }

    /// Somebody works for a delivery at this time.
    pub(super) fn delivery_is_worked_on(&mut self, unit: UnitId, time: u64) {
        if let Some(delivery) = self.units.get_mut(&unit).and_then(|unit| unit.delivery.as_mut()) {
            delivery.last = delivery.last.max(time);
        }
    }

    /// Another process works for a message.
    pub(super) fn hand_to_process(&mut self, unit: UnitId) {
        let now = self.now;
        let Some(unit) = self.units.get_mut(&unit) else { return };
        if let Some(delivery) = &mut unit.delivery {
            unit.claimed_by = HANDED_OVER;
            delivery.by_process = true;
            delivery.last = delivery.last.max(now);
        }
    }

    /// A delivery that a thread has read is somebody's now.
    pub(super) fn take_delivered(&mut self, thread: (u32, u32), unit: UnitId) {
        if let Some(thread) = self.threads.get_mut(&thread) {
            thread.delivered.retain(|delivered| delivered.unit != unit);
        }
    }

    /// Whether the span of a delivery can be made.
    pub(super) fn delivery_is_over(&self, delivery: &Delivery) -> bool {
        !delivery.outlives() || delivery.last + QUIET < self.now
    }
}
