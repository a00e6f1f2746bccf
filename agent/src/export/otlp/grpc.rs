//! OTLP/gRPC.

use std::{borrow::Cow, marker::PhantomData, time::Duration};

use prost::{
    Message as _,
    bytes::{BufMut as _, Bytes},
};
use reqwest::header::HeaderMap;
use tonic::{
    Code, Request, Response, Status,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use super::{
    Accepted, Failure, RpcStatus, SetupError, USER_AGENT, accepted, no_answer, shown, timed_out, tls,
};
use crate::export::{Compression, Exported, Settings, retry};

/// Time between pings on a connection with a message under way, so that a silent network break is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// One HTTP/2 connection to a collector.
#[derive(Debug)]
pub(super) struct Client<T: Exported> {
    kind: PhantomData<fn() -> T>,
    service: Grpc<Channel>,
    metadata: MetadataMap,
    timeout: Duration,
}

impl<T: Exported> Client<T> {
    pub(super) fn new(settings: &Settings, headers: HeaderMap) -> Result<Self, SetupError> {
        let client = |error: tonic::transport::Error| SetupError::Client(error.to_string());
        let mut endpoint = Endpoint::from_shared(settings.endpoint.to_string())
            .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
            .map_err(client)?
            .connect_timeout(settings.timeout)
            .http2_keep_alive_interval(KEEP_ALIVE);
        if settings.endpoint.scheme() == "https" {
            endpoint = endpoint.tls_config(tls::for_grpc(&settings.certificates)?).map_err(client)?;
        }
        let mut service = Grpc::new(endpoint.connect_lazy());
        if settings.compression == Compression::Gzip {
            service = service.send_compressed(CompressionEncoding::Gzip);
        }
        Ok(Self {
            kind: PhantomData,
            service,
            metadata: MetadataMap::from_headers(headers),
            timeout: settings.timeout,
        })
    }

    pub(super) async fn send(&self, body: Bytes) -> Result<Accepted, Failure> {
        let request = Request::from_parts(self.metadata.clone(), tonic::Extensions::new(), body);
        match tokio::time::timeout(self.timeout, self.call(request)).await {
            Ok(Ok(response)) => Ok(accepted::<T>(response.into_inner())),
            Ok(Err(status)) => Err(failure(&status, T::SMALLER)),
            Err(_) => Err(timed_out(self.timeout)),
        }
    }

    async fn call(&self, request: Request<Bytes>) -> Result<Response<T::Response>, Status> {
        // Clones share the connection.
        let mut service = self.service.clone();
        service.ready().await.map_err(|error| Status::from_error(error.into()))?;
        service.unary(request, PathAndQuery::from_static(T::METHOD), Encoded(PhantomData)).await
    }
}

/// Messages that are encoded already, and answers of one kind.
#[derive(Debug)]
struct Encoded<T>(PhantomData<fn() -> T>);

impl<T: prost::Message + Default + 'static> Codec for Encoded<T> {
    type Encode = Bytes;
    type Decode = T;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<T> Encoder for Encoded<T> {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl<T: prost::Message + Default> Decoder for Encoded<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, answer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        T::decode(answer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

fn failure(status: &Status, batch_variable: &str) -> Failure {
    // A status made on this side because the connection failed: there is no answer, whatever the code.
    if let Some(source) = std::error::Error::source(status)
        && source.is::<tonic::transport::Error>()
    {
        return no_answer(source);
    }
    // A server of another kind in the place of the collector also ends here: tonic derives the code from the HTTP
    // status then (401 is UNAUTHENTICATED, 404 UNIMPLEMENTED, 503 UNAVAILABLE).
    let cause = match shown(status.message()) {
        message if message.is_empty() => format!("gRPC {}", name(status.code())),
        message => format!("gRPC {}: {message}", name(status.code())),
    };
    let after = RpcStatus::decode(status.details()).ok().and_then(|details| details.retry_info());
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => Failure::Denied { cause },
        code if retry::grpc_code(code, after.is_some()) => {
            Failure::Later { cause, hint: Cow::Borrowed(""), after: after.filter(|after| !after.is_zero()) }
        }
        Code::Unimplemented => Failure::Never {
            cause,
            hint: "does an OTLP/gRPC receiver listen there? Usually 4317 is grpc and 4318 http/protobuf"
                .into(),
        },
        Code::ResourceExhausted => {
            Failure::Never { cause, hint: format!("lower {batch_variable} if messages are too large").into() }
        }
        _ => Failure::Never { cause, hint: Cow::Borrowed("") },
    }
}

/// The code as the gRPC documentation writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
