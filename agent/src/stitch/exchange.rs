//! Requests and operations: how they begin, find their other side in another watched process, and end.

use std::{collections::VecDeque, sync::Arc};

use adder_ebpf::{Header, flag};
use rustc_hash::FxHashMap;

use super::{
    Engine, Finished, HOLD_MAX, Need, Operation, OperationId, RemoteParent, SERVED, Unit, UnitId,
    behind::Left,
    calls::Dispatcher,
    context::{ContextId, Inbound},
    joining::Unjoined,
    unit::{Act, Shared},
    writer::Sent,
};
use crate::{
    conn::{ConnectionId, Happened, Protocol},
    protocol::{Detail, Event, Mark, amqp, discord, redis},
    signal::Endpoints,
};

/// Wake-ups in one context, right after answers were read, at which it is known as the connection's own.
const OWN_AFTER: u32 = 4;

/// The requests and operations of one connection.
#[derive(Default)]
pub(super) struct Exchanges {
    pub(super) units: VecDeque<(u64, UnitId)>,
    pub(super) operations: VecDeque<(u64, OperationId)>,
    /// Requests by time, for the task that serves the connection.
    pub(super) served: VecDeque<(u64, UnitId)>,
    /// Those that wait for their other side.
    pub(super) unjoined: Unjoined,
    /// Deliveries that are not settled.
    pub(super) deliveries: VecDeque<(u64, UnitId)>,
    /// By channel, the context that makes the tasks for its deliveries.
    pub(super) dispatchers: FxHashMap<u16, ContextId>,
    /// There may be deliveries that were not seen, so which task is made for which shows only when it acknowledges, until
    /// all are done: since when.
    pub(super) doubted: Option<u64>,
    /// Its consumers acknowledge.
    pub(super) acknowledges: bool,
    /// When bytes were lost last.
    pub(super) lost: u64,
    /// When that was so before.
    pub(super) were_doubted: VecDeque<(u64, u64)>,
    /// When the last delivery came.
    pub(super) delivered: u64,
    /// The context in which the last response on it left.
    pub(super) answered_by: ContextId,
    /// A message that nobody acknowledges and that has woken nobody yet.
    pub(super) untaken: Option<UnitId>,
    /// The task that sends on it for others; 0 where there is none.
    pub(super) writer: ContextId,
    /// The context in which its messages wake others, where they are read in another.
    pub(super) waker: Option<ContextId>,
    /// Likewise of answers to operations: the context, how often it was seen, and how often another.
    pub(super) answers: (ContextId, u32, u32),
    /// The one that has last woken a task, which takes one after the other.
    pub(super) handled: Option<UnitId>,
    pub(super) closed: Option<u64>,
    /// Who hands out the calls that come on it.
    pub(super) dispatcher: Option<Dispatcher>,
}

impl Exchanges {
    /// Notes the context of a wake-up right after an answer was read. Whether it is the connection's own, in which the loop
    /// calls its protocol: others come by chance, and seldom the same.
    pub(super) fn is_own(&mut self, context: ContextId) -> bool {
        let (known, seen, others) = &mut self.answers;
        if *known == context {
            *seen += 1;
        } else {
            *others += 1;
            if *others > *seen {
                self.answers = (context, 1, 0);
                return false;
            }
        }
        let (known, seen, others) = self.answers;
        known == context && seen >= OWN_AFTER && seen > others * 4
    }

    /// Likewise of a message, and a context that nobody has announced, as are those that uvloop makes for connections: it is
    /// known when it was seen twice and no other was.
    pub(super) fn is_soon_own(&mut self, context: ContextId) -> bool {
        let is_own = self.is_own(context);
        let (known, seen, others) = self.answers;
        is_own || known == context && seen > 1 && others == 0
    }

    /// Whether there may have been deliveries at that time that were not seen.
    pub(super) fn is_doubted(&self, time: u64) -> bool {
        let before = self.were_doubted.iter().any(|(since, until)| *since <= time && time < *until);
        before || self.doubted.is_some_and(|since| since <= time)
    }
}

