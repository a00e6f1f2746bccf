//! Records of plain text in the formats that are usual among Python's services, and tracebacks.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex, RegexSet};

use super::{Exception, Parsed, severity};
use crate::signal::Attribute;

/// A line that begins a traceback (`Lib/traceback.py`, `Python/traceback.c`); those of an exception group are indented.
const TRACEBACK: [&str; 2] =
    ["Traceback (most recent call last):", "Exception Group Traceback (most recent call last):"];

/// The known formats, up to where the message begins. Each names what it finds: `level`, `logger`, `function`, `line`.
static FORMATS: LazyLock<Formats> = LazyLock::new(|| {
    const TIME: &str = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?(?:Z|[+-]\d\d:?\d\d))?";
    const UPPER: &str = "(?P<level>TRACE|DEBUG|INFO|NOTICE|SUCCESS|WARN|WARNING|ERROR|CRITICAL|FATAL)";
    const ANY: &str =
        "(?P<level>(?i:trace|debug|info|notice|success|warn|warning|error|exception|critical|fatal))";
    const NAME: &str = r"[\w.<>-]+";
    let formats = [
        // `logging` without a format: INFO:app:message
        format!(r"^{UPPER}:(?P<logger>{NAME}):"),
        // uvicorn: INFO:     message
        format!(r"^{UPPER}: +"),
        // Celery: [2025-01-01 12:00:00,123: INFO/MainProcess] message
        format!(r"^\[{TIME}: {UPPER}/[\w-]+\] "),
        // discord.py, gunicorn, structlog: [2025-01-01 12:00:00] [INFO    ] app: message
        format!(r"^(?:\[?{TIME}\]? +)?(?:\[\d+\] +)?\[ *{ANY} *\] +(?:(?P<logger>{NAME}): +)?"),
        // 2025-01-01 12:00:00,123 - app - INFO - message
        format!(r"^\[?{TIME}\]? - (?:(?P<logger>{NAME}) - )?{UPPER} - "),
        // loguru: 2025-01-01 12:00:00.123 | INFO     | app.module:function:12 - message
        format!(r"^{TIME} \| {UPPER} +\| (?P<logger>{NAME}):(?P<function>{NAME}):(?P<line>\d+) - "),
        // 2025-01-01 12:00:00,123 | INFO | app | message
        format!(r"^\[?{TIME}\]? \| {UPPER} *\| (?:(?P<logger>{NAME}) *\| )?"),
        // 2025-01-01 12:00:00,123 app INFO message
        format!(r"^\[?{TIME}\]? +(?P<logger>{NAME}) +{UPPER}:? +"),
        // 2025-01-01 12:00:00,123 INFO app: message
        format!(r"^\[?{TIME}\]? +{UPPER}:? +(?:\[?(?P<logger>{NAME})\]?(?: +-|:) +)?"),
    ];
    Formats {
        all: RegexSet::new(&formats).expect("the formats are constants"),
        each: formats.map(|format| Regex::new(&format).expect("the formats are constants")),
    }
});

/// Which of them it is shows in one pass for all.
struct Formats {
    all: RegexSet,
    each: [Regex; 9],
}

/// Sequences that colour a terminal (ECMA-48, "SGR").
static COLOURS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("\x1b\\[[0-9;]*m").expect("the pattern is a constant"));

/// The text without colours.
pub fn plain(text: &str) -> Cow<'_, str> {
    if memchr::memchr(0x1b, text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    COLOURS.replace_all(text, "")
}

/// Whether a line begins a traceback.
pub fn begins_traceback(line: &str) -> bool {
    let line = line.trim_start_matches([' ', '+', '|']);
    line.starts_with(['T', 'E']) && TRACEBACK.iter().any(|start| line.starts_with(start))
}

/// Whether a line is the first of a record in one of the known formats.
pub fn is_formatted(line: &str) -> bool {
    let line = plain(line);
    may_be_formatted(&line) && FORMATS.all.is_match(&line)
}

/// All formats begin with a time, a level or a bracket.
fn may_be_formatted(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_uppercase() || first.is_ascii_digit() || first == '[')
}

fn captures(text: &str) -> Option<Captures<'_>> {
    if !may_be_formatted(text) {
        return None;
    }
    let first = FORMATS.all.matches(text).iter().next()?;
    FORMATS.each.get(first)?.captures(text)
}

/// Reads a record.
pub fn parse(record: &str) -> Parsed {
    let record = plain(record);
    let exception = exception(&record);
    let mut parsed = Parsed { exception, ..Parsed::default() };
    let mut body = &*record;
    if let Some(found) = captures(&record) {
        let part = |name: &str| found.name(name).map(|part| part.as_str());
        body = &record[found.get_match().end()..];
        parsed.severity = part("level").and_then(|level| Some((severity(level)?, level.to_owned())));
        parsed.logger = part("logger").map(str::to_owned);
        if let Some(function) = part("function") {
            parsed.attributes.push(Attribute::new("code.function.name", function.to_owned()));
        }
        if let Some(line) = part("line").and_then(|line| line.parse::<i64>().ok()) {
            parsed.attributes.push(Attribute::new("code.line.number", line));
        }
    }
    // The traceback is in the exception; the message is what stands before it.
    if let Some(exception) = &parsed.exception {
        body = body.strip_suffix(exception.stacktrace.as_str()).unwrap_or(body).trim_end();
        if body.is_empty() {
            body = exception.stacktrace.lines().last().unwrap_or_default();
        }
    }
    parsed.body = body.to_owned();
    parsed
}

/// The exception whose traceback ends a text: the last of a chain, which is what was not caught.
pub fn exception(text: &str) -> Option<Exception> {
    let mut at = 0;
    let mut begins = None;
    let mut last = None;
    for line in text.split_inclusive('\n') {
        if begins_traceback(line) {
            begins.get_or_insert(at);
            last = Some(at);
        }
        at += line.len();
    }
    let (begins, last) = (begins?, last?);
    let stacktrace = text[begins..].trim_end();
    let mut raised = text[last..].trim_end().split_inclusive('\n').skip(1).skip_while(|line| is_frame(line));
    let first = raised.next()?.trim_start_matches([' ', '|']);
    let (kind, message) = first.split_once(": ").unwrap_or((first, ""));
    let kind = kind.trim_end().trim_end_matches(':');
    if kind.is_empty() || kind.contains(char::is_whitespace) {
        return None;
    }
    let mut message = message.to_owned();
    raised.for_each(|line| message.push_str(line));
    Some(Exception {
        kind: kind.to_owned(),
        message: message.trim_end().to_owned(),
        stacktrace: stacktrace.to_owned(),
    })
}

/// Whether a line of a traceback is one of its frames.
fn is_frame(line: &str) -> bool {
    match line.trim_start_matches([' ']).strip_prefix('|') {
        // Of an exception group: frames are indented behind the bar, the exception is not.
        Some(line) => line.starts_with("   "),
        None => line.starts_with([' ', '\t']) || line.trim().is_empty(),
    }
}

#[cfg(test)]
mod tests;
