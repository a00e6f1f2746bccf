//! Claims 1 and 2: every operation under the request that caused it, and none missing.

use std::{collections::BTreeMap, path::Path, time::Duration};

use adder_tests::{
    agent::Agent,
    collector::{Collector, Protocol},
    judge::{self, judge},
    load::Load,
    python::EventLoop,
    stack::{PATHS, Stack, Wanted, venv},
};

/// Time in which background work of the last requests ends.
const AFTERWARDS: Duration = Duration::from_secs(3);

struct Case<'a> {
    name: &'a str,
    venv: &'a Path,
    event_loop: EventLoop,
    variables: Vec<(&'a str, &'a str)>,
    connections: usize,
    requests: usize,
}

fn run(case: &Case<'_>) {
    let wanted = Wanted {
        name: case.name,
        venv: case.venv,
        event_loop: case.event_loop,
        variables: case.variables.clone(),
        sdk: None,
        logged: true,
    };
    let stack = Stack::start(&wanted).expect("the stack starts");
    let collector = Collector::start().expect("a collector");
    let mut variables = collector.env(Protocol::Grpc);
    variables.push(("ADDER_SQL_TEXT".into(), "raw".into()));
    variables.push(("ADDER_REDIS_TEXT".into(), "raw".into()));
    let pids = stack.pids();
    let mut arguments = vec!["run"];
    arguments.extend(pids.iter().map(String::as_str));
    let agent = Agent::start(&stack.dir, &arguments, variables).expect("adder starts");
    // `ADDER_RECORD=FOLDER` keeps the facts of each case, to be looked at with `adder replay`.
    let recorder = std::env::var_os("ADDER_RECORD").map(|folder| {
        let file = Path::new(&folder).join(format!("{}.rec", case.name)).display().to_string();
        let mut arguments = vec!["record", &file];
        arguments.extend(pids.iter().map(String::as_str));
        let dir = adder_tests::folder("record").expect("a folder");
        let raw = [("ADDER_SQL_TEXT", "raw"), ("ADDER_REDIS_TEXT", "raw")];
        Agent::start(&dir, &arguments, raw).expect("adder records")
    });
    let load = Load {
        port: stack.games.port(),
        connections: case.connections,
        requests: case.requests,
        paths: PATHS.map(str::to_owned).to_vec(),
    };
    let report = load.run().expect("the load runs");
    assert_eq!(report.failed(), 0, "every request is answered");
    // Work that goes on after the last responses.
    std::thread::sleep(AFTERWARDS);
    let (status, lines) = agent.stop().expect("adder stops");
    if let Some(recorder) = recorder {
        recorder.stop().expect("the recording ends");
    }
    let spans = collector.spans();
    assert!(status.success(), "adder ends well: {lines:#?}");

    let verdict = judge(&spans);
    println!("{}: {} requests\n{verdict}\n{}", case.name, report.outcomes.len(), lines.join("\n"));
    assert_eq!(verdict.wrong, 0, "no span under a wrong request");
    let share = verdict.right as f64 / verdict.marked() as f64;
    assert!(share >= 0.999, "{:.4} of the spans are under the right request", share);
    assert_eq!(verdict.repeated, repeated(&report.outcomes), "server spans equal requests, one for one");
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
    let seen = judge::texts(&spans, "postgresql");
    let seen = judge::rids(seen.iter().map(String::as_str));
    assert_eq!(unequal(&truth, &seen), Vec::<String>::new(), "statements in Postgres's log and spans");
    assert!(lines.iter().all(|line| !line.contains("ring buffer was full")), "no fact was dropped");
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
    });
}

#[test]
fn parents_are_right_where_uvicorn_starts_each_request_with_an_empty_context() {
    let venv = venv("3.13").expect("a virtual environment");
    run(&Case {
        name: "parents-reset",
        venv: &venv,
        event_loop: EventLoop::Uvloop,
        variables: vec![("UVICORN_RESET_CONTEXTVARS", "1")],
        connections: 64,
        requests: 1_700,
    });
}
