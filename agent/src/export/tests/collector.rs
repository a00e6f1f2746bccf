//! Collectors for tests: a real gRPC server and a small HTTP server, on free ports of this host.

use std::{
    collections::VecDeque,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Request, Response, Status, codec::CompressionEncoding, metadata::MetadataMap};

/// An HTTP URL at which nothing listens.
pub(crate) fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn serve<F: Future>(server: impl FnOnce(tokio::net::TcpListener) -> F + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { server(tokio::net::TcpListener::from_std(listener).unwrap()).await });
    });
    address
}

/// What the HTTP collector answers; without more answers it accepts.
#[derive(Clone, Debug)]
pub(crate) enum HttpAnswer {
    Say {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// No answer, the connection stays open.
    Hang,
    /// No answer, the connection is closed.
    Close,
}

impl HttpAnswer {
    pub(crate) fn status(status: u16) -> Self {
        Self::Say { status, headers: vec![], body: vec![] }
    }

    pub(crate) fn retry_after(status: u16, value: &str) -> Self {
        Self::Say { status, headers: vec![("Retry-After", value.to_owned())], body: vec![] }
    }

    pub(crate) fn partial(rejected: i64, message: &str) -> Self {
        let partial =
            ExportTracePartialSuccess { rejected_spans: rejected, error_message: message.to_owned() };
        let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        Self::Say { status: 200, headers: vec![("Content-Type", "application/x-protobuf".to_owned())], body }
    }

    pub(crate) fn text(status: u16, kind: &'static str, body: &[u8]) -> Self {
        Self::Say { status, headers: vec![("Content-Type", kind.to_owned())], body: body.to_vec() }
    }
}

/// A request as it was on the wire.
#[derive(Clone, Debug)]
pub(crate) struct HttpRequest {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl HttpRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn message(&self) -> ExportTraceServiceRequest {
        let mut body = self.body.clone();
        if self.header("content-encoding") == Some("gzip") {
            body.clear();
            std::io::Read::read_to_end(&mut GzDecoder::new(self.body.as_slice()), &mut body).unwrap();
        }
        ExportTraceServiceRequest::decode(body.as_slice()).unwrap()
    }
}

#[derive(Debug, Default)]
struct HttpState {
    answers: VecDeque<HttpAnswer>,
    requests: Vec<HttpRequest>,
}

/// An HTTP collector.
pub(crate) struct Http {
    address: SocketAddr,
    state: Arc<Mutex<HttpState>>,
}

impl Http {
    pub(crate) fn start(answers: Vec<HttpAnswer>) -> Self {
        let state = Arc::new(Mutex::new(HttpState { answers: answers.into(), requests: vec![] }));
        let shared = Arc::clone(&state);
        let address = serve(move |listener| async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move { while answer(&mut stream, &shared).await.is_some() {} });
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<HttpRequest> {
        self.state.lock().unwrap().requests.clone()
    }
}

async fn answer(stream: &mut tokio::net::TcpStream, state: &Mutex<HttpState>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length =
        headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, v)| v.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let answer = {
        let mut state = state.lock().unwrap();
        state.requests.push(HttpRequest { path, headers, body });
        state.answers.pop_front().unwrap_or(HttpAnswer::status(200))
    };
    let (status, headers, body) = match answer {
        HttpAnswer::Say { status, headers, body } => (status, headers, body),
        HttpAnswer::Hang => {
            tokio::time::sleep(Duration::from_mins(1)).await;
            return None;
        }
        HttpAnswer::Close => return None,
    };
    let mut text = format!("HTTP/1.1 {status} \r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.extend([name, ": ", &value, "\r\n"]);
    }
    text += "\r\n";
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.write_all(&body).await.ok()
}

/// What the gRPC collector answers; without more answers it accepts.
#[derive(Clone, Debug)]
pub(crate) enum GrpcAnswer {
    Accept(ExportTraceServiceResponse),
    Refuse(Status),
    /// No answer.
    Hang,
}

impl GrpcAnswer {
    pub(crate) fn code(code: Code, message: &str) -> Self {
        Self::Refuse(Status::new(code, message))
    }

    /// `RESOURCE_EXHAUSTED`, with a `RetryInfo` where there is a wait.
    pub(crate) fn exhausted(wait: Option<Duration>) -> Self {
        Self::Refuse(match wait {
            Some(wait) => Status::with_details(Code::ResourceExhausted, "slow down", retry_info(wait).into()),
            None => Status::new(Code::ResourceExhausted, "message too large"),
        })
    }
}

/// `google.rpc.Status` with a `RetryInfo`, put together by hand from the wire format.
pub(crate) fn retry_info(wait: Duration) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let varint = |number: u8, value: u64| {
        let mut bytes = vec![number << 3];
        prost::encoding::encode_varint(value, &mut bytes);
        bytes
    };
    let delay = [varint(1, wait.as_secs()), varint(2, wait.subsec_nanos().into())].concat();
    let any = [field(1, b"type.googleapis.com/google.rpc.RetryInfo"), field(2, &field(1, &delay))].concat();
    [varint(1, Code::ResourceExhausted as u64), field(2, b"slow down"), field(3, &any)].concat()
}

#[derive(Debug, Default)]
struct GrpcState {
    answers: VecDeque<GrpcAnswer>,
    messages: Vec<(MetadataMap, ExportTraceServiceRequest)>,
}

#[derive(Clone)]
struct Service(Arc<Mutex<GrpcState>>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        let answer = {
            let mut state = self.0.lock().unwrap();
            state.messages.push((metadata, message));
            state.answers.pop_front()
        };
        match answer {
            None => Ok(Response::new(ExportTraceServiceResponse::default())),
            Some(GrpcAnswer::Accept(response)) => Ok(Response::new(response)),
            Some(GrpcAnswer::Refuse(status)) => Err(status),
            Some(GrpcAnswer::Hang) => std::future::pending().await,
        }
    }
}

/// A gRPC collector.
pub(crate) struct Grpc {
    address: SocketAddr,
    state: Arc<Mutex<GrpcState>>,
}

impl Grpc {
    pub(crate) fn start(answers: Vec<GrpcAnswer>) -> Self {
        let state = Arc::new(Mutex::new(GrpcState { answers: answers.into(), messages: vec![] }));
        let service =
            TraceServiceServer::new(Service(Arc::clone(&state))).accept_compressed(CompressionEncoding::Gzip);
        let address = serve(move |listener| async move {
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn messages(&self) -> Vec<ExportTraceServiceRequest> {
        self.state.lock().unwrap().messages.iter().map(|(_, message)| message.clone()).collect()
    }

    pub(crate) fn metadata(&self) -> Vec<MetadataMap> {
        self.state.lock().unwrap().messages.iter().map(|(metadata, _)| metadata.clone()).collect()
    }
}
