//! The TOML file. Every key is known, and has a line to blame.

use std::{ops::Range, path::PathBuf, time::Duration};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, Draft, log_level,
    otlp::{self, compression, milliseconds, protocol},
    text_mode,
};
use crate::{logs, signal::Severity};

/// The sections and their keys.
pub(super) const KEYS: [(&str, &[&str]); 13] = [
    ("capture", &["sql", "redis", "max_bytes"]),
    (
        "otlp",
        &[
            "endpoint",
            "protocol",
            "headers",
            "timeout",
            "compression",
            "certificate",
            "client_certificate",
            "client_key",
        ],
    ),
    ("http", &["routes"]),
    ("messaging", &["declarations", "link_after"]),
    ("jobs", &["idle"]),
    ("asyncio", &["blocked_after"]),
    ("metrics", &["enabled", "interval"]),
    ("logs", &["enabled", "exclude", "level", "max_bytes", "per_second", "redact", "redact_email"]),
    ("code", &["application", "enabled", "libraries"]),
    ("discover", &["exec", "pids"]),
    ("service", &["names"]),
    ("log", &["level"]),
    ("status", &["socket"]),
];

/// Bounds of `capture.max_bytes`.
const MAX_BYTES: std::ops::RangeInclusive<i64> = 256..=16_384;

/// Bounds of `logs.max_bytes`.
const LOG_BYTES: std::ops::RangeInclusive<i64> = 256..=262_144;

/// Bounds of `logs.per_second`.
const PER_SECOND: std::ops::RangeInclusive<i64> = 1..=1_000_000;

/// Bounds of `asyncio.blocked_after`, milliseconds.
const BLOCKED_AFTER: std::ops::RangeInclusive<i64> = 50..=60_000;

/// Bounds of `metrics.interval`, seconds.
const METRICS_INTERVAL: std::ops::RangeInclusive<i64> = 1..=3600;

/// Largest `messaging.link_after`: a day, as long as a publish is remembered. Seconds.
const MAX_LINK_AFTER: i64 = 24 * 3600;

/// Largest process id that Linux gives (`PID_MAX_LIMIT`).
const MAX_PID: i64 = 4 * 1024 * 1024;

/// Longest path of a Unix socket (`sun_path` without its final zero).
const MAX_SOCKET_PATH: usize = 107;

type Value<'a> = Spanned<DeValue<'a>>;

/// Puts what the file says over what the draft has.
pub(super) fn read(name: &str, text: &str, draft: &mut Draft) -> Result<(), ConfigError> {
    let file = File { name, text };
    let root = DeTable::parse(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        file.error(error.span().unwrap_or(0..0), message)
    })?;
    for (section, content) in root.get_ref() {
        let name = section.get_ref().as_ref();
        let Some((_, keys)) = KEYS.iter().find(|(known, _)| *known == name) else {
            return Err(file.unknown_section(section.span(), name));
        };
        let path = Path { file: &file, name: name.to_owned() };
        for (key, value) in path.table(content)? {
            let key_name = key.get_ref().as_ref();
            if !keys.contains(&key_name) {
                return Err(file.unknown_key(key.span(), name, key_name, keys));
            }
            let path = Path { file: &file, name: format!("{name}.{key_name}") };
            path.read(value, draft)?;
        }
    }
    Ok(())
}

struct File<'a> {
    name: &'a str,
    text: &'a str,
}

impl File<'_> {
    fn error(&self, at: Range<usize>, problem: String) -> ConfigError {
        ConfigError { place: self.place(at), problem }
    }

    /// `FILE:LINE`.
    fn place(&self, at: Range<usize>) -> String {
        let line = 1 + self.text.get(..at.start).unwrap_or(self.text).matches('\n').count();
        format!("{}:{line}", self.name)
    }

    fn unknown_section(&self, at: Range<usize>, name: &str) -> ConfigError {
        let sections = KEYS.map(|(section, _)| section);
        // A key before the first section header, or below the wrong one.
        let home = KEYS.iter().find(|(_, keys)| keys.contains(&name));
        let advice = match (similar(name, &sections), home) {
            (Some(section), _) => format!(", did you mean [{section}]?"),
            (None, Some((section, _))) => format!(", it belongs below [{section}]"),
            (None, None) => {
                format!("; there are {}", sections.map(|section| format!("[{section}]")).join(", "))
            }
        };
        self.error(at, format!("unknown section {name:?}{advice}"))
    }

    fn unknown_key(&self, at: Range<usize>, section: &str, name: &str, keys: &[&str]) -> ConfigError {
        let home = KEYS.iter().find(|(_, keys)| keys.contains(&name));
        let advice = match (similar(name, keys), home) {
            (Some(key), _) => format!(", did you mean {key:?}?"),
            (None, Some((home, _))) => format!(", it belongs below [{home}]"),
            (None, None) => format!("; [{section}] has {}", keys.join(", ")),
        };
        self.error(at, format!("unknown key \"{section}.{name}\"{advice}"))
    }
}

