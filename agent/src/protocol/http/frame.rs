//! Framing: where the heads and bodies of one half of a connection begin and end (RFC 9112 §2, §6, §7), and how to find
//! them again after a loss. A [`Half`] takes bytes and gives [`Step`]s; it keeps no byte but those of an unfinished
//! line.

use std::{borrow::Cow, ops::ControlFlow};

use super::head::{Head, is_token};
use crate::protocol::{LossReason, Mark};

/// Largest head, and largest trailer section or chunk-size line, in bytes.
pub(super) const HEAD_LIMIT: usize = 64 * 1024;
/// How much of the end of a line is looked at in the search for a start line, in bytes.
const SEARCH_LIMIT: usize = 8 * 1024;
/// How every start line of a response begins.
const STATUS_LINE: &[u8] = b"HTTP/1.";

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By its length in bytes.
    Length(u64),
    /// By the chunked coding.
    Chunked,
    /// By the connection's end.
    UntilClose,
}

/// What a half has found.
#[derive(Debug)]
pub(super) enum Step<H> {
    /// A complete head. The caller answers with [`Half::body`] or [`Half::reject`].
    Head {
        head: H,
        /// Mark of its first byte.
        first: Mark,
        /// Its size in bytes.
        bytes: u64,
        /// It was found by search and not where the message before it ended.
        found: bool,
    },
    /// So many bytes of a body.
    Body(u64),
    /// The end of a message.
    End,
    /// The end of a message, found by search: bytes before it are missing.
    FoundEnd,
    /// From here on it is not known where messages begin; the half searches.
    Lost { reason: LossReason, bytes: u64 },
}

/// One half of a connection.
#[derive(Debug)]
pub(super) struct Half<H> {
    state: State<H>,
    /// Bytes of an unfinished line: up to `HEAD_LIMIT` in a head, twice `SEARCH_LIMIT` in a search.
    line: Vec<u8>,
    /// Where they came from.
    marks: Marks,
    /// Bytes skipped and not yet reported.
    skipped: u64,
}

#[derive(Debug)]
enum State<H> {
    /// A message begins with the next byte.
    Start,
    /// A message begins somewhere.
    Search { tail: Tail },
    /// Within a head, behind its start line.
    Head { head: H, first: Mark, bytes: usize, found: bool },
    /// Within a body.
    Body(Framing),
    /// At the start of a body that may not be there: `matched` bytes were those of a start line.
    Perhaps { framing: Framing, matched: usize },
    /// Within a chunked body.
    Chunk(Chunk),
}

/// How much of `CR LF 0 CR LF CR LF`, the end of a chunked body, has been seen in a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    /// It was no chunked body that was lost.
    None,
    /// Nothing.
    Awaited,
    /// The first line end.
    Line,
    /// The chunk size 0.
    Zero,
}

/// A place in a chunked body (RFC 9112 §7.1). `bytes` counts those of the line or section.
#[derive(Clone, Copy, Debug)]
enum Chunk {
    /// In the chunk size.
    Size { size: u64, bytes: usize },
    /// Behind the chunk size, in extensions.
    Extension { size: u64, bytes: usize },
    /// In the data.
    Data { left: u64 },
    /// In the line end behind the data.
    DataEnd { bytes: usize },
    /// In the trailer section; `empty` while nothing but a carriage return is on the line.
    Trailer { empty: bool, bytes: usize },
}

/// Where the bytes of a line came from: by calls, whose bytes have one mark, and not by the pieces in which they came.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    /// Bytes of the line so far, those no longer kept among them.
    length: usize,
    /// Mark of the first byte.
    first: Mark,
    /// Mark of the last call but the newest.
    recent: Mark,
    /// Where the bytes of the newest call begin, and their mark.
    newest: (usize, Mark),
}

impl Marks {
    /// Mark of the byte at this place in the line. Where that is not known any more it is a later one: a response must
    /// not seem to begin before its request.
    fn at(&self, place: usize) -> Mark {
        match place {
            0 => self.first,
            _ if place >= self.newest.0 => self.newest.1,
            _ => self.recent,
        }
    }

