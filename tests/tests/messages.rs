//! Messages: every publish under the request that made it, every delivery under its publish, all that a handler does
//! under its delivery.

use std::{collections::BTreeMap, thread, time::Duration};

use adder_tests::{
    judge::find_rid,
    load::Load,
    python::{App, Environment, EventLoop},
    rig::Rig,
    stack::packages,
    watch::{Watched, watch_between},
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

struct Case<'a> {
    name: &'a str,
    python: &'a str,
    /// How the worker takes its messages.
    way: &'a str,
    prefetch: &'a str,
    paths: &'a [&'a str],
    requests: usize,
    connections: usize,
    /// Every connection is encrypted.
    encrypted: bool,
    /// That of the service which publishes.
    event_loop: EventLoop,
    /// Another uvloop than the newest.
    uvloop: Option<&'a str>,
    /// How much a socket to the broker takes at once, bytes.
    send_buffer: Option<u32>,
    /// What is asked for one by one before.
    warm_up: &'a [&'a str],
}

fn run(case: &Case<'_>) {
    let servers = if case.encrypted {
        Rig::start_encrypted(case.name, "schedule-api", case.python, true)
    } else {
        Rig::start(case.name, "schedule-api", case.python, true)
    };
    let mut servers = servers.expect("servers");
    if let Some(version) = case.uvloop {
        let older = packages(version).expect("its packages");
        servers.environment = servers.environment.clone().set("PYTHONPATH", &older);
    }
    servers.broker.as_ref().expect("a broker").trace_on().expect("the firehose");
    let start = |service: &str, environment: Environment, script: &str, arguments: &[&str]| {
        let environment = environment.set("PREFETCH", case.prefetch).named(service);
        App::worker(&servers.venv, &servers.dir, script, arguments, &environment).expect("a worker starts")
    };
    let players = App::uvicorn(
        &servers.venv,
        &servers.dir,
        "players:app",
        EventLoop::Uvloop,
        1,
        &servers.environment.clone().named("players-api"),
    )
    .expect("the players service starts");
    let worker = start("worker", servers.environment.clone(), "worker.py", &[case.way, "jobs"]);
    let bot = start("bot", servers.environment.clone().players(&players), "worker.py", &["bot", "events"]);
    if let Some(bytes) = case.send_buffer {
        servers.environment = servers.environment.clone().set("SEND_BUFFER", &bytes.to_string());
    }
    let firehose = start("firehose", servers.environment.clone(), "firehose.py", &[]);
    let api = App::uvicorn(
        &servers.venv,
        &servers.dir,
        "schedule_api:app",
        case.event_loop,
        1,
        &servers.environment,
    )
    .expect("the publishing service starts");
    let load = Load {
        port: api.port(),
        connections: case.connections,
        requests: case.requests,
        paths: case.paths.iter().map(|path| (*path).to_owned()).collect(),
        tls: api.tls(),
    };
    let pids = [api.pid(), worker.pid(), bot.pid(), players.pid()];
    // Who wakes whom is watched from the first message on, in connections that are older than the agent.
    let warm_up = || {
        // One by one: how a consumer goes about a message shows where it has only one.
        for path in case.warm_up.iter().cycle().take(5) {
            api.get(path)?;
            thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    };
    let watched = watch_between(&servers.dir, &pids, warm_up, &load, || servers.wait_empty());
    let watched = watched.expect("a watched load");
    assert_eq!(watched.report.failed(), 0, "every request is answered");
    watched.expect_right_parents();
    // pika acknowledges and the broker tells of it after the last answer; its own lines come last.
    thread::sleep(Duration::from_secs(1));
    // On uvloop up to 0.22 it shows too late which connection an older one's first plaintext is of.
    let unseen = usize::from(case.encrypted && case.uvloop.is_some());
    expect_what_the_broker_says(&watched, &firehose, case.way != "threads", unseen);
    let told = api.truth().expect("the service's own counts");
    let differences = watched.verdict.differences("schedule-api", &told);
    assert!(differences.is_empty(), "{differences:#?}");
    drop((bot, worker, api, players, firehose));
    drop(servers);
}

/// The firehose's publishes and deliveries by id, and the spans'.
fn expect_what_the_broker_says(watched: &Watched, firehose: &App, events: bool, unseen: usize) {
    let log = std::fs::read_to_string(firehose.process().log()).expect("the firehose's log");
    let count = |lines: &mut dyn Iterator<Item = String>| {
        let mut counts = BTreeMap::<String, usize>::new();
        for key in lines {
            if let Some(rid) = find_rid(&key) {
                let kind = key.split(['.', ' ']).find(|word| ["jobs", "events"].contains(word)).unwrap_or("");
                *counts.entry(format!("{kind} {rid}")).or_default() += 1;
            }
        }
        counts
    };
    let lines =
        |word: &'static str| log.lines().filter(move |line| line.starts_with(word)).map(str::to_owned);
    let spans = |kind: SpanKind| {
        let of_kind = watched.spans.iter().filter(move |span| span.span.kind() == kind);
        of_kind.filter_map(|span| span.attribute("messaging.rabbitmq.destination.routing_key"))
    };
    let (published, delivered) = (count(&mut lines("publish")), count(&mut lines("deliver")));
    assert!(!published.is_empty() && !delivered.is_empty(), "the broker tells of messages");
    assert_eq!(count(&mut spans(SpanKind::Producer)), published, "publishes");
    assert_eq!(count(&mut spans(SpanKind::Consumer)), delivered, "deliveries");
    assert_eq!(published.keys().any(|key| key.starts_with("events")), events, "second publishes");
    let linked = watched.spans.iter().filter(|span| span.span.kind() == SpanKind::Consumer);
    let orphans = linked.filter(|span| span.span.parent_span_id.is_empty()).count();
    assert!(orphans <= unseen, "every delivery hangs under its publish: {orphans} do not");
}

const AIO_PIKA: [&str; 2] = ["/publish/jobs", "/publish-many/jobs"];
const PIKA: [&str; 2] = ["/publish/jobs", "/publish-pika/jobs"];

/// A case with what most of them have.
const CASE: Case<'static> = Case {
    name: "",
    python: "3.11",
    way: "",
    prefetch: "50",
    paths: &AIO_PIKA,
    requests: 400,
    connections: 64,
    encrypted: false,
    event_loop: EventLoop::Uvloop,
    uvloop: None,
    send_buffer: None,
    warm_up: &["/publish/jobs"],
};

