//! gRPC by grpcio, whose core sends and reads on threads of its own: each call below its request, each statement below its call.

use std::{collections::BTreeMap, thread, time::Duration};

use adder_tests::{
    collector::{CollectedSpan, Collector},
    judge::find_rid,
    load::Load,
    python::{App, Environment, EventLoop},
    rig::Rig,
    watch::{attach, watch_between},
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const REQUESTS: usize = 1000;
const PARALLEL: usize = 64;
/// How many spans are under the right request, at least, where a sixth of the calls is over before its handler is, and a thread of
/// grpcio's core sends some answers: what was done for those has no parent where others were open at the same time.
const LATE: f64 = 0.85;
/// Which paths there are, and how the calls end (`rpc.grpc.status_code`).
const PATHS: [(&str, &str); 6] =
    [("/find", "0"), ("/watch", "0"), ("/collect", "0"), ("/chat", "0"), ("/refuse", "5"), ("/late", "4")];
/// That which calls what the server does not have.
const UNKNOWN: (&str, &str) = ("/unknown", "12");

/// Who calls whom, and how.
#[derive(Clone, Copy)]
struct Case<'a> {
    name: &'a str,
    python: &'a str,
    event_loop: EventLoop,
    /// By threads or by tasks: `threads`, `aio`.
    mode: &'a str,
    /// Requests at once.
    connections: usize,
    /// How many of the spans are to be under the right request, at least. None may be under a wrong one.
    right: f64,
}

const CASE: Case<'_> = Case {
    name: "",
    python: "3.11",
    event_loop: EventLoop::Asyncio,
    mode: "threads",
    connections: 1,
    right: 0.999,
};

/// The called service and the calling one.
fn services(rig: &Rig, case: &Case<'_>, environment: impl Fn(Environment) -> Environment) -> (App, App) {
    let of = |name: &str| environment(rig.environment.clone().named(name).set("GRPC", case.mode));
    let start = |app, environment: Environment| {
        App::uvicorn(&rig.venv, &rig.dir, app, case.event_loop, 1, &environment)
    };
    let roster = start("roster:app", of("roster")).expect("the called service starts");
    let (_, port) = roster.get("/grpc").expect("its port");
    let environment = of("guild").set("ROSTER", &format!("127.0.0.1:{port}"));
    let guild = start("guild:app", environment).expect("the calling service starts");
    (roster, guild)
}

/// The spans of calls.
fn calls(spans: &[CollectedSpan], kind: SpanKind) -> impl Iterator<Item = &CollectedSpan> {
    let is_call = |span: &&CollectedSpan| span.attribute("rpc.system").as_deref() == Some("grpc");
    spans.iter().filter(is_call).filter(move |span| span.span.kind() == kind)
}

fn run(case: Case<'_>) {
    let rig = Rig::start(case.name, "guild", case.python, false).expect("servers");
    let (roster, guild) = services(&rig, &case, |environment| environment);
    let load = Load {
        port: guild.port(),
        connections: case.connections,
        requests: REQUESTS,
        paths: PATHS.map(|(path, _)| path.to_owned()).to_vec(),
        tls: None,
    };
    let warm_up = || {
        for (path, _) in PATHS {
            guild.get(path)?;
        }
        thread::sleep(Duration::from_secs(1));
        Ok(())
    };
    let watched = watch_between(&rig.dir, &[guild.pid(), roster.pid()], warm_up, &load, || Ok(()));
    let watched = watched.expect("a watched load");
    assert_eq!(watched.report.failed(), 0, "every request is answered");
    let alone = calls(&watched.spans, SpanKind::Client).filter(|span| span.span.parent_span_id.is_empty());
    println!("{} calls without a parent", alone.count());
    for kind in [SpanKind::Client, SpanKind::Server] {
        let found = calls(&watched.spans, kind).count();
        assert_eq!(found, REQUESTS + PATHS.len(), "calls, {kind:?}");
    }
    watched.expect_parents(case.right);
    drop((guild, roster, rig));
}

#[test]
fn blocking_calls_one_after_the_other() {
    run(Case { name: "grpc-single", ..CASE });
}

/// Who of several threads makes a call does not show where another thread of grpcio's core sends it.
#[test]
fn blocking_calls_side_by_side() {
    run(Case { name: "grpc", connections: PARALLEL, right: LATE, ..CASE });
}

#[test]
fn calls_of_tasks_one_after_the_other() {
    run(Case { name: "grpc-aio-single", mode: "aio", ..CASE });
}

#[test]
fn calls_of_tasks_side_by_side() {
    run(Case { name: "grpc-aio", mode: "aio", connections: PARALLEL, right: LATE, ..CASE });
}

