//! Making spans: waiting for the evidence, then deciding.

use std::sync::Arc;

use super::{
    DEPTH_MAX, Engine, Finished, HOLD_MAX, JOIN_WINDOW, Operation, OperationId, RemoteParent, UnitId,
    notice::connection_key,
    publishes::Place,
    sharing::SHARED_WAIT,
    unit::{Act, Shared},
};
use crate::{
    fact::ProcessInfo,
    protocol::{Detail, amqp, discord, http, http2, postgres, redis},
    signal::{Attribute, Description, Endpoints, Kind, Link, Resource, Role, Span, SpanEvent, consumer},
};

/// How long an operation without an owner waits for one, nanoseconds.
const OWNER_WAIT: u64 = 100_000_000;

/// Where a span stands: all of it but what its protocol says.
struct Frame {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    parent_span_id: Option<[u8; 8]>,
    parent_is_remote: bool,
    trace_state: String,
    pid: u32,
    endpoints: Arc<Endpoints>,
    start: u64,
    end: u64,
    /// How a delivery was settled.
    outcome: Option<amqp::Outcome>,
    links: Vec<Link>,
    events: Vec<SpanEvent>,
}

impl Engine {
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn trace_id(&mut self) -> [u8; 16] {
        self.rng.u128(1..).to_be_bytes()
    }

    pub(super) fn span_id(&mut self) -> [u8; 8] {
        self.rng.u64(1..).to_be_bytes()
    }

    /// Makes spans of what has finished and is settled, or of everything.
    pub(super) fn emit_settled(&mut self, all: bool) {
        let mut waiting = std::mem::take(&mut self.finished);
        if all {
            // What was done in a job says whether it has found something.
            let is_job = |finished: &Finished| matches!(finished, Finished::Unit(id) if self.is_job(*id));
            waiting.make_contiguous().sort_by_key(is_job);
        }
        let mut kept = std::collections::VecDeque::with_capacity(waiting.len());
        for finished in waiting.drain(..) {
            let settled = match finished {
                Finished::Unit(id) => {
                    self.unit_settled(id, 0)
                        && self.unit_is_over(id)
                        && !self.awaits_traceback(id)
                        && !self.awaits_step(id)
                }
                Finished::Operation(id) => self.operation_settled(id, 0),
            };
            let late = self.held_too_long(finished);
            if !(settled || all || late) {
                kept.push_back(finished);
                continue;
            }
            if !settled {
                self.counters.unsettled += 1;
            }
            match finished {
                Finished::Unit(id) if self.leaves_no_span(id) => {}
                Finished::Unit(id) if self.is_job(id) => self.emit_job(id),
                Finished::Unit(id) => self.emit_unit(id),
                Finished::Operation(id) if self.hold_back(id) => {}
                Finished::Operation(id) => self.emit_operation(id),
            }
        }
        self.finished = kept;
    }

    fn held_too_long(&self, finished: Finished) -> bool {
        let end = match finished {
            Finished::Unit(id) => self.units.get(&id).and_then(|unit| {
                // The work for such a message may be long.
                let job = unit.job.as_deref().map(Self::job_end);
                job.or(unit.notice.as_ref().map(|notice| notice.end())).or(unit.end)
            }),
            Finished::Operation(id) => self.operations.get(&id).and_then(|operation| operation.end),
        };
        end.is_none_or(|end| end + HOLD_MAX < self.now)
    }

    fn unit_is_over(&self, id: UnitId) -> bool {
        let Some(unit) = self.units.get(&id) else { return true };
        unit.delivery.as_ref().is_none_or(|delivery| self.delivery_is_over(delivery))
            && unit.notice.as_ref().is_none_or(|notice| notice.is_over(self.now))
            && unit.job.as_ref().is_none_or(|job| self.job_is_over(job))
    }

