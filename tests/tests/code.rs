//! `code.*`: each call at the line of the application that made it, each request with the function that handled it.
//!
//! The service writes into its statements where it is, by `sys._getframe` (`tests/apps/places.py`).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    thread,
    time::Duration,
};

use adder_tests::{
    collector::{CollectedSpan, Collector, attribute, text},
    load::Load,
    python::{App, EventLoop},
    rig::Rig,
    stack::{on_every_python, packages},
    watch::attach,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// Time in which the last spans are settled and sent.
const AFTERWARDS: Duration = Duration::from_secs(4);

struct Case<'a> {
    name: &'a str,
    venv: Option<&'a Path>,
    python: &'a str,
    event_loop: Option<EventLoop>,
    /// Another uvloop than that of the environment.
    uvloop: Option<&'a str>,
    /// Over TLS, and so are the connections to the servers.
    encrypted: bool,
    connections: usize,
    requests: usize,
    paths: &'a [&'a str],
}

/// Where a call was made, by what it carries: function and line.
fn planted(span: &CollectedSpan) -> Option<(String, u32)> {
    let texts = span.attribute("db.query.text")? + " ";
    let rest = &texts[texts.find("at=")? + 3..];
    let (name, rest) = rest.split_once(':')?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit())?;
    Some((name.to_owned(), rest[..end].parse().ok()?))
}

/// Where it was made, by the agent; empty where that says nothing.
fn found(span: &CollectedSpan) -> Option<(String, u32)> {
    let name = span.attribute("code.function.name")?;
    let path = span.attribute("code.file.path")?;
    // In the container of the matrix it is mounted there.
    assert!(path.ends_with("tests/apps/places.py") || path == "/apps/places.py", "{path}");
    Some((name, span.attribute("code.line.number")?.parse().ok()?))
}

fn run(case: &Case<'_>) {
    let start = if case.encrypted { Rig::start_encrypted } else { Rig::start };
    let mut rig = start(&format!("code-{}", case.name), "places-api", case.python, false).expect("servers");
    if let Some(older) = case.uvloop {
        let older = packages(older).expect("its packages");
        rig.environment = rig.environment.set("PYTHONPATH", &older);
    }
    if let Some(venv) = case.venv {
        venv.clone_into(&mut rig.venv);
    }
    let app = match case.event_loop {
        Some(event_loop) => App::uvicorn(&rig.venv, &rig.dir, "places:app", event_loop, 1, &rig.environment),
        None => App::gunicorn(&rig.venv, &rig.dir, "places:flask_app", 1, 4, &rig.environment),
    };
    let app = app.expect("the service");
    let load = |connections, requests| {
        let paths = case.paths.iter().map(|path| (*path).to_owned()).collect();
        let load = Load { port: app.port(), connections, requests, paths, tls: app.tls() };
        let report = load.run().expect("a load");
        assert_eq!(report.failed(), 0, "every request is answered");
    };
    // Its pools are warm, as in a service that runs.
    load(4, case.paths.len() * 8);
    let collector = Collector::start().expect("a collector");
    let (agent, recorder) = attach(&rig.dir, &[app.pid()], &collector).expect("the agent");
    // The first calls show the agent where else it has to look; they are not judged.
    load(4, case.paths.len() * 8);
    thread::sleep(Duration::from_secs(7));
    collector.clear();
    load(case.connections, case.requests);
    thread::sleep(AFTERWARDS);
    let (status, said) = agent.stop().expect("the agent ends");
    assert!(status.success(), "{said:#?}");
    if let Some(recorder) = recorder {
        recorder.stop().expect("the recorder ends");
    }
    println!("{}: {}", case.name, said.join("\n"));
    if case.event_loop.is_some() {
        assert!(expect_lines(&collector) > 50, "lines of a log were written");
    }
    expect_places(&collector.spans());
    expect_handlers(&collector.spans());
}

