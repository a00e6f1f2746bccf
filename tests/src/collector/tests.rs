use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzEncoder};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    resource::v1::Resource,
    trace::v1::ScopeSpans,
};
use prost::Message as _;
use tonic::codec::CompressionEncoding;

use super::*;
use crate::http::{Message, connect};

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_string())) };
    KeyValue { key: key.to_string(), value: Some(value), ..KeyValue::default() }
}

fn request() -> ExportTraceServiceRequest {
    let span = Span { name: "GET /".into(), attributes: vec![attribute("url.path", "/")], ..Span::default() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource {
                attributes: vec![attribute("service.name", "x")],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }],
    }
}

fn post(collector: &Collector, body: &[u8], headers: &str) -> u16 {
    let mut stream = connect(collector.http_port, Duration::from_secs(5), None).unwrap();
    let head = format!("POST /v1/traces HTTP/1.1\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    stream.get_mut().write_all(body).unwrap();
    Message::read(&mut stream).unwrap().unwrap().status().unwrap()
}

#[test]
fn spans_arrive_over_http_plain_and_compressed() {
    let collector = Collector::start().unwrap();
    let body = request().encode_to_vec();
    assert_eq!(post(&collector, &body, "Authorization: Basic abc\r\n"), 200);
    assert_eq!(collector.headers()["authorization"], "Basic abc");
    let mut packed = Vec::new();
    GzEncoder::new(body.as_slice(), Compression::fast()).read_to_end(&mut packed).unwrap();
    assert_eq!(post(&collector, &packed, "Content-Encoding: gzip\r\n"), 200);
    assert_eq!(post(&collector, &packed, ""), 400);
    let spans = collector.wait_spans(2, Duration::from_secs(5));
    assert_eq!(spans.len(), 2);
    assert_eq!((spans[0].service(), spans[1].attribute("url.path").as_deref()), ("x", Some("/")));
}

#[test]
fn a_patient_collector_has_all_that_came_when_it_is_asked() {
    let collector = Collector::start().unwrap().patient();
    let body = request().encode_to_vec();
    assert_eq!(post(&collector, &body, ""), 200);
    assert_eq!(post(&collector, &body, ""), 200);
    assert_eq!((collector.spans().len(), collector.spans().len()), (2, 2));
    assert_eq!(post(&collector, &body, ""), 200);
    assert_eq!(collector.wait_spans(3, Duration::from_secs(5)).len(), 3);
}

#[test]
fn spans_arrive_over_grpc_compressed_and_refusals_have_their_codes() {
    let collector = Collector::start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = TraceServiceClient::connect(collector.endpoint(Protocol::Grpc)).await.unwrap();
        let mut client = client.send_compressed(CompressionEncoding::Gzip);
        client.export(request()).await.unwrap();
        assert_eq!(collector.spans().len(), 1);
        collector.answer(Answer::Unauthorized);
        assert_eq!(client.export(request()).await.unwrap_err().code(), tonic::Code::Unauthenticated);
        collector.answer(Answer::Unavailable);
        assert_eq!(client.export(request()).await.unwrap_err().code(), tonic::Code::Unavailable);
    });
    assert_eq!(post(&collector, &[], ""), 503);
    collector.answer(Answer::Unauthorized);
    assert_eq!(post(&collector, &[], ""), 401);
    assert_eq!((collector.spans().len(), collector.requests(), collector.refused()), (1, 5, 4));
}
