//! Services that run: their drivers have prepared every statement before the agent comes, so that no text is on the wire any
//! more. It is read where the drivers are called.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use adder_tests::{
    collector::{CollectedSpan, Collector},
    load::Load,
    python::{App, EventLoop},
    rig::Rig,
    watch::attach,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// Time in which the last spans are settled and sent.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// Statements of the service, `STATEMENTS` in `tests/apps/warm.py`.
const STATEMENTS: u32 = 12;

fn run(name: &str, python: &str, event_loop: EventLoop) {
    let rig = Rig::start(&format!("warm-{name}"), "warm-api", python, false).expect("servers");
    let app = App::uvicorn(&rig.venv, &rig.dir, "warm:app", event_loop, 1, &rig.environment);
    let app = app.expect("the service");
    let load = |requests| {
        let paths =
            ["/asyncpg/{n}", "/alchemy/{n}", "/psycopg/{n}", "/thread/{n}"].map(str::to_owned).to_vec();
        let load = Load { port: app.port(), connections: 32, requests, paths, tls: None };
        assert_eq!(load.run().expect("a load").failed(), 0, "every request is answered");
    };
    app.get("/fill").expect("statements are prepared");
    load(3200);
    let collector = Collector::start().expect("a collector");
    let (agent, recorder) = attach(&rig.dir, &[app.pid()], &collector).expect("the agent");
    load(8000);
    thread::sleep(AFTERWARDS);
    let (status, said) = agent.stop().expect("the agent ends");
    assert!(status.success(), "{said:#?}");
    if let Some(recorder) = recorder {
        recorder.stop().expect("the recorder ends");
    }
    println!("{name}: {}", said.join("\n"));
    expect_texts(&collector.spans());
}

/// At least 99 % of the statements have their text, and none another's.
fn expect_texts(spans: &[CollectedSpan]) {
    let requests: BTreeMap<&[u8], &CollectedSpan> = spans
        .iter()
        .filter(|span| span.span.kind() == SpanKind::Server)
        .map(|span| (span.span.span_id.as_slice(), span))
        .collect();
    let mut right: BTreeMap<String, usize> = BTreeMap::new();
    let (mut none, mut wrong, mut read) = (BTreeMap::new(), BTreeSet::new(), 0);
    for span in spans.iter().filter(|span| span.span.kind() == SpanKind::Client) {
        let Some(request) = requests.get(span.span.parent_span_id.as_slice()) else { continue };
        let path = request.attribute("url.path").unwrap_or_default();
        let Some((way, number)) = path.trim_start_matches('/').split_once('/') else { continue };
        let number: u32 = number.parse().expect("a number");
        let text = span.attribute("db.query.text");
        match text.as_deref() {
            // What drivers do around it is on the wire: SQLAlchemy's transaction, asyncpg's reset of a connection.
            Some(text) if !text.contains(" AS which") => {
                assert_eq!(span.attribute("adder.query.source"), None, "{text}");
            }
            Some(text) if text.starts_with(&format!("SELECT {} AS which", number % STATEMENTS)) => {
                read += usize::from(span.attribute("adder.query.source").as_deref() == Some("frame"));
                *right.entry(way.to_owned()).or_default() += 1;
            }
            Some(text) => {
                wrong.insert(format!("{path}: {text}"));
            }
            None => *none.entry(way.to_owned()).or_insert(0) += 1,
        }
    }
    println!("right {right:?}, {read} of them read in frames, without {none:?}, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Every connection had prepared every statement: nothing was left to be read on the wire.
    assert_eq!(read, right.values().sum::<usize>(), "read in frames");
    for way in ["asyncpg", "alchemy", "psycopg", "thread"] {
        let (right, none) =
            (right.get(way).copied().unwrap_or_default(), none.get(way).copied().unwrap_or(0));
        assert!(right > 1000, "{way}: {right}");
        assert!(none * 99 <= right, "{way}: {right} with a text, {none} without");
    }
}

#[test]
fn statements_of_warm_pools_on_uvloop() {
    run("uvloop", "3.11", EventLoop::Uvloop);
}

#[test]
fn statements_of_warm_pools_on_asyncio() {
    run("asyncio", "3.13", EventLoop::Asyncio);
}
