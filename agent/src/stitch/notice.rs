//! Messages that nobody acknowledges: Redis channels, elements that were waited for at a Redis list, notifications of
//! Postgres.
//!
//! Such a message is a unit of work if anything is done for it. Who handles it is who was waiting:
//!
//! 1. *A list.* Whoever sent the command that waits. What is done before the next such command is for the element.
//! 2. *Own reading.* A thread without an event loop, or a task, that has read the message itself.
//! 3. *Wake-up.* The task that the reader wakes with it, or makes for it; of a WebSocket, where wake-ups are not seen yet, the one
//!    that has answered the handshake.
//!
//! A message that wakes nobody came while its handler was busy with one before, and nothing tells where the work for
//! the one ends and that for the next begins: they become one unit, a batch, which is linked to all the publishes
//! instead of being the child of one. So do messages that came with one read.
//!
//! The end of such work is not to be seen either: it is over when nothing was done for [`QUIET`].

use std::hash::{Hash as _, Hasher as _};

use rustc_hash::FxHasher;

use super::{
    Engine, Finished, Need, OperationId,
    context::{Context, ContextId},
    notifiers::Notification,
    publishes::{Place, Sought},
    received::{Arrival, Reading},
    unit::UnitId,
};
use crate::{
    conn::{ConnectionId, Happened},
    protocol::{Detail, Event, Mark, postgres, redis},
    signal::{Attribute, Link},
};

/// How long after its last sign of life the work for a message is over, nanoseconds. A handler may think that long
/// between two operations; what a loop does on its own account after waiting for more than that is not the message's.
const QUIET: u64 = 500_000_000;
/// How long a message for which nothing was done yet is kept: its task may have to wait for a connection, nanoseconds.
const UNBEGUN: u64 = 2_000_000_000;
/// How long a message that its answer will name is kept without: Discord itself waits for three seconds, nanoseconds.
const UNANSWERED: u64 = 4_000_000_000;
/// A loop that has done nothing for this time was waiting, and what follows a message at once is because of it,
/// nanoseconds.
const RESTED: u64 = 5_000_000;
/// Publishes that one batch is linked to at most.
const LINKS_MAX: usize = 1000;

/// What only such messages have.
pub(super) struct Notice {
    connection: ConnectionId,
    /// The publishes behind it, as far as they were seen.
    origins: Vec<u64>,
    /// Messages whose publish has not been looked for.
    sought: u32,
    /// How many messages it is.
    count: u32,
    /// Somebody handles it.
    taken: bool,
    /// When something was last done for it.
    last: u64,
    /// Operations that were begun for it, and those of them that have not ended.
    works: u32,
    open: u32,
    /// The batch that it has become part of.
    merged: Option<UnitId>,
    /// From here on messages came that could not be added, for its span was made.
    crowded: Option<u64>,
    /// A publish lies too long back to be its parent.
    linked: bool,
    /// Who handles it will name it: of Discord an interaction's id, which its answer bears. It is no part of a batch.
    named: Option<u64>,
    /// Others have come with it, so that only the answer tells what was done for it.
    crowd: bool,
}

impl Notice {
    /// Whether its answer will name it.
    pub(super) fn is_named(&self) -> bool {
        self.named.is_some()
    }

    /// Others have come with it.
    pub(super) fn crowd(&mut self) {
        self.crowd = true;
    }

    /// Whether others have.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowd
    }

    fn is_batch(&self) -> bool {
        self.count > 1 || self.linked
    }

    /// Whether its work is over at `now`.
    pub(super) fn is_over(&self, now: u64) -> bool {
        let quiet = match self.works {
            0 if self.named.is_some() => UNANSWERED,
            0 if self.merged.is_none() => UNBEGUN,
            _ => QUIET,
        };
        self.open == 0 && self.last + quiet < now
    }

    /// Whether all that its trace depends on is known.
    pub(super) fn is_placed(&self) -> bool {
        self.sought == 0
    }

    /// When it ended.
    pub(super) fn end(&self) -> u64 {
        self.last
    }

    /// What a batch has beyond its first message.
    pub(super) fn attributes(&self) -> Option<Attribute> {
        let count = i64::from(self.count);
        (self.count > 1).then(|| Attribute::new("messaging.batch.message_count", count))
    }
}

/// A message whose publish is to be looked for.
pub(super) struct Waiting {
    pub(super) unit: UnitId,
    pub(super) time: u64,
    pub(super) publisher: Publisher,
}

