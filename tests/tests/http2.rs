//! HTTP/2: many requests at once on one connection, each call below its request, each statement below its call.

use std::{thread, time::Duration};

use adder_tests::{
    collector::CollectedSpan,
    judge::find_rid,
    load::Load,
    python::{App, EventLoop},
    rig::Rig,
    watch::watch_between,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const REQUESTS: usize = 1000;
const PARALLEL: usize = 64;

/// Two services with HTTP/2 between them: the called and the calling one.
fn services(case: &Case<'_>) -> (Rig, App, App) {
    let rig = if case.encrypted {
        Rig::start_encrypted(case.name, "games-api", case.python, true)
    } else {
        Rig::start(case.name, "games-api", case.python, false)
    };
    let rig = rig.expect("servers");
    let environment = rig.environment.clone().named("players-api");
    let players = App::hypercorn(&rig.venv, &rig.dir, "players:app", case.event_loop, &environment)
        .expect("the called service starts");
    let environment = rig.environment.clone().players(&players).set("HTTP2", "1");
    let games = App::uvicorn(&rig.venv, &rig.dir, "games:app", case.event_loop, 1, &environment)
        .expect("the calling service starts");
    (rig, players, games)
}

fn load(games: &App, connections: usize, paths: &[&str]) -> Load {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    Load { port: games.port(), connections, requests: REQUESTS, paths, tls: games.tls() }
}

struct Case<'a> {
    name: &'a str,
    python: &'a str,
    event_loop: EventLoop,
    encrypted: bool,
    /// The connection between the services is older than the agent.
    late: bool,
    /// Requests at once. Where there are several, httpx's tasks send for each other.
    connections: usize,
}

fn run(case: &Case<'_>) {
    let (rig, players, games) = services(case);
    if case.late {
        games.get("/nested").expect("an answer");
    }
    let load = load(&games, case.connections, &["/nested", "/proxy", "/gather"]);
    // Each function is known when it has been seen.
    let warm_up = || {
        for _ in 0..3 {
            games.get("/nested")?;
            thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    };
    let watched = watch_between(&rig.dir, &[games.pid(), players.pid()], warm_up, &load, || Ok(()));
    let watched = watched.expect("a watched load");
    assert_eq!(watched.report.failed(), 0, "every request is answered");
    let version = |span: &&CollectedSpan| span.attribute("network.protocol.version").as_deref() == Some("2");
    let of =
        |kind: SpanKind| watched.spans.iter().filter(version).filter(move |span| span.span.kind() == kind);
    let (clients, servers) = (of(SpanKind::Client).count(), of(SpanKind::Server).count());
    let of_load =
        |span: &&CollectedSpan| span.attribute("url.full").is_some_and(|url| find_rid(&url).is_some());
    let alone =
        of(SpanKind::Client).filter(of_load).filter(|span| span.span.parent_span_id.is_empty()).count();
    println!("{clients} calls, {alone} of them without a parent, {servers} served");
    assert!(clients >= REQUESTS / 2, "{clients} calls over HTTP/2");
    assert_eq!(clients, servers);
    for span in of(SpanKind::Client).chain(of(SpanKind::Server)) {
        assert_eq!(span.attribute("http.response.status_code").as_deref(), Some("200"), "{:#?}", span.span);
    }
    watched.expect_right_parents();
    for service in [&games, &players] {
        let told = service.truth().expect("the service's own counts");
        let differences = watched.verdict.differences(service.service(), &told);
        assert!(differences.is_empty(), "{differences:#?}");
    }
    drop((games, players, rig));
}

const CASE: Case<'_> = Case {
    name: "",
    python: "3.11",
    event_loop: EventLoop::Asyncio,
    encrypted: false,
    late: false,
    connections: 1,
};

#[test]
fn calls_one_after_the_other() {
    run(&Case { name: "http2-single", ..CASE });
}

#[test]
fn many_calls_on_one_connection() {
    run(&Case { name: "http2", connections: PARALLEL, ..CASE });
}

#[test]
fn many_calls_on_a_connection_of_uvloop_that_is_older_than_the_agent() {
    let (python, event_loop, connections) = ("3.13", EventLoop::Uvloop, PARALLEL);
    run(&Case { name: "http2-uvloop", python, event_loop, late: true, connections, ..CASE });
}

#[test]
fn many_calls_on_one_encrypted_connection() {
    run(&Case { name: "http2-tls", encrypted: true, connections: PARALLEL, ..CASE });
}

#[test]
fn calls_on_an_encrypted_connection_that_is_older_than_the_agent() {
    let (python, event_loop) = ("3.13", EventLoop::Uvloop);
    run(&Case { name: "http2-tls-late", python, event_loop, encrypted: true, late: true, ..CASE });
}

#[test]
fn calls_of_threads_on_one_connection() {
    let (rig, players, games) = services(&Case { name: "http2-threads", ..CASE });
    let load = load(&games, PARALLEL, &["/threaded"]);
    let warm_up = || games.get("/threaded").map(|_| thread::sleep(Duration::from_secs(1)));
    let watched = watch_between(&rig.dir, &[games.pid(), players.pid()], warm_up, &load, || Ok(()));
    let watched = watched.expect("a watched load");
    println!("{} requests failed; {}", watched.report.failed(), watched.verdict);
    // Nothing guards httpcore's state there: now and then the head of one request is sent for another's stream, and some fail.
    let verdict = &watched.verdict;
    assert!(verdict.wrong <= 2 * verdict.repeated, "no span under a wrong request: {verdict}");
    assert!(verdict.orphan * 3 <= 2 * REQUESTS, "{verdict}");
    drop((games, players, rig));
}

#[test]
fn calls_that_are_given_up_put_no_other_under_a_wrong_request() {
    let (rig, players, games) = services(&Case { name: "http2-hasty", ..CASE });
    let load = load(&games, PARALLEL, &["/hasty", "/nested"]);
    let warm_up = || games.get("/nested").map(|_| thread::sleep(Duration::from_secs(1)));
    let watched = watch_between(&rig.dir, &[games.pid(), players.pid()], warm_up, &load, || Ok(()));
    let watched = watched.expect("a watched load");
    let given_up = watched
        .spans
        .iter()
        .filter(|span| span.span.kind() == SpanKind::Client && span.attribute("url.full").is_some())
        .filter(|span| span.attribute("http.response.status_code").is_none());
    println!("{} calls without an answer", given_up.count());
    println!("{}", watched.verdict);
    assert_eq!(watched.verdict.wrong, 0, "no span under a wrong request: {}", watched.verdict);
    // Of a call that is given up while others send it nothing may tell whose it was.
    assert!(watched.verdict.orphan * 8 <= REQUESTS, "{}", watched.verdict);
    assert!(watched.verdict.servers >= REQUESTS, "a server span for each request");
    drop((games, players, rig));
}
