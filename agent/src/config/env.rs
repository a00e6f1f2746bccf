//! The environment: OpenTelemetry's standard variables, and the agent's own.

use std::time::Duration;

use super::{
    ConfigError, Draft, log_level,
    otlp::{self, compression, milliseconds, positive, protocol},
    text_mode,
};
use crate::{
    export::Exported,
    signal::{LogRecord, Metric, Span},
};

/// Reads variables and collects warnings.
pub(super) struct Env<'a> {
    look_up: &'a dyn Fn(&str) -> Option<String>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Env<'a> {
    pub(super) fn new(look_up: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { look_up, warnings: Vec::new() }
    }

    /// Puts what is set over what the draft has.
    pub(super) fn read(&mut self, draft: &mut Draft) -> Result<(), ConfigError> {
        if let Some(mode) = self.own("ADDER_SQL_TEXT", text_mode)? {
            draft.capture.sql = mode;
        }
        if let Some(mode) = self.own("ADDER_REDIS_TEXT", text_mode)? {
            draft.capture.redis = mode;
        }
        if let Some(level) = self.own("ADDER_LOG", log_level)? {
            draft.log.level = level;
        }
        draft.disabled = self.truth("OTEL_SDK_DISABLED");
        if let Some(attributes) = self.standard("OTEL_RESOURCE_ATTRIBUTES", resource_attributes) {
            draft.resource = attributes;
        }
        draft.otlp_logs = draft.otlp.clone();
        draft.otlp_metrics = draft.otlp.clone();
        self.exporter::<Span>(&mut draft.otlp);
        self.batches("OTEL_BSP_", &mut draft.otlp);
        self.exporter::<LogRecord>(&mut draft.otlp_logs);
        self.batches("OTEL_BLRP_", &mut draft.otlp_logs);
        self.exporter::<Metric>(&mut draft.otlp_metrics);
        if let Some(enabled) = self.standard("OTEL_LOGS_EXPORTER", is_exported) {
            draft.logs.enabled = enabled;
        }
        if let Some(enabled) = self.standard("OTEL_METRICS_EXPORTER", is_exported) {
            draft.metrics.enabled = enabled;
        }
        if let Some(interval) = self.standard("OTEL_METRIC_EXPORT_INTERVAL", milliseconds) {
            // More often than the file can ask for helps nobody.
            draft.metrics.interval = interval.max(Duration::from_secs(1));
        }
        Ok(())
    }

    fn exporter<T: Exported>(&mut self, otlp: &mut otlp::Draft) {
        for name in names::<T>("ENDPOINT") {
            if let Some(text) = self.get(&name) {
                let is_complete = name.starts_with(T::VARIABLES);
                otlp.endpoint = Some(otlp::Endpoint { text, place: name, is_complete });
                break;
            }
        }
        otlp.protocol = self.exporter_option::<T, _>("PROTOCOL", protocol).or(otlp.protocol);
        otlp.timeout = self.exporter_option::<T, _>("TIMEOUT", milliseconds).or(otlp.timeout);
        otlp.compression = self.exporter_option::<T, _>("COMPRESSION", compression).or(otlp.compression);
        let path = |value: &str| Ok(value.into());
        otlp.authority = self.exporter_option::<T, _>("CERTIFICATE", path).or(otlp.authority.take());
        otlp.client_certificate =
            self.exporter_option::<T, _>("CLIENT_CERTIFICATE", path).or(otlp.client_certificate.take());
        otlp.client_key = self.exporter_option::<T, _>("CLIENT_KEY", path).or(otlp.client_key.take());
        otlp.insecure = names::<T>("INSECURE").iter().any(|name| self.truth(name));
        for name in names::<T>("HEADERS") {
            if let Some(text) = self.get(&name) {
                otlp.headers = self.headers(&name, &text);
                otlp.headers_source = name;
                break;
            }
        }
    }

    /// The variables of a batch processor ("Batch Span Processor", "Batch `LogRecord` Processor").
    fn batches(&mut self, prefix: &str, otlp: &mut otlp::Draft) {
        let limits = &mut otlp.limits;
        if let Some(delay) = self.standard(&format!("{prefix}SCHEDULE_DELAY"), milliseconds) {
            limits.delay = delay;
        }
        if let Some(size) = self.standard(&format!("{prefix}MAX_QUEUE_SIZE"), positive) {
            limits.max_items = size as usize;
        }
        let batch = self.standard(&format!("{prefix}MAX_EXPORT_BATCH_SIZE"), positive);
        if let Some(size) = batch {
            limits.batch_items = size as usize;
        }
        if limits.batch_items > limits.max_items {
            if batch.is_some() {
                self.warnings.push(format!(
                    "{prefix}MAX_EXPORT_BATCH_SIZE: {} is more than the queue holds; {} is used",
                    limits.batch_items, limits.max_items
                ));
            }
            limits.batch_items = limits.max_items;
        }
    }

    /// A variable's value; an empty one counts as not set ("Parsing empty value").
    fn get(&self, name: &str) -> Option<String> {
        (self.look_up)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// One of the agent's own variables: a wrong value is an error.
    fn own<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        self.get(name)
            .map(|value| parse(&value).map_err(|problem| ConfigError { place: name.to_owned(), problem }))
            .transpose()
    }

    /// A standard variable: a wrong value is a warning, and counts as not set.
    fn standard<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        match parse(&self.get(name)?) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.warnings.push(format!("{name}: {problem}; ignored"));
                None
            }
        }
    }

    /// An option of the exporter: the variable for one signal wins over the one for all.
    fn exporter_option<T: Exported, V>(
        &mut self,
        key: &str,
        parse: impl Fn(&str) -> Result<V, String>,
    ) -> Option<V> {
        names::<T>(key).iter().find_map(|name| self.standard(name, &parse))
    }

    /// "Boolean": only "true", in any case, is true.
    fn truth(&mut self, name: &str) -> bool {
        let parse = |value: &str| match value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("{value:?} is not one of \"true\", \"false\"")),
        };
        self.standard(name, parse).unwrap_or(false)
    }

    /// "Specifying headers via environment variables": `key1=value1,key2=value2`, values percent-encoded. The values
    /// are secrets, warnings name only their place in the list.
    fn headers(&mut self, name: &str, text: &str) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        for (entry, number) in text.split(',').map(str::trim).zip(1..) {
            if entry.is_empty() {
                continue;
            }
            match entry.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
                Some((key, value)) if is_token(key) => {
                    // Many write the bare value, and a stray `%` in a token is more likely than an encoding.
                    let value = percent_decode(value).unwrap_or_else(|| value.to_owned());
                    headers.push((key.to_ascii_lowercase(), value));
                }
                _ => self.warnings.push(format!("{name}: entry {number} is not KEY=VALUE; ignored")),
            }
        }
        headers
    }
}