/// How the publish of a message is found.
pub(super) enum Publisher {
    /// Of an AMQP delivery, by what the unit says of it.
    Amqp,
    /// Of a channel or list of Redis.
    Redis(Sought),
    /// Of a notification of Postgres, by the session that has sent it.
    Session(Notification),
}

/// What is the same of a Redis message where it is sent and where it arrives.
fn redis_key(kind: &str, destination: &str, payload: redis::Payload) -> Option<u64> {
    let mut hasher = FxHasher::default();
    (kind, destination, payload.length, payload.digest?).hash(&mut hasher);
    Some(hasher.finish())
}

/// A connection as a plain number.
pub(super) fn connection_key(connection: ConnectionId) -> u64 {
    let mut hasher = FxHasher::default();
    connection.hash(&mut hasher);
    hasher.finish()
}

impl Engine {
    /// Something came unasked. What nobody has published is counted.
    pub(super) fn pushed(&mut self, happened: Happened) {
        let Event::Push { at, detail } = happened.event else { return };
        let connection = happened.connection;
        let publisher = match &detail {
            Detail::Redis(batch) => match &batch.kind {
                redis::Kind::Push { channel, payload: Some(payload), .. } => {
                    let queue = connection_key(connection);
                    let key = redis_key("channel", channel, *payload);
                    Some(Publisher::Redis(Sought { key, queue, again: false, body: None }))
                }
                _ => return self.counters.pushed += 1,
            },
            Detail::Postgres(statement) => match &statement.kind {
                postgres::Kind::Notification { channel, pid, digest, .. } => {
                    Some(Publisher::Session(Notification {
                        pid: *pid,
                        channel: channel.clone(),
                        digest: *digest,
                    }))
                }
                _ => return self.counters.pushed += 1,
            },
            // Nobody who is watched has published it.
            Detail::WebSocket(_) => None,
            _ => return self.counters.pushed += 1,
        };
        self.needs_more(at.pid, Need::Wakes);
        self.turn_is_over((at.pid, at.tid));
        let Some(thread) = self.threads.get(&(at.pid, at.tid)) else { return };
        let (facts, rested) = (thread.facts, thread.rested > RESTED);
        if let Some(reading) = thread.reading
            && reading.facts == facts
            && reading.connection == connection
        {
            if !self.stands_alone(reading.unit, &detail) {
                return self.join_batch(reading.unit, at.time, publisher);
            }
            self.crowd(reading.unit);
            let unit = self.begin_notice(happened.endpoints, connection, at, detail, publisher);
            return self.crowd(unit);
        }
        // What comes with the answer to an operation comes to somebody who is busy.
        let busy = if thread.answered.1.is_empty() {
            None
        } else {
            self.noticed(at.context, (at.pid, at.tid), at.time)
        };
        if let Some(unit) = busy.filter(|unit| !self.stands_alone(*unit, &detail)) {
            return self.join_batch(unit, at.time, publisher);
        }
        self.settle_untaken(connection);
        let served = matches!(&detail, Detail::WebSocket(message) if message.served);
        let unit = self.begin_notice(happened.endpoints, connection, at, detail, publisher);
        let reading = Reading { unit, connection, context: at.context, facts, rested, served };
        let by_loop = self.contexts.find(at.context).is_some_and(|context| context.common);
        if let Some(thread) = self.threads.get_mut(&(at.pid, at.tid)) {
            thread.reading = Some(reading);
        }
        let exchanges = self.exchanges.entry(connection).or_default();
        exchanges.untaken = Some(unit);
        let (answered_by, is_first) = (exchanges.answered_by, exchanges.handled.is_none());
        self.untaken.push_back((at.time, connection));
        if served && is_first && !self.sees_wakes(at.pid) {
            // Whom it wakes cannot be seen yet: likely the task that has answered the handshake.
            let is_task = |context: &Context| context.is_task && !context.common;
            if self.contexts.find(answered_by).is_some_and(is_task) {
                self.receive_in(answered_by, Arrival { time: at.time, unit: Some(unit), own: false });
                self.take_notice(unit, true);
            }
        }
        if by_loop {
            return;
        }
        self.receive(at.context, (at.pid, at.tid), at.time, Some(unit));
        if at.context == 0 || self.handles_itself((at.pid, at.tid), at.context) {
            self.take_notice(unit, false);
        }
    }

