use reqwest::Url;

use super::*;
use crate::export::Protocol;

fn settings() -> Settings {
    Settings::new(Url::parse("http://collector:4318/v1/traces").unwrap(), Protocol::HttpProtobuf)
}

fn unreachable() -> Failure {
    Failure::Later {
        cause: "Connection refused (os error 111)".to_owned(),
        hint: "is a collector listening there?".into(),
        after: None,
    }
}

fn lost(dropped_queue_full: u64) -> Snapshot {
    Snapshot { dropped_queue_full, ..Snapshot::default() }
}

#[test]
fn an_outage_is_told_at_its_begin_once_a_minute_and_at_its_end() {
    let begin = Instant::now();
    let mut reporter = Reporter::new("spans");
    let mut told = Vec::new();
    for second in 0..200 {
        let now = begin + Duration::from_secs(second);
        told.extend(reporter.failed(&settings(), &unreachable(), 70, &lost(10 + second), now));
    }
    let end = begin + Duration::from_secs(200);
    told.extend(reporter.accepted(&settings(), &Accepted::default(), &lost(210), end));
    assert_eq!(
        told,
        [
            Line::Warn(
                "spans cannot be delivered to http://collector:4318/v1/traces: Connection refused (os error 111); \
                 is a collector listening there? (up to 16384 wait in memory, and are sent when it \
                 answers)"
                    .to_owned()
            ),
            Line::Warn(
                "spans still cannot be delivered to http://collector:4318/v1/traces after 60 s: Connection refused \
                 (os error 111) (70 wait, 60 were dropped)"
                    .to_owned()
            ),
            Line::Warn(
                "spans still cannot be delivered to http://collector:4318/v1/traces after 2 min: Connection refused \
                 (os error 111) (70 wait, 120 were dropped)"
                    .to_owned()
            ),
            Line::Warn(
                "spans still cannot be delivered to http://collector:4318/v1/traces after 3 min: Connection refused \
                 (os error 111) (70 wait, 180 were dropped)"
                    .to_owned()
            ),
            Line::Info(
                "http://collector:4318/v1/traces takes spans again after 3 min; 200 were dropped meanwhile"
                    .to_owned()
            ),
        ]
    );
}

#[test]
fn a_flapping_collector_is_told_once_a_minute() {
    let begin = Instant::now();
    let mut reporter = Reporter::new("spans");
    let mut told = 0;
    for second in 0..59 {
        let now = begin + Duration::from_secs(second);
        told += usize::from(reporter.failed(&settings(), &unreachable(), 0, &lost(0), now).is_some());
        told += reporter.accepted(&settings(), &Accepted::default(), &lost(0), now).len();
    }
    assert_eq!(told, 2);
}

#[test]
fn refused_credentials_are_an_error_that_names_the_variable() {
    let denied = Failure::Denied { cause: "HTTP 401 Unauthorized".to_owned() };
    let mut reporter = Reporter::new("spans");
    assert_eq!(
        reporter.failed(&settings(), &denied, 0, &lost(0), Instant::now()),
        Some(Line::Error(
            "http://collector:4318/v1/traces refuses the credentials: HTTP 401 Unauthorized; no header is set: put \
             the collector's token into OTEL_EXPORTER_OTLP_HEADERS (0 dropped so far)"
                .to_owned()
        ))
    );
    let mut with_header = settings();
    with_header.headers = vec![("x-api-key".to_owned(), "hush".to_owned())];
    with_header.headers_source = "OTEL_EXPORTER_OTLP_TRACES_HEADERS".to_owned();
    assert_eq!(
        first_failure(&with_header, &denied, "spans"),
        "http://collector:4318/v1/traces refuses the credentials: HTTP 401 Unauthorized; check the value of \
         x-api-key in OTEL_EXPORTER_OTLP_TRACES_HEADERS"
    );
}

#[test]
fn partial_success_is_one_line_and_silent_for_a_minute() {
    let now = Instant::now();
    let partial = Accepted { rejected: 3, message: "too old".to_owned() };
    let mut reporter = Reporter::new("spans");
    let stats = Snapshot { rejected: 3, ..Snapshot::default() };
    assert_eq!(
        reporter.accepted(&settings(), &partial, &stats, now),
        [Line::Warn(
            "http://collector:4318/v1/traces rejected 3 spans of a message (3 in all): too old".to_owned()
        )]
    );
    assert_eq!(reporter.accepted(&settings(), &partial, &stats, now), []);
}
