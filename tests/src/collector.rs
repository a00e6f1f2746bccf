//! An OTLP receiver in this process: gRPC and HTTP with protobuf, on loopback ports of their own.
//!
//! It keeps what it gets, and can be told to refuse, to test what an exporter makes of it (OTLP specification,
//! "Failures": <https://opentelemetry.io/docs/specs/otlp/#failures>).

mod receive;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::ResourceLogs,
    metrics::v1::{ResourceMetrics, metric, number_data_point},
    trace::v1::{ResourceSpans, Span},
};
use prost::{DecodeError, Message as _};
use tokio::sync::oneshot;

/// What the collector does with the exports that come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Takes and keeps them.
    #[default]
    Accept,
    /// HTTP 401, gRPC `UNAUTHENTICATED`: not to be tried again.
    Unauthorized,
    /// HTTP 503, gRPC `UNAVAILABLE`: to be tried again.
    Unavailable,
}

/// A way into the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    Http,
}

/// A span with what it was sent under.
#[derive(Clone, Debug)]
pub struct CollectedSpan {
    /// Attributes of the resource, as text.
    pub resource: Arc<BTreeMap<String, String>>,
    /// Name of the instrumentation scope.
    pub scope: String,
    /// The span.
    pub span: Span,
}

impl CollectedSpan {
    /// An attribute of the span, as text.
    pub fn attribute(&self, key: &str) -> Option<String> {
        attribute(&self.span.attributes, key)
    }

    /// `service.name`, empty where there is none.
    pub fn service(&self) -> &str {
        self.resource.get("service.name").map_or("", String::as_str)
    }
}

/// The receiver; it stops when this is dropped.
#[derive(Debug)]
pub struct Collector {
    state: Arc<State>,
    grpc_port: u16,
    http_port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State(Mutex<Inner>);

/// What an export over HTTP holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Traces,
    Metrics,
    Logs,
}

#[derive(Debug, Default)]
struct Inner {
    answer: Answer,
    /// Exports over HTTP are looked into only when somebody asks for what is in them.
    is_patient: bool,
    /// Those that nobody has asked for.
    unread: Vec<(Signal, Vec<u8>)>,
    spans: Vec<CollectedSpan>,
    metrics: Vec<ResourceMetrics>,
    logs: Vec<ResourceLogs>,
    requests: u64,
    refused: u64,
    headers: BTreeMap<String, String>,
    changed: Option<Instant>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a request has come, and says what to do with it.
    fn request(&self, headers: BTreeMap<String, String>) -> Answer {
        let mut inner = self.lock();
        inner.requests += 1;
        inner.refused += u64::from(inner.answer != Answer::Accept);
        inner.headers = headers;
        inner.answer
    }

    /// Keeps an export that came over HTTP.
    fn keep(&self, signal: Signal, body: Vec<u8>) -> Result<(), DecodeError> {
        let mut inner = self.lock();
        if inner.is_patient {
            inner.unread.push((signal, body));
            return Ok(());
        }
        inner.read(signal, &body)
    }

    /// With all that has come read.
    fn read(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        for (signal, body) in std::mem::take(&mut inner.unread) {
            inner.read(signal, &body).expect("what was kept unread is an export");
        }
        inner
    }
}

impl Inner {
    fn read(&mut self, signal: Signal, body: &[u8]) -> Result<(), DecodeError> {
        match signal {
            Signal::Traces => self.keep_spans(ExportTraceServiceRequest::decode(body)?.resource_spans),
            Signal::Metrics => {
                self.metrics.extend(ExportMetricsServiceRequest::decode(body)?.resource_metrics);
            }
            Signal::Logs => self.logs.extend(ExportLogsServiceRequest::decode(body)?.resource_logs),
        }
        Ok(())
    }

    fn keep_spans(&mut self, batches: Vec<ResourceSpans>) {
        self.changed = Some(Instant::now());
        for batch in batches {
            let attributes = batch.resource.map(|resource| resource.attributes).unwrap_or_default();
            let attributes = attributes.iter().map(|attribute| (attribute.key.clone(), text_of(attribute)));
            let resource = Arc::new(attributes.collect::<BTreeMap<_, _>>());
            for scoped in batch.scope_spans {
                let scope = scoped.scope.map(|scope| scope.name).unwrap_or_default();
                self.spans.extend(scoped.spans.into_iter().map(|span| CollectedSpan {
                    resource: Arc::clone(&resource),
                    scope: scope.clone(),
                    span,
                }));
            }
        }
    }
}

