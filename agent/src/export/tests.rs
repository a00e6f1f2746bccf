//! The export as a whole, against collectors in this process; and what the tests of its parts share.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::Url;

use super::*;
use crate::signal::{Attribute, Kind, Resource, Span, Status};

pub(super) mod collector;

use collector::{Grpc, GrpcAnswer, Http, HttpAnswer};

/// A resource of this service.
pub(super) fn resource(service: &str) -> Arc<Resource> {
    Arc::new(Resource { attributes: vec![Attribute::new("service.name", service.to_owned())] })
}

/// A client span of 1 ms with this number as its id.
pub(super) fn span(id: u64) -> Span {
    Span {
        trace_id: [1; 16],
        span_id: id.to_be_bytes(),
        parent_span_id: None,
        parent_is_remote: false,
        trace_state: String::new(),
        name: "SELECT games".to_owned(),
        kind: Kind::Client,
        start: 1_700_000_000_000_000_000,
        end: 1_700_000_000_001_000_000,
        attributes: vec![Attribute::new("db.query.text", "SELECT 1")],
        events: Vec::new(),
        links: Vec::new(),
        status: Status::Unset,
        resource: resource("web"),
    }
}

/// Settings for a collector of a test.
pub(super) fn settings(endpoint: &str, protocol: Protocol) -> Settings {
    let mut settings = Settings::new(Url::parse(endpoint).expect("a test's URL"), protocol);
    settings.limits.delay = Duration::from_millis(10);
    settings
}

fn spans(count: u64) -> Vec<Span> {
    (1..=count).map(span).collect()
}

/// Waits until the condition holds, for at most five seconds.
fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

#[test]
fn spans_arrive_over_http() {
    let collector = Http::start(vec![]);
    let sender = start(settings(&collector.url("/v1/traces"), Protocol::HttpProtobuf)).unwrap();
    sender.offer(spans(3));
    assert!(eventually(|| sender.stats().snapshot().sent == 3));
    sender.shutdown(Duration::from_secs(1));
    let requests = collector.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, "/v1/traces");
    assert_eq!(requests[0].header("content-type"), Some("application/x-protobuf"));
    assert!(requests[0].header("user-agent").unwrap().starts_with("Adder-OTLP-Exporter-Rust/"));
    assert_eq!(requests[0].message(), encode::request(spans(3)));
    assert_eq!(sender.stats().snapshot().bytes, requests[0].body.len() as u64);
}

#[test]
fn spans_arrive_over_grpc() {
    let collector = Grpc::start(vec![]);
    let sender = start(settings(&collector.url(), Protocol::Grpc)).unwrap();
    sender.offer(spans(3));
    assert!(eventually(|| sender.stats().snapshot().sent == 3));
    sender.shutdown(Duration::from_secs(1));
    assert_eq!(collector.messages(), vec![encode::request(spans(3))]);
}

#[test]
fn full_messages_leave_at_once_and_the_rest_after_the_delay() {
    let collector = Http::start(vec![]);
    let mut settings = settings(&collector.url("/v1/traces"), Protocol::HttpProtobuf);
    settings.limits.delay = Duration::from_millis(300);
    settings.limits.batch_items = 10;
    let sender = start(settings).unwrap();
    let begin = Instant::now();
    sender.offer(spans(25));
    assert!(eventually(|| sender.stats().snapshot().sent == 20));
    assert!(begin.elapsed() < Duration::from_millis(300), "{:?}", begin.elapsed());
    assert!(eventually(|| sender.stats().snapshot().sent == 25));
    assert!(begin.elapsed() >= Duration::from_millis(300), "{:?}", begin.elapsed());
    assert_eq!(collector.requests().len(), 3);
}

#[test]
fn shutdown_sends_what_waits() {
    let collector = Http::start(vec![]);
    let mut settings = settings(&collector.url("/v1/traces"), Protocol::HttpProtobuf);
    settings.limits.delay = Duration::from_mins(1);
    let sender = start(settings).unwrap();
    sender.offer(spans(700));
    sender.shutdown(Duration::from_secs(5));
    let stats = sender.stats().snapshot();
    assert_eq!((stats.sent, stats.lost()), (700, 0));
    sender.offer(spans(2));
    assert_eq!(sender.stats().snapshot().dropped_shutdown, 2);
}

#[test]
fn shutdown_keeps_its_deadline_when_the_collector_hangs() {
    let collector = Http::start(vec![HttpAnswer::Hang]);
    let sender = start(settings(&collector.url("/v1/traces"), Protocol::HttpProtobuf)).unwrap();
    sender.offer(spans(4));
    let begin = Instant::now();
    sender.shutdown(Duration::from_millis(200));
    assert!(begin.elapsed() < Duration::from_millis(600), "{:?}", begin.elapsed());
    assert_eq!(sender.stats().snapshot().dropped_shutdown, 4);
}