    /// Whether the trace of a request is certain: given by its caller, or certainly its own.
    fn unit_settled(&self, id: UnitId, depth: usize) -> bool {
        let Some(unit) = self.units.get(&id) else { return true };
        if unit.remote.is_some() || depth > DEPTH_MAX {
            return true;
        }
        if let Some(delivery) = &unit.delivery {
            return delivery.is_placed()
                && match self.origin(delivery) {
                    Some(Place::Open(publish)) => self.operation_settled(publish, depth + 1),
                    Some(Place::Made(..)) | None => true,
                };
        }
        if let Some(notice) = &unit.notice {
            // More messages may make a batch of it.
            return notice.is_over(self.now)
                && notice.is_placed()
                && match self.notice_origin(notice) {
                    Some(Place::Open(publish)) => self.operation_settled(publish, depth + 1),
                    Some(Place::Made(..)) | None => true,
                };
        }
        match unit.caller {
            Some(caller) => self.operation_settled(caller, depth + 1),
            None => !unit.may_have_caller || unit.start + JOIN_WINDOW < self.now,
        }
    }

    /// Whether the owner of an operation is certain, and that one's trace.
    fn operation_settled(&self, id: OperationId, depth: usize) -> bool {
        let Some(operation) = self.operations.get(&id) else { return true };
        self.act_settled(&operation.act, operation.end.unwrap_or(self.now), depth)
    }

    /// Whether it is certain for what something was done that ended at `end`, and that one's trace.
    pub(super) fn act_settled(&self, act: &Act, end: u64, depth: usize) -> bool {
        if act.shared == Shared::Open && act.woken == 0 && end + SHARED_WAIT > self.now {
            return false;
        }
        if self.awaits_call(act, end) {
            return false;
        }
        // For a job nothing speaks but that nothing speaks for another.
        let owner = self.owner_of(act).filter(|(owner, _)| act.job != Some(*owner));
        if let Some((owner, certain)) = owner {
            let answered = self.units.get(&owner).is_none_or(|unit| unit.replied.is_some());
            (certain || answered) && self.unit_settled(owner, depth + 1)
        } else {
            // A response may yet show which request its context works for.
            let open = self
                .processes
                .get(&act.pid)
                .is_some_and(|process| process.open.values().any(|start| *start <= end));
            !open || act.context == 0 && end + OWNER_WAIT < self.now
        }
    }

    /// The unit for which something was done, and whether that is certain before its response has left.
    pub(super) fn owner_of(&self, act: &Act) -> Option<(UnitId, bool)> {
        let notice = act.notice.and_then(|unit| self.batch_of(unit)).map(|unit| (unit, true));
        match self.owner_by_evidence(act) {
            // What a request has started long ago works for a message now.
            Some((owner, _)) if notice.is_some() && self.has_ended(owner) => notice,
            owner => {
                let is_sure = || act.woken != 0 || !self.is_for_others(act);
                let job = act.job.filter(|job| self.units.contains_key(job) && is_sure());
                owner.or(notice).or(job.map(|job| (job, false)))
            }
        }
    }

    /// Whether something was sent for somebody, and its context does not tell for whom.
    fn is_for_others(&self, act: &Act) -> bool {
        act.late
            || matches!(act.shared, Shared::Open | Shared::Closed)
            || self.contexts.find(act.context).is_some_and(|context| context.writer.is_some())
            || self.is_stray(act)
            || act.shared == Shared::No && self.stacks.shares_writes(act.stack).is_some()
    }

    /// Whether something was sent by a callback of the loop that sends for others, when the unit of its context had ended: another
    /// context may be at that address by now, and nothing tells.
    fn is_stray(&self, act: &Act) -> bool {
        let is_over =
            |unit: UnitId| self.units.get(&unit).and_then(|unit| unit.end).is_some_and(|end| end < act.start);
        self.stacks.flushes(act.stack)
            && self.owner(act.context, act.start).is_some_and(|(unit, _)| is_over(unit))
    }

