use std::{
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use tonic::Code;

use super::{http::retry_after, *};
use crate::{
    export::{
        Compression, encode,
        tests::{
            collector::{self, Grpc, GrpcAnswer, Http, HttpAnswer},
            settings, span,
        },
    },
    signal::Span,
};

/// One attempt with these settings.
fn attempt(settings: &Settings) -> Result<Accepted, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let transport = Transport::<Span>::new(settings).unwrap();
        let message = transport.prepare(&encode::request(vec![span(1)]));
        transport.send(&message).await
    })
}

fn http(answer: HttpAnswer) -> Result<Accepted, Failure> {
    let collector = Http::start(vec![answer]);
    attempt(&settings(&collector.url("/v1/traces"), Protocol::HttpProtobuf))
}

fn grpc(answer: GrpcAnswer) -> Result<Accepted, Failure> {
    let collector = Grpc::start(vec![answer]);
    attempt(&settings(&collector.url(), Protocol::Grpc))
}

fn is_later(result: &Result<Accepted, Failure>) -> bool {
    matches!(result, Err(Failure::Later { .. }))
}

#[test]
fn http_statuses_are_retryable_as_the_specification_says() {
    for status in [400, 404, 408, 413, 429, 500, 501, 502, 503, 504, 505] {
        let result = http(HttpAnswer::status(status));
        assert_eq!(is_later(&result), [429, 502, 503, 504].contains(&status), "{status}: {result:?}");
    }
}

#[test]
fn grpc_codes_are_retryable_as_the_specification_says() {
    use Code::{
        Aborted, AlreadyExists, Cancelled, DataLoss, DeadlineExceeded, FailedPrecondition, Internal,
        InvalidArgument, NotFound, OutOfRange, ResourceExhausted, Unavailable, Unimplemented, Unknown,
    };
    for code in [Cancelled, DeadlineExceeded, Aborted, OutOfRange, Unavailable, DataLoss] {
        let result = grpc(GrpcAnswer::code(code, "busy"));
        assert!(is_later(&result), "{code:?}: {result:?}");
    }
    for code in [
        Unknown,
        InvalidArgument,
        NotFound,
        AlreadyExists,
        ResourceExhausted,
        FailedPrecondition,
        Unimplemented,
        Internal,
    ] {
        let result = grpc(GrpcAnswer::code(code, "no"));
        assert!(matches!(result, Err(Failure::Never { .. })), "{code:?}: {result:?}");
    }
}

#[test]
fn refused_credentials_have_their_own_failure() {
    for status in [401, 403] {
        assert!(matches!(http(HttpAnswer::status(status)), Err(Failure::Denied { .. })));
    }
    for code in [Code::Unauthenticated, Code::PermissionDenied] {
        assert!(matches!(grpc(GrpcAnswer::code(code, "who?")), Err(Failure::Denied { .. })));
    }
    // A proxy in front of a gRPC collector answers in HTTP.
    let proxy = Http::start(vec![]);
    assert!(attempt(&settings(&proxy.url(""), Protocol::Grpc)).is_err());
}

