//! Log records: what processes write to their outputs, each with the unit of work for which it was written.
//!
//! A record is decided upon like an operation (see the parent module), with what was known when it was written; but it
//! is no sign of work: a message for which something was only logged leaves no span, and the record then has none.

use std::collections::VecDeque;

use adder_ebpf::{Data, Header};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Serialize;

use super::{Engine, HOLD_MAX, unit::Act};
use crate::{
    fact::OutputInfo,
    logs::{
        self, Exception, Parsed,
        lines::{Buffering, Piece, Record, Stream},
        redact::Redactor,
    },
    protocol::Detail,
    signal::{Attribute, LogRecord, Severity, SpanEvent},
};

/// Bytes of records that wait for evidence at most.
const WAITING_MAX: usize = 32 * 1024 * 1024;
/// Exceptions that one span tells of at most.
const EXCEPTIONS_MAX: usize = 8;
/// How long a failed request waits for the traceback that its server may log when it has answered, nanoseconds.
const TRACEBACK_WAIT: u64 = 250_000_000;
/// `STDERR_FILENO`.
const STDERR: i32 = 2;
/// Attributes that most records get here: their stream, and the place in the code.
const LOG_ATTRIBUTES: usize = 4;

/// Counts of log records.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LogCounters {
    /// Made.
    pub records: u64,
    /// Of these, with the span to which they belong.
    pub correlated: u64,
    /// Of these, with nobody to ask: they were written together with others out of a buffer.
    pub buffered: u64,
    /// Left out because of their severity (`logs.level`).
    pub below_level: u64,
    /// Left out because their process wrote too many (`logs.per_second`).
    pub over_rate: u64,
    /// Left out because too many waited for evidence.
    pub no_room: u64,
    /// Bytes of records that were too long (`logs.max_bytes`).
    pub cut_bytes: u64,
}

/// The outputs of all processes.
pub(super) struct Outputs {
    options: logs::Options,
    redactor: Redactor,
    streams: FxHashMap<(u32, i32), Stream<Act>>,
    processes: FxHashMap<u32, Process>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Processes of which a traceback is unfinished or waits.
    tracebacks: FxHashSet<u32>,
    /// Those that are complete.
    records: Vec<LogRecord>,
    complete: Vec<Record<Act>>,
}

/// A process whose logs are wanted.
#[derive(Default)]
struct Process {
    /// Nothing is known of a fork at first.
    info: Option<OutputInfo>,
    /// The second of which records are counted, how many there were, and how many too many.
    second: u64,
    count: u32,
    over: u64,
}

/// A record whose unit is not certain yet.
struct Waiting {
    act: Option<Act>,
    pid: u32,
    time: u64,
    stderr: bool,
    cut: u64,
    /// Bytes that it takes.
    size: usize,
    parsed: Parsed,
}

impl Default for Outputs {
    fn default() -> Self {
        let options = logs::Options::default();
        Self {
            redactor: Redactor::new(&options.redact, options.redact_email),
            options,
            streams: FxHashMap::default(),
            processes: FxHashMap::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            tracebacks: FxHashSet::default(),
            records: Vec::new(),
            complete: Vec::new(),
        }
    }
}

impl Outputs {
    /// How many records wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// What is to be made of logs.
    pub(super) fn configure(&mut self, options: &logs::Options) {
        self.options = options.clone();
        self.redactor = Redactor::new(&options.redact, options.redact_email);
    }

    /// How a process writes.
    pub(super) fn announce(&mut self, pid: u32, info: OutputInfo) {
        for (fd, buffering) in [(1, info.stdout), (STDERR, info.stderr)] {
            if let Some(stream) = self.streams.get_mut(&(pid, fd)) {
                stream.set_buffering(buffering);
            }
        }
        self.processes.entry(pid).or_default().info = Some(info);
    }

    fn buffering(&self, pid: u32, fd: i32) -> Buffering {
        let info = self.processes.get(&pid).and_then(|process| process.info);
        // The careful way, where it is not known.
        info.map_or(Buffering::Block, |info| if fd == STDERR { info.stderr } else { info.stdout })
    }
}