    fn owner_by_evidence(&self, act: &Act) -> Option<(UnitId, bool)> {
        if act.woken != 0 {
            let thread = (act.pid, act.tid);
            let owner = self.owner(act.woken, act.start).map(|(owner, guess)| (owner, !guess));
            return owner.or_else(|| self.consumed(act.woken, thread, act.start));
        }
        if self.is_for_others(act) {
            // Nobody was woken.
            return None;
        }
        if let Some(unit) = act.by_thread {
            return Some((unit, true));
        }
        let call = act.work.and_then(|work| self.calls.of_work(&work.cause?));
        if let Some(call) = call.filter(|call| self.units.contains_key(call)) {
            return Some((call, true));
        }
        let queued = act.work.and_then(|work| self.cause(&work.cause?));
        if act.work.is_some_and(|work| self.is_of_work(&work, act.context)) {
            return queued.map(|unit| (unit, true));
        }
        match self.owner(act.context, act.start) {
            Some((owner, tentative)) => Some((owner, !tentative)),
            None => queued
                .map(|unit| (unit, true))
                .or_else(|| self.consumed(act.context, (act.pid, act.tid), act.start)),
        }
    }

    /// Trace id, and parent of a request.
    pub(super) fn unit_trace(&self, id: UnitId, depth: usize) -> ([u8; 16], Option<[u8; 8]>, bool) {
        let Some(unit) = self.units.get(&id) else { return ([0; 16], None, false) };
        if let Some(remote) = &unit.remote {
            return (remote.trace_id, Some(remote.span_id), true);
        }
        let origin = match (&unit.delivery, &unit.notice) {
            (Some(delivery), _) => self.origin(delivery),
            (_, Some(notice)) => self.notice_origin(notice),
            (None, None) => None,
        };
        if depth < DEPTH_MAX {
            match origin {
                Some(Place::Made(trace_id, span_id)) => return (trace_id, Some(span_id), true),
                Some(Place::Open(publish)) => {
                    if let Some(publish) = self.operations.get(&publish) {
                        return (self.operation_trace(publish, depth + 1).0, Some(publish.span_id), true);
                    }
                }
                None => {}
            }
        }
        if depth < DEPTH_MAX
            && let Some(operation) = unit.caller.and_then(|caller| self.operations.get(&caller))
        {
            let (trace_id, _) = self.operation_trace(operation, depth + 1);
            return (trace_id, Some(operation.span_id), true);
        }
        (unit.trace_id, None, false)
    }

    /// Trace id, and owner of an operation.
    fn operation_trace(&self, operation: &Operation, depth: usize) -> ([u8; 16], Option<UnitId>) {
        match self.owner_of(&operation.act) {
            Some((owner, _)) => (self.unit_trace(owner, depth + 1).0, Some(owner)),
            None => (operation.trace_id, None),
        }
    }

    fn emit_unit(&mut self, id: UnitId) {
        self.check_join(id);
        let (trace_id, parent_span_id, parent_is_remote) = self.unit_trace(id, 0);
        let Some(unit) = self.units.get_mut(&id) else { return };
        // From now on the trace stands, whatever becomes of the caller.
        unit.trace_id = trace_id;
        if let Some(process) = self.processes.get_mut(&unit.pid) {
            process.open.remove(&id);
        }
        let Some(detail) = unit.detail.take() else { return };
        let mut frame = Frame {
            trace_id,
            span_id: unit.span_id,
            parent_span_id,
            parent_is_remote,
            trace_state: unit.remote.as_ref().map(|remote| remote.trace_state.clone()).unwrap_or_default(),
            pid: unit.pid,
            endpoints: unit.endpoints.clone(),
            start: unit.start,
            end: unit.end.unwrap_or(unit.start),
            outcome: None,
            links: Vec::new(),
            events: std::mem::take(&mut unit.events),
        };
        if let Some(delivery) = &unit.delivery {
            frame.outcome = delivery.outcome();
            if delivery.outlives() {
                frame.end = frame.end.max(delivery.last);
            }
        }
        let mut attribute = None;
        if let Some(notice) = &unit.notice {
            frame.end = frame.end.max(notice.end());
            attribute = notice.attributes();
        }
        if let Some(unit) = self.units.get(&id) {
            frame.links = match (&unit.delivery, &unit.notice) {
                (Some(delivery), _) => self.link(delivery).into_iter().collect(),
                (_, Some(notice)) => self.notice_links(notice),
                (None, None) => Vec::new(),
            };
        }
        self.push_span(frame, Role::Server, &detail);
        let handler = self.units.get_mut(&id).and_then(|unit| unit.handler.take());
        let handler = handler.filter(|handler| handler.is_one());
        if let Some(span) = self.spans.last_mut() {
            span.attributes.extend(attribute);
            span.attributes.extend(handler.iter().flat_map(|handler| handler.attributes()));
        }
    }

