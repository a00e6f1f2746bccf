//! Spans on the terminal: a live tree for each trace with what was logged for it, and a summary at the end.
//!
//! A trace is drawn when its root has come and nothing more has for a moment, or when it gets too old or too large to
//! wait. Spans that come later are drawn as a continuation. All names and texts come from the watched processes and
//! their peers: nothing of them reaches the terminal that could control it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::{self, Write},
    time::Duration,
};

use crate::signal::{Attribute, LogRecord, Resource, Span, Value};

mod lines;
mod summary;
mod text;
mod tree;

use lines::Lines;
use summary::Summary;
use text::Paint;

/// Columns of a line, unless told otherwise.
const WIDTH: usize = 100;

/// Narrowest lines that can be laid out.
const MIN_WIDTH: usize = 72;

/// How long a trace with its root must have been quiet to be drawn.
const QUIET: Duration = Duration::from_millis(300);

/// How many times longer, if its root has a parent in another process, which may be watched too and tell, or if somebody
/// may yet take a message.
const QUIET_REMOTE: u32 = 5;

/// Longest time that a trace waits for its root, or for silence.
const MAX_AGE: Duration = Duration::from_secs(10);

/// Most spans of a trace that is not drawn yet.
const MAX_TRACE_SPANS: usize = 500;

/// Most spans of all traces that are not drawn yet.
const MAX_SPANS: usize = 20_000;

/// Most traces remembered as drawn.
const MAX_DRAWN: usize = 1024;

/// Draws spans.
#[derive(Debug)]
pub struct Console<W> {
    writer: W,
    paint: Paint,
    width: usize,
    quiet: Duration,
    /// The last tick, nanoseconds since the Unix epoch; 0 before the first.
    now: u64,
    /// Traces not drawn yet, by a number that grows with their arrival.
    traces: BTreeMap<u64, Trace>,
    numbers: HashMap<[u8; 16], u64>,
    next: u64,
    spans: usize,
    /// Traces that were drawn already, the oldest first.
    drawn: VecDeque<[u8; 16]>,
    evicted: Evicted,
    lines: Lines,
    summary: Summary,
}

/// What was never drawn for want of room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Traces, or parts of them.
    pub traces: u64,
    /// Their spans.
    pub spans: u64,
}

/// The spans of one trace that have come so far.
#[derive(Debug)]
struct Trace {
    spans: Vec<Span>,
    /// First and last arrival, as times of ticks; `None` until the tick after it.
    first: Option<u64>,
    last: Option<u64>,
}

impl<W: Write> Console<W> {
    /// A console that writes there, with colours or without.
    pub fn new(writer: W, color: bool) -> Self {
        Self {
            writer,
            paint: Paint::new(color),
            width: WIDTH,
            quiet: QUIET,
            now: 0,
            traces: BTreeMap::new(),
            numbers: HashMap::new(),
            next: 0,
            spans: 0,
            drawn: VecDeque::new(),
            evicted: Evicted::default(),
            lines: Lines::default(),
            summary: Summary::default(),
        }
    }

    /// Sets the columns of a line; no fewer than 72.
    #[must_use]
    pub fn with_width(mut self, columns: usize) -> Self {
        self.width = columns.max(MIN_WIDTH);
        self
    }