    /// A command that waits for an element of a list has been answered.
    pub(super) fn popped(&mut self, happened: &Happened, id: OperationId) {
        let Event::End { at, detail: Detail::Redis(batch), .. } = &happened.event else { return };
        if !batch.waits() {
            return;
        }
        let Some(operation) = self.operations.get_mut(&id) else { return };
        operation.waits = true;
        let notice = operation.act.notice.take();
        let job = operation.act.job.take();
        let (context, thread, start) =
            (operation.act.context, (operation.act.pid, operation.act.tid), operation.act.start);
        let late = operation.act.late;
        if let Some(notice) = notice.and_then(|unit| self.notice_mut(unit)) {
            notice.works = notice.works.saturating_sub(1);
            notice.open = notice.open.saturating_sub(1);
        }
        if let Some(job) = job {
            self.job_loses(job, false);
        }
        let owned = self.operations.get(&id).is_some_and(|operation| self.owner_of(&operation.act).is_some());
        if owned || late {
            return;
        }
        self.receive(context, thread, start, None);
        self.is_asked(thread);
        let Some(popped) = &batch.popped else { return };
        let task = popped.task.as_ref().map(|task| task.id.clone());
        let key = redis_key("list", &popped.list, popped.payload);
        // An element goes to one receiver, whichever.
        let publisher = Publisher::Redis(Sought { key, queue: 0, again: false, body: None });
        let detail = Detail::Redis(batch.clone());
        let endpoints = happened.endpoints.clone();
        let unit = self.begin_notice(endpoints, happened.connection, *at, detail, Some(publisher));
        self.receive(context, thread, at.time, Some(unit));
        self.take_notice(unit, false);
        if let Some(id) = task {
            self.expect_task(&id, unit);
        }
    }

    /// Remembers what a Redis command or a statement of Postgres may have sent to others.
    pub(super) fn sent(&mut self, id: OperationId, detail: &Detail) {
        let Some(operation) = self.operations.get(&id) else { return };
        let (start, end) = (operation.act.start, operation.end.unwrap_or(operation.act.start));
        match detail {
            Detail::Redis(batch) if batch.error.is_none() => {
                let keys = batch.commands.iter().flat_map(|command| {
                    let kind = if command.publishes() { "channel" } else { "list" };
                    let destination = command.destination();
                    command.payloads.iter().filter_map(move |payload| redis_key(kind, &destination, *payload))
                });
                self.publishes.insert(id, start, keys);
            }
            Detail::Postgres(statement) => {
                let session = connection_key(operation.connection);
                self.notifiers.said(session, id, statement, (start, end));
            }
            _ => {}
        }
    }

    fn begin_notice(
        &mut self,
        endpoints: std::sync::Arc<crate::signal::Endpoints>,
        connection: ConnectionId,
        at: Mark,
        detail: Detail,
        publisher: Option<Publisher>,
    ) -> UnitId {
        let id = UnitId(self.number());
        let named = match &detail {
            Detail::WebSocket(message) => message.interaction().map(|interaction| interaction.id),
            _ => None,
        };
        self.start_is_over(at.pid);
        let mut unit = self.unit(&at, at.time, endpoints);
        unit.end = Some(at.time);
        unit.replied = Some(at.time);
        unit.detail = Some(detail);
        unit.notice = Some(Box::new(Notice {
            connection,
            origins: Vec::new(),
            sought: u32::from(publisher.is_some()),
            count: 1,
            taken: false,
            last: at.time,
            works: 0,
            open: 0,
            merged: None,
            crowded: None,
            linked: false,
            named,
            crowd: false,
        }));
        self.units.insert(id, unit);
        if let Some(publisher) = publisher {
            self.unoriginated.push_back(Waiting { unit: id, time: at.time, publisher });
        }
        if let Some(name) = named {
            self.expect_answer(name, id, at);
        }
        self.finished.push_back(Finished::Unit(id));
        id
    }

    /// A message that belongs to a batch.
    fn join_batch(&mut self, unit: UnitId, time: u64, publisher: Option<Publisher>) {
        let Some(notice) = self.notice_mut(unit) else { return };
        notice.count += 1;
        notice.sought += u32::from(publisher.is_some());
        notice.last = notice.last.max(time);
        if let Some(publisher) = publisher {
            self.unoriginated.push_back(Waiting { unit, time, publisher });
        }
    }