    pub(super) fn emit_operation(&mut self, id: OperationId) {
        if let Some(unit) = self.operations.get(&id).and_then(|operation| operation.joined) {
            self.check_join(unit);
        }
        let Some(operation) = self.operations.get(&id) else { return };
        let (trace_id, owner) = self.operation_trace(operation, 0);
        let owner_id = owner;
        let act = operation.act.clone();
        if let Some(owner) = owner {
            self.note_handler(owner, &act, false);
        }
        let Some(operation) = self.operations.get(&id) else { return };
        let mut name = String::new();
        if let Some(owner) = owner.and_then(|owner| self.units.get_mut(&owner))
            && let Some(delivery) = &mut owner.delivery
        {
            delivery.last = delivery.last.max(operation.end.unwrap_or_default());
        }
        let owner = owner.and_then(|owner| self.units.get(&owner));
        let remote = owner.and_then(|owner| owner.remote.as_ref());
        let frame = Frame {
            trace_id,
            span_id: operation.span_id,
            parent_span_id: owner.map(|owner| owner.span_id),
            parent_is_remote: false,
            trace_state: remote.map(|remote| remote.trace_state.clone()).unwrap_or_default(),
            pid: operation.act.pid,
            endpoints: operation.endpoints.clone(),
            start: operation.act.start,
            end: operation.end.unwrap_or(operation.act.start),
            outcome: None,
            links: Vec::new(),
            events: Vec::new(),
        };
        let waits = operation.waits;
        let context = operation.act.context;
        let connection = operation.connection;
        let Some(mut detail) = self.operations.get_mut(&id).and_then(|operation| operation.detail.take())
        else {
            return;
        };
        let recalled = self.recall_text(&act, connection, &mut detail);
        let span_id = frame.span_id;
        let root = frame.parent_span_id.is_none();
        if waits && root {
            self.counters.waits += 1;
        } else if self.options.declarations || !is_declaration(&detail) {
            self.counters.roots += u64::from(root);
            if root {
                self.notice_ownerless(frame.pid, context);
            }
            if let Some(owner) = owner_id {
                self.release(owner);
            }
            self.push_span(frame, Role::Client, &detail);
            let site = self.site_of(&act, owner_id);
            if let Some(span) = self.spans.last_mut() {
                span.attributes.extend(site.into_iter().flatten());
                if recalled {
                    span.attributes.push(Attribute::new("adder.query.source", "frame"));
                }
                name = span.name.clone();
            }
        }
        self.job_goes_on(id, owner_id, &name);
        self.publishes.made(id, trace_id, span_id);
        if let Detail::Postgres(_) = &detail {
            self.notifiers.made(connection_key(connection), id, trace_id, span_id);
        }
        self.retire(id, trace_id);
    }

    fn push_span(&mut self, frame: Frame, role: Role, detail: &Detail) {
        let description = self.describe(detail, role, &frame);
        self.counters.spans += 1;
        self.spans.push(Span {
            trace_id: frame.trace_id,
            span_id: frame.span_id,
            parent_span_id: frame.parent_span_id,
            parent_is_remote: frame.parent_is_remote,
            trace_state: frame.trace_state,
            name: description.name,
            kind: match (detail, role) {
                (Detail::Amqp(message), _) if message.kind == amqp::Kind::Publish => Kind::Producer,
                (Detail::Amqp(message), _) if message.kind == amqp::Kind::Delivery => Kind::Consumer,
                (Detail::Redis(_) | Detail::Postgres(_) | Detail::WebSocket(_), Role::Server) => {
                    Kind::Consumer
                }
                (_, Role::Client) => Kind::Client,
                (_, Role::Server) => Kind::Server,
            },
            start: self.unix(frame.start),
            end: self.unix(frame.end),
            attributes: description.attributes,
            events: frame.events,
            links: frame.links,
            status: description.status,
            resource: self.resource_of(frame.pid),
        });
    }

