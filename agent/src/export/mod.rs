//! Export: finished spans and log records out of the agent, to a collector over OTLP or to the terminal.
//!
//! [`start`] gives a [`Sender`], which the engine's thread fills and never waits for. Behind it, on a thread and a
//! runtime of its own, a worker takes batches out of the bounded [`queue`], makes OTLP messages of them ([`encode`]),
//! sends them ([`otlp`]) and tries again as the OTLP specification says ([`retry`]). What does not arrive is counted
//! in [`ExportStats`], with the reason, and said in the log once ([`report`]), not once a batch.
//!
//! Without a collector, [`console::Console`] draws the spans as trees.

use std::{fmt, path::PathBuf, time::Duration};

use reqwest::Url;

pub mod console;
pub mod encode;
mod exported;
pub mod otlp;
pub mod queue;
mod report;
pub mod retry;
mod stats;
mod worker;

pub use exported::Exported;
pub use otlp::SetupError;
pub use queue::Limits;
pub use stats::{ExportStats, Snapshot};
pub use worker::{Sender, start};

/// How messages travel (`OTEL_EXPORTER_OTLP_PROTOCOL`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`.
    Grpc,
    /// `http/protobuf`, the specification's default.
    #[default]
    HttpProtobuf,
}

/// How messages are compressed (`OTEL_EXPORTER_OTLP_COMPRESSION`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all, the specification's default.
    #[default]
    None,
    /// gzip.
    Gzip,
}

/// Certificate files (PEM) for `https` endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// What the collector's certificate must be signed by, instead of the usual authorities
    /// (`OTEL_EXPORTER_OTLP_CERTIFICATE`).
    pub authority: Option<PathBuf>,
    /// The agent's own certificate chain and its private key, where the collector asks for them
    /// (`OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`, `OTEL_EXPORTER_OTLP_CLIENT_KEY`).
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Where one kind of telemetry goes, and how.
#[derive(Clone, PartialEq)]
pub struct Settings {
    /// For HTTP the complete URL, path included; for gRPC scheme, host and port. `https` means TLS.
    pub endpoint: Url,
    /// How messages travel.
    pub protocol: Protocol,
    /// How they are compressed.
    pub compression: Compression,
    /// Sent with every message; the values are secrets and appear in no log.
    pub headers: Vec<(String, String)>,
    /// Where the headers come from or could come from, for messages: a variable's name or a key of the file.
    pub headers_source: String,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// Certificates for `https`.
    pub certificates: Certificates,
    /// Bounds of the queue and of a batch.
    pub limits: Limits,
}

impl Settings {
    /// The usual settings for this endpoint.
    pub fn new(endpoint: Url, protocol: Protocol) -> Self {
        Self {
            endpoint,
            protocol,
            compression: Compression::default(),
            headers: Vec::new(),
            headers_source: "OTEL_EXPORTER_OTLP_HEADERS".to_owned(),
            timeout: DEFAULT_TIMEOUT,
            certificates: Certificates::default(),
            limits: Limits::default(),
        }
    }

    /// The endpoint as it may be shown: without the user and password that a URL can carry.
    pub fn shown_endpoint(&self) -> String {
        let mut url = self.endpoint.clone();
        // Both fail only for URLs that cannot carry credentials.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        // `Url` adds a path of its own, which for gRPC nobody has written and nothing uses.
        let text = url.to_string();
        match self.protocol {
            Protocol::Grpc => text.trim_end_matches('/').to_owned(),
            Protocol::HttpProtobuf => text,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            endpoint: _,
            protocol,
            compression,
            headers,
            headers_source,
            timeout,
            certificates,
            limits,
        } = self;
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Settings")
            .field("endpoint", &self.shown_endpoint())
            .field("protocol", protocol)
            .field("compression", compression)
            .field("headers", &names)
            .field("headers_source", headers_source)
            .field("timeout", timeout)
            .field("certificates", certificates)
            .field("limits", limits)
            .finish()
    }
}

/// Time limit of an attempt (OTLP exporter specification: 10 s).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for the collector's answer to [`check`].
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a collector does not take what is sent, found before the first message is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It answers, and refuses the credentials. No later attempt will end differently.
    #[error("{0}")]
    Denied(String),
    /// It does not answer, or says that it cannot now. It may later.
    #[error("{0}")]
    Unreachable(String),
    /// Something answers that does not take OTLP messages there.
    #[error("{0}")]
    Refused(String),
    /// The settings cannot work: certificates or headers.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// Sends an empty message and waits for the answer, so that a wrong endpoint or refused credentials are known at
/// start. Blocks for at most five seconds; not to be called inside an async runtime.
pub fn check<T: Exported>(settings: &Settings) -> Result<(), CheckError> {
    let runtime = worker::runtime()?;
    let mut settings = settings.clone();
    settings.timeout = settings.timeout.min(CHECK_TIMEOUT);
    let outcome = runtime.block_on(async {
        let transport = otlp::Transport::<T>::new(&settings)?;
        let message = transport.prepare(&T::request(Vec::new()));
        Ok::<_, SetupError>(transport.send(&message).await)
    })?;
    // A look-up of a host name may still run on a thread that nobody should wait for.
    runtime.shutdown_background();
    match outcome {
        Ok(_) => Ok(()),
        Err(failure) => {
            let text = report::first_failure(&settings, &failure, T::NOUN);
            Err(match failure {
                otlp::Failure::Denied { .. } => CheckError::Denied(text),
                otlp::Failure::Later { .. } => CheckError::Unreachable(text),
                otlp::Failure::Never { .. } => CheckError::Refused(text),
            })
        }
    }
}

#[cfg(test)]
mod tests;
