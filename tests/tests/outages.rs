//! A broker that refuses, throws out, hangs and dies: what was under way ends with an error that says why, what comes
//! again keeps its publish, and nothing is kept of it.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use adder_tests::{
    collector::{CollectedSpan, Collector},
    judge::find_rid,
    python::{App, EventLoop},
    rig::Rig,
    root, wait_until,
    watch::{record, run as run_agent},
};
use opentelemetry_proto::tonic::trace::v1::{Status, span::SpanKind, status::StatusCode};

/// Of each kind.
const TIMES: usize = 8;
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after it has seen a new protocol the agent has its probes in place.
const LEARNED: Duration = Duration::from_secs(1);
/// How long after the end of a connection what was under way on it is exported.
const EXPORTED: Duration = Duration::from_secs(6);

struct Seen {
    spans: Vec<CollectedSpan>,
}

impl Seen {
    /// The spans of this kind whose routing key has an id that begins so.
    fn of(&self, kind: SpanKind, rid: &str) -> Vec<&CollectedSpan> {
        let is_its = |span: &&CollectedSpan| {
            span.span.kind() == kind && find_rid(&key(span)).is_some_and(|found| found.starts_with(rid))
        };
        self.spans.iter().filter(is_its).collect()
    }

    fn parent(&self, span: &CollectedSpan) -> Option<&CollectedSpan> {
        self.spans.iter().find(|above| above.span.span_id == span.span.parent_span_id)
    }

    /// The statements with an id below a span.
    fn statements(&self, span: &CollectedSpan) -> Vec<String> {
        let below = self.spans.iter().filter(|below| below.span.parent_span_id == span.span.span_id);
        let texts = below.filter_map(|below| below.attribute("db.query.text"));
        texts.filter(|text| find_rid(text).is_some()).collect()
    }

    /// All spans with the id of this one, and what is above each.
    fn around(&self, span: &CollectedSpan) -> String {
        let key = key(span);
        let rid = find_rid(&key);
        let line = |span: &CollectedSpan| {
            let above = self.parent(span).map(name);
            let text = span.attribute("db.query.text").unwrap_or_default();
            format!("{} {text} at {}, below {above:?}", name(span), span.span.start_time_unix_nano)
        };
        let has_it = |span: &&CollectedSpan| {
            ["db.query.text", "url.query", "messaging.rabbitmq.destination.routing_key"]
                .iter()
                .any(|key| span.attribute(key).is_some_and(|text| find_rid(&text) == rid))
        };
        self.spans.iter().filter(has_it).map(line).collect::<Vec<_>>().join("\n")
    }

    /// All publishes with such an id are below their request, and ended so.
    fn expect_publishes(&self, rid: &str, error: Option<&str>) {
        let publishes = self.of(SpanKind::Producer, rid);
        assert_eq!(publishes.len(), TIMES, "publishes of {rid}");
        for publish in publishes {
            expect_end(publish, error);
            let request = self.parent(publish);
            let request = request.unwrap_or_else(|| panic!("a request above: {}", self.around(publish)));
            let query = request.attribute("url.query").unwrap_or_default();
            assert_eq!(find_rid(&query), find_rid(&key(publish)));
        }
    }

    /// Messages that were delivered, whose connection ended so, and that came again.
    fn expect_redelivered(&self, rid: &str, error: &str) {
        let deliveries = self.of(SpanKind::Consumer, rid);
        let is_again =
            |span: &&CollectedSpan| span.attribute("adder.messaging.redelivered").as_deref() == Some("true");
        let (again, first): (Vec<_>, Vec<_>) = deliveries.into_iter().partition(is_again);
        assert_eq!((first.len(), again.len()), (TIMES, TIMES), "deliveries of {rid}");
        for (deliveries, error, outcome, column) in
            [(first, Some(error), "lost", "name"), (again, None, "ack", "genre")]
        {
            for delivery in deliveries {
                expect_end(delivery, error);
                assert_eq!(delivery.attribute("adder.messaging.outcome").as_deref(), Some(outcome));
                let publish = self.parent(delivery).expect("a publish above");
                assert_eq!(key(publish), key(delivery));
                let statements = self.statements(delivery);
                assert_eq!(statements.len(), 1, "{}: {}", name(delivery), self.around(delivery));
                assert_eq!(find_rid(&statements[0]), find_rid(&key(delivery)));
                assert!(statements[0].contains(column), "{statements:?}");
            }
        }
    }
}