    /// Forgets an operation whose span is made; one that is a request in another watched process is kept for that.
    pub(super) fn retire(&mut self, id: OperationId, trace_id: [u8; 16]) {
        let Some(operation) = self.operations.remove(&id) else { return };
        if let Some(unit) = operation.joined.and_then(|unit| self.units.get_mut(&unit))
            && unit.caller == Some(id)
        {
            unit.caller = None;
            let span_id = operation.span_id;
            unit.remote = Some(RemoteParent { trace_id, span_id, trace_state: String::new() });
        } else if let Some(exchanges) = self.exchanges.get_mut(&operation.connection) {
            exchanges.unjoined.forget(id);
        }
    }

    /// Takes a join back where the two sides turn out to be different requests: no parent rather than a wrong one.
    fn check_join(&mut self, id: UnitId) {
        let Some(unit) = self.units.get(&id) else { return };
        let Some(operation) = unit.caller.and_then(|caller| self.operations.get(&caller)) else { return };
        if let (Some(Detail::Http(here)), Some(Detail::Http(there))) = (&unit.detail, &operation.detail)
            && !(here.unknown || there.unknown)
            && (here.method != there.method || here.target != there.target)
        {
            self.counters.unjoined += 1;
            if let Some(unit) = self.units.get_mut(&id) {
                unit.caller = None;
            }
        }
    }

    fn describe(&mut self, detail: &Detail, role: Role, frame: &Frame) -> Description {
        let endpoints = &*frame.endpoints;
        let mut description = match detail {
            Detail::Http(exchange) if exchange.grpc.is_some() => http2::describe(exchange, role, endpoints),
            Detail::Http(exchange) => {
                // Nothing is learned from what was refused: a scanner's paths must not crowd out the real ones.
                let path = exchange.path();
                let (pid, method) = (frame.pid, &exchange.method);
                let route = match (role, exchange.status) {
                    (Role::Client, _) => None,
                    (Role::Server, _) if path.is_empty() => None,
                    (Role::Server, Some(status @ 400..=499)) => {
                        self.routes.known(pid, method, path, status != 404)
                    }
                    (Role::Server, _) => Some(self.routes.template(pid, method, path)),
                };
                http::describe(exchange, role, endpoints, route.as_deref())
            }
            Detail::Postgres(statement) => {
                postgres::describe(statement, role, endpoints, self.options.sql, &mut self.texts)
            }
            Detail::Amqp(message) => amqp::describe(message, endpoints, frame.outcome),
            Detail::Redis(batch) => redis::describe(batch, role, endpoints, self.options.redis),
            Detail::WebSocket(message) => match &message.discord {
                Some(dispatch) => discord::describe(dispatch, endpoints),
                None => consumer::describe(
                    "websocket",
                    &message.path,
                    message.size,
                    endpoints,
                    self.options.redis,
                ),
            },
        };
        // Messages come over connections that the process has made itself, but for those of WebSockets.
        let served = matches!(detail, Detail::Http(_)) && role == Role::Server
            || matches!(detail, Detail::WebSocket(message) if message.served);
        endpoints.complete(!served, &mut description.attributes);
        description
    }

    pub(super) fn resource_of(&self, pid: u32) -> Arc<Resource> {
        self.processes.get(&pid).map_or_else(|| self.unknown.clone(), |process| process.resource.clone())
    }

    /// Nanoseconds since the Unix epoch.
    pub(super) fn unix(&self, time: u64) -> u64 {
        time.saturating_add_signed(self.clock)
    }
}

/// Whether an operation arranges things at a broker.
fn is_declaration(detail: &Detail) -> bool {
    matches!(detail, Detail::Amqp(message) if matches!(message.kind, amqp::Kind::Declare { .. }))
}

/// The resource of a process.
pub(super) fn resource(info: &ProcessInfo) -> Resource {
    let attributes = info
        .attributes
        .iter()
        .map(|(key, value)| Attribute { key: key.clone().into(), value: value.clone().into() })
        .collect();
    Resource { attributes }
}
