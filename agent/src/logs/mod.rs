//! Logs: what processes write to their standard output and standard error, as records.
//!
//! [`lines::Stream`] cuts what is written into records, [`parse`] reads a record's severity, logger and message out of
//! it, [`redact::Redactor`] takes secrets out. All of it is pure: bytes in, records out, no I/O, no clock. Which unit
//! of work a record belongs to is the engine's business.

pub mod json;
pub mod lines;
pub mod redact;
pub mod text;

use serde::{Deserialize, Serialize};

use crate::signal::{Attribute, Severity};

/// What is made of logs; a recording holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Records whose severity is known and below this are dropped.
    pub level: Severity,
    /// Most bytes of a record; what lies beyond is cut off.
    pub max_bytes: u32,
    /// Most records of a process in a second; the others are counted.
    pub per_second: u32,
    /// Regular expressions; what fits is replaced, beside what [`redact`] knows by itself.
    pub redact: Vec<String>,
    /// Replace addresses of e-mail too.
    pub redact_email: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            level: Severity::TRACE,
            max_bytes: 16 * 1024,
            per_second: 1000,
            redact: Vec::new(),
            redact_email: false,
        }
    }
}

/// What a record says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// How bad it is, and the word that the record has for it; `None` where it has none.
    pub severity: Option<(Severity, String)>,
    /// Name of the logger.
    pub logger: Option<String>,
    /// The message.
    pub body: String,
    /// What else it says.
    pub attributes: Vec<Attribute>,
    /// The exception whose traceback it holds.
    pub exception: Option<Exception>,
    /// Trace and span that the application has named itself.
    pub ids: Option<([u8; 16], [u8; 8])>,
}

/// An exception as a traceback shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exception {
    /// `exception.type`: its class, with the module unless that is `builtins`.
    pub kind: String,
    /// `exception.message`.
    pub message: String,
    /// `exception.stacktrace`: the traceback, with those of its causes.
    pub stacktrace: String,
}

impl Exception {
    /// Its attributes (semantic conventions, "Exceptions").
    pub fn attributes(&self) -> Vec<Attribute> {
        let mut attributes = vec![Attribute::new("exception.type", self.kind.clone())];
        if !self.message.is_empty() {
            attributes.push(Attribute::new("exception.message", self.message.clone()));
        }
        attributes.push(Attribute::new("exception.stacktrace", self.stacktrace.clone()));
        attributes
    }
}

/// Reads a record: a JSON object, or text in one of the usual formats, or else text as it is.
pub fn parse(record: &str) -> Parsed {
    let record = record.trim_end();
    json::parse(record).unwrap_or_else(|| text::parse(record))
}

/// The severity that a word means, by the levels of `logging`, structlog, loguru, and gunicorn, in any case.
pub fn severity(word: &str) -> Option<Severity> {
    const WORDS: [(&str, Severity); 13] = [
        ("trace", Severity::TRACE),
        ("debug", Severity::DEBUG),
        ("info", Severity::INFO),
        ("notice", Severity(10)),
        ("success", Severity(10)),
        ("warning", Severity::WARN),
        ("warn", Severity::WARN),
        ("error", Severity::ERROR),
        ("err", Severity::ERROR),
        ("exception", Severity::ERROR),
        ("critical", Severity::FATAL),
        ("fatal", Severity::FATAL),
        ("emergency", Severity::FATAL),
    ];
    WORDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(word)).map(|(_, severity)| *severity)
}