impl Engine {
    /// A process has written to one of its outputs.
    pub(super) fn output(&mut self, header: &Header, data: &Data, head: &[u8], tail: &[u8]) {
        let context = self.contexts.at(header.pid, header.context, header.time);
        let thread = self.threads.get(&(header.pid, header.tid));
        let act = Act {
            pid: header.pid,
            tid: header.tid,
            start: header.time,
            context,
            work: thread.and_then(|thread| thread.work),
            by_thread: self.by_thread(header, context),
            stack: self.stack,
            notice: self.noticed(context, (header.pid, header.tid), header.time),
            ..Act::default()
        };
        let act = Act { job: self.job_of(&act), ..act };
        let missing = data.length.saturating_sub(head.len() as u64 + tail.len() as u64);
        let piece =
            Piece { writer: (header.tid, context), act: &act, time: header.time, head, missing, tail };
        let outputs = &mut self.outputs;
        let buffering = outputs.buffering(header.pid, data.fd);
        let max_bytes = outputs.options.max_bytes as usize;
        let stream =
            outputs.streams.entry((header.pid, data.fd)).or_insert_with(|| Stream::new(buffering, max_bytes));
        let mut complete = std::mem::take(&mut outputs.complete);
        stream.take(&piece, &mut complete);
        self.complete(header.pid, data.fd, complete);
    }

    /// Reads records that are complete.
    fn complete(&mut self, pid: u32, fd: i32, mut complete: Vec<Record<Act>>) {
        for record in complete.drain(..) {
            self.logged(pid, fd, record);
        }
        // The room is used again.
        self.outputs.complete = complete;
    }

    fn logged(&mut self, pid: u32, fd: i32, record: Record<Act>) {
        let counters = &mut self.counters.logs;
        let outputs = &mut self.outputs;
        let mut parsed = logs::parse(&record.text);
        if parsed.severity.as_ref().is_some_and(|(severity, _)| *severity < outputs.options.level) {
            counters.below_level += 1;
            return;
        }
        let process = outputs.processes.entry(pid).or_default();
        let second = record.time / 1_000_000_000;
        if process.second != second {
            process.second = second;
            process.count = 0;
        }
        process.count += 1;
        if process.count > outputs.options.per_second {
            process.over += 1;
            counters.over_rate += 1;
            return;
        }
        // What is made of a record holds its text once more at most.
        let size = record.text.len() * 2 + size_of::<Waiting>();
        if outputs.waiting_bytes + size > WAITING_MAX {
            counters.no_room += 1;
            return;
        }
        outputs.waiting_bytes += size;
        outputs.redactor.record(&mut parsed);
        counters.cut_bytes += record.cut;
        let (time, cut) = (record.time, record.cut);
        let stderr = fd == STDERR;
        outputs.waiting.push_back(Waiting { act: record.act, pid, time, stderr, cut, size, parsed });
    }

    /// Time has passed: makes records of what is settled, or of everything.
    pub(super) fn settle_outputs(&mut self, all: bool) {
        let now = self.now;
        let unfinished = self.outputs.streams.iter().filter(|(_, stream)| !stream.is_empty());
        let unfinished: Vec<(u32, i32)> = unfinished.map(|(key, _)| *key).collect();
        for (pid, fd) in unfinished {
            let mut complete = std::mem::take(&mut self.outputs.complete);
            if let Some(stream) = self.outputs.streams.get_mut(&(pid, fd)) {
                if all {
                    stream.finish(&mut complete);
                } else {
                    stream.tick(now, &mut complete);
                }
            }
            self.complete(pid, fd, complete);
        }
        let mut waiting = std::mem::take(&mut self.outputs.waiting);
        waiting.retain_mut(|record| {
            let settled = match &record.act {
                Some(act) => {
                    let settled = |act: &Act| {
                        self.act_settled(act, act.start, 0)
                            && act.job.is_none_or(|job| self.job_is_certain(job))
                    };
                    all || act.start + HOLD_MAX < now || settled(act)
                }
                None => true,
            };
            if settled {
                self.outputs.waiting_bytes -= record.size;
                self.emit_record(record);
            }
            !settled
        });
        self.outputs.waiting = waiting;
        self.look_for_tracebacks();
        self.tell_of_rates(all);
    }

    /// Says how many records of a process were left out.
    fn tell_of_rates(&mut self, all: bool) {
        let this_second = self.now / 1_000_000_000;
        let over = self.outputs.processes.iter_mut().filter(|(_, process)| process.over > 0);
        let over: Vec<_> = over
            .filter(|(_, process)| all || process.second < this_second)
            .map(|(pid, process)| (*pid, process.second, std::mem::take(&mut process.over)))
            .collect();
        for (pid, second, count) in over {
            let per_second = self.outputs.options.per_second;
            let record = LogRecord {
                time: self.unix((second + 1) * 1_000_000_000),
                severity: Some((Severity::WARN, "WARN".to_owned())),
                logger: None,
                body: format!(
                    "{count} log records of this process were left out: it wrote more than {per_second} in a second \
                     (logs.per_second)"
                ),
                attributes: vec![Attribute::new("adder.log.left_out", count as i64)],
                span: None,
                resource: self.resource_of(pid),
            };
            self.outputs.records.push(record);
        }
    }