/// At least 99.9 % of the calls are where they were made, and none is elsewhere.
fn expect_places(spans: &[CollectedSpan]) {
    let (mut right, mut none, mut wrong) = (0, BTreeMap::new(), BTreeSet::new());
    for span in spans.iter().filter(|span| span.span.kind() == SpanKind::Client) {
        let Some(planted) = planted(span) else { continue };
        match found(span) {
            Some(found) if found == planted => right += 1,
            Some(found) => {
                wrong.insert(format!("{planted:?} is said to be {found:?}"));
            }
            None => *none.entry(format!("{} {planted:?}", span.span.name)).or_insert(0) += 1,
        }
    }
    println!("{right} calls right, {} wrong, without: {none:?}", wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    let without: usize = none.values().sum();
    assert!(right > 900, "{right} calls");
    assert!(without * 1000 <= right, "{none:#?}");
}

/// The last part of the path is the name of the function.
fn expect_handlers(spans: &[CollectedSpan]) {
    let (mut right, mut none, mut wrong) = (0, 0, BTreeSet::new());
    for span in spans.iter().filter(|span| span.span.kind() == SpanKind::Server) {
        let path = span.attribute("url.path").unwrap_or_default();
        match found(span) {
            Some((name, _)) if path.rsplit('/').next() == Some(&name) => right += 1,
            Some((name, _)) => {
                wrong.insert(format!("{path} is said to be handled by {name}"));
            }
            None => none += 1,
        }
    }
    println!("{right} handlers right, {} wrong, {none} without", wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(none * 1000 <= right, "{none} without a handler");
}

/// A line of a log says where it was written. How many have a mark.
fn expect_lines(collector: &Collector) -> usize {
    let mut lines = 0;
    for batch in collector.logs() {
        for record in batch.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
            let text = record.body.as_ref().map(text).unwrap_or_default();
            let Some((_, planted)) = text.split_once("at=") else { continue };
            let name = attribute(&record.attributes, "code.function.name").unwrap_or_default();
            let line = attribute(&record.attributes, "code.line.number").unwrap_or_default();
            assert_eq!(format!("{name}:{line}"), planted, "{text}");
            lines += 1;
        }
    }
    lines
}

const ASYNC: [&str; 8] =
    ["/pool", "/methods", "/gathered", "/sub/alchemy", "/sub/depends", "/thread", "/handed", "/newer"];

#[test]
fn calls_of_tasks_and_threads_on_asyncio() {
    let event_loop = Some(EventLoop::Asyncio);
    run(&Case {
        name: "asyncio",
        venv: None,
        python: "3.11",
        event_loop,
        uvloop: None,
        encrypted: false,
        connections: 64,
        requests: 800,
        paths: &ASYNC,
    });
}

#[test]
fn calls_of_tasks_and_threads_on_uvloop() {
    let event_loop = Some(EventLoop::Uvloop);
    run(&Case {
        name: "uvloop",
        venv: None,
        python: "3.13",
        event_loop,
        uvloop: None,
        encrypted: false,
        connections: 64,
        requests: 800,
        paths: &ASYNC,
    });
}

/// Up to 0.22 it sends when all tasks have run.
#[test]
fn calls_of_tasks_and_threads_on_an_older_uvloop() {
    let event_loop = Some(EventLoop::Uvloop);
    run(&Case {
        name: "uvloop22",
        venv: None,
        python: "3.11",
        event_loop,
        uvloop: Some("uvloop22"),
        encrypted: false,
        connections: 64,
        requests: 800,
        paths: &ASYNC,
    });
}

/// What it answers and what it asks goes through the same library, in which only its calls have a place.
#[test]
fn calls_over_tls() {
    let event_loop = Some(EventLoop::Uvloop);
    run(&Case {
        name: "tls",
        venv: None,
        python: "3.11",
        event_loop,
        uvloop: None,
        encrypted: true,
        connections: 64,
        requests: 800,
        paths: &ASYNC,
    });
}

#[test]
fn calls_of_flask_views() {
    let paths = &["/view", "/below"];
    run(&Case {
        name: "flask",
        venv: None,
        python: "3.11",
        event_loop: None,
        uvloop: None,
        encrypted: false,
        connections: 4,
        requests: 800,
        paths,
    });
}

#[test]
#[ignore = "the whole matrix: `cargo xtask test --matrix`"]
fn places_are_right_on_every_python() {
    on_every_python(|name, venv| {
        for event_loop in [EventLoop::Asyncio, EventLoop::Uvloop] {
            let case = format!("{name}-{event_loop:?}");
            let (event_loop, venv) = (Some(event_loop), Some(venv));
            run(&Case {
                name: &case,
                venv,
                python: "",
                event_loop,
                uvloop: None,
                encrypted: false,
                connections: 64,
                requests: 800,
                paths: &ASYNC,
            });
        }
    });
}
