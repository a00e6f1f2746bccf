//! What is written to a stream, cut into records.
//!
//! A record is a line, with what belongs to it: a traceback, or the further lines of a message that begins in one of
//! the usual formats and was written at once with them. The lines of several threads and tasks are kept apart, even
//! where they write pieces of lines by turns. Blank lines between records are none.
//!
//! # Whose a record is
//!
//! Where nothing is buffered, a record is from whoever made the system call. Else it need not be ([`Buffering`]): whoever
//! fills or flushes a buffer writes what others have left there (`Modules/_io/bufferedio.c`, `Modules/_io/textio.c`).
//! Then a record is believed to be from its writer only
//!
//! - if it was written alone; to a stream that is flushed at each line by one thread only, if not;
//! - if it has at most [`ALONE_MAX`] bytes, where a buffer is flushed because it is full: a longer one may be what another
//!   has left, pushed out by the next;
//! - if no other was written in the [`CONTENDED`] time before, where several threads write: they wait for each other's writes, and the one that goes on first
//!   flushes what the others have put into the buffer meanwhile.
//!
//! One hole stays: a single short line in a buffer, which another flushes without writing anything itself, seems to be that
//! one's. Loggers and `print(…, flush=True)` write before they flush.

use serde::{Deserialize, Serialize};

use super::text;

/// How long a finished record waits for what may belong to it, nanoseconds.
const SETTLED_AFTER: u64 = 20_000_000;
/// How long a piece of a line, or of a traceback, waits for its rest, nanoseconds.
const UNFINISHED_KEPT: u64 = 1_000_000_000;
/// Writers of one stream with something unfinished, at most; beyond it the oldest is cut short.
const WRITERS_MAX: usize = 256;
/// Longest record on a buffered stream that is believed to be its writer's, bytes.
const ALONE_MAX: usize = 4096;
/// How long after a write another thread's lines may be written in this one's name, nanoseconds: a few turns at Python's
/// global lock (5 ms each, `Python/ceval_gil.c`).
const CONTENDED: u64 = 20_000_000;
/// Bytes of a buffered write from which on its end may be the middle of a line.
const BATCH_MIN: usize = 2048;

/// What Python does with what is written to a stream (`Python/pylifecycle.c`, `create_stdio`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Buffering {
    /// Writes it: `-u`, `PYTHONUNBUFFERED`.
    None,
    /// Flushes its buffer behind each line: standard error since 3.9, and a terminal.
    Line,
    /// Flushes its buffer when it is full or when it is told to.
    Block,
}

/// Who writes: a thread, and its context.
pub type Writer = (u32, u32);

/// One write.
#[derive(Debug)]
pub struct Piece<'a, A> {
    /// Who has written it.
    pub writer: Writer,
    /// What the caller wants to know of the writer later.
    pub act: &'a A,
    /// When, nanoseconds.
    pub time: u64,
    /// Bytes from its front.
    pub head: &'a [u8],
    /// How many bytes are missing behind them.
    pub missing: u64,
    /// Bytes from its end.
    pub tail: &'a [u8],
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<A> {
    /// Its writer, where that is certain.
    pub act: Option<A>,
    /// When it began to be written, nanoseconds.
    pub time: u64,
    /// Its text, without the final line break.
    pub text: String,
    /// Bytes that are not in the text.
    pub cut: u64,
}

/// A stream of one process.
#[derive(Debug)]
pub struct Stream<A> {
    buffering: Buffering,
    max_bytes: usize,
    /// Thread and time of the last write.
    last: (u32, u64),
    /// Several threads write.
    is_shared: bool,
    open: Vec<Open<A>>,
}

/// What a writer has not finished.
#[derive(Debug)]
struct Open<A> {
    writer: Writer,
    /// When it was last added to.
    last: u64,
    line: Line<A>,
    record: Option<Held<A>>,
    /// The line is the end of a buffer: its rest comes with the next write, whoever makes it.
    batch: bool,
}

/// The beginning of a line.
#[derive(Debug)]
struct Line<A> {
    bytes: Vec<u8>,
    cut: u64,
    /// When, and by whom where that is certain.
    began: Option<(u64, Option<A>)>,
}

/// A record to which more may belong.
#[derive(Debug)]
struct Held<A> {
    record: Record<A>,
    /// When its last line was written.
    last: u64,
    traceback: Traceback,
    /// It begins in a known format.
    formatted: bool,
}

