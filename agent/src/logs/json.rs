//! Records that are JSON objects, as python-json-logger, structlog and loguru write them.

use serde_json::{Map, Value as Json};

use super::{Parsed, severity, text};
use crate::signal::{Attribute, Severity, hex};

/// Most attributes that one record becomes.
const ATTRIBUTES_MAX: usize = 64;

const MESSAGE: [&str; 5] = ["message", "msg", "event", "text", "body"];
const LEVEL: [&str; 5] = ["level", "levelname", "severity", "log_level", "lvl"];
const LOGGER: [&str; 3] = ["logger", "logger_name", "loggername"];
const EXCEPTION: [&str; 5] = ["exc_info", "exception", "exc_text", "traceback", "stack_info"];
const TRACE: [&str; 3] = ["trace_id", "otelTraceID", "traceId"];
const SPAN: [&str; 3] = ["span_id", "otelSpanID", "spanId"];

/// What has a name of its own in the semantic conventions.
const KNOWN: [(&str, &str); 8] = [
    ("pathname", "code.file.path"),
    ("lineno", "code.line.number"),
    ("funcName", "code.function.name"),
    ("func_name", "code.function.name"),
    ("line", "code.line.number"),
    ("threadName", "thread.name"),
    ("thread", "thread.id"),
    ("process", "process.pid"),
];

/// Reads a record, if it is a JSON object.
pub fn parse(record: &str) -> Option<Parsed> {
    let trimmed = record.trim();
    if !trimmed.starts_with('{') || !trimmed.ends_with('}') {
        return None;
    }
    let mut object: Map<String, Json> = serde_json::from_str(trimmed).ok()?;
    // loguru's `serialize=True` wraps the record, and adds its text.
    if let Some(Json::Object(inner)) = object.remove("record") {
        return Some(loguru(&inner, object.get("text")));
    }
    let mut parsed = Parsed::default();
    // `name` is the logger's where the record has the names that `logging` gives; elsewhere it may be anybody's.
    let by_logging = object.contains_key("levelname").then_some("name");
    if let Some(level) = take(&mut object, &LEVEL) {
        parsed.severity = level_of(&level);
        if parsed.severity.is_none() {
            push(&mut parsed.attributes, "level", &level);
        }
    }
    let mut loggers = LOGGER.into_iter().chain(by_logging);
    if let Some(key) = loggers.find(|key| object.get(*key).is_some_and(Json::is_string)) {
        parsed.logger = object.remove(key).and_then(|name| name.as_str().map(str::to_owned));
    }
    if let (Some(Json::String(trace)), Some(Json::String(span))) =
        (find(&object, &TRACE), find(&object, &SPAN))
    {
        // Some loggers write them in upper case; those of OpenTelemetry write `0` for none.
        let (trace, span) = (trace.to_ascii_lowercase(), span.to_ascii_lowercase());
        let ids = Option::zip(hex(&trace), hex(&span));
        parsed.ids = ids.filter(|(trace, span)| *trace != [0; 16] && *span != [0; 8]);
    }
    for key in EXCEPTION {
        if let Some(Json::String(stack)) = object.get(key)
            && let Some(exception) = text::exception(stack)
        {
            parsed.exception = Some(exception);
            object.remove(key);
            break;
        }
    }
    match take(&mut object, &MESSAGE) {
        Some(Json::String(message)) => parsed.body = text::plain(&message).into_owned(),
        Some(other) => parsed.body = other.to_string(),
        None => trimmed.clone_into(&mut parsed.body),
    }
    for (key, value) in &object {
        push(&mut parsed.attributes, key, value);
    }
    Some(parsed)
}

fn loguru(record: &Map<String, Json>, text: Option<&Json>) -> Parsed {
    let string = |value: Option<&Json>| value.and_then(Json::as_str).map(str::to_owned);
    let mut parsed = Parsed {
        severity: record.get("level").and_then(|level| level_of(level.get("name")?)),
        logger: string(record.get("name")),
        body: string(record.get("message")).unwrap_or_default(),
        exception: text.and_then(Json::as_str).and_then(text::exception),
        ..Parsed::default()
    };
    let code = [
        ("code.file.path", record.get("file").and_then(|file| file.get("path"))),
        ("code.function.name", record.get("function")),
        ("code.line.number", record.get("line")),
    ];
    for (key, value) in code {
        if let Some(value) = value {
            push(&mut parsed.attributes, key, value);
        }
    }
    if let Some(Json::Object(extra)) = record.get("extra") {
        for (key, value) in extra {
            push(&mut parsed.attributes, key, value);
        }
    }
    parsed
}

/// A level's name, or its number in `logging` (`Lib/logging/__init__.py`).
fn level_of(level: &Json) -> Option<(Severity, String)> {
    match level {
        Json::String(word) => Some((severity(word)?, word.clone())),
        Json::Number(number) => {
            let (severity, word) = match number.as_u64()? {
                0..10 => (Severity::TRACE, "TRACE"),
                10..20 => (Severity::DEBUG, "DEBUG"),
                20..30 => (Severity::INFO, "INFO"),
                30..40 => (Severity::WARN, "WARNING"),
                40..50 => (Severity::ERROR, "ERROR"),
                _ => (Severity::FATAL, "CRITICAL"),
            };
            Some((severity, word.to_owned()))
        }
        _ => None,
    }
}

fn take(object: &mut Map<String, Json>, keys: &[&str]) -> Option<Json> {
    keys.iter().find_map(|key| object.remove(*key))
}

fn find<'a>(object: &'a Map<String, Json>, keys: &[&str]) -> Option<&'a Json> {
    keys.iter().find_map(|key| object.get(*key))
}

fn push(attributes: &mut Vec<Attribute>, key: &str, value: &Json) {
    if attributes.len() >= ATTRIBUTES_MAX {
        return;
    }
    let key = KNOWN.iter().find(|(known, _)| *known == key).map_or(key, |(_, name)| name);
    // `lineno` and `line` are the same.
    if attributes.iter().any(|known| known.key == key) {
        return;
    }
    let value = match value {
        Json::Null => return,
        Json::Bool(truth) => (*truth).into(),
        Json::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.to_string().into(),
        },
        Json::String(text) => text.clone().into(),
        // Loki and its like keep texts.
        Json::Array(_) | Json::Object(_) => value.to_string().into(),
    };
    attributes.push(Attribute { key: key.to_owned().into(), value });
}

#[cfg(test)]
mod tests;