#[test]
fn calls_of_tasks_of_uvloop_side_by_side() {
    let (python, event_loop) = ("3.13", EventLoop::Uvloop);
    run(Case { name: "grpc-uvloop", python, event_loop, mode: "aio", connections: PARALLEL, right: LATE });
}

/// What is told of a call: name, status, and the service and the kind of its parent.
type Told = (String, Option<String>, Option<(String, SpanKind)>);

/// What is told of the calls, by the id of their request, the service and the kind.
fn told(spans: &[CollectedSpan]) -> BTreeMap<(String, String, i32), Told> {
    let parent = |span: &CollectedSpan| {
        let is_it = |other: &&CollectedSpan| other.span.span_id == span.span.parent_span_id;
        spans.iter().find(is_it).map(|parent| (parent.service().to_owned(), parent.span.kind()))
    };
    let both = [SpanKind::Client, SpanKind::Server].into_iter().flat_map(|kind| calls(spans, kind));
    both.filter_map(|span| {
        let (service, method) = (span.attribute("rpc.service")?, span.attribute("rpc.method")?);
        let rid = find_rid(&method)?.to_owned();
        // The SDK names the span by the path with its slash, against the conventions.
        assert_eq!(span.span.name.trim_start_matches('/'), format!("{service}/{method}"));
        let name = method.replace(&rid, "");
        let of = (rid, span.service().to_owned(), span.span.kind);
        Some((of, (name, span.attribute("rpc.grpc.status_code"), parent(span))))
    })
    .collect()
}

/// Sends each request some times, one after the other. The first call waits until its channel is connected, and is sent by the
/// thread of grpcio's core that has done that: whose it was does not show.
fn send(guild: &App) {
    guild.get("/find").expect("an answer");
    for number in 0..20 {
        for (place, (path, code)) in PATHS.into_iter().chain([UNKNOWN]).enumerate() {
            let (status, body) = guild.get(&format!("{path}?rid=r{number}x{place}")).expect("an answer");
            assert_eq!(status, 200, "{path}: {body}");
            assert_eq!(body.contains("code"), code != "0", "{path}: {body}");
        }
    }
    thread::sleep(Duration::from_secs(3));
}

/// The calls, as the SDK tells of them and as Adder does.
fn compare(mode: &str) {
    let name = format!("grpc-sdk-{mode}");
    let case = Case { name: &name, mode, ..CASE };
    let mut rig = Rig::start(case.name, "guild", case.python, false).expect("servers");
    let collector = Collector::start().expect("a collector");
    let (roster, guild) = services(&rig, &case, |environment| environment);
    let (agent, _) = attach(&rig.dir, &[guild.pid(), roster.pid()], &collector).expect("adder starts");
    send(&guild);
    agent.stop().expect("adder stops");
    drop((guild, roster));
    let ours = told(&collector.spans());
    let collector = Collector::start().expect("a collector");
    rig.venv = adder_tests::stack::venv("sdk").expect("a virtual environment");
    let (mut roster, mut guild) = services(&rig, &case, |environment| environment.sdk(&collector));
    send(&guild);
    // The SDK sends what it has when its process ends.
    guild.stop().expect("the calling service ends");
    roster.stop().expect("the called service ends");
    let theirs = told(&collector.spans());
    drop(rig);
    assert_eq!(ours.len(), 20 * 2 * (PATHS.len() + 1), "a call of each request, on both sides");
    let ends: Vec<_> = PATHS.into_iter().chain([UNKNOWN]).collect();
    let mut differences = Vec::new();
    for (key, ours) in &ours {
        let (path, code) = key
            .0
            .rsplit('x')
            .next()
            .and_then(|place| ends.get(place.parse::<usize>().ok()?))
            .expect("a path");
        assert_eq!(ours.1.as_deref(), Some(*code), "{key:?}");
        let expected = match *path {
            // The SDK has no span of a call that the server refuses before a handler is asked,
            "/unknown" if key.1 == "roster" => None,
            // and of one that is over before its handler it tells what that would have said.
            "/late" if key.1 == "roster" => Some((ours.0.clone(), Some("0".into()), ours.2.clone())),
            _ => Some(ours.clone()),
        };
        if theirs.get(key) != expected.as_ref() {
            differences.push(format!("{key:?}: {ours:?}, the SDK {:?}", theirs.get(key)));
        }
    }
    let unknown = theirs.keys().filter(|key| !ours.contains_key(key)).count();
    assert!(differences.is_empty() && unknown == 0, "{unknown} that Adder does not know, {differences:#?}");
}

#[test]
fn blocking_calls_are_told_of_as_by_the_sdk() {
    compare("threads");
}

#[test]
fn calls_of_tasks_are_told_of_as_by_the_sdk() {
    compare("aio");
}
