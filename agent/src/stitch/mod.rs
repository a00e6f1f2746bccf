//! The stitcher: a pure function from facts to spans.
//!
//! No clock, no I/O, no randomness that is not seeded: the same facts give the same spans to the byte.
//!
//! # Who caused an operation
//!
//! Evidence, strongest first:
//!
//! 1. *Response.* The bytes of the response on server connection C leave in the context of the task that handled the
//!    request. A context that answers on C without having been made for one request serves C, request after request
//!    (aiohttp's connection task).
//! 2. *Claim.* A task made by a thread that has just read a request, in the context in which it was read, is made for
//!    that request (uvicorn). uvloop reads outside any task's context, and uvicorn may start the task in a new empty
//!    one, so any context will do where nothing of the thread lies between.
//! 3. *Lineage.* A context made out of another belongs to what the other belonged to at that time.
//!
//! and, for what a thread does in its own context, before all of these:
//!
//! 4. *Thread.* A thread works for the request that it has read itself, in the same context (gunicorn's workers).
//! 5. *Queue.* A work item taken from a `SimpleQueue` belongs to what put it there (`run_in_executor`).
//!
//! A stale owner, one whose response has ended, loses against fresh evidence: an unannounced context may stand at the
//! address of a dead one. Such a claim is *tentative* until the response of the fresh request confirms it.
//! Decisions are taken when a span is made, which waits until its evidence is complete; see [`Engine::settled`].

mod behind;
mod blocked;
mod calls;
mod consumer;
mod context;
mod counters;
mod emit;
mod evidence;
mod exchange;
mod idle;
mod interaction;
mod job;
mod joining;
mod late;
mod measure;
mod message;
mod notice;
mod notifiers;
mod origin;
mod output;
mod pool;
mod prepared;
mod process;
mod publishes;
mod received;
mod sharing;
mod site;
mod stacks;
mod streams;
mod stubs;
mod time;
mod unit;
mod windows;
mod writer;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use adder_ebpf::{Header, flag};
use rustc_hash::FxHashMap;
use serde::Serialize;

use self::{
    behind::Behind,
    blocked::Loops,
    calls::Calls,
    context::{Cause, Contexts, Thread, Work},
    exchange::Exchanges,
    job::Turn,
    measure::Measures,
    notice::Waiting,
    notifiers::Notifiers,
    output::Outputs,
    prepared::Prepared,
    process::ProcessState,
    publishes::Publishes,
    sharing::Sharing,
    stacks::{StackId, Stacks},
    stubs::Stubs,
    unit::{Operation, OperationId, RemoteParent, Unit, UnitId},
};
pub use self::{
    blocked::LoopOptions, counters::Counters, idle::JobOptions, output::LogCounters, process::Need,
};
use crate::{
    conn::{ConnectionId, Connections, Happened, Protocol},
    fact::{self, Fact},
    protocol::{Event, Mark, postgres::Texts},
    signal::{Resource, Role, Span, TextMode, route::Routes},
};

/// Steps along a line of contexts, or of spans from process to process.
const DEPTH_MAX: usize = 64;
/// How long after the first byte of a request its caller's side of it may turn up, nanoseconds: both sides are
/// reported at the end of their system calls, on different CPUs.
const JOIN_WINDOW: u64 = 50_000_000;
/// How long a span waits for missing evidence at most, nanoseconds.
const HOLD_MAX: u64 = 5_000_000_000;
/// How long what is needed only for later work is kept after its end, nanoseconds.
const ENDED_KEPT: u64 = 120_000_000_000;
/// How long after the last delivery of a connection it is remembered who handles its deliveries, nanoseconds.
const DISPATCHERS_KEPT: u64 = 3600 * 1_000_000_000;
/// Units kept at most.
const UNITS_MAX: usize = 20_000;
/// Requests of one connection kept to tell which of them its task served at some time: at least so many, and of the time that spans wait
/// for evidence at most so many.
const SERVED: [usize; 2] = [32, 1024];
/// Work items in queues whose origin is kept at most.
const QUEUED_MAX: usize = 65_536;
/// Time between two sweeps, nanoseconds.
const SWEEP_EVERY: u64 = 5_000_000_000;

