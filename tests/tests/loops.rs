//! Event loops that are kept from running: who did it, where, for how long, as events of spans and as metrics.
//!
//! The service measures itself how long it has held the loop (`tests/apps/blocking.py`).

use std::{collections::BTreeMap, thread, time::Duration};

use adder_tests::{
    collector::{CollectedSpan, Collector, attribute},
    python::{App, EventLoop},
    rig::Rig,
    watch::attach,
};
use opentelemetry_proto::tonic::{
    metrics::v1::{HistogramDataPoint, metric},
    trace::v1::span::{Event, SpanKind},
};

/// Time in which the last spans are settled and sent.
const AFTERWARDS: Duration = Duration::from_secs(3);
const BLOCKING: [&str; 3] = ["sleeps", "computes", "queries"];
const HARMLESS: [&str; 5] = ["waits", "elsewhere", "thread", "briefly", "pauses"];
/// Requests of each kind on each of two connections.
const ROUNDS: usize = 5;
/// How much longer the loop was held than the handler says, at most: the rest of its step, and where two share one, the time
/// between two looks. Milliseconds.
const MORE: f64 = 60.0;

/// What a handler says: how long it has held the loop, in milliseconds, the function, its lines.
struct Told {
    lasted: f64,
    function: String,
    lines: (i64, i64),
}

fn told(answer: &str) -> Option<Told> {
    let mut words = answer.trim().trim_matches('"').split(' ');
    Some(Told {
        lasted: words.next()?.parse().ok()?,
        function: words.next()?.to_owned(),
        lines: (words.next()?.parse().ok()?, words.next()?.parse().ok()?),
    })
}

fn run(python: &str, event_loop: EventLoop) {
    let name = format!("loops-{python}-{event_loop:?}");
    let rig = Rig::start(&name, "blocking-api", python, false).expect("servers");
    let app = App::uvicorn(&rig.venv, &rig.dir, "blocking:app", event_loop, 1, &rig.environment);
    let app = app.expect("the service");
    let collector = Collector::start().expect("a collector");
    let (agent, recorder) = attach(&rig.dir, &[app.pid()], &collector).expect("the agent");
    let answers = requests(&app);
    thread::sleep(AFTERWARDS);
    let counts = app.get("/stop").expect("an answer").1;
    thread::sleep(AFTERWARDS);
    let (status, lines) = agent.stop().expect("the agent ends");
    if let Some(recorder) = recorder {
        recorder.stop().expect("the recorder ends");
    }
    assert!(status.success(), "{lines:#?}");
    let spans = collector.spans();
    let wrong: Vec<String> = spans.iter().filter_map(|span| judge(span, &answers)).collect();
    println!("{name}: {} requests, {} wrong", answers.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    let servers = spans.iter().filter(|span| span.span.kind() == SpanKind::Server);
    assert_eq!(servers.count(), answers.len() + 2, "each request has a span, and so have /start and /stop");

    let counts: BTreeMap<String, u64> = serde_json::from_str(&counts).expect("counts");
    let measured = collector.counts("adder.asyncio.loop.blocked");
    println!("held the loop: {counts:?}, by the agent: {measured:?}");
    assert_eq!(measured, counts);
    let lag = histogram(&collector);
    assert!(lag.start_time_unix_nano < lag.time_unix_nano, "since the agent has come");
    let long: u64 = lag
        .explicit_bounds
        .iter()
        .zip(&lag.bucket_counts[1..])
        .filter(|(from, _)| **from >= 0.1)
        .map(|(_, count)| count)
        .sum();
    let blocks: u64 = counts.values().sum();
    println!("{long} of {} steps longer than 100 ms, {:.1} s in all", lag.count, lag.sum());
    // Two handlers may hold the loop in one step.
    assert!(long <= blocks && long * 2 >= blocks, "{long} long steps, {blocks} times held");
    let held = blocks as f64 * 0.15;
    assert!(lag.sum() > held, "{} s", lag.sum());
    assert!(lag.count > 100, "short steps are counted too");
}

/// Requests of every kind on two connections, each with a number; the answers by that.
fn requests(app: &App) -> BTreeMap<String, (String, Option<Told>)> {
    // What it does before its tasks are known has no owner.
    assert_eq!(app.get("/start").expect("an answer").0, 200);
    let one = |connection: usize| {
        let mut answers = Vec::new();
        for round in 0..ROUNDS {
            let mut paths = [&BLOCKING[..], &HARMLESS[..]].concat();
            let count = paths.len();
            paths.rotate_left((connection * 2 + round) % count);
            for path in paths {
                let number = format!("n={connection}{round}");
                let (status, text) = app.get(&format!("/{path}?{number}")).expect("an answer");
                assert_eq!(status, 200, "{path}");
                assert_eq!(told(&text).is_some(), BLOCKING.contains(&path), "{path}: {text}");
                answers.push((format!("/{path}?{number}"), (path.to_owned(), told(&text))));
            }
        }
        answers
    };
    thread::scope(|scope| {
        let threads = [0, 1].map(|connection| scope.spawn(move || one(connection)));
        threads.into_iter().flat_map(|thread| thread.join().expect("a connection")).collect()
    })
}

/// What is wrong with a span's events.
fn judge(span: &CollectedSpan, answers: &BTreeMap<String, (String, Option<Told>)>) -> Option<String> {
    let events = &span.span.events;
    let target = || Some(format!("{}?{}", span.attribute("url.path")?, span.attribute("url.query")?));
    let request =
        target().and_then(|target| answers.get(&target)).filter(|_| span.span.kind() == SpanKind::Server);
    match (request, &events[..]) {
        (Some((_, Some(told))), [event]) => judge_event(event, told),
        (Some((path, Some(_))), _) => Some(format!("{path} has {} events", events.len())),
        (_, []) => None,
        (_, events) => Some(format!("{} has events: {events:?}", span.span.name)),
    }
}

fn judge_event(event: &Event, told: &Told) -> Option<String> {
    let attribute = |key| attribute(&event.attributes, key).unwrap_or_default();
    let line: i64 = attribute("code.line.number").parse().unwrap_or_default();
    let lasted: f64 = attribute("adder.asyncio.blocked.ms").parse().unwrap_or_default();
    let is_right = event.name == "adder.asyncio.blocked"
        && attribute("code.function.name") == told.function
        && attribute("code.file.path").ends_with("tests/apps/blocking.py")
        && (told.lines.0..=told.lines.1).contains(&line)
        && (told.lasted - MORE..told.lasted + MORE).contains(&lasted);
    let Told { lasted, function, lines } = told;
    (!is_right).then(|| format!("{function} {lines:?} {lasted} ms: {:?}", event.attributes))
}

fn histogram(collector: &Collector) -> HistogramDataPoint {
    let scopes = collector.metrics().into_iter().flat_map(|resource| resource.scope_metrics);
    let mut lags =
        scopes.flat_map(|scope| scope.metrics).filter(|metric| metric.name == "adder.asyncio.loop.lag");
    let last = lags.next_back().and_then(|metric| metric.data).expect("it was measured");
    let metric::Data::Histogram(mut histogram) = last else { panic!("a histogram: {last:?}") };
    histogram.data_points.pop().expect("a point")
}

#[test]
fn handlers_that_hold_asyncio() {
    run("3.11", EventLoop::Asyncio);
    run("3.9", EventLoop::Asyncio);
}

#[test]
fn handlers_that_hold_uvloop() {
    run("3.13", EventLoop::Uvloop);
}