#[test]
fn callbacks_of_aio_pika_run_side_by_side() {
    run(&Case { name: "messages-callbacks", way: "callbacks", requests: 600, ..CASE });
}

#[test]
fn callbacks_of_aio_pika_one_at_a_time() {
    run(&Case { name: "messages-single", way: "callbacks", prefetch: "1", python: "3.13", ..CASE });
}

#[test]
fn an_iterator_of_aio_pika_takes_one_message_after_the_other() {
    run(&Case { name: "messages-iterator", way: "iterator", python: "3.13", requests: 300, ..CASE });
}

#[test]
fn callbacks_of_pika_run_one_after_the_other() {
    run(&Case { name: "messages-pika", way: "pika", python: "3.13", paths: &PIKA, requests: 600, ..CASE });
}

#[test]
fn callbacks_of_pika_one_at_a_time() {
    run(&Case { name: "messages-pika-single", way: "pika", prefetch: "1", paths: &PIKA, ..CASE });
}

#[test]
fn callbacks_of_pika_that_acknowledge_before_they_work() {
    run(&Case { name: "messages-early", way: "early", paths: &PIKA, connections: 16, ..CASE });
}

#[test]
fn threads_of_pika_acknowledge_through_their_connection() {
    run(&Case { name: "messages-threads", way: "threads", prefetch: "1", paths: &PIKA, ..CASE });
}

/// Its loop sends in the context of whoever came first. Who has put what where it is sent from is seen once it has done so.
#[test]
fn tasks_of_pikas_asyncio_connection() {
    let paths = &["/publish/jobs", "/publish-adapter/jobs"];
    run(&Case { name: "messages-adapter", way: "adapter", paths, warm_up: paths, ..CASE });
}

#[test]
fn tasks_of_pikas_asyncio_connection_one_at_a_time() {
    let paths = &["/publish/jobs", "/publish-adapter/jobs"];
    let (prefetch, connections) = ("1", 1);
    run(&Case { name: "messages-adapter-single", way: "adapter", paths, prefetch, connections, ..CASE });
}

/// By aio-pika, pika and kombu over TLS; the connections are older than the agent.
#[test]
fn callbacks_of_aio_pika_on_encrypted_connections() {
    let paths = &["/publish/jobs", "/publish-pika/jobs", "/publish-kombu/jobs"];
    run(&Case { name: "messages-tls", way: "callbacks", paths, encrypted: true, requests: 600, ..CASE });
}

