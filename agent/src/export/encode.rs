//! Spans into OTLP messages.
//!
//! The result depends on nothing but the spans: resources, and the spans of each, stay in the order in which they
//! came.

pub mod logs;
pub mod metrics;

use std::sync::Arc;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource as OtlpResource,
    trace::v1::{
        ResourceSpans, ScopeSpans, Span as OtlpSpan, SpanFlags, Status as OtlpStatus, span,
        status::StatusCode,
    },
};

use crate::signal::{Attribute, Kind, Link, Resource, Span, SpanEvent, Status, Value};

/// Name of [`scope`].
const SCOPE: &str = "adder";

/// Bit 0 of the W3C trace flags (W3C Trace Context, section 3.2.3.1). What the agent exports is sampled.
const SAMPLED: u32 = 0x01;

/// Bytes that a span takes on the wire beside its texts: ids, times, kinds, tags and lengths.
const SPAN_OVERHEAD: usize = 128;

/// Bytes that an attribute takes on the wire beside its texts.
const ATTRIBUTE_OVERHEAD: usize = 24;

/// Makes one request of the spans: one `ResourceSpans` for each resource, one scope in each.
pub fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let groups = by_resource(spans, |span| &span.resource);
    ExportTraceServiceRequest { resource_spans: groups.into_iter().map(resource_spans).collect() }
}

/// What belongs to each resource, in order.
fn by_resource<T>(items: Vec<T>, resource_of: impl Fn(&T) -> &Arc<Resource>) -> Vec<(Arc<Resource>, Vec<T>)> {
    // A batch has few resources (one for each watched process), so a list beats a map, and keeps the order.
    let mut groups: Vec<(Arc<Resource>, Vec<T>)> = Vec::new();
    for item in items {
        let resource = resource_of(&item);
        match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, resource) || known == resource) {
            Some((_, group)) => group.push(item),
            None => groups.push((Arc::clone(resource), vec![item])),
        }
    }
    groups
}

/// About how many bytes the span takes, in memory and on the wire. Never less than its encoded length without the
/// resource.
pub fn approximate_size(span: &Span) -> usize {
    let status = match &span.status {
        Status::Unset => 0,
        Status::Error(description) => description.len(),
    };
    let events: usize = span
        .events
        .iter()
        .map(|event| ATTRIBUTE_OVERHEAD + event.name.len() + attributes_size(&event.attributes))
        .sum();
    SPAN_OVERHEAD
        + span.name.len()
        + span.trace_state.len()
        + status
        + attributes_size(&span.attributes)
        + events
        + span.links.len() * 2 * ATTRIBUTE_OVERHEAD
}

fn attributes_size(attributes: &[Attribute]) -> usize {
    attributes
        .iter()
        .map(|attribute| {
            let value = match &attribute.value {
                Value::Str(text) => text.len(),
                Value::Int(_) | Value::Bool(_) => 8,
                Value::Strs(texts) => texts.iter().map(|text| ATTRIBUTE_OVERHEAD + text.len()).sum(),
            };
            ATTRIBUTE_OVERHEAD + attribute.key.len() + value
        })
        .sum()
}

fn resource_spans((resource, spans): (Arc<Resource>, Vec<Span>)) -> ResourceSpans {
    let spans = spans.into_iter().map(otlp_span).collect();
    ResourceSpans {
        resource: Some(otlp_resource(&resource)),
        scope_spans: vec![ScopeSpans { scope: Some(scope()), spans, schema_url: String::new() }],
        schema_url: String::new(),
    }
}

/// The instrumentation scope of everything that the agent makes.
fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: SCOPE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

fn otlp_resource(resource: &Resource) -> OtlpResource {
    OtlpResource {
        attributes: resource.attributes.iter().cloned().map(key_value).collect(),
        ..OtlpResource::default()
    }
}

fn otlp_span(span: Span) -> OtlpSpan {
    // A span without a parent has none that could be remote: the bits then say "known, not remote", as the SDKs do.
    let mut flags = SAMPLED | SpanFlags::ContextHasIsRemoteMask as u32;
    if span.parent_span_id.is_some() && span.parent_is_remote {
        flags |= SpanFlags::ContextIsRemoteMask as u32;
    }
    OtlpSpan {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        parent_span_id: span.parent_span_id.map(|id| id.to_vec()).unwrap_or_default(),
        trace_state: span.trace_state,
        flags,
        name: span.name,
        kind: kind(span.kind) as i32,
        start_time_unix_nano: span.start,
        end_time_unix_nano: span.end,
        attributes: span.attributes.into_iter().map(key_value).collect(),
        events: span.events.into_iter().map(event).collect(),
        links: span.links.iter().map(link).collect(),
        status: status(span.status),
        ..OtlpSpan::default()
    }
}

fn kind(kind: Kind) -> span::SpanKind {
    match kind {
        Kind::Internal => span::SpanKind::Internal,
        Kind::Server => span::SpanKind::Server,
        Kind::Client => span::SpanKind::Client,
        Kind::Producer => span::SpanKind::Producer,
        Kind::Consumer => span::SpanKind::Consumer,
    }
}

fn event(event: SpanEvent) -> span::Event {
    span::Event {
        time_unix_nano: event.time,
        name: event.name.into_owned(),
        attributes: event.attributes.into_iter().map(key_value).collect(),
        dropped_attributes_count: 0,
    }
}

fn link(link: &Link) -> span::Link {
    // Neither whether the linked span is sampled nor whether it is remote is known: no flag is claimed.
    span::Link { trace_id: link.trace_id.to_vec(), span_id: link.span_id.to_vec(), ..span::Link::default() }
}

fn status(status: Status) -> Option<OtlpStatus> {
    match status {
        Status::Unset => None,
        Status::Error(message) => Some(OtlpStatus { message, code: StatusCode::Error as i32 }),
    }
}

fn key_value(attribute: Attribute) -> KeyValue {
    let value = match attribute.value {
        Value::Str(text) => any_value::Value::StringValue(text.into_owned()),
        Value::Int(number) => any_value::Value::IntValue(number),
        Value::Bool(truth) => any_value::Value::BoolValue(truth),
        Value::Strs(texts) => any_value::Value::ArrayValue(ArrayValue {
            values: texts
                .into_iter()
                .map(|text| AnyValue { value: Some(any_value::Value::StringValue(text)) })
                .collect(),
        }),
    };
    KeyValue {
        key: attribute.key.into_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

#[cfg(test)]
mod tests;