    /// Takes so many more bytes of the line.
    fn add(&mut self, count: usize, mark: Mark) {
        if count == 0 {
            return;
        }
        if self.length == 0 {
            *self = Self { length: 0, first: mark, recent: mark, newest: (0, mark) };
        } else if self.newest.1 != mark {
            self.recent = self.newest.1;
            self.newest = (self.length, mark);
        }
        self.length += count;
    }
}

/// Go on, or say this first (`None`: more bytes are needed).
type Progress<H> = ControlFlow<Option<Step<H>>>;

enum Taken<'a> {
    Line(Cow<'a, [u8]>),
    More,
    TooLong,
}

impl<H: Head> Half<H> {
    /// A half whose first bytes may be anything.
    pub(super) fn new() -> Self {
        let state = State::Search { tail: Tail::None };
        Self { state, line: Vec::new(), marks: Marks::default(), skipped: 0 }
    }

    /// The body that follows the head just reported. `doubtful`: it may turn out that there is none.
    pub(super) fn body(&mut self, framing: Framing, doubtful: bool) {
        self.state = match framing {
            Framing::Length(0) => State::Body(framing),
            _ if doubtful => State::Perhaps { framing, matched: 0 },
            _ => begin(framing),
        };
    }

    /// The head just reported was none, or says nothing of what follows: search on. Its `bytes` are skipped.
    pub(super) fn reject(&mut self, bytes: u64) {
        self.skipped += bytes;
        self.state = State::Search { tail: Tail::None };
    }