#[test]
fn retry_info_is_read_from_the_status_details() {
    let wait = Duration::from_millis(2500);
    let expected = Failure::Later {
        cause: "gRPC RESOURCE_EXHAUSTED: slow down".to_owned(),
        hint: "".into(),
        after: Some(wait),
    };
    assert_eq!(grpc(GrpcAnswer::exhausted(Some(wait))), Err(expected));
    let status = RpcStatus::decode(collector::retry_info(wait).as_slice()).unwrap();
    assert_eq!(status.retry_info(), Some(wait));
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let after = |value, now| retry_after(value, at(now)).map(|wait| wait.as_secs());
    assert_eq!(after("120", 0), Some(120));
    assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_770), Some(7));
    assert_eq!(after("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_799), Some(1));
    assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT", 2_000_000_000), Some(0));
    for wrong in
        ["", "soon", "-1", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 06 Nov 1994 08:49:37 CET", "x, 99 Nov"]
    {
        assert_eq!(after(wrong, 0), None, "{wrong}");
    }
    let Err(Failure::Later { after, .. }) = http(HttpAnswer::retry_after(429, "7")) else {
        panic!("not later")
    };
    assert_eq!(after, Some(Duration::from_secs(7)));
}

#[test]
fn gzip_and_headers_reach_an_http_collector() {
    let collector = Http::start(vec![]);
    let mut settings = settings(&collector.url("/base/v1/traces"), Protocol::HttpProtobuf);
    settings.compression = Compression::Gzip;
    settings.headers = vec![("X-Token".to_owned(), "abc def".to_owned())];
    assert_eq!(attempt(&settings), Ok(Accepted::default()));
    let request = &collector.requests()[0];
    assert_eq!(request.path, "/base/v1/traces");
    assert_eq!(request.header("x-token"), Some("abc def"));
    assert_eq!(request.header("content-encoding"), Some("gzip"));
    assert_eq!(request.body[..2], [0x1f, 0x8b]);
    assert_eq!(request.message(), encode::request(vec![span(1)]));
}

#[test]
fn gzip_and_headers_reach_a_grpc_collector() {
    let collector = Grpc::start(vec![]);
    let mut settings = settings(&collector.url(), Protocol::Grpc);
    settings.compression = Compression::Gzip;
    settings.headers = vec![("X-Token".to_owned(), "abc def".to_owned())];
    assert_eq!(attempt(&settings), Ok(Accepted::default()));
    let metadata = &collector.metadata()[0];
    assert_eq!(metadata.get("x-token").unwrap(), "abc def");
    assert_eq!(metadata.get("grpc-encoding").unwrap(), "gzip");
    assert_eq!(collector.messages(), [encode::request(vec![span(1)])]);
}

#[test]
fn partial_success_is_read_from_both_transports() {
    let expected = Accepted { rejected: 2, message: "too old".to_owned() };
    assert_eq!(http(HttpAnswer::partial(2, "too old")), Ok(expected.clone()));
    let partial = ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".to_owned() };
    let response = ExportTraceServiceResponse { partial_success: Some(partial) };
    assert_eq!(grpc(GrpcAnswer::Accept(response)), Ok(expected));
}

#[test]
fn any_answer_with_status_200_is_a_success() {
    assert_eq!(http(HttpAnswer::text(200, "application/json", b"{}")), Ok(Accepted::default()));
    assert_eq!(http(HttpAnswer::text(200, "text/plain", &vec![0xff; 200_000])), Ok(Accepted::default()));
}

#[test]
fn a_collector_that_hangs_is_given_up_after_the_timeout() {
    let begin = Instant::now();
    let hanging = Http::start(vec![HttpAnswer::Hang]);
    let mut http = settings(&hanging.url("/v1/traces"), Protocol::HttpProtobuf);
    http.timeout = Duration::from_millis(100);
    let hanging = Grpc::start(vec![GrpcAnswer::Hang]);
    let mut grpc = settings(&hanging.url(), Protocol::Grpc);
    grpc.timeout = Duration::from_millis(100);
    for settings in [http, grpc] {
        let Err(Failure::Later { cause, .. }) = attempt(&settings) else { panic!("not later") };
        assert_eq!(cause, "no answer within 100 ms");
    }
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[test]
fn no_collector_no_answer_and_a_lost_connection_are_retryable_with_a_clear_cause() {
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let Err(Failure::Later { cause, hint, .. }) = attempt(&settings(&collector::nowhere(), protocol))
        else {
            panic!("not later")
        };
        assert_eq!(cause, "Connection refused (os error 111)");
        assert_eq!(hint, "is a collector listening there?");
        let unknown = settings("http://no-such-host.invalid:4318", protocol);
        let result = attempt(&unknown);
        assert!(is_later(&result), "{result:?}");
    }
    assert!(is_later(&http(HttpAnswer::Close)));
}

#[test]
fn the_wrong_protocol_is_hinted_at() {
    let grpc = Grpc::start(vec![]);
    let http = Http::start(vec![]);
    let hints = [
        attempt(&settings(&grpc.url(), Protocol::HttpProtobuf)),
        attempt(&settings(&http.url(""), Protocol::Grpc)),
    ];
    for result in hints {
        let Err(Failure::Later { hint, .. } | Failure::Never { hint, .. }) = &result else {
            panic!("{result:?}")
        };
        assert!(hint.contains("4317 is grpc"), "{result:?}");
    }
}

#[test]
fn the_collectors_words_are_shown_on_one_line() {
    let status = RpcStatus { message: "bad\nspan".to_owned(), ..RpcStatus::default() };
    let answer = HttpAnswer::text(400, "application/x-protobuf", &status.encode_to_vec());
    let Err(Failure::Never { cause, .. }) = http(answer) else { panic!("not final") };
    assert_eq!(cause, "HTTP 400 Bad Request: bad span");
    let answer = HttpAnswer::text(503, "text/plain", "try later\nmore".as_bytes());
    let Err(Failure::Later { cause, .. }) = http(answer) else { panic!("not later") };
    assert_eq!(cause, "HTTP 503 Service Unavailable: try later");
}

#[test]
fn redirects_are_not_followed() {
    let elsewhere = Http::start(vec![]);
    let location = vec![("Location", elsewhere.url("/v1/traces"))];
    let answer = HttpAnswer::Say { status: 308, headers: location, body: vec![] };
    assert!(matches!(http(answer), Err(Failure::Never { .. })));
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn https_speaks_tls_and_says_when_the_other_side_does_not() {
    let collector = Http::start(vec![]);
    let url = collector.url("/v1/traces").replace("http:", "https:");
    let mut settings = settings(&url, Protocol::HttpProtobuf);
    settings.timeout = Duration::from_millis(300);
    let result = attempt(&settings);
    assert!(is_later(&result), "{result:?}");
}

#[test]
fn a_file_without_a_certificate_is_refused() {
    let mut settings = settings("https://localhost:4318/v1/traces", Protocol::HttpProtobuf);
    settings.certificates.authority = Some(Path::new("/dev/null").to_owned());
    let error = Transport::<Span>::new(&settings).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "/dev/null: no PEM certificate in it");
}