    /// Sets how long a trace must have been quiet to be drawn.
    #[must_use]
    pub fn with_quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }

    /// Takes finished spans. Writes only where a trace has grown too large to wait.
    pub fn spans(&mut self, spans: &[Span]) -> io::Result<()> {
        for span in spans {
            self.summary.add(span);
            let number = *self.numbers.entry(span.trace_id).or_insert_with(|| {
                self.next += 1;
                self.next
            });
            let trace =
                self.traces.entry(number).or_insert(Trace { spans: Vec::new(), first: None, last: None });
            trace.spans.push(span.clone());
            trace.last = None;
            self.spans += 1;
            if trace.spans.len() >= MAX_TRACE_SPANS {
                self.draw(number)?;
            } else if self.spans > MAX_SPANS {
                self.evict();
            }
        }
        Ok(())
    }

    /// Takes log records, which are shown with their spans.
    pub fn logs(&mut self, records: &[LogRecord]) {
        self.lines.add(records, self.now);
    }

    /// The time is `now`, in nanoseconds since the Unix epoch: draws the traces that are due. To be called several
    /// times a second.
    pub fn tick(&mut self, now: u64) -> io::Result<()> {
        self.now = now;
        self.lines.forget(now.saturating_sub(2 * nanoseconds(MAX_AGE)));
        let quiet = nanoseconds(self.quiet);
        let due: Vec<u64> = self
            .traces
            .iter_mut()
            .filter_map(|(number, trace)| {
                let first = *trace.first.get_or_insert(now);
                let last = *trace.last.get_or_insert(now);
                let silence = now.saturating_sub(last);
                let wait = match tree::root(&trace.spans) {
                    _ if self.drawn.contains(&trace.spans.first()?.trace_id) => quiet,
                    Some(tree::Root::Here) if silence < quiet || !tree::waits(&trace.spans) => quiet,
                    Some(_) => quiet.saturating_mul(QUIET_REMOTE.into()),
                    None => u64::MAX,
                };
                let due = silence >= wait || now.saturating_sub(first) >= nanoseconds(MAX_AGE);
                due.then_some(*number)
            })
            .collect();
        for number in &due {
            self.draw(*number)?;
        }
        if !due.is_empty() {
            self.writer.flush()?;
        }
        Ok(())
    }

    /// Draws what is left, complete or not, and the summary.
    pub fn finish(&mut self) -> io::Result<()> {
        while let Some(number) = self.traces.keys().next().copied() {
            self.draw(number)?;
        }
        let summary = self.summary.draw(&mut self.paint, self.width, self.evicted);
        self.writer.write_all(summary.as_bytes())?;
        self.writer.flush()
    }

    /// What was never drawn.
    pub fn evicted(&self) -> Evicted {
        self.evicted
    }

    fn draw(&mut self, number: u64) -> io::Result<()> {
        let Some(trace) = self.take(number) else { return Ok(()) };
        let Some(id) = trace.spans.first().map(|span| span.trace_id) else { return Ok(()) };
        let continued = self.drawn.contains(&id);
        if !continued {
            if self.drawn.len() >= MAX_DRAWN {
                self.drawn.pop_front();
            }
            self.drawn.push_back(id);
        }
        let drawing = tree::draw(&trace.spans, &self.lines.take(id), continued, &mut self.paint, self.width);
        self.writer.write_all(drawing.as_bytes())
    }

    fn evict(&mut self) {
        let oldest = self.traces.keys().next().copied();
        if let Some(trace) = oldest.and_then(|number| self.take(number)) {
            self.evicted.traces += 1;
            self.evicted.spans += trace.spans.len() as u64;
        }
    }

    fn take(&mut self, number: u64) -> Option<Trace> {
        let trace = self.traces.remove(&number)?;
        self.spans -= trace.spans.len();
        if let Some(span) = trace.spans.first() {
            self.numbers.remove(&span.trace_id);
        }
        Some(trace)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The text under a key.
fn text_of<'a>(attributes: &'a [Attribute], key: &str) -> Option<&'a str> {
    attributes.iter().find(|attribute| attribute.key == key).and_then(|attribute| match &attribute.value {
        Value::Str(text) => Some(text.as_ref()),
        Value::Int(_) | Value::Bool(_) | Value::Strs(_) => None,
    })
}

/// The number under a key.
fn number_of(attributes: &[Attribute], key: &str) -> Option<i64> {
    attributes.iter().find(|attribute| attribute.key == key).and_then(|attribute| match attribute.value {
        Value::Int(number) => Some(number),
        Value::Str(_) | Value::Bool(_) | Value::Strs(_) => None,
    })
}

/// `service.name`.
fn service_of(resource: &Resource) -> &str {
    text_of(&resource.attributes, "service.name").unwrap_or("?")
}

#[cfg(test)]
mod tests;
