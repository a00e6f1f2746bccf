//! OTLP over gRPC and over HTTP: one message, one attempt, one answer.
//!
//! The protocol is the OTLP specification 1.x ("OTLP/gRPC", "OTLP/HTTP"), the settings those of the OpenTelemetry
//! "OTLP Exporter" specification. Whether an attempt is worth another one is said in the answer's type; when to make
//! it is up to the caller.

use std::{borrow::Cow, error::Error, io, path::PathBuf, time::Duration};

use prost::{Message as _, bytes::Bytes};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Exported, Protocol, Settings};

mod grpc;
mod http;
mod tls;

/// Name and version in the `User-Agent` of every message (OTLP exporter specification, "User Agent").
const USER_AGENT: &str = concat!("Adder-OTLP-Exporter-Rust/", env!("CARGO_PKG_VERSION"));

/// Longest text of a collector that is shown, in characters.
const SHOWN_TEXT: usize = 300;

/// What the collector says of a message that it has accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// How many spans or log records it has rejected all the same.
    pub rejected: u64,
    /// Why, or a warning where nothing was rejected; empty where all is well.
    pub message: String,
}

/// Why an attempt has failed, and what that means for the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The same message may be sent again.
    Later {
        /// What happened.
        cause: String,
        /// What the reader of the log can do, empty where there is nothing to say.
        hint: Cow<'static, str>,
        /// The wait that the collector asks for.
        after: Option<Duration>,
    },
    /// The credentials are refused; the message must not be sent again.
    Denied {
        /// What happened.
        cause: String,
    },
    /// The message must not be sent again.
    Never {
        /// What happened.
        cause: String,
        /// What the reader of the log can do, empty where there is nothing to say.
        hint: Cow<'static, str>,
    },
}

/// Why the transport cannot be made with these settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A header that HTTP does not allow. The value is not shown, it may be a secret.
    #[error("{variable}: {name:?} is not a header that can be sent")]
    Header {
        /// Where it was set.
        variable: String,
        /// Its name.
        name: String,
    },
    /// A certificate or key file that cannot be used.
    #[error("{}: {cause}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The client cannot be built.
    #[error("OTLP client: {0}")]
    Client(String),
    /// The runtime or its thread cannot be started.
    #[error("export thread: {0}")]
    Runtime(String),
}

/// A message ready to be sent, as often as needed.
#[derive(Debug)]
pub struct Message {
    /// Encoded; for HTTP compressed too, which the gRPC client does by itself.
    body: Bytes,
    /// Encoded length before compression.
    length: usize,
}

impl Message {
    /// Encoded length in bytes, before compression.
    pub fn length(&self) -> usize {
        self.length
    }
}

/// A client of one collector. It keeps its connection open between messages.
#[derive(Debug)]
pub struct Transport<T: Exported>(Kind<T>);

#[derive(Debug)]
enum Kind<T: Exported> {
    Grpc(grpc::Client<T>),
    Http(http::Client<T>),
}

impl<T: Exported> Transport<T> {
    /// A client with these settings; nothing is connected yet. To be called inside a tokio runtime.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let headers = headers(settings)?;
        Ok(Self(match settings.protocol {
            Protocol::Grpc => Kind::Grpc(grpc::Client::new(settings, headers)?),
            Protocol::HttpProtobuf => Kind::Http(http::Client::new(settings, headers)?),
        }))
    }

    /// Encodes a message once for all its attempts.
    pub fn prepare(&self, request: &T::Request) -> Message {
        let encoded = request.encode_to_vec();
        let length = encoded.len();
        let body = match &self.0 {
            Kind::Grpc(_) => Bytes::from(encoded),
            Kind::Http(client) => client.compress(encoded),
        };
        Message { body, length }
    }

    /// One attempt.
    pub async fn send(&self, message: &Message) -> Result<Accepted, Failure> {
        let body = message.body.clone();
        match &self.0 {
            Kind::Grpc(client) => client.send(body).await,
            Kind::Http(client) => client.send(body).await,
        }
    }
}

fn headers(settings: &Settings) -> Result<HeaderMap, SetupError> {
    let mut map = HeaderMap::with_capacity(settings.headers.len());
    for (name, value) in &settings.headers {
        let wrong = || SetupError::Header { variable: settings.headers_source.clone(), name: name.clone() };
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| wrong())?;
        value.set_sensitive(true);
        map.append(header, value);
    }
    Ok(map)
}

/// The answer to a message that was accepted.
fn accepted<T: Exported>(response: T::Response) -> Accepted {
    T::partial_success(response)
        .map(|(rejected, message)| Accepted {
            rejected: u64::try_from(rejected).unwrap_or(0),
            message: shown(&message),
        })
        .unwrap_or_default()
}

/// An attempt that got no answer: it may be made again ("OTLP/HTTP Connection": a client that cannot connect, or
/// whose connection ends without a response, tries again).
fn no_answer(error: &(dyn Error + 'static)) -> Failure {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let cause = shown(&root.to_string());
    let kind = root.downcast_ref::<io::Error>().map(io::Error::kind);
    let lower = cause.to_lowercase();
    let hint = match kind {
        Some(io::ErrorKind::ConnectionRefused) => "is a collector listening there?",
        Some(
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::TimedOut,
        ) => "check the endpoint and the network",
        _ if lower.contains("lookup address") || lower.contains("name or service") => {
            "is the host name right?"
        }
        _ if lower.contains("certificaterequired") => {
            "the collector wants a certificate: see OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"
        }
        _ if lower.contains("certificate") => {
            "if the collector uses a private authority, name its file in OTEL_EXPORTER_OTLP_CERTIFICATE"
        }
        _ if lower.contains("corrupt message") || lower.contains("invalidcontenttype") => {
            "does that port speak TLS? If not, the endpoint starts with http://"
        }
        // A connection was made, and broke.
        _ => {
            "does that port speak this protocol? Usually 4317 is grpc and 4318 http/protobuf \
             (OTEL_EXPORTER_OTLP_PROTOCOL)"
        }
    };
    Failure::Later { cause, hint: hint.into(), after: None }
}

/// An attempt that took too long.
fn timed_out(timeout: Duration) -> Failure {
    Failure::Later {
        cause: format!("no answer within {} ms", timeout.as_millis()),
        hint: "check the network, or raise OTEL_EXPORTER_OTLP_TIMEOUT".into(),
        after: None,
    }
}

/// A collector's text on one line of the log: no control characters, not too long.
fn shown(text: &str) -> String {
    let mut shown: String =
        text.trim().chars().take(SHOWN_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().chars().nth(SHOWN_TEXT).is_some() {
        shown.push('…');
    }
    shown
}

/// `google.rpc.Status`, which both transports use for details of an error.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<RetryDelay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryDelay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl RpcStatus {
    /// The wait asked for; `None` without a `RetryInfo`, zero where it names no time.
    fn retry_info(&self) -> Option<Duration> {
        let detail = self.details.iter().find(|detail| detail.type_url.ends_with("google.rpc.RetryInfo"))?;
        let info = RetryInfo::decode(detail.value.as_slice()).ok()?;
        let delay = info.retry_delay.unwrap_or_default();
        Some(Duration::new(
            u64::try_from(delay.seconds).unwrap_or(0),
            u32::try_from(delay.nanos).unwrap_or(0),
        ))
    }
}

#[cfg(test)]
mod tests;