/// A key, for messages about its value.
struct Path<'a> {
    file: &'a File<'a>,
    name: String,
}

impl Path<'_> {
    fn read(&self, value: &Value<'_>, draft: &mut Draft) -> Result<(), ConfigError> {
        match self.name.as_str() {
            "capture.sql" => draft.capture.sql = self.word(value, text_mode)?,
            "capture.redis" => draft.capture.redis = self.word(value, text_mode)?,
            "capture.max_bytes" => draft.capture.max_bytes = self.number(value, MAX_BYTES)? as u32,
            "otlp.endpoint" => {
                draft.otlp.endpoint = Some(otlp::Endpoint {
                    text: self.string(value)?.to_owned(),
                    place: format!("{}: {}", self.file.place(value.span()), self.name),
                    is_complete: false,
                });
            }
            "otlp.protocol" => draft.otlp.protocol = Some(self.word(value, protocol)?),
            "otlp.headers" => {
                draft.otlp.headers = self.strings_by_name(value)?;
                draft.otlp.headers_source = format!("{} (otlp.headers)", self.file.place(value.span()));
            }
            "otlp.timeout" => {
                let number = self.number(value, 1..=0x7fff_ffff)?;
                draft.otlp.timeout = milliseconds(&number.to_string()).ok();
            }
            "otlp.compression" => draft.otlp.compression = Some(self.word(value, compression)?),
            "otlp.certificate" => draft.otlp.authority = Some(self.absolute_path(value)?),
            "otlp.client_certificate" => draft.otlp.client_certificate = Some(self.absolute_path(value)?),
            "otlp.client_key" => draft.otlp.client_key = Some(self.absolute_path(value)?),
            "http.routes" => draft.http.routes = self.list(value, |path, value| path.word(value, route))?,
            "messaging.declarations" => draft.messaging.declarations = self.truth(value)?,
            "messaging.link_after" => {
                let seconds = self.number(value, 0..=MAX_LINK_AFTER)?.unsigned_abs();
                draft.messaging.link_after = Duration::from_secs(seconds);
            }
            "jobs.idle" => draft.jobs.idle = self.truth(value)?,
            "asyncio.blocked_after" => {
                let milliseconds = self.number(value, BLOCKED_AFTER)?.unsigned_abs();
                draft.asyncio.blocked_after = milliseconds * 1_000_000;
            }
            "metrics.enabled" => draft.metrics.enabled = self.truth(value)?,
            "metrics.interval" => {
                let seconds = self.number(value, METRICS_INTERVAL)?.unsigned_abs();
                draft.metrics.interval = Duration::from_secs(seconds);
            }
            "logs.enabled" => draft.logs.enabled = self.truth(value)?,
            "logs.exclude" => {
                draft.logs.exclude = self.list(value, |path, value| Ok(path.string(value)?.to_owned()))?;
            }
            "logs.level" => draft.logs.options.level = self.word(value, severity)?,
            "logs.max_bytes" => draft.logs.options.max_bytes = self.number(value, LOG_BYTES)? as u32,
            "logs.per_second" => draft.logs.options.per_second = self.number(value, PER_SECOND)? as u32,
            "logs.redact" => {
                draft.logs.options.redact = self.list(value, |path, value| path.word(value, pattern))?;
            }
            "logs.redact_email" => draft.logs.options.redact_email = self.truth(value)?,
            "code.enabled" => draft.code.enabled = self.truth(value)?,
            "code.application" => {
                draft.code.options.application =
                    self.list(value, |path, value| Ok(path.string(value)?.to_owned()))?;
            }
            "code.libraries" => {
                draft.code.options.libraries =
                    self.list(value, |path, value| Ok(path.string(value)?.to_owned()))?;
            }
            "discover.exec" => {
                draft.discover.exec = self.list(value, |path, value| Ok(path.string(value)?.to_owned()))?;
            }
            "discover.pids" => {
                draft.discover.pids =
                    self.list(value, |path, value| Ok(path.number(value, 1..=MAX_PID)? as u32))?;
            }
            "service.names" => draft.service.names = self.strings_by_name(value)?.into_iter().collect(),
            "log.level" => draft.log.level = self.word(value, log_level)?,
            "status.socket" => {
                let path = self.absolute_path(value)?;
                if path.as_os_str().len() > MAX_SOCKET_PATH {
                    return Err(self.wrong(
                        value,
                        &format!("is longer than the {MAX_SOCKET_PATH} bytes that a socket's path can have"),
                    ));
                }
                draft.status.socket = path;
            }
            other => return Err(self.wrong(value, &format!("is known as {other} but not read"))),
        }
        Ok(())
    }

    fn table<'v>(&self, value: &'v Value<'v>) -> Result<&'v DeTable<'v>, ConfigError> {
        value.get_ref().as_table().ok_or_else(|| self.wrong_type(value, "a table"))
    }

    fn string<'v>(&self, value: &'v Value<'_>) -> Result<&'v str, ConfigError> {
        let text = value.get_ref().as_str().ok_or_else(|| self.wrong_type(value, "a string"))?;
        if text.is_empty() {
            return Err(self.wrong(value, "is empty"));
        }
        Ok(text)
    }

    fn word<T>(
        &self,
        value: &Value<'_>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let text = self.string(value)?;
        parse(text).map_err(|problem| self.file.error(value.span(), format!("{}: {problem}", self.name)))
    }

    fn number(&self, value: &Value<'_>, range: std::ops::RangeInclusive<i64>) -> Result<i64, ConfigError> {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let integer = value.get_ref().as_integer().ok_or_else(|| self.wrong_type(value, &wanted))?;
        // The parser has removed the underscores.
        i64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.wrong(value, &format!("is {integer}, not {wanted}")))
    }

    fn truth(&self, value: &Value<'_>) -> Result<bool, ConfigError> {
        value.get_ref().as_bool().ok_or_else(|| self.wrong_type(value, "true or false"))
    }

    fn absolute_path(&self, value: &Value<'_>) -> Result<PathBuf, ConfigError> {
        let path = PathBuf::from(self.string(value)?);
        if path.is_absolute() { Ok(path) } else { Err(self.wrong(value, "is not an absolute path")) }
    }

    fn list<T>(
        &self,
        value: &Value<'_>,
        read: impl Fn(&Self, &Value<'_>) -> Result<T, ConfigError>,
    ) -> Result<Vec<T>, ConfigError> {
        let list = value.get_ref().as_array().ok_or_else(|| self.wrong_type(value, "a list"))?;
        list.iter().map(|item| read(self, item)).collect()
    }

    fn strings_by_name(&self, value: &Value<'_>) -> Result<Vec<(String, String)>, ConfigError> {
        let pairs = self.table(value)?.iter().map(|(key, value)| {
            let path = Path { file: self.file, name: format!("{}.{:?}", self.name, key.get_ref()) };
            Ok((key.get_ref().to_string(), path.string(value)?.to_owned()))
        });
        pairs.collect()
    }

    fn wrong(&self, value: &Value<'_>, problem: &str) -> ConfigError {
        self.file.error(value.span(), format!("{} {problem}", self.name))
    }

    fn wrong_type(&self, value: &Value<'_>, wanted: &str) -> ConfigError {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "a truth value",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.wrong(value, &format!("is {found}, not {wanted}"))
    }
}