impl Engine {
    pub(super) fn begin_unit(&mut self, happened: &Happened, flags: u16) {
        let Event::Begin { exchange, first, at, incoming } = &happened.event else { return };
        let id = UnitId(self.number());
        self.is_asked((at.pid, at.tid));
        let uvloop = self.processes.get(&at.pid).is_some_and(|process| process.uvloop);
        let by_loop = uvloop && flags & (flag::FILE_CALL | flag::DETACHED) != 0;
        if by_loop && let Some(context) = self.contexts.find_mut(at.context) {
            context.common = true;
        }
        let peer = self.connections.peer(happened.netns, &happened.endpoints);
        let mut unit = self.unit(at, first.time, happened.endpoints.clone());
        unit.remote = incoming.as_deref().and_then(RemoteParent::parse);
        unit.may_have_caller = peer.is_some();
        self.units.insert(id, unit);
        if let Some(process) = self.processes.get_mut(&at.pid) {
            process.open.insert(id, first.time);
        }
        let exchanges = self.exchanges.entry(happened.connection).or_default();
        exchanges.units.push_back((*exchange, id));
        exchanges.served.push_back((first.time, id));
        let [least, most] = SERVED;
        while exchanges.served.len() > least
            && (exchanges.served.len() > most
                || exchanges.served.front().is_some_and(|(time, _)| time + HOLD_MAX < first.time))
        {
            exchanges.served.pop_front();
        }
        // Of what was read before it was known to be a request nothing tells what was made for it.
        if !happened.late {
            let thread = self.threads.entry((at.pid, at.tid)).or_default();
            // Of streams several are read at once.
            thread.inbound = (happened.protocol != Protocol::Http2).then_some(Inbound {
                unit: id,
                context: at.context,
                by_loop,
                facts: thread.facts,
            });
            thread.last = at.time;
        }
        if happened.protocol == Protocol::Http2 {
            self.call_comes(id, happened.connection);
        }
        if let Some(peer) = peer {
            self.join_unit(id, peer, happened, first.time);
        }
    }

    /// A unit that begins, with ids of its own.
    pub(super) fn unit(&mut self, at: &Mark, start: u64, endpoints: Arc<Endpoints>) -> Unit {
        Unit {
            pid: at.pid,
            endpoints,
            start,
            replied: None,
            end: None,
            trace_id: self.trace_id(),
            span_id: self.span_id(),
            remote: None,
            caller: None,
            may_have_caller: false,
            claimed_by: 0,
            delivery: None,
            notice: None,
            job: None,
            events: Vec::new(),
            received_by: (at.tid, at.context),
            stack: at.stack,
            handler: None,
            detail: None,
        }
    }

    pub(super) fn begin_operation(&mut self, happened: &Happened, flags: u16) {
        let Event::Begin { exchange, first, .. } = &happened.event else { return };
        let id = OperationId(self.number());
        let header = Header { time: first.time, pid: first.pid, tid: first.tid, ..Header::default() };
        let thread = self.threads.get(&(first.pid, first.tid));
        let act = Act {
            pid: first.pid,
            tid: first.tid,
            start: first.time,
            context: first.context,
            late: self.is_late(first, flags),
            shared: Shared::No,
            woken: 0,
            // What the thread was at then is not known any more.
            by_thread: self.by_thread(&header, first.context).filter(|_| !happened.late),
            work: thread.and_then(|thread| thread.work).filter(|_| !happened.late),
            notice: None,
            stack: first.stack,
            job: None,
        };
        let queued = act.work.and_then(|work| work.cause?.unit);
        let queued = queued.filter(|unit| self.is_job(*unit));
        let job = queued.or_else(|| self.job_of(&act)).inspect(|job| self.job_begins(*job));
        let act = Act { job, ..act };
        let operation = Operation {
            act,
            connection: happened.connection,
            endpoints: happened.endpoints.clone(),
            waits: false,
            end: None,
            joined: None,
            trace_id: self.trace_id(),
            span_id: self.span_id(),
            detail: None,
        };
        self.operations.insert(id, operation);
        if happened.protocol == Protocol::Amqp
            && self.is_flushed_along(first)
            && let Some(operation) = self.operations.get_mut(&id)
        {
            operation.act.late = true;
        }
        if happened.protocol == Protocol::Http2 {
            self.shared_begins(id, first, happened.connection, *exchange as u32);
        }
        self.works_on(first.context, (first.pid, first.tid), first.time);
        self.work_begins(id, first.context);
        if let Some(unit) = self.by_queue(&header) {
            self.delivery_is_worked_on(unit, first.time);
        }
        let connection = happened.connection;
        if happened.protocol == Protocol::Amqp && !self.is_left_behind(connection, first, Left::Operation(id))
        {
            let facts = self.facts_of((first.pid, first.tid));
            if let Some(context) = self.contexts.find_mut(first.context) {
                let operation = Some(id);
                let sent = Sent { tid: first.tid, connection, facts, operation, settled: Vec::new() };
                context.sent = Some(Box::new(sent));
            }
        }
        self.join_operation(id, happened, first.time);
        let exchanges = self.exchanges.entry(happened.connection).or_default();
        exchanges.operations.push_back((*exchange, id));
    }