    /// Somebody handles a message; `waits` says that it is a task that takes one after the other.
    pub(super) fn take_notice(&mut self, unit: UnitId, waits: bool) {
        let Some(notice) = self.notice_mut(unit) else { return };
        notice.taken = true;
        let connection = notice.connection;
        if let Some(exchanges) = self.exchanges.get_mut(&connection) {
            exchanges.untaken.take_if(|untaken| *untaken == unit);
            exchanges.handled = waits.then_some(unit);
        }
    }

    /// Looks after messages that have woken nobody, once they must have.
    pub(super) fn settle_all_untaken(&mut self, all: bool) {
        while let Some((time, connection)) = self.untaken.front().copied()
            && (all || time + super::JOIN_WINDOW < self.now)
        {
            self.untaken.pop_front();
            let unit = self.exchanges.get(&connection).and_then(|exchanges| exchanges.untaken);
            if unit.and_then(|unit| self.units.get(&unit)).is_some_and(|unit| unit.start <= time) {
                self.settle_untaken(connection);
            }
        }
    }

    /// A message that has woken nobody belongs to the batch of whoever is busy with those before.
    fn settle_untaken(&mut self, connection: ConnectionId) {
        let Some(exchanges) = self.exchanges.get_mut(&connection) else { return };
        let Some(unit) = exchanges.untaken.take() else { return };
        let Some(handled) = exchanges.handled else { return };
        if self.is_named(unit) || self.is_named(handled) {
            self.crowd(unit);
            return self.crowd(handled);
        }
        let Some(notice) = self.notice_mut(unit) else { return };
        notice.merged = Some(handled);
        let (count, sought, last) = (notice.count, notice.sought, notice.last);
        let origins = std::mem::take(&mut notice.origins);
        let Some(batch) = self.units.get_mut(&handled) else { return };
        let is_made = batch.detail.is_none();
        let Some(batch) = &mut batch.notice else { return };
        if is_made {
            batch.crowded.get_or_insert(last);
            return;
        }
        batch.count += count;
        batch.sought += sought;
        batch.last = batch.last.max(last);
        batch.origins.extend(origins);
    }

    /// The message for which a context (or a thread without one) worked at `time`.
    pub(super) fn noticed(&self, context: ContextId, thread: (u32, u32), time: u64) -> Option<UnitId> {
        if context == 0 {
            let (unit, time) = self.threads.get(&thread)?.received.as_ref()?.at(time)?.message(time)?;
            return self.is_at_hand(unit, time);
        }
        for (_, context, time) in self.contexts.line(context, time) {
            if let Some(found) = context.received.as_ref().and_then(|received| received.at(time)) {
                let (unit, time) = found.message(time)?;
                return self.is_at_hand(unit, time);
            }
        }
        None
    }

    /// The unit, or the batch that it is part of, if its work was not over at `time`.
    fn is_at_hand(&self, unit: UnitId, time: u64) -> Option<UnitId> {
        let found = self.units.get(&unit)?;
        let Some(notice) = found.notice.as_deref() else {
            let delivery = found.delivery.as_deref()?;
            return (found.claimed_by == 0 && delivery.last + QUIET > time).then_some(unit);
        };
        if let Some(batch) = notice.merged {
            return (batch != unit).then(|| self.is_at_hand(batch, time)).flatten();
        }
        let crowded = notice.crowded.is_some_and(|since| since <= time);
        // It was left out, for nothing had been done for it.
        let left_out = found.detail.is_none() && notice.works == 0;
        (!crowded && !left_out && (notice.open > 0 || notice.last + QUIET > time)).then_some(unit)
    }

    /// An operation begins for a message, or is found to be for one.
    pub(super) fn work_begins(&mut self, id: OperationId, context: ContextId) {
        let Some(operation) = self.operations.get(&id) else { return };
        let (thread, start) = ((operation.act.pid, operation.act.tid), operation.act.start);
        let queued = || operation.act.work.and_then(|work| work.cause?.unit);
        let queued =
            || queued().filter(|unit| self.units.get(unit).is_some_and(|unit| unit.notice.is_some()));
        let claimed = if self.interactions.is_empty() { None } else { self.owner(context, start) };
        let claimed = claimed.map(|(unit, _)| unit).filter(|unit| self.is_named(*unit));
        let found = claimed.or_else(|| self.noticed(context, thread, start)).or_else(queued);
        let Some(unit) = found.filter(|unit| claimed.is_some() || !self.is_crowded(*unit)) else { return };
        let Some(operation) = self.operations.get_mut(&id).filter(|operation| operation.act.notice.is_none())
        else {
            return;
        };
        operation.act.notice = Some(unit);
        let over = operation.end;
        self.delivery_is_worked_on(unit, over.unwrap_or(start));
        if let Some(notice) = self.notice_mut(unit) {
            notice.works += 1;
            notice.open += u32::from(over.is_none());
            notice.last = notice.last.max(over.unwrap_or_default());
        }
    }