/// A route template: a path whose variable segments are named in braces.
fn route(value: &str) -> Result<String, String> {
    if !value.starts_with('/') {
        return Err(format!("{value:?} does not start with \"/\""));
    }
    for segment in value.split('/') {
        let braces: String = segment.chars().filter(|c| matches!(c, '{' | '}')).collect();
        if segment.contains("{}")
            || !matches!(braces.as_str(), "" | "{}")
            || segment.find('}') < segment.find('{')
        {
            return Err(format!("{value:?} is not a template such as \"/games/{{game_id}}\""));
        }
    }
    Ok(value.to_owned())
}

/// The name of a severity.
fn severity(value: &str) -> Result<Severity, String> {
    logs::severity(value).ok_or_else(|| {
        format!(
            "{value:?} is not one of \"trace\", \"debug\", \"info\", \"warning\", \"error\", \"critical\""
        )
    })
}

/// A regular expression.
fn pattern(value: &str) -> Result<String, String> {
    match regex::Regex::new(value) {
        Ok(_) => Ok(value.to_owned()),
        Err(error) => {
            let problem = error.to_string();
            let problem = problem.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(format!("{value:?} is not a regular expression: {problem}"))
        }
    }
}

/// The one of `known` that was probably meant: at most two letters away, and fewer than half of them.
fn similar<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .map(|known| (distance(name, known), *known))
        .filter(|(distance, known)| *distance <= 2 && distance * 2 < known.len().max(2))
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein's distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        row[0] = left;
        for (j, y) in b.bytes().enumerate() {
            let cost = if x == y { diagonal } else { diagonal + 1 };
            diagonal = row[j + 1];
            left = cost.min(left + 1).min(diagonal + 1);
            row[j + 1] = left;
        }
    }
    row[b.len()]
}