    pub(super) fn end_unit(&mut self, happened: Happened) {
        let Event::End { exchange, at, detail } = happened.event else { return };
        let Some(exchanges) = self.exchanges.get_mut(&happened.connection) else { return };
        let Some(place) = exchanges.units.iter().position(|(number, _)| *number == exchange) else { return };
        let Some((_, id)) = exchanges.units.remove(place) else { return };
        let Some(unit) = self.units.get_mut(&id) else { return };
        unit.replied.get_or_insert(at.time);
        unit.detail = Some(detail);
        self.finish_unit(id, at.time);
    }

    /// A unit is over: its span can be made once its evidence is complete.
    pub(super) fn finish_unit(&mut self, id: UnitId, time: u64) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        unit.end = Some(time.max(unit.start));
        let pid = unit.pid;
        if let Some(process) = self.processes.get_mut(&pid) {
            process.open.remove(&id);
        }
        self.finished.push_back(Finished::Unit(id));
    }

    /// The operation that is this exchange of a connection.
    pub(super) fn operation_of(&self, connection: ConnectionId, exchange: u64) -> Option<OperationId> {
        let operations = &self.exchanges.get(&connection)?.operations;
        operations.iter().find(|(number, _)| *number == exchange).map(|(_, operation)| *operation)
    }

    pub(super) fn end_operation(&mut self, happened: Happened) {
        let Event::End { exchange, at, .. } = happened.event else { return };
        let Some(exchanges) = self.exchanges.get_mut(&happened.connection) else { return };
        let Some(place) = exchanges.operations.iter().position(|(number, _)| *number == exchange) else {
            return;
        };
        let Some((_, id)) = exchanges.operations.remove(place) else { return };
        exchanges.unjoined.answered = at.time;
        if let Some(thread) = self.threads.get_mut(&(at.pid, at.tid)) {
            thread.answered.1.push(id);
        }
        self.popped(&happened, id);
        let Event::End { detail, .. } = happened.event else { return };
        if let Detail::Http(exchange) = &detail
            && let Some(interaction) = discord::answered(exchange.path())
        {
            self.answers_interaction(id, interaction);
        }
        if let Detail::Amqp(message) = &detail
            && message.kind == amqp::Kind::Publish
        {
            if message.returned.is_some() || message.answer == Some(amqp::Answer::Nack) {
                self.publishes.forget(id);
            } else {
                self.publishes.insert_once(id, message, at.time);
            }
        }
        let Some(operation) = self.operations.get_mut(&id) else { return };
        let end = at.time.max(operation.act.start);
        operation.end = Some(end);
        let (notice, job) = (operation.act.notice, operation.act.job);
        if let Some(job) = job {
            self.job_is_answered(job);
        }
        if let Some(unit) = notice {
            self.work_ends(unit, end);
        }
        self.sent(id, &detail);
        if listens(&detail) {
            self.needs_more(at.pid, Need::Wakes);
        }
        let Some(operation) = self.operations.get_mut(&id) else { return };
        operation.detail = Some(detail);
        self.misses_text(id);
        self.finished.push_back(Finished::Operation(id));
    }

    /// The answer to an operation begins: whom it wakes has asked.
    pub(super) fn answered(&mut self, connection: ConnectionId, exchange: u64, at: Mark) {
        if let Some(operation) = self.operation_of(connection, exchange)
            && let Some(thread) = self.threads.get_mut(&(at.pid, at.tid))
        {
            thread.answered.1.push(operation);
        }
    }
}

/// Whether messages may come unasked from now on.
fn listens(detail: &Detail) -> bool {
    match detail {
        Detail::Redis(batch) => batch.commands.iter().any(redis::Command::subscribes),
        Detail::Postgres(statement) => statement.tag.as_deref() == Some("LISTEN"),
        Detail::Http(_) | Detail::Amqp(_) | Detail::WebSocket(_) => false,
    }
}
