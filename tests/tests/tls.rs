//! What is particular to TLS: an agent that comes late, objects at the addresses of others, libraries that are loaded
//! late.

use std::{collections::BTreeSet, thread, time::Duration};

use adder_tests::{
    collector::{CollectedSpan, Collector},
    judge::{find_rid, judge},
    load::Load,
    python::{App, EventLoop},
    rig::Rig,
    stack::venv,
    watch::{Watched, attach, watch},
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const PATHS: [&str; 8] =
    ["/hit/{n}", "/games/{n}", "/gather", "/alchemy", "/sync", "/stream", "/pipeline", "/psycopg3"];

fn service(rig: &Rig, app: &str, event_loop: EventLoop) -> App {
    App::uvicorn(&rig.venv, &rig.dir, app, event_loop, 1, &rig.environment).expect("the service starts")
}

/// In the middle of a load on encrypted connections that are older than the agent, none of whose handshakes it saw.
fn late(name: &str, python: &str, event_loop: EventLoop) {
    let rig = Rig::start_encrypted(name, "games-api", python, true).expect("servers");
    let app = service(&rig, "games:app", event_loop);
    let paths = PATHS.map(str::to_owned).to_vec();
    let load = Load { port: app.port(), connections: 32, requests: 3_000, paths, tls: app.tls() };
    let (verdict, spans, lines, report) = thread::scope(|scope| {
        let running = scope.spawn(|| load.run().expect("the load runs"));
        thread::sleep(Duration::from_secs(2));
        let collector = Collector::start().expect("a collector");
        let (agent, recorder) = attach(&rig.dir, &[app.pid()], &collector).expect("adder starts");
        let report = running.join().expect("the load ends");
        thread::sleep(Duration::from_secs(2));
        let (status, lines) = agent.stop().expect("adder stops");
        assert!(status.success());
        if let Some(recorder) = recorder {
            recorder.stop().expect("the recorder ends");
        }
        let spans = collector.spans();
        (judge(&spans), spans, lines, report)
    });
    println!("{verdict}\n{}", lines.join("\n"));
    assert_eq!(report.failed(), 0, "the service is not disturbed");
    assert_eq!(verdict.wrong, 0, "no span under a wrong request");
    assert!(verdict.servers > 500, "it saw requests: {}", verdict.servers);
    // Of a request that had begun before, or was read before its connection was known: at most two a connection.
    let orphans: BTreeSet<String> = spans
        .iter()
        .filter(|span| span.span.kind() == SpanKind::Client && span.span.parent_span_id.is_empty())
        .filter_map(|span| find_rid(&span.attribute("db.query.text")?).map(str::to_owned))
        .collect();
    assert!(orphans.len() <= 64, "{} requests with orphans", orphans.len());
}

#[test]
fn an_agent_that_comes_late_is_right_on_asyncio() {
    late("tls-late-asyncio", "3.13", EventLoop::Asyncio);
}

#[test]
fn an_agent_that_comes_late_is_right_on_uvloop() {
    late("tls-late-uvloop", "3.11", EventLoop::Uvloop);
}

#[test]
fn objects_at_the_same_addresses_and_libraries_that_come_late_are_told_apart() {
    for (python, event_loop) in [("3.11", EventLoop::Uvloop), ("3.13", EventLoop::Asyncio)] {
        let rig = Rig::start_encrypted("tls-reuse", "encrypted", python, true).expect("servers");
        let app = service(&rig, "encrypted:app", event_loop);
        let paths = vec![format!("/reuse?port={}", app.port()), "/library".to_owned()];
        let load = Load { port: app.port(), connections: 8, requests: 200, paths, tls: app.tls() };
        let watched: Watched = watch(&rig.dir, &[app.pid()], &load).expect("a watched load");
        assert_eq!(watched.report.failed(), 0, "every request is answered");
        assert_eq!(watched.verdict.wrong, 0, "no span under a wrong request");
        let by_path = |path: &str, what: &str| {
            let rids = watched.report.outcomes.iter().filter(|outcome| outcome.path.starts_with(path));
            let rids: Vec<&str> = rids.map(|outcome| outcome.rid.as_str()).collect();
            let of = |span: &&CollectedSpan| {
                let text = span.attribute("db.query.text").or_else(|| span.attribute("url.full"));
                let rid = text.and_then(|text| find_rid(&text).map(str::to_owned));
                span.span.kind() == SpanKind::Client
                    && !span.span.parent_span_id.is_empty()
                    && span.span.name.starts_with(what)
                    && rid.is_some_and(|rid| rids.contains(&rid.as_str()))
            };
            (watched.spans.iter().filter(of).count(), rids.len())
        };
        let (requests, wanted) = by_path("/reuse", "GET");
        assert_eq!(requests, wanted, "each new connection's request");
        let (statements, wanted) = by_path("/reuse", "SELECT");
        assert_eq!(statements, wanted, "each new connection's statement");
        // The library is there only when it is loaded, by the first requests; how many of the eight threads' are over before
        // its probes are attached is the machine's (4 to 6 here).
        let (statements, wanted) = by_path("/library", "SELECT");
        println!("{statements} of {wanted} statements by a library that came late");
        assert!(statements + 16 >= wanted, "{statements} of {wanted}");
    }
}

/// The interpreter's own OpenSSL 3 serves, and psycopg2 asks Postgres over the OpenSSL 1.1 in its wheel.
#[test]
fn two_versions_of_openssl_in_one_process() {
    for late in [false, true] {
        let mut rig = Rig::start_encrypted("tls-versions", "versions", "3.11", true).expect("servers");
        rig.venv = venv("openssl11").expect("a virtual environment");
        let app = App::script(&rig.venv, &rig.dir, "versions.py", EventLoop::Asyncio, &rig.environment);
        let app = app.expect("the service starts");
        let paths = vec!["/games".to_owned()];
        let load = Load { port: app.port(), connections: 16, requests: 600, paths, tls: app.tls() };
        // The library is mapped, and probed, from the first connection on.
        app.get("/games?rid=").expect("an answer");
        let (_, about) = app.get("/").expect("an answer");
        assert!(about.contains("OpenSSL 3") && about.contains(".so.1.1"), "two versions: {about}");
        let watched = if late {
            thread::scope(|scope| {
                let running = scope.spawn(|| load.run().expect("the load runs"));
                thread::sleep(Duration::from_millis(300));
                let watched = watch(&rig.dir, &[app.pid()], &Load { requests: 200, ..load.clone() });
                assert_eq!(running.join().expect("the load ends").failed(), 0);
                watched
            })
        } else {
            watch(&rig.dir, &[app.pid()], &load)
        };
        let watched = watched.expect("a watched load");
        assert_eq!(watched.report.failed(), 0, "every request is answered");
        let verdict = &watched.verdict;
        if late {
            // Two statements of each request that had begun before, or was read before its connection was known: at most two a
            // connection.
            assert_eq!(verdict.wrong, 0, "no span under a wrong request");
            assert!(verdict.orphan <= 2 * 2 * load.connections, "{} orphans", verdict.orphan);
            assert!(verdict.right > 400, "{} are right", verdict.right);
        } else {
            watched.expect_right_parents();
        }
        let versions: BTreeSet<_> = watched
            .spans
            .iter()
            .filter(|span| span.attribute("db.query.text").is_some() || span.span.kind() == SpanKind::Server)
            .map(|span| (span.span.kind() as i32, span.attribute("tls.protocol.version")))
            .collect();
        let told = |kind: SpanKind| (kind as i32, Some("1.3".to_owned()));
        assert!(versions.contains(&told(SpanKind::Server)) && versions.contains(&told(SpanKind::Client)));
        if !late {
            let told = app.truth().expect("the service's own counts");
            let differences = watched.verdict.differences(app.service(), &told);
            assert!(differences.is_empty(), "{differences:#?}");
        }
    }
}