/// How far a traceback has come (`Lib/traceback.py`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traceback {
    /// There is none.
    None,
    /// Its frames are being written.
    Frames,
    /// The line with the exception was.
    Raised,
    /// A blank line was, behind it.
    Blank,
    /// The line that leads to the exception that came of it was.
    Chained,
}

const CHAINS: [&str; 2] = [
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
];

impl<A: Clone> Stream<A> {
    /// A stream that nothing was written to.
    pub fn new(buffering: Buffering, max_bytes: usize) -> Self {
        Self { buffering, max_bytes, last: (0, 0), is_shared: false, open: Vec::new() }
    }

    /// Says how Python buffers what is written to the stream.
    pub fn set_buffering(&mut self, buffering: Buffering) {
        self.buffering = buffering;
    }

    /// Whether a traceback is among what is unfinished.
    pub fn has_traceback(&self) -> bool {
        let of = |open: &Open<A>| open.record.as_ref().is_some_and(|held| held.traceback != Traceback::None);
        self.open.iter().any(of)
    }

    /// Whether nothing is unfinished.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes what was written; `records` gets those that are complete.
    pub fn take(&mut self, piece: &Piece<'_, A>, records: &mut Vec<Record<A>>) {
        let before = records.len();
        let Piece { writer, act, time, head, missing, tail } = *piece;
        let length = head.len() as u64 + missing + tail.len() as u64;
        let place = self.place(writer, records);
        let open = &mut self.open[place];
        open.last = time;
        let goes_on = std::mem::take(&mut open.batch);
        let mut cutter = Cutter { open, act, time, max_bytes: self.max_bytes, records };
        cutter.bytes(head);
        if missing > 0 {
            cutter.line().cut += missing;
        }
        cutter.bytes(tail);
        let (thread, last) = std::mem::replace(&mut self.last, (writer.0, time));
        self.is_shared |= last != 0 && thread != writer.0;
        if self.buffering != Buffering::None {
            let contended = self.is_shared && last != 0 && time < last + CONTENDED;
            self.doubt(place, time, length, goes_on || contended, &mut records[before..]);
        }
        if self.open[place].is_idle() {
            self.open.swap_remove(place);
        }
    }

    /// Time has passed: what has waited long enough is complete.
    pub fn tick(&mut self, now: u64, records: &mut Vec<Record<A>>) {
        let max_bytes = self.max_bytes;
        self.open.retain_mut(|open| {
            let kept = if open.is_unfinished() { UNFINISHED_KEPT } else { SETTLED_AFTER };
            if open.last + kept > now {
                return true;
            }
            open.finish(max_bytes, records);
            false
        });
    }

    /// Nothing will follow.
    pub fn finish(&mut self, records: &mut Vec<Record<A>>) {
        for mut open in self.open.drain(..) {
            open.finish(self.max_bytes, records);
        }
    }

    /// Where the writer's unfinished things are.
    fn place(&mut self, writer: Writer, records: &mut Vec<Record<A>>) -> usize {
        let found = self.open.iter().position(|open| open.batch);
        if let Some(place) = found.or_else(|| self.open.iter().position(|open| open.writer == writer)) {
            self.open[place].writer = writer;
            return place;
        }
        if self.open.len() >= WRITERS_MAX
            && let Some(oldest) = (0..self.open.len()).min_by_key(|place| self.open[*place].last)
        {
            self.open.swap_remove(oldest).finish(self.max_bytes, records);
        }
        let line = Line { bytes: Vec::new(), cut: 0, began: None };
        self.open.push(Open { writer, last: 0, line, record: None, batch: false });
        self.open.len() - 1
    }

    /// Takes the writer off the records that may be another's; all of them may where it is `unsure` in any case.
    fn doubt(&mut self, place: usize, time: u64, length: u64, unsure: bool, records: &mut [Record<A>]) {
        let Open { line, record, batch, .. } = &mut self.open[place];
        let held = record.as_mut().map(|held| &mut held.record);
        let written = records.iter_mut().chain(held).filter(|record| record.time == time);
        let unfinished = line.began.as_mut().map(|(_, act)| act);
        // The rest of the line will come with the next buffer.
        *batch = self.buffering == Buffering::Block && unfinished.is_some() && length >= BATCH_MIN as u64;
        let acts: Vec<_> = written.map(|record| &mut record.act).chain(unfinished).collect();
        let alone = acts.len() <= 1 && (length <= ALONE_MAX as u64 || self.buffering == Buffering::Line);
        let own = self.buffering == Buffering::Line && !self.is_shared;
        if unsure || !alone && !own {
            for act in acts {
                *act = None;
            }
        }
    }
}