/// What the engine needs to know beside the facts; a recording holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Options {
    /// Seed of all ids.
    pub seed: u64,
    /// What may be shown of SQL.
    pub sql: TextMode,
    /// What may be shown of Redis commands.
    pub redis: TextMode,
    /// Route patterns from the configuration.
    pub routes: Vec<String>,
    /// Show operations that arrange things at a message broker: declarations, bindings, consumers.
    pub declarations: bool,
    /// A message that is delivered later than this after its publish is linked to it instead of being its child,
    /// nanoseconds.
    pub link_after: u64,
}

/// Something finished that is not yet a span.
#[derive(Clone, Copy, Debug)]
enum Finished {
    Unit(UnitId),
    Operation(OperationId),
}

/// The stitcher.
pub struct Engine {
    options: Options,
    rng: fastrand::Rng,
    routes: Routes,
    texts: Texts,
    connections: Connections,
    contexts: Contexts,
    threads: FxHashMap<(u32, u32), Thread>,
    queued: FxHashMap<(u32, u64), Cause>,
    processes: FxHashMap<u32, ProcessState>,
    /// When processes that are not known yet have begun.
    begun: FxHashMap<u32, u64>,
    exchanges: FxHashMap<ConnectionId, Exchanges>,
    /// Connections on which tasks send for each other.
    sharing: BTreeMap<ConnectionId, Sharing>,
    /// Connections whose sockets took no more.
    behind: BTreeMap<ConnectionId, Behind>,
    /// Which connection an object of a library stands for, by process and address.
    shared_objects: FxHashMap<(u32, u64), ConnectionId>,
    calls: Calls,
    /// Calls that tasks of a process make through `grpc.aio`.
    stubs: BTreeMap<u32, Stubs>,
    units: FxHashMap<UnitId, Unit>,
    operations: FxHashMap<OperationId, Operation>,
    finished: VecDeque<Finished>,
    publishes: Publishes,
    notifiers: Notifiers,
    outputs: Outputs,
    stacks: Stacks,
    prepared: Prepared,
    jobs: JobOptions,
    loops: Loops,
    measures: Measures,
    /// Where the current fact was made.
    stack: StackId,
    /// For which stream of HTTP/2 it is there ([`Thread::stream`]).
    stream: Option<(u64, u32)>,
    /// Messages whose publish has not been looked for.
    unoriginated: VecDeque<Waiting>,
    /// Deliveries of tasks that a pool's processes may be handed, by the task's id.
    tasks: FxHashMap<String, UnitId>,
    /// Interactions of Discord by their ids.
    interactions: FxHashMap<u64, UnitId>,
    /// Deliveries of which it is not known whether anybody will acknowledge them.
    unsettled: VecDeque<UnitId>,
    /// Messages that have woken nobody yet: when they came, and where.
    untaken: VecDeque<(u64, ConnectionId)>,
    /// What would help to see in processes besides.
    needed: Vec<(u32, Need)>,
    happened: VecDeque<Happened>,
    clock: i64,
    now: u64,
    next: u64,
    swept: u64,
    unknown: Arc<Resource>,
    counters: Counters,
    dropped: FxHashMap<u32, u64>,
    spans: Vec<Span>,
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new(options: Options) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(options.seed),
            routes: Routes::new(&options.routes),
            texts: Texts::default(),
            options,
            connections: Connections::default(),
            contexts: Contexts::default(),
            threads: FxHashMap::default(),
            queued: FxHashMap::default(),
            processes: FxHashMap::default(),
            begun: FxHashMap::default(),
            exchanges: FxHashMap::default(),
            sharing: BTreeMap::new(),
            behind: BTreeMap::new(),
            shared_objects: FxHashMap::default(),
            calls: Calls::default(),
            stubs: BTreeMap::new(),
            units: FxHashMap::default(),
            operations: FxHashMap::default(),
            finished: VecDeque::new(),
            publishes: Publishes::default(),
            notifiers: Notifiers::default(),
            outputs: Outputs::default(),
            stacks: Stacks::default(),
            prepared: Prepared::default(),
            jobs: JobOptions::default(),
            loops: Loops::default(),
            measures: Measures::default(),
            stack: 0,
            stream: None,
            tasks: FxHashMap::default(),
            interactions: FxHashMap::default(),
            unsettled: VecDeque::new(),
            untaken: VecDeque::new(),
            needed: Vec::new(),
            unoriginated: VecDeque::new(),
            happened: VecDeque::new(),
            clock: 0,
            now: 0,
            next: 0,
            swept: 0,
            unknown: Arc::new(Resource::default()),
            counters: Counters::default(),
            dropped: FxHashMap::default(),
            spans: Vec::new(),
        }
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was counted on connections.
    pub fn connection_counters(&self) -> &crate::conn::Counters {
        self.connections.counters()
    }

    /// Sizes of the tables, for `adder status`.
    pub fn sizes(&self) -> [(&'static str, usize); 9] {
        let (stacks, codes) = self.stacks.sizes();
        [
            ("stacks", stacks),
            ("code objects", codes),
            ("contexts", self.contexts.len()),
            ("threads", self.threads.len()),
            ("units", self.units.len()),
            ("operations", self.operations.len()),
            ("finished", self.finished.len()),
            ("publishes", self.publishes.len()),
            ("log records", self.outputs.len()),
        ]
    }

    /// Takes a fact as it lies in the ring buffer or in a recording.
    pub fn take(&mut self, bytes: &[u8]) {
        match Fact::parse(bytes) {
            Ok(fact) => self.fact(&fact),
            Err(error) => {
                self.counters.bad_facts += 1;
                tracing::debug!("a fact is unreadable: {error}");
            }
        }
    }

    /// The spans that are complete.
    pub fn spans(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.spans)
    }

    /// Takes a fact.
    pub fn fact(&mut self, fact: &Fact<'_>) {
        self.counters.facts += 1;
        let header = *fact.header();
        self.now = self.now.max(header.time);
        if let Fact::Stack { stack, frames } = fact {
            return self.is_at(&header, fact::words(frames), stack.cut != 0);
        }
        match fact {
            Fact::Text(_, text) => return self.has_text(&header, text),
            Fact::Stream(stream) => return self.has_stream(stream),
            Fact::Window { window, bytes } => return self.has_window(window, bytes),
            // Nor what was seen of the thread from outside.
            Fact::LoopSample(_, sample) => return self.loop_sampled(&header, sample),
            Fact::Step(item) => return self.loop_stepped(item),
            _ => self.loops.heard(&header),
        }
        let is_loop = |thread: &Thread| thread.is_loop;
        if matches!(fact, Fact::Timer(_))
            && header.flags & flag::FILE != 0
            && self.threads.get(&(header.pid, header.tid)).is_some_and(is_loop)
        {
            // Its callbacks begin what a loop does.
            return;
        }
        (self.stack, self.stream) = (0, None);
        if header.flags & flag::STACKED != 0
            && let Some(thread) = self.threads.get(&(header.pid, header.tid))
        {
            // The parts of a vector have one in common.
            (self.stack, self.stream) = (thread.stack, thread.stream);
        } else if !matches!(fact, Fact::Socket(_))
            && let Some(thread) = self.threads.get_mut(&(header.pid, header.tid))
        {
            // A new socket is told of between a stack and the bytes that were sent there.
            thread.stack = 0;
        }
        if header.context != 0 && header.flags & flag::RECEIVED == 0 && !matches!(fact, Fact::Timer(_)) {
            self.called_by_timer(&header);
        }
        if let Fact::Data { data, head, tail } = fact
            && header.flags & flag::OUTPUT != 0
        {
            // It says nothing of what else the thread does.
            return self.output(&header, data, head, tail);
        }
        // What the fact tells of the thread is compared with the facts before it. Ciphertext tells nothing: the plaintext
        // has done so, or will.
        let ciphertext = match fact {
            Fact::Data { data, .. } => self.connections.is_encrypted(data.socket),
            Fact::Given(item) => self.connections.is_encrypted_at(header.pid, item.item as i32),
            Fact::TlsHandshake(_) | Fact::TlsFree(_) => true,
            _ => false,
        };
        let is_continued = header.flags & flag::CONTINUED != 0;
        let before = (header.tid != 0 && !ciphertext && !is_continued).then(|| {
            let last = self.threads.get(&(header.pid, header.tid)).map_or(0, |thread| thread.last);
            let thread = self.thread(&header);
            thread.rested = header.time.saturating_sub(last);
            thread.facts += 1;
            thread.facts - 1
        });
        if !matches!(fact, Fact::Data { .. } | Fact::Tls { .. } | Fact::TlsHandshake(_) | Fact::TlsFree(_))
            && let Some(thread) = self.threads.get_mut(&(header.pid, header.tid))
        {
            thread.flush = (0, 0);
        }
        match fact {
            Fact::Data { head, .. } if header.flags & flag::PIPE != 0 => self.piped(&header, head),
            Fact::Data { data, head, tail } => {
                let (mark, flags, sent_for) = self.sender(&header, data);
                if !ciphertext {
                    self.moved(&header, data.socket, data.length, mark.context);
                }
                self.connections.data(data, head, tail, mark, &mut self.happened);
                self.handle(if ciphertext { flag::DETACHED } else { flags });
                self.has_sent_for(&header, mark.context, sent_for);
            }
            Fact::Tls { tls, head, tail } => {
                let mark = self.mark(&header);
                let mark = self.buffered_by(&header, tls.length).unwrap_or(mark);
                self.moved(&header, tls.ssl, tls.length, mark.context);
                let placed = self.connections.tls(tls, head, tail, mark, &mut self.happened);
                if !placed && header.flags & flag::RECEIVED != 0 {
                    // It may be a request. What is made in this context now is for that, and not for whatever a context
                    // at this address belonged to before.
                    self.contexts.renew(header.pid, header.context, header.time);
                }
                self.handle(header.flags);
            }
            Fact::TlsHandshake(item) => {
                let mark = self.mark(&header);
                self.connections.tls_handshake(item, mark, &mut self.happened);
                self.handle(0);
            }
            Fact::TlsFree(item) => {
                let mark = self.mark(&header);
                self.connections.tls_free(item, mark, &mut self.happened);
                self.handle(0);
            }
            Fact::Socket(socket) => {
                let mark = self.mark(&header);
                if header.flags & flag::ACCEPTED != 0 {
                    // What the thread has read before is not what it does next.
                    self.start_is_over(header.pid);
                    let thread = self.thread(&header);
                    (thread.inbound, thread.timed) = (None, 0);
                }
                if header.flags & flag::CONNECTED != 0 {
                    // asyncio wakes it when the connection stands, and again when its protocol has been told.
                    self.turn_waits_for_others(mark.context, 2);
                }
                self.connections.socket(socket, mark, &mut self.happened);
                self.handle(0);
            }
            Fact::Close(close) => {
                let mark = self.mark(&header);
                self.gives_up(&header, close.fd);
                self.connections.close(close, mark, &mut self.happened);
                self.handle(0);
            }
            Fact::Timer(item) if header.flags & flag::FILE != 0 => self.read_from_file(item),
            Fact::Timer(item) => self.timer(item),
            Fact::Wake(lineage) => self.woken(&header, lineage.child),
            Fact::Given(item) => self.given(&header, item, ciphertext),
            Fact::Buffered(item) => self.buffered(&header, item),
            Fact::LateWrites(_) => {
                if let Some(process) = self.processes.get_mut(&header.pid) {
                    process.late_writes = true;
                }
                self.connections.writes_late(header.pid);
            }
            Fact::Task(lineage) | Fact::Copy(lineage) => {
                self.lineage(&header, lineage.child, before.unwrap_or_default());
            }
            Fact::Put(item) => {
                let context = self.contexts.at(header.pid, header.context, header.time);
                self.turn_waits_for_others(context, 1);
                let cause = self.cause_of_work(&header, context);
                self.work_is_put(&cause);
                if self.queued.len() < QUEUED_MAX {
                    self.queued.insert((header.pid, item.item), cause);
                } else {
                    self.counters.unqueued += 1;
                }
            }
            Fact::Get(item) => {
                let context = self.contexts.at(header.pid, header.context, header.time);
                let cause = self.queued.remove(&(header.pid, item.item));
                self.takes_work(&header, cause, context);
                let thread = self.thread(&header);
                thread.work = Some(Work { cause, context, time: header.time });
                thread.inbound = None;
            }
            Fact::Thread(child) => {
                let context = self.contexts.at(header.pid, header.context, header.time);
                let cause = self.cause_of_work(&header, context);
                let thread = Thread {
                    turn: cause.turns.map(|trigger| Turn::new(trigger, header.time, 0, 0)),
                    work: Some(Work { cause: Some(cause), context: 0, time: header.time }),
                    last: header.time,
                    ..Thread::default()
                };
                self.threads.insert((header.pid, child.child), thread);
                self.thread_is_new(header.pid, child.child);
            }
            Fact::Fork(child) => {
                self.thread(&header).files.forked(header.time);
                if let Some(parent) = self.processes.get(&header.pid) {
                    let state = parent.forked(header.time);
                    self.processes.insert(child.child, state);
                }
            }
            Fact::Exec(_) => {
                self.executed(header.pid, header.time);
                self.calls_end(header.pid);
                self.outputs_end(header.pid);
                self.stacks.forget(header.pid);
                self.routes.forget(header.pid);
                self.steps_end(header.pid);
                self.contexts.exit(header.pid);
                self.measures.retain(|pid| pid != header.pid);
                if let Some(process) = self.processes.get_mut(&header.pid) {
                    process.has_tasks = false;
                }
            }
            Fact::Exit(_) => {
                let mark = self.mark(&header);
                self.connections.exit(mark, &mut self.happened);
                self.handle(0);
                self.outputs_end(header.pid);
                self.start_is_over(header.pid);
                self.steps_end(header.pid);
                self.contexts.exit(header.pid);
                self.calls_end(header.pid);
                self.measures.end(header.pid);
                if let Some(process) = self.processes.get_mut(&header.pid) {
                    process.ended = Some(header.time);
                }
            }
            // Some have been dealt with above.
            Fact::Map(_)
            | Fact::Stack { .. }
            | Fact::Text(..)
            | Fact::Stream(_)
            | Fact::Window { .. }
            | Fact::Step(_)
            | Fact::LoopSample(..) => {}
            Fact::Code(_, code) => self.stacks.code(header.pid, code),
            Fact::Routes(_, table) => self.routes.found(header.pid, table),
            Fact::CodeOptions(_, options) => self.stacks.configure(options),
            Fact::JobOptions(_, options) => self.jobs = *options,
            Fact::LoopOptions(_, options) => self.loops.configure(*options),
            Fact::Lags(_, lags) => self.measures.lags(header.pid, lags),
            Fact::Process(_, info) => self.process(header.pid, info),
            Fact::Python(_, info) => self.python(header.pid, info),
            Fact::Output(_, info) => self.outputs.announce(header.pid, *info),
            Fact::Logs(_, options) => self.outputs.configure(options),
            Fact::Clock(_, clock) => self.tick(*clock),
            Fact::Dropped(_, count) => {
                self.dropped.insert(header.pid, *count);
                self.counters.dropped_facts = self.dropped.values().sum();
                self.calls_are_unclear();
                self.given_is_unclear(header.pid);
                self.behind_is_unclear(|_| true);
            }
            Fact::End(_) => self.finish(),
        }
        self.cares_for_stream(&header);
    }

    fn mark(&mut self, header: &Header) -> Mark {
        let context = self.contexts.at(header.pid, header.context, header.time);
        Mark { time: header.time, pid: header.pid, tid: header.tid, context, stack: self.stack }
    }

    fn thread(&mut self, header: &Header) -> &mut Thread {
        let thread = self.threads.entry((header.pid, header.tid)).or_default();
        thread.last = header.time;
        thread
    }

    /// Works through what the connections have understood from one fact.
    fn handle(&mut self, flags: u16) {
        while let Some(happened) = self.happened.pop_front() {
            match (&happened.event, happened.role) {
                (Event::Begin { .. }, Role::Server) => self.begin_unit(&happened, flags),
                (Event::Begin { .. }, Role::Client) => self.begin_operation(&happened, flags),
                (Event::Reply { exchange, at }, Role::Server) if happened.protocol == Protocol::Http2 => {
                    self.reply_stream(happened.connection, *exchange, *at);
                }
                (Event::Reply { exchange, at }, Role::Server) => {
                    self.reply(happened.connection, *exchange, *at, flags);
                }
                (Event::End { .. }, Role::Server) => self.end_unit(happened),
                (Event::End { .. }, Role::Client) => self.end_operation(happened),
                (Event::Push { .. }, _) => self.pushed(happened),
                (Event::Reply { exchange, at }, Role::Client) => {
                    self.answered(happened.connection, *exchange, *at);
                }
                (Event::Delivery { .. }, _) => self.begin_delivery(happened),
                (Event::Settle { delivery, at, outcome }, _) => {
                    self.settle(happened.connection, *delivery, *at, *outcome);
                }
                (Event::Sent { exchange, at, message }, _) => {
                    self.published(happened.connection, *exchange, message, *at);
                }
                (Event::Lost { .. }, _) => {
                    self.doubt(happened.connection);
                    self.calls_are_missing(happened.connection, happened.pid);
                    self.behind_is_unclear(|connection| connection == happened.connection);
                }
                (Event::Upgrade { .. } | Event::Unread(_), _) => {}
            }
        }
    }
}
