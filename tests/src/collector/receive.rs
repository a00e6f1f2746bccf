//! The two servers of the collector.

use std::{
    io::{self, Read},
    net,
    sync::Arc,
};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tonic::{
    Request, Response, Status,
    codec::CompressionEncoding,
    metadata::{KeyAndValueRef, MetadataMap},
    transport::{Server, server::TcpIncoming},
};

use super::{Answer, Signal, State};
use crate::http::Message;

/// Bounds a request.
const REQUEST_LIMIT: usize = 64 << 20;

/// Bytes asked of a socket at once.
const READ: usize = 64 << 10;

/// Serves until `stopped` is told or its sender is gone.
pub(super) async fn serve(
    state: Arc<State>,
    grpc: net::TcpListener,
    http: net::TcpListener,
    stopped: oneshot::Receiver<()>,
) {
    let (Ok(grpc), Ok(http)) = (TcpListener::from_std(grpc), TcpListener::from_std(http)) else { return };
    let service = || Exports(Arc::clone(&state));
    let server = Server::builder()
        .add_service(
            TraceServiceServer::new(service())
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(REQUEST_LIMIT),
        )
        .add_service(
            MetricsServiceServer::new(service())
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(REQUEST_LIMIT),
        )
        .add_service(
            LogsServiceServer::new(service())
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(REQUEST_LIMIT),
        )
        .serve_with_incoming(TcpIncoming::from(grpc));
    tokio::select! {
        _ = server => {}
        () = serve_http(Arc::clone(&state), http) => {}
        _ = stopped => {}
    }
}

struct Exports(Arc<State>);

impl Exports {
    #[allow(clippy::result_large_err, reason = "tonic's own error type")]
    fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let headers = metadata.iter().filter_map(|entry| match entry {
            KeyAndValueRef::Ascii(key, value) => Some((key.to_string(), value.to_str().ok()?.to_string())),
            KeyAndValueRef::Binary(..) => None,
        });
        match self.0.request(headers.collect()) {
            Answer::Accept => Ok(()),
            Answer::Unauthorized => Err(Status::unauthenticated("the test wants it so")),
            Answer::Unavailable => Err(Status::unavailable("the test wants it so")),
        }
    }
}

#[tonic::async_trait]
impl TraceService for Exports {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.admit(request.metadata())?;
        self.0.lock().keep_spans(request.into_inner().resource_spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Exports {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.admit(request.metadata())?;
        self.0.lock().metrics.extend(request.into_inner().resource_metrics);
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Exports {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.admit(request.metadata())?;
        self.0.lock().logs.extend(request.into_inner().resource_logs);
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

async fn serve_http(state: Arc<State>, listener: TcpListener) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let state = Arc::clone(&state);
            // A broken connection is the exporter's affair.
            tokio::spawn(async move { drop(connection(&state, stream).await) });
        }
    }
}

async fn connection(state: &State, mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let mut rest = bytes.as_slice();
        match Message::read(&mut rest) {
            Ok(Some(message)) => {
                let left = rest.len();
                bytes.drain(..bytes.len() - left);
                let (status, reason) = take(state, message);
                let answer = format!(
                    "HTTP/1.1 {status} {reason}\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await?;
                continue;
            }
            // The message is not whole yet.
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
        if bytes.len() > REQUEST_LIMIT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        bytes.reserve(READ);
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

/// Takes an export; the answer's status and reason phrase.
fn take(state: &State, message: Message) -> (u16, &'static str) {
    let Message { start, headers, body } = message;
    let encoding = headers.get("content-encoding").cloned();
    match state.request(headers) {
        Answer::Accept => {}
        Answer::Unauthorized => return (401, "Unauthorized"),
        Answer::Unavailable => return (503, "Service Unavailable"),
    }
    let Some(body) = decompressed(body, encoding.as_deref()) else { return (400, "Bad Request") };
    let signal = match start.split(' ').nth(1) {
        Some("/v1/traces") => Signal::Traces,
        Some("/v1/metrics") => Signal::Metrics,
        Some("/v1/logs") => Signal::Logs,
        _ => return (404, "Not Found"),
    };
    if state.keep(signal, body).is_ok() { (200, "OK") } else { (400, "Bad Request") }
}

fn decompressed(body: Vec<u8>, encoding: Option<&str>) -> Option<Vec<u8>> {
    match encoding {
        None | Some("identity") => Some(body),
        Some("gzip") => {
            let mut plain = Vec::new();
            GzDecoder::new(body.as_slice()).take(REQUEST_LIMIT as u64).read_to_end(&mut plain).ok()?;
            Some(plain)
        }
        Some(_) => None,
    }
}