    fn emit_record(&mut self, waiting: &mut Waiting) {
        let parsed = std::mem::take(&mut waiting.parsed);
        let owner = waiting.act.as_ref().and_then(|act| self.owner_of(act)).map(|(owner, _)| owner);
        let owner = owner.filter(|owner| !self.is_idle(*owner) && !self.is_empty_job(*owner));
        let time = self.unix(waiting.time);
        let span = owner.and_then(|owner| {
            let trace_id = self.unit_trace(owner, 0).0;
            let unit = self.units.get_mut(&owner)?;
            if let Some(exception) = &parsed.exception
                && (unit.end.is_none() || unit.detail.is_some() || unit.job.is_some())
            {
                note_exception(&mut unit.events, exception, time);
            }
            Some((trace_id, unit.span_id))
        });
        let site = waiting.act.as_ref().and_then(|act| self.site_of(act, owner));
        if let (Some(owner), Some(act)) = (owner, &waiting.act) {
            // A server's own line, such as an access log's, is written where no handler is.
            self.note_handler(owner, act, true);
        }
        let counters = &mut self.counters.logs;
        counters.records += 1;
        counters.correlated += u64::from(span.is_some());
        let mut attributes = parsed.attributes;
        attributes.reserve_exact(LOG_ATTRIBUTES);
        let stream = if waiting.stderr { "stderr" } else { "stdout" };
        attributes.push(Attribute::new("log.iostream", stream));
        attributes.extend(site.into_iter().flatten());
        if let Some(exception) = &parsed.exception {
            attributes.extend(exception.attributes());
        }
        if waiting.cut > 0 {
            attributes.push(Attribute::new("adder.log.cut_bytes", waiting.cut as i64));
        }
        if waiting.act.is_none() {
            counters.buffered += 1;
            attributes.push(Attribute::new("adder.log.uncorrelated", "buffered"));
        }
        self.outputs.records.push(LogRecord {
            time,
            severity: parsed.severity,
            logger: parsed.logger,
            body: parsed.body,
            attributes,
            span: span.or(parsed.ids),
            resource: self.resource_of(waiting.pid),
        });
    }

    /// Whether an exception may still be logged for a unit: it has failed, or a traceback of its process is on its way.
    pub(super) fn awaits_traceback(&self, id: super::UnitId) -> bool {
        let Some(unit) = self.units.get(&id) else { return false };
        if unit.end.is_none_or(|end| end + TRACEBACK_WAIT <= self.now) {
            return false;
        }
        let failed = matches!(&unit.detail, Some(Detail::Http(exchange)) if exchange.status >= Some(500));
        failed
            && !unit.events.iter().any(|event| event.name == "exception")
            && self.outputs.processes.contains_key(&unit.pid)
            || self.outputs.tracebacks.contains(&unit.pid)
    }

    /// Notes whose tracebacks are on their way.
    fn look_for_tracebacks(&mut self) {
        let outputs = &mut self.outputs;
        outputs.tracebacks.clear();
        let unfinished = outputs.streams.iter().filter(|(_, stream)| stream.has_traceback());
        let waiting = outputs.waiting.iter().filter(|waiting| waiting.parsed.exception.is_some());
        outputs
            .tracebacks
            .extend(unfinished.map(|((pid, _), _)| *pid).chain(waiting.map(|waiting| waiting.pid)));
    }

    /// The records that are complete.
    pub fn logs(&mut self) -> Vec<LogRecord> {
        std::mem::take(&mut self.outputs.records)
    }

    /// A process has a new program, or none any more.
    pub(super) fn outputs_end(&mut self, pid: u32) {
        for fd in [1, STDERR] {
            if let Some(mut stream) = self.outputs.streams.remove(&(pid, fd)) {
                let mut complete = std::mem::take(&mut self.outputs.complete);
                stream.finish(&mut complete);
                self.complete(pid, fd, complete);
            }
        }
    }

    /// Forgets the outputs of processes that are forgotten.
    pub(super) fn sweep_outputs(&mut self) {
        let processes = &self.processes;
        self.outputs.processes.retain(|pid, _| processes.contains_key(pid));
        self.outputs.streams.retain(|(pid, _), stream| processes.contains_key(pid) || !stream.is_empty());
    }
}

/// Notes an exception for the span, once.
fn note_exception(events: &mut Vec<SpanEvent>, exception: &Exception, time: u64) {
    let attributes = exception.attributes();
    // The same exception is often logged where it is caught and where it is handled: their messages are the same.
    let same = |event: &SpanEvent| event.attributes.iter().take(2).eq(attributes.iter().take(2));
    if events.len() < EXCEPTIONS_MAX && !events.iter().any(same) {
        events.push(SpanEvent { time, name: "exception".into(), attributes });
    }
}