impl Collector {
    /// Listens on two free ports.
    pub fn start() -> Result<Self> {
        let [grpc, http] = [listener()?, listener()?];
        let (grpc_port, http_port) = (grpc.local_addr()?.port(), http.local_addr()?.port());
        let state = Arc::new(State::default());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&state);
        let serve = move || runtime.block_on(receive::serve(shared, grpc, http, stopped));
        let thread = thread::Builder::new()
            .name("collector".into())
            .spawn(serve)
            .context("starting the collector's thread")?;
        Ok(Self { state, grpc_port, http_port, stop: Some(stop), thread: Some(thread) })
    }

    /// The endpoint for one of the protocols, as `OTEL_EXPORTER_OTLP_ENDPOINT` wants it.
    pub fn endpoint(&self, protocol: Protocol) -> String {
        let port = match protocol {
            Protocol::Grpc => self.grpc_port,
            Protocol::Http => self.http_port,
        };
        format!("http://127.0.0.1:{port}")
    }

    /// The environment that sends an exporter here (OpenTelemetry's "OTLP Exporter Configuration").
    pub fn env(&self, protocol: Protocol) -> Vec<(String, String)> {
        let name = match protocol {
            Protocol::Grpc => "grpc",
            Protocol::Http => "http/protobuf",
        };
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_string(), self.endpoint(protocol)),
            ("OTEL_EXPORTER_OTLP_PROTOCOL".to_string(), name.to_string()),
        ]
    }

    /// Exports over HTTP are looked into only when somebody asks for what is in them: reading them takes time, which is nobody's cost
    /// where the collector is elsewhere.
    #[must_use]
    pub fn patient(self) -> Self {
        self.state.lock().is_patient = true;
        self
    }

    /// From now on exports are treated so.
    pub fn answer(&self, answer: Answer) {
        self.state.lock().answer = answer;
    }

    /// The spans accepted so far.
    pub fn spans(&self) -> Vec<CollectedSpan> {
        self.state.read().spans.clone()
    }

    /// The metrics accepted so far.
    pub fn metrics(&self) -> Vec<ResourceMetrics> {
        self.state.read().metrics.clone()
    }

    /// The latest values of a metric that counts functions, of all processes together.
    pub fn counts(&self, name: &str) -> BTreeMap<String, u64> {
        let mut latest = BTreeMap::new();
        for batch in self.metrics() {
            let resource = batch.resource.unwrap_or_default();
            let instance = attribute(&resource.attributes, "service.instance.id").unwrap_or_default();
            let metrics = batch.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            for metric in metrics.filter(|metric| metric.name == name) {
                let Some(metric::Data::Sum(sum)) = metric.data else { continue };
                for point in sum.data_points {
                    let function = attribute(&point.attributes, "code.function.name").unwrap_or_default();
                    if let Some(number_data_point::Value::AsInt(count)) = point.value {
                        latest.insert((instance.clone(), function), count.unsigned_abs());
                    }
                }
            }
        }
        let mut counts = BTreeMap::new();
        for ((_, function), count) in latest {
            *counts.entry(function).or_default() += count;
        }
        counts
    }

    /// The logs accepted so far.
    pub fn logs(&self) -> Vec<ResourceLogs> {
        self.state.read().logs.clone()
    }

    /// Export requests so far, refused ones among them.
    pub fn requests(&self) -> u64 {
        self.state.lock().requests
    }

    /// Export requests refused so far.
    pub fn refused(&self) -> u64 {
        self.state.lock().refused
    }

    /// Headers (gRPC: ASCII metadata) of the latest export request, names in lower case.
    pub fn headers(&self) -> BTreeMap<String, String> {
        self.state.lock().headers.clone()
    }

    /// Forgets what has been kept.
    pub fn clear(&self) {
        let mut inner = self.state.lock();
        *inner = Inner { answer: inner.answer, is_patient: inner.is_patient, ..Inner::default() };
    }

    /// Waits until no span has come for the time `quiet`, at most `limit`; the spans.
    pub fn wait_quiet(&self, quiet: Duration, limit: Duration) -> Vec<CollectedSpan> {
        let start = Instant::now();
        crate::wait_until(limit, || {
            let latest = self.state.read().changed.unwrap_or(start).max(start);
            latest.elapsed() >= quiet
        });
        self.spans()
    }

    /// Waits until there are at least `count` spans, at most `limit`; the spans, however many.
    pub fn wait_spans(&self, count: usize, limit: Duration) -> Vec<CollectedSpan> {
        crate::wait_until(limit, || self.state.read().spans.len() >= count);
        self.spans()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listener() -> Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn text_of(attribute: &KeyValue) -> String {
    attribute.value.as_ref().map(text).unwrap_or_default()
}

/// An attribute, as text.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    attributes.iter().find(|attribute| attribute.key == key).map(text_of)
}

/// A value as text: lists in brackets, maps in braces, bytes as their number.
pub fn text(value: &AnyValue) -> String {
    match value.value.as_ref() {
        Some(Value::StringValue(value)) => value.clone(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        Some(Value::BytesValue(value)) => format!("{} bytes", value.len()),
        Some(Value::ArrayValue(values)) => {
            format!("[{}]", values.values.iter().map(text).collect::<Vec<_>>().join(","))
        }
        Some(Value::KvlistValue(values)) => {
            let pair = |pair: &KeyValue| format!("{}:{}", pair.key, text_of(pair));
            format!("{{{}}}", values.values.iter().map(pair).collect::<Vec<_>>().join(","))
        }
        // An index into a table of strings that only profiles have.
        None | Some(_) => String::new(),
    }
}

#[cfg(test)]
mod tests;
