//! The kinds of telemetry that are exported: how each is encoded, and which service of the collector takes it.

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
};

use crate::signal::{LogRecord, Metric, Span};

/// A kind of telemetry.
pub trait Exported: Send + Sized + 'static {
    /// What several of it are called in messages for people.
    const NOUN: &'static str;
    /// Its path below a base endpoint (OTLP specification, "OTLP/HTTP Request").
    const PATH: &'static str;
    /// The method of the collector's gRPC service that takes it (`opentelemetry/proto/collector/…/…_service.proto`).
    const METHOD: &'static str;
    /// How its variables begin, where they are for it alone.
    const VARIABLES: &'static str;
    /// What to do where a message is too large for the collector.
    const SMALLER: &'static str;
    /// A message to the collector.
    type Request: prost::Message;
    /// Its answer.
    type Response: prost::Message + Default + 'static;

    /// Makes one message.
    fn request(items: Vec<Self>) -> Self::Request;
    /// About how many bytes this takes, in memory and on the wire. Never less than its encoded length without the
    /// resource.
    fn approximate_size(&self) -> usize;
    /// What the answer says of a partial success: how many were rejected, and why.
    fn partial_success(response: Self::Response) -> Option<(i64, String)>;
}

/// What is the same for all kinds but for the names that OTLP has for it.
macro_rules! exported {
    (
        $kind:ty, $noun:literal, $path:literal, $method:literal, $variables:literal, $smaller:literal, $encode:path,
        $request:ty, $response:ty, $rejected:ident
    ) => {
        impl Exported for $kind {
            const NOUN: &'static str = $noun;
            const PATH: &'static str = $path;
            const METHOD: &'static str = $method;
            const VARIABLES: &'static str = $variables;
            const SMALLER: &'static str = $smaller;
            type Request = $request;
            type Response = $response;

            fn request(items: Vec<Self>) -> Self::Request {
                use $encode as encode;
                encode::request(items)
            }

            fn approximate_size(&self) -> usize {
                use $encode as encode;
                encode::approximate_size(self)
            }

            fn partial_success(response: Self::Response) -> Option<(i64, String)> {
                response.partial_success.map(|partial| (partial.$rejected, partial.error_message))
            }
        }
    };
}

exported! {
    Span, "spans", "/v1/traces",
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export", "OTEL_EXPORTER_OTLP_TRACES_", "lower OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    super::encode, ExportTraceServiceRequest, ExportTraceServiceResponse, rejected_spans
}

exported! {
    LogRecord, "log records", "/v1/logs",
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export", "OTEL_EXPORTER_OTLP_LOGS_", "lower OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    super::encode::logs, ExportLogsServiceRequest, ExportLogsServiceResponse,
    rejected_log_records
}

exported! {
    Metric, "metrics", "/v1/metrics",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", "OTEL_EXPORTER_OTLP_METRICS_", "raise the collector's limit",
    super::encode::metrics, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    rejected_data_points
}
