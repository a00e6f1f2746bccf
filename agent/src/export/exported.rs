//! The kinds of telemetry that are exported: how each is encoded, and which service of the collector takes it.

use std::future::Future;

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse, logs_service_client::LogsServiceClient},
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient,
    },
};
use tonic::{Request, Response, Status, codec::CompressionEncoding, transport::Channel};

use super::encode;
use crate::signal::{LogRecord, Span};

/// A kind of telemetry.
pub trait Exported: Send + Sized + 'static {
    /// What several of it are called in messages for people.
    const NOUN: &'static str;
    /// Its path below a base endpoint (OTLP specification, "OTLP/HTTP Request").
    const PATH: &'static str;
    /// How its variables begin, where they are for it alone.
    const VARIABLES: &'static str;
    /// The variable that sets how many go into a message.
    const BATCH_VARIABLE: &'static str;
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

impl Exported for Span {
    const NOUN: &'static str = "spans";
    const PATH: &'static str = "/v1/traces";
    const VARIABLES: &'static str = "OTEL_EXPORTER_OTLP_TRACES_";
    const BATCH_VARIABLE: &'static str = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";
    type Request = ExportTraceServiceRequest;
    type Response = ExportTraceServiceResponse;
    type Service = TraceServiceClient<Channel>;

    fn request(items: Vec<Self>) -> Self::Request {
        encode::request(items)
    }

    fn approximate_size(&self) -> usize {
        encode::approximate_size(self)
    }

    fn service(channel: Channel, compression: Option<CompressionEncoding>) -> Self::Service {
        let service = TraceServiceClient::new(channel);
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
        response.partial_success.map(|partial| (partial.rejected_spans, partial.error_message))
    }
}

impl Exported for LogRecord {
    const NOUN: &'static str = "log records";
    const PATH: &'static str = "/v1/logs";
    const VARIABLES: &'static str = "OTEL_EXPORTER_OTLP_LOGS_";
    const BATCH_VARIABLE: &'static str = "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE";
    type Request = ExportLogsServiceRequest;
    type Response = ExportLogsServiceResponse;
    type Service = LogsServiceClient<Channel>;

    fn request(items: Vec<Self>) -> Self::Request {
        encode::logs::request(items)
    }

    fn approximate_size(&self) -> usize {
        encode::logs::approximate_size(self)
    }

    fn service(channel: Channel, compression: Option<CompressionEncoding>) -> Self::Service {
        let service = LogsServiceClient::new(channel);
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
        response.partial_success.map(|partial| (partial.rejected_log_records, partial.error_message))
    }
}