fn expect_end(span: &CollectedSpan, error: Option<&str>) {
    let code = span.span.status.as_ref().map_or(StatusCode::Unset, Status::code);
    let expected = if error.is_some() { StatusCode::Error } else { StatusCode::Unset };
    assert_eq!((span.attribute("error.type").as_deref(), code), (error, expected), "{}", name(span));
}

/// The routing key, in which the id is; empty where there is none.
fn key(span: &CollectedSpan) -> String {
    span.attribute("messaging.rabbitmq.destination.routing_key").unwrap_or_default()
}

fn name(span: &CollectedSpan) -> String {
    format!("{} {} {:?}", span.span.name, key(span), span.attribute("adder.messaging.outcome"))
}

/// The sizes of the agent's tables.
fn tables(config: &str) -> BTreeMap<String, u64> {
    let output =
        Command::new(root().join("target/release/adder")).args(["status", "--config", config]).output();
    let status: serde_json::Value = serde_json::from_slice(&output.expect("a status").stdout).expect("JSON");
    let tables = status["tables"].as_array().expect("tables").iter();
    tables
        .map(|table| (table[0].as_str().unwrap_or_default().to_owned(), table[1].as_u64().unwrap_or(0)))
        .collect()
}

fn publishes(service: &App, path: &str, query: &str, rid: &str, said: &[&str]) {
    thread::scope(|scope| {
        for number in 0..TIMES {
            let path = format!("{path}?rid={rid}x{number}{query}");
            scope.spawn(move || {
                let (status, body) = service.get(&path).expect("an answer");
                assert_eq!(status, 200, "{body}");
                assert!(said.iter().any(|said| body.contains(said)), "{path}: {body}");
            });
        }
    });
}

/// Publishes messages that are held, one after the other: for which of them a task works that acknowledges nothing shows
/// for certain only then.
fn hold(service: &App, rid: &str, before: usize) {
    for number in 0..TIMES {
        let (_, body) = service.get(&format!("/publish/held?rid={rid}x{number}")).expect("an answer");
        assert!(body.contains("taken"), "{body}");
        wait_held(service, before + number + 1, before);
    }
}

/// Waits until the service has its connection to the broker again.
fn wait_taken(service: &App) {
    let taken = || service.get("/publish/other").is_ok_and(|(_, body)| body.contains("taken"));
    assert!(wait_until(PATIENCE, taken), "nothing is taken");
}

fn wait_held(service: &App, held: usize, done: usize) {
    let mut body = String::new();
    let expected = serde_json::json!({ "held": held, "done": done });
    let reached = wait_until(PATIENCE, || {
        body = service.get("/held").map(|(_, body)| body).unwrap_or_default();
        serde_json::from_str(&body).is_ok_and(|told: serde_json::Value| told == expected)
    });
    assert!(reached, "{held} held and {done} taken again are expected: {body}");
}

