//! The settings of the OTLP exporter, put together from file and environment (OpenTelemetry "OTLP Exporter"
//! specification, "Configuration Options").

use std::{path::PathBuf, time::Duration};

use reqwest::Url;

use super::ConfigError;
use crate::export::{Certificates, Compression, DEFAULT_TIMEOUT, Exported, Limits, Protocol, Settings};

/// What is set so far, for one kind of telemetry.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) endpoint: Option<Endpoint>,
    pub(super) protocol: Option<Protocol>,
    pub(super) headers: Vec<(String, String)>,
    /// Where the headers come from, or belong.
    pub(super) headers_source: String,
    pub(super) timeout: Option<Duration>,
    pub(super) compression: Option<Compression>,
    pub(super) authority: Option<PathBuf>,
    pub(super) client_certificate: Option<PathBuf>,
    pub(super) client_key: Option<PathBuf>,
    /// A gRPC endpoint without a scheme is meant without TLS.
    pub(super) insecure: bool,
    pub(super) limits: Limits,
}

/// An endpoint as it was written.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) text: String,
    /// `FILE:LINE: otlp.endpoint` or the variable's name.
    pub(super) place: String,
    /// It is for this kind of telemetry alone: nothing is appended to its path.
    pub(super) is_complete: bool,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: None,
            headers: Vec::new(),
            headers_source: "OTEL_EXPORTER_OTLP_HEADERS".to_owned(),
            timeout: None,
            compression: None,
            authority: None,
            client_certificate: None,
            client_key: None,
            insecure: false,
            limits: Limits::default(),
        }
    }
}

impl Draft {
    /// The settings, if there is an endpoint.
    pub(super) fn settings<T: Exported>(
        self,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Settings>, ConfigError> {
        let Some(endpoint) = self.endpoint else { return Ok(None) };
        let protocol = self.protocol.unwrap_or_default();
        let url = match protocol {
            Protocol::Grpc => endpoint.grpc(self.insecure, warnings)?,
            Protocol::HttpProtobuf => endpoint.http::<T>(warnings)?,
        };
        let client = match (self.client_certificate, self.client_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                warnings.push(
                    "of the client's certificate and its key only one is set (OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE, \
                     OTEL_EXPORTER_OTLP_CLIENT_KEY); ignored"
                        .to_owned(),
                );
                None
            }
        };
        Ok(Some(Settings {
            compression: self.compression.unwrap_or_default(),
            headers: self.headers,
            headers_source: self.headers_source,
            timeout: self.timeout.unwrap_or(DEFAULT_TIMEOUT),
            certificates: Certificates { authority: self.authority, client },
            limits: self.limits,
            ..Settings::new(url, protocol)
        }))
    }
}

impl Endpoint {
    /// "Endpoint URLs for OTLP/HTTP": a base URL gets the signal's path, one for the signal is taken as it is.
    fn http<T: Exported>(&self, warnings: &mut Vec<String>) -> Result<Url, ConfigError> {
        let mut url = self.url(&self.text)?;
        if url.port() == Some(4317) {
            warnings.push(format!(
                "{}: 4317 is the port of gRPC, but the protocol is http/protobuf; for gRPC set \
                 OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
                self.place
            ));
        }
        let (noun, path) = (T::NOUN, T::PATH);
        if self.is_complete {
            if url.path() == "/" {
                warnings.push(format!(
                    "{}: {noun} go to the path \"/\", nothing is appended here; usual is {path}",
                    self.place
                ));
            }
            return Ok(url);
        }
        let base = url.path().trim_end_matches('/').to_owned();
        if base.ends_with(path) {
            warnings.push(format!(
                "{}: {noun} go to {base}{path}, because {path} is appended here; the whole URL belongs in {}ENDPOINT",
                self.place,
                T::VARIABLES
            ));
        }
        url.set_path(&format!("{base}{path}"));
        Ok(url)
    }

    /// "Endpoint (OTLP/gRPC)": a URL, or `HOST:PORT`, which means TLS unless `insecure` is set.
    fn grpc(&self, insecure: bool, warnings: &mut Vec<String>) -> Result<Url, ConfigError> {
        let url = if self.text.contains("://") {
            self.url(&self.text)?
        } else {
            self.url(&format!("{}://{}", if insecure { "http" } else { "https" }, self.text))?
        };
        if url.port() == Some(4318) {
            warnings.push(format!(
                "{}: 4318 is the port of http/protobuf, but the protocol is grpc; for HTTP set \
                 OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
                self.place
            ));
        }
        let mut origin = url.clone();
        origin.set_path("");
        origin.set_query(None);
        origin.set_fragment(None);
        if url.path() != "/" {
            warnings.push(format!("{}: gRPC has no paths, {:?} is ignored", self.place, url.path()));
        }
        Ok(origin)
    }

    fn url(&self, text: &str) -> Result<Url, ConfigError> {
        let wrong = |problem: String| ConfigError { place: self.place.clone(), problem };
        // The text may carry a password: it is shown only where it has no place for one.
        let shown = if text.contains('@') { "it".to_owned() } else { format!("{:?}", self.text) };
        let url = Url::parse(text).map_err(|error| {
            let advice = if text.contains("://") { "" } else { "; a URL starts with http:// or https://" };
            wrong(format!("{shown} is not a URL: {error}{advice}"))
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong(format!("{shown} does not start with http:// or https://")));
        }
        Ok(url)
    }
}

/// `OTEL_EXPORTER_OTLP_PROTOCOL`.
pub(super) fn protocol(value: &str) -> Result<Protocol, String> {
    match value.to_ascii_lowercase().as_str() {
        "grpc" => Ok(Protocol::Grpc),
        "http/protobuf" => Ok(Protocol::HttpProtobuf),
        _ => Err(format!("{value:?} is not one of \"grpc\", \"http/protobuf\"")),
    }
}

/// `OTEL_EXPORTER_OTLP_COMPRESSION`.
pub(super) fn compression(value: &str) -> Result<Compression, String> {
    match value.to_ascii_lowercase().as_str() {
        "gzip" => Ok(Compression::Gzip),
        "none" => Ok(Compression::None),
        _ => Err(format!("{value:?} is not one of \"gzip\", \"none\"")),
    }
}

/// Milliseconds, at least one.
pub(super) fn milliseconds(value: &str) -> Result<Duration, String> {
    positive(value).map(|number| Duration::from_millis(number.into()))
}

/// A whole number from 1 to 2³¹ − 1 (the range that the specification asks for).
pub(super) fn positive(value: &str) -> Result<u32, String> {
    match value.parse() {
        Ok(number @ 1..=0x7fff_ffff) => Ok(number),
        _ => Err(format!("{value:?} is not a whole number from 1 to {}", 0x7fff_ffff)),
    }
}