    /// Counts bytes that were understood but belong to nothing.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.skipped += bytes;
    }

    /// The number of bytes skipped since it was last asked.
    pub(super) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// Within a body that ends with the connection.
    pub(super) fn is_until_close(&self) -> bool {
        matches!(
            self.state,
            State::Body(Framing::UntilClose) | State::Perhaps { framing: Framing::UntilClose, .. }
        )
    }

    /// Size of an unfinished head, in bytes; 0 while searching.
    pub(super) fn unfinished(&self) -> u64 {
        match self.state {
            State::Start => self.line.len() as u64,
            State::Head { bytes, .. } => (bytes + self.line.len()) as u64,
            _ => 0,
        }
    }

    /// Capacity held, in bytes.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.line.capacity()
    }

    /// Takes bytes off the front until there is something to say; `None` when all are taken and nothing is left to say.
    pub(super) fn step(&mut self, bytes: &mut &[u8], mark: Mark) -> Option<Step<H>> {
        loop {
            let progress = match self.state {
                State::Body(framing) => return self.in_body(framing, bytes),
                State::Perhaps { framing, matched } => self.perhaps(framing, matched, bytes, mark),
                State::Chunk(chunk) => return self.chunked(chunk, bytes),
                State::Start => self.start(bytes, mark),
                State::Head { .. } => self.head(bytes, mark),
                State::Search { .. } => self.search(bytes, mark),
            };
            if let Progress::Break(step) = progress {
                return step;
            }
        }
    }

    /// Takes missing bytes, like [`Half::step`].
    pub(super) fn gap(&mut self, length: &mut u64) -> Option<Step<H>> {
        if let State::Perhaps { framing, matched } = self.state
            && *length > 0
        {
            // Start lines are not what gaps begin in: it is a body.
            if let Some(step) = self.is_body(framing, matched) {
                return Some(step);
            }
        }
        let inside = match &mut self.state {
            State::Body(Framing::Length(0)) => {
                self.state = State::Start;
                return Some(Step::End);
            }
            _ if *length == 0 => return None,
            State::Body(Framing::Length(left)) | State::Chunk(Chunk::Data { left }) if *left > 0 => {
                let inside = (*left).min(*length);
                *left -= inside;
                inside
            }
            State::Body(Framing::UntilClose) => *length,
            _ => {
                let bytes = std::mem::take(length);
                return Some(self.lose(LossReason::Gap, bytes));
            }
        };
        *length -= inside;
        Some(Step::Body(inside))
    }

    /// Goes searching; `bytes` are those lost besides the unfinished head.
    fn lose(&mut self, reason: LossReason, bytes: u64) -> Step<H> {
        let bytes = bytes + self.unfinished();
        let tail = match self.state {
            State::Chunk(_) | State::Search { tail: Tail::Awaited | Tail::Line | Tail::Zero } => {
                Tail::Awaited
            }
            _ => Tail::None,
        };
        self.line.clear();
        self.state = State::Search { tail };
        Step::Lost { reason, bytes }
    }

    fn start(&mut self, bytes: &mut &[u8], mark: Mark) -> Progress<H> {
        let line = match self.take_line(HEAD_LIMIT, bytes, mark) {
            Taken::Line(line) => line,
            Taken::More => return Progress::Break(None),
            Taken::TooLong => return Progress::Break(Some(self.lose(LossReason::TooLarge, 0))),
        };
        let text = without_end(&line);
        if text.is_empty() {
            // RFC 9112 §2.2: an empty line before a start line is to be ignored.
            return Progress::Continue(());
        }
        if let Some(head) = H::start(text) {
            self.state = State::Head { head, first: self.marks.at(0), bytes: line.len(), found: false };
            return Progress::Continue(());
        }
        let before = self.found(&line, text).unwrap_or(line.len());
        if before == line.len() {
            self.state = State::Search { tail: Tail::None };
        }
        Progress::Break(Some(Step::Lost { reason: LossReason::Malformed, bytes: before as u64 }))
    }

    fn head(&mut self, bytes: &mut &[u8], mark: Mark) -> Progress<H> {
        let State::Head { bytes: before, .. } = self.state else { return Progress::Break(None) };
        let line = match self.take_line(HEAD_LIMIT.saturating_sub(before), bytes, mark) {
            Taken::Line(line) => line,
            Taken::More => return Progress::Break(None),
            Taken::TooLong => return Progress::Break(Some(self.lose(LossReason::TooLarge, 0))),
        };
        let text = without_end(&line);
        if text.is_empty() {
            let state = std::mem::replace(&mut self.state, State::Start);
            let State::Head { head, first, bytes, found } = state else { return Progress::Break(None) };
            return Progress::Break(Some(Step::Head {
                head,
                first,
                bytes: (bytes + line.len()) as u64,
                found,
            }));
        }
        let State::Head { head, bytes, found, .. } = &mut self.state else { return Progress::Break(None) };
        if field(head, text) {
            *bytes += line.len();
            return Progress::Continue(());
        }
        // The line may hold the start of the next message.
        let (bytes, found) = (*bytes, *found);
        let before = self.found(&line, text).unwrap_or(line.len());
        if before == line.len() {
            self.state = State::Search { tail: Tail::None };
        }
        let bytes = (bytes + before) as u64;
        if found {
            self.skipped += bytes;
            return Progress::Continue(());
        }
        Progress::Break(Some(Step::Lost { reason: LossReason::Malformed, bytes }))
    }

    /// Begins the head that the line just taken, or the end of it that is looked at, ends with; the number of bytes
    /// before it.
    fn found(&mut self, line: &[u8], text: &[u8]) -> Option<usize> {
        let at = H::find(text)?;
        let head = H::start(text.get(at..)?)?;
        let bytes = line.len() - at;
        let first = self.marks.at(self.marks.length.saturating_sub(bytes));
        self.state = State::Head { head, first, bytes, found: true };
        Some(at)
    }

    fn search(&mut self, bytes: &mut &[u8], mark: Mark) -> Progress<H> {
        let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
            self.skipped += bytes.len() as u64;
            self.search_more(std::mem::take(bytes), mark);
            return Progress::Break(None);
        };
        let (rest, next) = bytes.split_at(end + 1);
        *bytes = next;
        self.skipped += rest.len() as u64;
        self.note(rest.len(), mark);
        let mut line: Cow<'_, [u8]> = Cow::Owned(std::mem::take(&mut self.line));
        if line.is_empty() || rest.len() >= SEARCH_LIMIT {
            line = Cow::Borrowed(rest);
        } else {
            line.to_mut().extend_from_slice(rest);
        }
        // The same bytes are looked at however the line was cut.
        let line = last(&line, SEARCH_LIMIT);
        let text = without_end(line);
        if let Some(before) = self.found(line, text) {
            self.skipped -= (line.len() - before) as u64;
            return Progress::Continue(());
        }
        let State::Search { tail } = &mut self.state else { return Progress::Break(None) };
        *tail = match (*tail, line) {
            (Tail::None, _) => Tail::None,
            (Tail::Line, b"0\r\n") => Tail::Zero,
            (Tail::Zero, b"\r\n") => {
                self.state = State::Start;
                return Progress::Break(Some(Step::FoundEnd));
            }
            (_, line) if line.ends_with(b"\r\n") => Tail::Line,
            _ => Tail::Awaited,
        };
        Progress::Continue(())
    }

    /// Keeps the end of an unfinished line that may hold a start line.
    fn search_more(&mut self, bytes: &[u8], mark: Mark) {
        self.note(bytes.len(), mark);
        let bytes = last(bytes, SEARCH_LIMIT);
        if self.line.len() + bytes.len() > 2 * SEARCH_LIMIT {
            let surplus = self.line.len().saturating_sub(SEARCH_LIMIT.saturating_sub(bytes.len()));
            self.line.drain(..surplus);
        }
        self.line.extend_from_slice(bytes);
    }

    /// Notes where the next bytes of the line come from, which are not yet in `line`.
    fn note(&mut self, count: usize, mark: Mark) {
        if self.line.is_empty() {
            self.marks.length = 0;
        }
        self.marks.add(count, mark);
    }

    /// Takes one line with its end, or keeps what there is of it. `TooLong` takes exactly the bytes up to the limit.
    fn take_line<'a>(&mut self, limit: usize, bytes: &mut &'a [u8], mark: Mark) -> Taken<'a> {
        let allowed = limit.saturating_sub(self.line.len()).min(bytes.len());
        let (within, beyond) = bytes.split_at(allowed);
        let Some(end) = within.iter().position(|&byte| byte == b'\n') else {
            *bytes = beyond;
            self.note(within.len(), mark);
            self.line.extend_from_slice(within);
            return if self.line.len() >= limit { Taken::TooLong } else { Taken::More };
        };
        let (line, rest) = bytes.split_at(end + 1);
        *bytes = rest;
        self.note(line.len(), mark);
        if self.line.is_empty() {
            return Taken::Line(Cow::Borrowed(line));
        }
        let mut whole = std::mem::take(&mut self.line);
        whole.extend_from_slice(line);
        Taken::Line(Cow::Owned(whole))
    }

    fn in_body(&mut self, framing: Framing, bytes: &mut &[u8]) -> Option<Step<H>> {
        let taken = match framing {
            Framing::Length(0) => {
                self.state = State::Start;
                return Some(Step::End);
            }
            Framing::Length(left) => {
                let taken = left.min(bytes.len() as u64);
                self.state = State::Body(Framing::Length(left - taken));
                taken
            }
            Framing::UntilClose | Framing::Chunked => bytes.len() as u64,
        };
        if taken == 0 {
            return None;
        }
        *bytes = bytes.get(taken as usize..).unwrap_or_default();
        Some(Step::Body(taken))
    }

    /// Is it the body that was announced, or already the next message?
    fn perhaps(&mut self, framing: Framing, matched: usize, bytes: &mut &[u8], mark: Mark) -> Progress<H> {
        let Some(byte) = bytes.first() else { return Progress::Break(None) };
        if STATUS_LINE.get(matched) != Some(byte) || framing == Framing::Length(matched as u64) {
            return match self.is_body(framing, matched) {
                None => Progress::Continue(()),
                step => Progress::Break(step),
            };
        }
        if matched == 0 {
            self.marks.length = 0;
        }
        self.marks.add(1, mark);
        *bytes = bytes.get(1..).unwrap_or_default();
        if matched + 1 < STATUS_LINE.len() {
            self.state = State::Perhaps { framing, matched: matched + 1 };
            return Progress::Continue(());
        }
        self.line.extend_from_slice(STATUS_LINE);
        self.state = State::Start;
        Progress::Break(Some(Step::End))
    }

    fn is_body(&mut self, framing: Framing, matched: usize) -> Option<Step<H>> {
        self.state = begin(match framing {
            Framing::Length(left) => Framing::Length(left.saturating_sub(matched as u64)),
            other => other,
        });
        match framing {
            _ if matched == 0 => None,
            Framing::Chunked => Some(self.lose(LossReason::Malformed, matched as u64)),
            _ => Some(Step::Body(matched as u64)),
        }
    }

    fn chunked(&mut self, mut chunk: Chunk, bytes: &mut &[u8]) -> Option<Step<H>> {
        loop {
            if let Chunk::Data { left } = chunk {
                let taken = left.min(bytes.len() as u64);
                let left = left - taken;
                chunk = if left == 0 { Chunk::DataEnd { bytes: 0 } } else { Chunk::Data { left } };
                self.state = State::Chunk(chunk);
                if taken > 0 {
                    *bytes = bytes.get(taken as usize..).unwrap_or_default();
                    return Some(Step::Body(taken));
                }
            }
            let Some(&byte) = bytes.first() else {
                self.state = State::Chunk(chunk);
                return None;
            };
            chunk = match next_in_chunk(chunk, byte) {
                Ok(Some(next)) => next,
                Ok(None) => {
                    *bytes = bytes.get(1..).unwrap_or_default();
                    self.state = State::Start;
                    return Some(Step::End);
                }
                // The byte stays: it may be the first of the next message.
                Err((reason, bytes)) => return Some(self.lose(reason, bytes as u64)),
            };
            *bytes = bytes.get(1..).unwrap_or_default();
        }
    }
}

