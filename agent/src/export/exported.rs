//! The kinds of telemetry that are exported: how each is encoded, and which service of the collector takes it.

use std::future::Future;

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse, logs_service_client::LogsServiceClient},
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_client::MetricsServiceClient,
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient,
    },
};
use tonic::{Request, Response, Status, codec::CompressionEncoding, transport::Channel};

use crate::signal::{LogRecord, Metric, Span};

/// A kind of telemetry.
pub trait Exported: Send + Sized + 'static {
    /// What several of it are called in messages for people.
    const NOUN: &'static str;
    /// Its path below a base endpoint (OTLP specification, "OTLP/HTTP Request").
    const PATH: &'static str;
    /// How its variables begin, where they are for it alone.
    const VARIABLES: &'static str;
    /// What to do where a message is too large for the collector.
    const SMALLER: &'static str;
    /// A message to the collector.
    type Request: prost::Message + Clone + Default + std::fmt::Debug + Send + Sync;
    /// Its answer.
    type Response: prost::Message + Default;
    /// A client of the collector's gRPC service.
    type Service: Clone + std::fmt::Debug + Send + Sync;

    /// Makes one message.
    fn request(items: Vec<Self>) -> Self::Request;
    /// About how many bytes this takes, in memory and on the wire. Never less than its encoded length without the
    /// resource.
    fn approximate_size(&self) -> usize;
    /// A client on this connection.
    fn service(channel: Channel, compression: Option<CompressionEncoding>) -> Self::Service;
    /// One attempt.
    fn export(
        service: Self::Service,
        request: Request<Self::Request>,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;
    /// What the answer says of a partial success: how many were rejected, and why.
    fn partial_success(response: Self::Response) -> Option<(i64, String)>;
}

/// What is the same for all kinds but for the names that OTLP has for it.
macro_rules! exported {
    (
        $kind:ty, $noun:literal, $path:literal, $variables:literal, $smaller:literal, $encode:path,
        $request:ty, $response:ty, $client:ident, $rejected:ident
    ) => {
        impl Exported for $kind {
            const NOUN: &'static str = $noun;
            const PATH: &'static str = $path;
            const VARIABLES: &'static str = $variables;
            const SMALLER: &'static str = $smaller;
            type Request = $request;
            type Response = $response;
            type Service = $client<Channel>;

            fn request(items: Vec<Self>) -> Self::Request {
                use $encode as encode;
                encode::request(items)
            }

            fn approximate_size(&self) -> usize {
                use $encode as encode;
                encode::approximate_size(self)
            }

            fn service(channel: Channel, compression: Option<CompressionEncoding>) -> Self::Service {
                let service = $client::new(channel);
                match compression {
                    Some(encoding) => service.send_compressed(encoding),
                    None => service,
                }
            }

            async fn export(
                mut service: Self::Service,
                request: Request<Self::Request>,
            ) -> Result<Response<Self::Response>, Status> {
                service.export(request).await
            }

            fn partial_success(response: Self::Response) -> Option<(i64, String)> {
                response.partial_success.map(|partial| (partial.$rejected, partial.error_message))
            }
        }
    };
}

exported! {
    Span, "spans", "/v1/traces", "OTEL_EXPORTER_OTLP_TRACES_", "lower OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    super::encode, ExportTraceServiceRequest, ExportTraceServiceResponse, TraceServiceClient, rejected_spans
}

exported! {
    LogRecord, "log records", "/v1/logs", "OTEL_EXPORTER_OTLP_LOGS_", "lower OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
    super::encode::logs, ExportLogsServiceRequest, ExportLogsServiceResponse, LogsServiceClient,
    rejected_log_records
}

exported! {
    Metric, "metrics", "/v1/metrics", "OTEL_EXPORTER_OTLP_METRICS_", "raise the collector's limit",
    super::encode::metrics, ExportMetricsServiceRequest, ExportMetricsServiceResponse, MetricsServiceClient,
    rejected_data_points
}