    /// An operation is not for the message for which it was believed to be.
    pub(super) fn work_was_not(&mut self, id: OperationId) {
        let Some(operation) = self.operations.get_mut(&id) else { return };
        let over = operation.end.is_some();
        let notice = operation.act.notice.take().and_then(|unit| self.notice_mut(unit));
        if let Some(notice) = notice {
            notice.works = notice.works.saturating_sub(1);
            notice.open = notice.open.saturating_sub(u32::from(!over));
        }
    }

    /// An operation has ended.
    pub(super) fn work_ends(&mut self, unit: UnitId, end: u64) {
        self.delivery_is_worked_on(unit, end);
        if let Some(notice) = self.notice_mut(unit) {
            notice.open = notice.open.saturating_sub(1);
            notice.last = notice.last.max(end);
        }
    }

    /// The unit of a message, or of the batch that it became part of.
    pub(super) fn batch_of(&self, unit: UnitId) -> Option<UnitId> {
        let notice = self.units.get(&unit)?.notice.as_deref();
        if self.is_crowded(unit) {
            return None;
        }
        Some(notice.and_then(|notice| notice.merged).unwrap_or(unit))
    }

    /// Who listens for the notification that is this unit.
    pub(super) fn listener(&self, unit: UnitId) -> u64 {
        let notice = self.units.get(&unit).and_then(|unit| unit.notice.as_deref());
        notice.map_or(0, |notice| connection_key(notice.connection))
    }

    pub(super) fn notice_mut(&mut self, unit: UnitId) -> Option<&mut Notice> {
        self.units.get_mut(&unit)?.notice.as_deref_mut()
    }

    /// The publish behind a message was looked for.
    pub(super) fn found_origin(&mut self, waiting: &Waiting, origin: Option<u64>) {
        let sent = origin.and_then(|id| self.publishes.sent(id)).unwrap_or(waiting.time);
        let old = waiting.time.saturating_sub(sent) > self.options.link_after;
        let Some(notice) = self.notice_mut(waiting.unit) else { return };
        notice.sought = notice.sought.saturating_sub(1);
        let batch = notice.merged;
        if let Some(batch) = batch.and_then(|batch| self.notice_mut(batch)) {
            batch.sought = batch.sought.saturating_sub(1);
        }
        let unit = batch.unwrap_or(waiting.unit);
        let Some(id) = origin else { return };
        let Some(notice) = self.notice_mut(unit) else { return };
        notice.linked |= old;
        if notice.origins.len() < LINKS_MAX {
            notice.origins.push(id);
        }
        self.counters.joined += u64::from(!old);
    }

    /// The publish that is the parent of a message.
    pub(super) fn notice_origin(&self, notice: &Notice) -> Option<Place> {
        match notice.origins.as_slice() {
            [id] if !notice.is_batch() => self.publishes.place(*id),
            _ => None,
        }
    }

    /// The links of a batch.
    pub(super) fn notice_links(&self, notice: &Notice) -> Vec<Link> {
        if !notice.is_batch() {
            return Vec::new();
        }
        let places = notice.origins.iter().filter_map(|id| self.publishes.place(*id));
        places
            .filter_map(|place| match place {
                Place::Made(trace_id, span_id) => Some(Link { trace_id, span_id }),
                Place::Open(_) => None,
            })
            .collect()
    }

    /// Whether a unit is a message for which nothing was done.
    pub(super) fn is_idle(&self, id: UnitId) -> bool {
        let notice = self.units.get(&id).and_then(|unit| unit.notice.as_deref());
        notice.is_some_and(|notice| notice.works == 0 && notice.named.is_none())
    }

    /// Whether a unit is no span of its own: part of a batch, or a message for which nothing was done.
    pub(super) fn leaves_no_span(&mut self, id: UnitId) -> bool {
        let Some(unit) = self.units.get_mut(&id) else { return false };
        let Some(notice) = unit.notice.as_deref() else { return false };
        let (merged, idle) = (notice.merged.is_some(), notice.works == 0 && notice.named.is_none());
        if merged || idle {
            unit.detail = None;
        }
        self.counters.idle += u64::from(idle && !merged);
        merged || idle
    }
}
