//! Claims 1 and 2: every operation under the request that caused it, and none missing.

use std::{collections::BTreeMap, path::Path};

use adder_tests::{
    judge,
    load::Load,
    python::EventLoop,
    stack::{PATHS, Stack, Wanted, on_every_python, packages, venv},
    watch::{Watched, watch},
};

struct Case<'a> {
    name: &'a str,
    venv: &'a Path,
    event_loop: EventLoop,
    variables: Vec<(&'a str, &'a str)>,
    connections: usize,
    requests: usize,
    encrypted: bool,
}

fn run(case: &Case<'_>) {
    let wanted = Wanted {
        name: case.name,
        venv: case.venv,
        event_loop: case.event_loop,
        variables: case.variables.clone(),
        sdk: None,
        logged: true,
        encrypted: case.encrypted,
    };
    let stack = Stack::start(&wanted).expect("the stack starts");
    let load = Load {
        port: stack.games.port(),
        connections: case.connections,
        requests: case.requests,
        paths: PATHS.map(str::to_owned).to_vec(),
        tls: stack.games.tls(),
    };
    let watched =
        watch(&stack.dir, &[stack.games.pid(), stack.players.pid()], &load).expect("a watched load");
    let Watched { report, spans, verdict, .. } = &watched;
    assert_eq!(report.failed(), 0, "every request is answered");
    watched.expect_right_parents();
    assert_eq!(verdict.repeated, repeated(&report.outcomes), "server spans equal requests, one for one");
    let called = verdict.found.keys().filter(|(service, _)| service == "players-api").count();
    assert!(called > 0, "the second service was called");
    assert_eq!(verdict.linked, called + repeated(&report.outcomes), "each call is joined with its request");
    assert_eq!(verdict.lost_parent, 0, "every parent was sent");
    for (service, app) in [("games-api", &stack.games), ("players-api", &stack.players)] {
        let truth = app.truth().expect("the service's own counts");
        let differences = verdict.differences(service, &truth);
        assert!(differences.is_empty(), "{service}: {differences:#?}");
    }
    // What the servers themselves have seen, whatever the services believe.
    let logged = stack.postgres.statements().expect("Postgres's log");
    let logged = judge::rids(logged.iter().map(|statement| statement.text.as_str()));
    let failed = stack.postgres.failed().expect("Postgres's log");
    let failed = judge::rids(failed.iter().map(|statement| statement.text.as_str()));
    let mut truth = logged;
    for (rid, count) in failed {
        *truth.entry(rid).or_default() += count;
    }
    let seen = judge::texts(spans, "postgresql");
    let seen = judge::rids(seen.iter().map(String::as_str));
    assert_eq!(unequal(&truth, &seen), Vec::<String>::new(), "statements in Postgres's log and spans");
    // A pipeline is one span that lists its commands, the equal ones once: compare the ids, not their number.
    let commands = stack.redis.commands();
    let asked = judge::rids(commands.iter().flat_map(|command| command.words.iter().map(String::as_str)));
    let seen = judge::texts(spans, "redis");
    let seen = judge::rids(seen.iter().map(String::as_str));
    assert!(asked.keys().eq(seen.keys()), "requests with commands in Redis's MONITOR and in spans");
}

/// `/aiohttp` and `/nested` ask the second service more than once for one request of the load.
fn repeated(outcomes: &[adder_tests::load::Outcome]) -> usize {
    outcomes.iter().filter(|outcome| outcome.path.starts_with("/aiohttp")).count()
}

fn unequal(truth: &BTreeMap<String, usize>, seen: &BTreeMap<String, usize>) -> Vec<String> {
    let mut rids: Vec<_> = truth.keys().chain(seen.keys()).collect();
    rids.sort();
    rids.dedup();
    rids.into_iter()
        .filter(|rid| truth.get(*rid) != seen.get(*rid))
        .map(|rid| format!("{rid}: {:?} in the log, {:?} in spans", truth.get(rid), seen.get(rid)))
        .collect()
}

#[test]
fn parents_are_right_on_uvloop_with_64_clients() {
    let venv = venv("3.11").expect("a virtual environment");
    run(&Case {
        name: "parents-uvloop",
        venv: &venv,
        event_loop: EventLoop::Uvloop,
        variables: vec![],
        connections: 64,
        requests: 5_000,
        encrypted: false,
    });
}

#[test]
fn parents_are_right_on_asyncio_with_256_clients() {
    let venv = venv("3.13").expect("a virtual environment");
    run(&Case {
        name: "parents-asyncio",
        venv: &venv,
        event_loop: EventLoop::Asyncio,
        variables: vec![],
        connections: 256,
        requests: 5_000,
        encrypted: false,
    });
}

#[test]
fn parents_are_right_where_uvicorn_starts_each_request_with_an_empty_context() {
    let venv = venv("3.13").expect("a virtual environment");
    for event_loop in [EventLoop::Uvloop, EventLoop::Asyncio] {
        run(&Case {
            name: "parents-reset",
            venv: &venv,
            event_loop,
            variables: vec![("UVICORN_RESET_CONTEXTVARS", "1")],
            connections: 64,
            requests: 1_700,
            encrypted: false,
        });
    }
}

#[test]
fn parents_are_right_where_every_connection_is_encrypted() {
    for (python, event_loop) in [("3.11", EventLoop::Uvloop), ("3.13", EventLoop::Asyncio)] {
        let venv = venv(python).expect("a virtual environment");
        run(&Case {
            name: "parents-tls",
            venv: &venv,
            event_loop,
            variables: vec![],
            connections: 64,
            requests: 5_000,
            encrypted: true,
        });
    }
}

/// Up to 0.22 it writes when all tasks have run, in nobody's name.
#[test]
fn parents_are_right_on_older_uvloops() {
    let python = venv("3.11").expect("a virtual environment");
    let cases = [("uvloop19", true), ("uvloop21", false), ("uvloop22", false), ("uvloop22", true)];
    for (version, encrypted) in cases {
        let older = packages(version).expect("its packages");
        run(&Case {
            name: &format!("parents-{version}"),
            venv: &python,
            event_loop: EventLoop::Uvloop,
            variables: vec![("PYTHONPATH", &older)],
            connections: 64,
            requests: 2_000,
            encrypted,
        });
    }
}

/// On both event loops. Takes about a minute for each Python.
#[test]
#[ignore = "the whole matrix: `cargo xtask test --matrix`"]
fn parents_are_right_on_every_python() {
    on_every_python(|name, venv| {
        for (event_loop, connections) in [(EventLoop::Uvloop, 64), (EventLoop::Asyncio, 256)] {
            run(&Case {
                name: &format!("matrix-{name}-{event_loop:?}"),
                venv,
                event_loop,
                variables: vec![],
                connections,
                requests: 5_000,
                encrypted: false,
            });
        }
    });
}