fn begin<H>(framing: Framing) -> State<H> {
    match framing {
        Framing::Chunked => State::Chunk(Chunk::Size { size: 0, bytes: 0 }),
        other => State::Body(other),
    }
}

/// One byte of a chunked body outside the data; `None` at its end.
fn next_in_chunk(chunk: Chunk, byte: u8) -> Result<Option<Chunk>, (LossReason, usize)> {
    let (Chunk::Size { bytes, .. }
    | Chunk::Extension { bytes, .. }
    | Chunk::DataEnd { bytes }
    | Chunk::Trailer { bytes, .. }) = chunk
    else {
        return Ok(Some(chunk));
    };
    if bytes >= HEAD_LIMIT {
        return Err((LossReason::TooLarge, bytes));
    }
    let malformed = Err((LossReason::Malformed, bytes));
    let bytes = bytes + 1;
    Ok(Some(match (chunk, byte) {
        (Chunk::Size { bytes: 0, .. }, b'\n' | b'\r' | b';' | b' ' | b'\t') => return malformed,
        (Chunk::Size { size, .. } | Chunk::Extension { size, .. }, b'\n') => match size {
            0 => Chunk::Trailer { empty: true, bytes: 0 },
            left => Chunk::Data { left },
        },
        (Chunk::Size { size, .. }, b'\r' | b';' | b' ' | b'\t') | (Chunk::Extension { size, .. }, _) => {
            Chunk::Extension { size, bytes }
        }
        (Chunk::Size { size, .. }, digit) => {
            let Some(digit) = char::from(digit).to_digit(16) else { return malformed };
            let Some(size) = size.checked_mul(16) else { return malformed };
            Chunk::Size { size: size + u64::from(digit), bytes }
        }
        (Chunk::DataEnd { .. }, b'\n') => Chunk::Size { size: 0, bytes: 0 },
        (Chunk::DataEnd { bytes: 0 }, b'\r') => Chunk::DataEnd { bytes },
        (Chunk::DataEnd { .. }, _) => return malformed,
        (Chunk::Trailer { empty: true, .. }, b'\n') => return Ok(None),
        (Chunk::Trailer { .. }, b'\n') => Chunk::Trailer { empty: true, bytes },
        (Chunk::Trailer { empty, .. }, byte) => Chunk::Trailer { empty: empty && byte == b'\r', bytes },
        (Chunk::Data { .. }, _) => chunk,
    }))
}

/// A header field's line; `false` if it is none. Continuation lines (RFC 9112 §5.2) are passed over: none of the fields
/// of interest is ever folded.
fn field<H: Head>(head: &mut H, line: &[u8]) -> bool {
    if let [b' ' | b'\t', ..] = line {
        return true;
    }
    let Some(colon) = line.iter().position(|&byte| byte == b':') else { return false };
    let (name, value) = line.split_at(colon);
    let name = name.trim_ascii_end();
    if name.is_empty() || !name.iter().copied().all(is_token) {
        return false;
    }
    head.field(name, value.get(1..).unwrap_or_default().trim_ascii());
    true
}

/// At most so many bytes, from the end.
fn last(bytes: &[u8], limit: usize) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(limit)..).unwrap_or(bytes)
}

/// The line without its end, `CR LF` or, tolerated (RFC 9112 §2.2), `LF`.
fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
