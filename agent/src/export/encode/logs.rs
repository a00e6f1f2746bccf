//! Log records into OTLP messages.

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, any_value},
    logs::v1::{LogRecord as OtlpRecord, ResourceLogs, ScopeLogs},
};

use super::{
    ATTRIBUTE_OVERHEAD, SAMPLED, SPAN_OVERHEAD, attributes_size, by_resource, key_value, otlp_resource, scope,
};
use crate::signal::LogRecord;

/// Makes one request of the records: one `ResourceLogs` for each resource, in it one scope for each logger, as the Python
/// SDK does; records without a logger are in the agent's own scope.
pub fn request(records: Vec<LogRecord>) -> ExportLogsServiceRequest {
    let groups = by_resource(records, |record| &record.resource);
    let resource_logs = groups
        .into_iter()
        .map(|(resource, records)| ResourceLogs {
            resource: Some(otlp_resource(&resource)),
            scope_logs: by_logger(records).into_iter().map(scope_logs).collect(),
            schema_url: String::new(),
        })
        .collect();
    ExportLogsServiceRequest { resource_logs }
}

/// What each logger has written, in order.
fn by_logger(records: Vec<LogRecord>) -> Vec<(Option<String>, Vec<OtlpRecord>)> {
    // Few have written in one batch: a list beats a map, and keeps the order.
    let mut scopes: Vec<(Option<String>, Vec<OtlpRecord>)> = Vec::new();
    for mut record in records {
        let logger = record.logger.take();
        match scopes.iter_mut().find(|(known, _)| *known == logger) {
            Some((_, records)) => records.push(otlp_record(record)),
            None => scopes.push((logger, vec![otlp_record(record)])),
        }
    }
    scopes
}

/// About how many bytes the record takes, in memory and on the wire. Never less than its encoded length without the
/// resource.
pub fn approximate_size(record: &LogRecord) -> usize {
    let severity = record.severity.as_ref().map_or(0, |(_, word)| word.len());
    let logger = record.logger.as_ref().map_or(0, |logger| logger.len() + ATTRIBUTE_OVERHEAD);
    SPAN_OVERHEAD + record.body.len() + severity + logger + attributes_size(&record.attributes)
}

fn scope_logs((logger, log_records): (Option<String>, Vec<OtlpRecord>)) -> ScopeLogs {
    let scope = match logger {
        Some(name) => InstrumentationScope { name, ..InstrumentationScope::default() },
        None => scope(),
    };
    ScopeLogs { scope: Some(scope), log_records, schema_url: String::new() }
}

fn otlp_record(record: LogRecord) -> OtlpRecord {
    let (severity_number, severity_text) =
        record.severity.map_or((0, String::new()), |(severity, word)| (i32::from(severity.0), word));
    let (trace_id, span_id) =
        record.span.map_or_else(Default::default, |(trace, span)| (trace.to_vec(), span.to_vec()));
    OtlpRecord {
        time_unix_nano: record.time,
        observed_time_unix_nano: record.time,
        severity_number,
        severity_text,
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(record.body)) }),
        attributes: record.attributes.into_iter().map(key_value).collect(),
        flags: if trace_id.is_empty() { 0 } else { SAMPLED },
        trace_id,
        span_id,
        ..OtlpRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use std::sync::Arc;

    use super::*;
    use crate::signal::{Attribute, Resource, Severity};

    fn record(logger: Option<&str>, body: &str) -> LogRecord {
        LogRecord {
            time: 1_700_000_000_000_000_000,
            severity: Some((Severity::INFO, "INFO".to_owned())),
            logger: logger.map(str::to_owned),
            body: body.to_owned(),
            attributes: vec![Attribute::new("log.iostream", "stderr")],
            span: Some(([1; 16], [2; 8])),
            resource: Arc::new(Resource::default()),
        }
    }

    #[test]
    fn each_logger_is_a_scope() {
        let request = request(vec![record(Some("app"), "a"), record(None, "b"), record(Some("app"), "c")]);
        let scopes = &request.resource_logs[0].scope_logs;
        let names: Vec<_> = scopes.iter().map(|scope| scope.scope.as_ref().unwrap().name.as_str()).collect();
        assert_eq!((request.resource_logs.len(), names), (1, vec!["app", "adder"]));
        assert_eq!(scopes[0].log_records.len(), 2);
        let record = &scopes[0].log_records[0];
        assert_eq!((record.severity_number, record.flags), (9, 1));
        assert_eq!((record.trace_id.as_slice(), record.span_id.as_slice()), (&[1; 16][..], &[2; 8][..]));
    }

    #[test]
    fn a_record_is_never_larger_than_its_estimate() {
        for body in ["", "short", &"long ".repeat(10_000)] {
            for logger in [None, Some("a.logger.of.some.depth")] {
                let record = record(logger, body);
                let estimate = approximate_size(&record);
                assert!(request(vec![record]).encoded_len() <= estimate);
            }
        }
    }
}