#[test]
fn shutdown_does_not_wait_for_a_collector_that_is_not_there() {
    let sender = start(settings(&collector::nowhere(), Protocol::HttpProtobuf)).unwrap();
    sender.offer(spans(4));
    let begin = Instant::now();
    sender.shutdown(Duration::from_millis(400));
    assert!(begin.elapsed() < Duration::from_millis(600), "{:?}", begin.elapsed());
    assert_eq!(sender.stats().snapshot().dropped_shutdown, 4);
}

#[test]
fn a_busy_http_collector_gets_the_same_message_after_the_time_it_asks_for() {
    let collector = Http::start(vec![HttpAnswer::retry_after(503, "1")]);
    let sender = start(settings(&collector.url("/v1/traces"), Protocol::HttpProtobuf)).unwrap();
    let begin = Instant::now();
    sender.offer(spans(2));
    assert!(eventually(|| sender.stats().snapshot().sent == 2));
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(sender.stats().snapshot().retries, 1);
    let requests = collector.requests();
    assert_eq!(requests[0].body, requests[1].body);
}

#[test]
fn an_exhausted_grpc_collector_is_tried_again_only_if_it_says_when() {
    let patient = Grpc::start(vec![GrpcAnswer::exhausted(Some(Duration::from_millis(700)))]);
    let sender = start(settings(&patient.url(), Protocol::Grpc)).unwrap();
    let begin = Instant::now();
    sender.offer(spans(2));
    assert!(eventually(|| sender.stats().snapshot().sent == 2));
    assert!(begin.elapsed() >= Duration::from_millis(700), "{:?}", begin.elapsed());

    let final_one = Grpc::start(vec![GrpcAnswer::exhausted(None)]);
    let sender = start(settings(&final_one.url(), Protocol::Grpc)).unwrap();
    sender.offer(spans(2));
    assert!(eventually(|| sender.stats().snapshot().dropped_not_retryable == 2));
    assert_eq!(final_one.messages().len(), 1);
}

#[test]
fn rejected_spans_are_counted_and_not_sent_again() {
    let collector = Http::start(vec![HttpAnswer::partial(2, "too old")]);
    let sender = start(settings(&collector.url("/v1/traces"), Protocol::HttpProtobuf)).unwrap();
    sender.offer(spans(5));
    assert!(eventually(|| sender.stats().snapshot().sent == 3));
    sender.shutdown(Duration::from_secs(1));
    assert_eq!(sender.stats().snapshot().rejected, 2);
    assert_eq!(collector.requests().len(), 1);
}

#[test]
fn the_check_tells_refused_credentials_from_silence() {
    let closed = Http::start(vec![HttpAnswer::status(401)]);
    let mut refused = settings(&closed.url("/v1/traces"), Protocol::HttpProtobuf);
    refused.headers = vec![("authorization".to_owned(), "Bearer hush".to_owned())];
    let Err(CheckError::Denied(text)) = check::<Span>(&refused) else { panic!("not denied") };
    assert!(text.contains("authorization in OTEL_EXPORTER_OTLP_HEADERS"), "{text}");
    assert!(!text.contains("hush"), "{text}");

    let silent = settings(&collector::nowhere(), Protocol::Grpc);
    let Err(CheckError::Unreachable(text)) = check::<Span>(&silent) else { panic!("not unreachable") };
    assert!(
        text.contains("Connection refused") && text.contains("is a collector listening there?"),
        "{text}"
    );

    let wrong = Http::start(vec![HttpAnswer::status(404)]);
    let Err(CheckError::Refused(text)) = check::<Span>(&settings(&wrong.url("/"), Protocol::HttpProtobuf))
    else {
        panic!("not refused")
    };
    assert!(text.contains("is the path right?"), "{text}");

    let open = Grpc::start(vec![]);
    assert_eq!(check::<Span>(&settings(&open.url(), Protocol::Grpc)), Ok(()));
}

#[test]
fn impossible_settings_are_refused_at_start() {
    let mut wrong = settings("http://localhost:4318/v1/traces", Protocol::HttpProtobuf);
    wrong.headers = vec![("api key".to_owned(), "hush".to_owned())];
    assert_eq!(
        start::<Span>(wrong).unwrap_err().to_string(),
        "OTEL_EXPORTER_OTLP_HEADERS: \"api key\" is not a header that can be sent"
    );
    let mut missing = settings("https://localhost:4317", Protocol::Grpc);
    missing.certificates.authority = Some("/nonexistent/ca.pem".into());
    let text = start::<Span>(missing).unwrap_err().to_string();
    assert!(text.starts_with("/nonexistent/ca.pem: "), "{text}");
}

#[test]
fn secrets_are_not_in_the_debug_text() {
    let mut secret = settings("http://user:hush@localhost/v1/traces", Protocol::HttpProtobuf);
    secret.headers = vec![("x-token".to_owned(), "hush".to_owned())];
    let text = format!("{secret:?}");
    assert!(!text.contains("hush") && text.contains("x-token"), "{text}");
}