fn run(name: &str, python: &str, event_loop: EventLoop) {
    let mut rig = Rig::start(name, "unlucky", python, true).expect("servers");
    let service = App::uvicorn(&rig.venv, &rig.dir, "unlucky:app", event_loop, 1, &rig.environment)
        .expect("the service starts");
    let collector = Collector::start().expect("a collector");
    let config = rig.dir.join("adder.toml");
    let socket = rig.dir.join("status.sock").display().to_string();
    fs::write(&config, format!("[status]\nsocket = {socket:?}\n")).expect("a file");
    let config = config.display().to_string();
    let pid = service.pid().to_string();
    let agent =
        run_agent(&rig.dir, &["--config", &config, "--pid", &pid], &collector).expect("the agent starts");
    let recorder = record(&rig.dir, &[service.pid()]).expect("a recorder");

    // All connections are older than the agent. At the first messages it learns what is spoken there and begins to look at who
    // wakes whom; at those behind them, who handles messages.
    for rid in ["first", "firstagain"] {
        publishes(&service, "/publish/held", "", rid, &["taken"]);
        publishes(&service, "/publish-pika/other", "", rid, &["taken"]);
        thread::sleep(LEARNED);
    }
    // An exchange that is not there: the broker closes the channel.
    publishes(&service, "/publish/other", "&exchange=nowhere", "missing", &["ChannelNotFoundEntity"]);
    publishes(
        &service,
        "/publish-pika/other",
        "&exchange=nowhere",
        "pikamissing",
        &["ChannelClosedByBroker"],
    );

    // All are thrown out: the broker closes the connections.
    hold(&service, "thrown", 0);
    let broker = rig.broker.as_mut().expect("a broker");
    broker.control(&["close_all_connections", "for a test"]).expect("connections are closed");
    wait_held(&service, TIMES, TIMES);
    wait_taken(&service);

    // It hangs, and dies.
    hold(&service, "killed", TIMES);
    // pika learns of it when it next publishes, and is given a new connection then.
    publishes(&service, "/publish-pika/other", "", "learning", &["taken", "ConnectionClosedByBroker"]);
    publishes(&service, "/publish-pika/other", "", "again", &["taken"]);
    let died = thread::scope(|scope| {
        broker.freeze();
        let service = &service;
        let broken = ["Connection", "AMQPConnectionError", "StreamLostError", "CancelledError"];
        let waiting: Vec<_> = [("/publish/other", "unconfirmed"), ("/publish-pika/other", "pikaunconfirmed")]
            .into_iter()
            .map(|(path, rid)| scope.spawn(move || publishes(service, path, "", rid, &broken)))
            .collect();
        thread::sleep(Duration::from_secs(1));
        let died = Instant::now();
        broker.kill().expect("the broker dies");
        for thread in waiting {
            thread.join().expect("answers");
        }
        died
    });
    // It comes again.
    thread::sleep(EXPORTED.saturating_sub(died.elapsed()));
    let early = Seen { spans: collector.spans() };
    broker.start_again().expect("the broker starts again");
    wait_held(&service, 2 * TIMES, 2 * TIMES);
    wait_taken(&service);
    publishes(&service, "/publish/other", "", "after", &["taken"]);
    publishes(&service, "/publish-pika/other", "", "pikaafter", &["taken"]);
    thread::sleep(EXPORTED);
    let tables = tables(&config);
    let (ended, lines) = agent.stop().expect("the agent ends");
    assert!(ended.success(), "{lines:#?}");
    if let Some(recorder) = recorder {
        recorder.stop().expect("the recorder ends");
    }
    println!("{name}: {}", lines.join("\n"));

    let seen = Seen { spans: collector.spans() };
    for (rid, error) in [
        ("missing", Some("not-found")),
        ("pikamissing", Some("not-found")),
        ("thrown", None),
        ("killed", None),
        ("unconfirmed", Some("connection_closed")),
        ("pikaunconfirmed", Some("connection_closed")),
        ("after", None),
        ("pikaafter", None),
    ] {
        seen.expect_publishes(rid, error);
    }
    seen.expect_redelivered("thrown", "connection-forced");
    seen.expect_redelivered("killed", "connection_closed");
    // What had ended was told while the broker was still away.
    early.expect_publishes("unconfirmed", Some("connection_closed"));
    assert_eq!(early.of(SpanKind::Consumer, "killed").len(), TIMES);
    // And nothing waits for its end any more.
    for table in ["operations", "finished"] {
        assert_eq!(tables[table], 0, "{table}");
    }
    drop((service, rig));
}

#[test]
fn a_broker_that_fails_a_service_on_asyncio() {
    run("outages", "3.11", EventLoop::Asyncio);
}

#[test]
fn a_broker_that_fails_a_service_on_uvloop() {
    run("outages-uvloop", "3.13", EventLoop::Uvloop);
}