impl<A: Clone> Open<A> {
    fn is_idle(&self) -> bool {
        self.line.began.is_none() && self.record.is_none()
    }

    fn is_unfinished(&self) -> bool {
        let frames = |held: &Held<A>| held.traceback == Traceback::Frames;
        self.line.began.is_some() || self.record.as_ref().is_some_and(frames)
    }

    fn finish(&mut self, max_bytes: usize, records: &mut Vec<Record<A>>) {
        self.end_line(max_bytes, records);
        records.extend(self.record.take().map(|held| held.record));
    }

    /// The line is complete.
    fn end_line(&mut self, max_bytes: usize, records: &mut Vec<Record<A>>) {
        let Some((time, act)) = self.line.began.take() else { return };
        let bytes = std::mem::take(&mut self.line.bytes);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.strip_suffix('\r').unwrap_or(&text);
        let cut = std::mem::take(&mut self.line.cut);
        let formatted = text::is_formatted(text);
        let last = self.last;
        if let Some(held) = &mut self.record
            && !formatted
            && held.takes(text, last)
        {
            let record = &mut held.record;
            held.last = last;
            record.cut += cut;
            if record.text.len() + text.len() < max_bytes {
                record.text.push('\n');
                record.text.push_str(text);
            } else {
                record.cut += text.len() as u64 + 1;
            }
            return;
        }
        records.extend(self.record.take().map(|held| held.record));
        if text.trim().is_empty() && cut == 0 {
            return;
        }
        let traceback = if text::begins_traceback(text) { Traceback::Frames } else { Traceback::None };
        let record = Record { act, time, text: text.to_owned(), cut };
        self.record = Some(Held { record, last, traceback, formatted });
    }
}

impl<A> Held<A> {
    /// Whether a line that was written at `time` belongs to the record; if so, what follows from it is noted.
    fn takes(&mut self, line: &str, time: u64) -> bool {
        let at_once = self.last == time;
        let begins = text::begins_traceback(line);
        let next = match self.traceback {
            Traceback::Frames if line.is_empty() || begins || line.starts_with([' ', '\t']) => {
                Some(Traceback::Frames)
            }
            Traceback::Frames => Some(Traceback::Raised),
            Traceback::Raised if line.is_empty() => Some(Traceback::Blank),
            Traceback::Blank if CHAINS.contains(&line) => Some(Traceback::Chained),
            Traceback::Chained if line.is_empty() => Some(Traceback::Chained),
            Traceback::Chained if begins => Some(Traceback::Frames),
            // A message may have several lines, and so may that of an exception.
            Traceback::Raised | Traceback::Blank if at_once => Some(Traceback::Raised),
            Traceback::Raised | Traceback::Blank | Traceback::Chained => None,
            Traceback::None if at_once && begins => Some(Traceback::Frames),
            Traceback::None => (at_once && self.formatted).then_some(Traceback::None),
        };
        self.traceback = next.unwrap_or(self.traceback);
        next.is_some()
    }
}

/// Cuts one write into lines.
struct Cutter<'a, A> {
    open: &'a mut Open<A>,
    act: &'a A,
    time: u64,
    max_bytes: usize,
    records: &'a mut Vec<Record<A>>,
}

impl<A: Clone> Cutter<'_, A> {
    /// The unfinished line; it begins here if there is none.
    fn line(&mut self) -> &mut Line<A> {
        let line = &mut self.open.line;
        line.began.get_or_insert_with(|| (self.time, Some(self.act.clone())));
        line
    }

    fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            let max_bytes = self.max_bytes;
            let line = self.line();
            let room = max_bytes.saturating_sub(line.bytes.len()).min(part.len());
            line.bytes.extend_from_slice(&part[..room]);
            line.cut += (part.len() - room) as u64;
            if end.is_some() {
                self.open.end_line(max_bytes, self.records);
            }
            bytes = rest.get(1..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests;