/// uvloop up to 0.22 sends at the end of a turn, in nobody's name.
#[test]
fn callbacks_of_aio_pika_on_older_uvloops() {
    for (name, version, encrypted) in [
        ("messages-uvloop19", "uvloop19", false),
        ("messages-uvloop22", "uvloop22", false),
        ("messages-uvloop22-tls", "uvloop22", true),
    ] {
        let (way, uvloop) = ("callbacks", Some(version));
        run(&Case { name, way, uvloop, encrypted, requests: 600, ..CASE });
    }
}

#[test]
fn callbacks_of_pika_on_encrypted_connections() {
    let (paths, python) = (&PIKA, "3.13");
    run(&Case { name: "messages-tls-pika", way: "pika", python, paths, encrypted: true, ..CASE });
}

#[test]
fn callbacks_of_kombu() {
    let paths = &["/publish/jobs", "/publish-kombu/jobs"];
    run(&Case { name: "messages-kombu", way: "kombu", python: "3.13", paths, ..CASE });
}

/// From nothing to 1 MB, by each library. More fills the ring buffer where agent and services share two cores.
const BODIES: [&str; 9] = [
    "/publish/jobs?size=0",
    "/publish-pika/jobs?size=0",
    "/publish-kombu/jobs?size=0",
    "/publish/jobs?size=300",
    "/publish-pika/jobs?size=4096",
    "/publish-kombu/jobs?size=70000",
    "/publish/jobs?size=1000000",
    "/publish-pika/jobs?size=1000000",
    "/publish-kombu/jobs?size=1000000",
];

#[test]
fn bodies_for_callbacks_of_aio_pika() {
    let (paths, requests, connections, prefetch) = (&BODIES, 30, 1, "1");
    run(&Case { name: "messages-bodies", way: "callbacks", paths, requests, connections, prefetch, ..CASE });
}

#[test]
fn bodies_for_callbacks_of_pika() {
    let (paths, requests, connections) = (&BODIES, 30, 1);
    run(&Case { name: "messages-bodies-pika", way: "pika", paths, requests, connections, ..CASE });
}

/// What comes behind a large body in one read or write, and more than a ring buffer holds.
const LARGE: [&str; 8] = [
    "/publish/jobs",
    "/publish-many/jobs",
    "/publish/jobs?size=300",
    "/publish/jobs?size=20000",
    "/publish/jobs?size=1000000",
    "/publish/jobs",
    "/publish-many/jobs",
    "/publish/jobs?size=10000000",
];

#[test]
fn large_bodies_among_small_ones() {
    let (paths, requests, connections) = (&LARGE, 240, 32);
    run(&Case { name: "messages-large", way: "callbacks", paths, requests, connections, ..CASE });
}

/// Messages whose turn comes while the end of a large one has not left: the loop sends them, when the socket takes more.
const BEHIND: [&str; 4] =
    ["/publish-many/jobs", "/publish/jobs?size=1000000", "/publish-many/jobs", "/publish/jobs?size=20000"];

const BEHIND_CASE: Case<'static> = Case {
    way: "callbacks",
    paths: &BEHIND,
    connections: 32,
    requests: 120,
    send_buffer: Some(20_000),
    ..CASE
};

#[test]
fn small_messages_behind_large_ones() {
    run(&Case { name: "messages-behind", ..BEHIND_CASE });
}

#[test]
fn small_messages_behind_large_ones_on_asyncio() {
    run(&Case { name: "messages-behind-asyncio", event_loop: EventLoop::Asyncio, ..BEHIND_CASE });
}

#[test]
fn large_bodies_among_small_ones_on_encrypted_connections() {
    let (paths, requests, connections, encrypted) = (&LARGE, 120, 16, true);
    let name = "messages-large-tls";
    run(&Case { name, way: "callbacks", paths, requests, connections, encrypted, ..CASE });
}

/// By pika and kombu; one publishes 10 MB at once.
#[test]
fn large_bodies_among_small_ones_for_callbacks_of_pika() {
    let paths = &[
        "/publish-pika/jobs",
        "/publish-kombu/jobs",
        "/publish-pika/jobs?size=1000000",
        "/publish-kombu/jobs?size=1000000",
        "/publish-pika/jobs?size=20000",
        "/publish-pika/jobs?size=10000000",
    ];
    let (requests, connections) = (120, 16);
    run(&Case { name: "messages-large-pika", way: "pika", paths, requests, connections, ..CASE });
}