/// `OTEL_LOGS_EXPORTER` and its like: whether such telemetry is exported.
fn is_exported(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "otlp" => Ok(true),
        "none" => Ok(false),
        _ => Err(format!("{value:?} is not one of \"otlp\", \"none\"")),
    }
}

/// The variables of an exporter's option, the stronger one first.
fn names<T: Exported>(key: &str) -> [String; 2] {
    [format!("{}{key}", T::VARIABLES), format!("OTEL_EXPORTER_OTLP_{key}")]
}

/// "Specifying resource information via an environment variable": `key1=value1,key2=value2`, both percent-encoded. One
/// error spoils the whole value.
fn resource_attributes(text: &str) -> Result<Vec<(String, String)>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .map(|entry| {
            let pair = entry
                .split_once('=')
                .and_then(|(key, value)| Some((percent_decode(key.trim())?, percent_decode(value.trim())?)));
            pair.filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| format!("{entry:?} is not KEY=VALUE with percent-encoding"))
        })
        .collect()
}

/// A token of RFC 9110, section 5.6.2, as header names are.
fn is_token(key: &str) -> bool {
    !key.is_empty()
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// RFC 3986, section 2.1. `None` where a `%` is not followed by two hexadecimal digits, or the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
            decoded.push((digit()? << 4 | digit()?) as u8);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}
