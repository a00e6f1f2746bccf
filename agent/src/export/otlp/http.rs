//! OTLP/HTTP with protobuf bodies.

use std::{
    borrow::Cow,
    io::Write,
    marker::PhantomData,
    time::{Duration, SystemTime},
};

use flate2::write::GzEncoder;
use prost::{Message as _, bytes::Bytes};
use reqwest::{
    Response, StatusCode, Url,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};

use super::{
    Accepted, Failure, RpcStatus, SetupError, USER_AGENT, accepted, no_answer, shown, timed_out, tls,
};
use crate::export::{Compression, Exported, Settings, retry};

/// Media type of the messages and their answers.
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// An HTTP/1.1 client with a connection that is kept.
#[derive(Debug)]
pub(super) struct Client<T> {
    kind: PhantomData<fn() -> T>,
    inner: reqwest::Client,
    url: Url,
    compression: Compression,
    timeout: Duration,
}

impl<T: Exported> Client<T> {
    pub(super) fn new(settings: &Settings, mut headers: HeaderMap) -> Result<Self, SetupError> {
        headers.insert(CONTENT_TYPE, PROTOBUF);
        if settings.compression == Compression::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let inner = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .default_headers(headers)
            .timeout(settings.timeout)
            // The headers hold secrets that were meant for this URL and no other.
            .redirect(reqwest::redirect::Policy::none())
            .tls_backend_preconfigured(tls::for_http(&settings.certificates, settings.endpoint.scheme())?)
            .build()
            .map_err(|error| SetupError::Client(error.to_string()))?;
        Ok(Self {
            kind: PhantomData,
            inner,
            url: settings.endpoint.clone(),
            compression: settings.compression,
            timeout: settings.timeout,
        })
    }

    pub(super) fn compress(&self, body: Vec<u8>) -> Bytes {
        match self.compression {
            Compression::None => Bytes::from(body),
            Compression::Gzip => {
                let mut encoder =
                    GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
                let compressed = encoder.write_all(&body).and_then(|()| encoder.finish());
                Bytes::from(compressed.expect("writing into a Vec does not fail"))
            }
        }
    }

    pub(super) async fn send(&self, body: Bytes) -> Result<Accepted, Failure> {
        let answer = self.inner.post(self.url.clone()).body(body).send().await;
        let mut response = answer.map_err(|error| self.no_answer(&error))?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = read(&mut response).await.map_err(|error| self.no_answer(&error))?;
        if status.is_success() {
            // An answer in another format or of another length says no less that the message was accepted.
            return Ok(T::Response::decode(body.as_slice()).map(accepted::<T>).unwrap_or_default());
        }
        Err(failure::<T>(status, &headers, &body))
    }

    fn no_answer(&self, error: &reqwest::Error) -> Failure {
        if error.is_timeout() { timed_out(self.timeout) } else { no_answer(error) }
    }
}

async fn read(response: &mut Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() < LONGEST_ANSWER
        && let Some(chunk) = response.chunk().await?
    {
        let room = LONGEST_ANSWER - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    Ok(body)
}

fn failure<T: Exported>(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let cause = match message(headers, body) {
        text if text.is_empty() => format!("HTTP {status}"),
        text => format!("HTTP {status}: {text}"),
    };
    match status.as_u16() {
        401 | 403 => Failure::Denied { cause },
        code if retry::http_status(code) => {
            let after = headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok())
                .and_then(|value| retry_after(value, SystemTime::now()));
            Failure::Later { cause, hint: Cow::Borrowed(""), after }
        }
        code => {
            let hint = match code {
                300..=399 => "the endpoint has moved: set the URL that it points to".into(),
                404 | 405 => format!(
                    "is the path right? {} is appended to OTEL_EXPORTER_OTLP_ENDPOINT, nothing to {}ENDPOINT",
                    T::PATH,
                    T::VARIABLES
                )
                .into(),
                407 => "the proxy wants a login: check HTTPS_PROXY, HTTP_PROXY and NO_PROXY".into(),
                413 => T::SMALLER.into(),
                415 => "does that port speak http/protobuf? See OTEL_EXPORTER_OTLP_PROTOCOL".into(),
                _ => "".into(),
            };
            Failure::Never { cause, hint }
        }
    }
}

/// What the answer says in words: `Status.message`, or the first line of a text.
fn message(headers: &HeaderMap, body: &[u8]) -> String {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/x-protobuf") {
        return RpcStatus::decode(body).map(|status| shown(&status.message)).unwrap_or_default();
    }
    if kind.starts_with("text/html") {
        return String::new();
    }
    let text = String::from_utf8_lossy(body);
    shown(text.lines().next().unwrap_or_default())
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or an HTTP date.
pub(super) fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(imf_fixdate(value)?);
    Some(date.duration_since(now).unwrap_or(Duration::ZERO))
}

/// Seconds since the Unix epoch of a date such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
fn imf_fixdate(value: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = value.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok().filter(|part| *part < 61));
    let seconds = clock.next()?? * 3600 + clock.next()?? * 60 + clock.next()??;
    if words.next()? != "GMT" {
        return None;
    }
    // Days of the civil calendar, years beginning in March so that the leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    days.checked_sub(719_468)?.checked_mul(86_400)?.checked_add(seconds)
}
