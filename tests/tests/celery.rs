//! Celery: every task under the request that has sent it, all that it does under the task, in whichever process or thread.

use std::{thread, time::Duration};

use adder_tests::{
    load::Load,
    python::{App, EventLoop},
    rig::Rig,
    watch::watch_between,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

const REQUESTS: usize = 400;

struct Case<'a> {
    pool: &'a str,
    python: &'a str,
    on_rabbitmq: bool,
    prefetch: &'a str,
    acks_late: bool,
}

fn run(case: &Case<'_>) {
    let broker_name = if case.on_rabbitmq { "rabbitmq" } else { "redis" };
    let name = format!("celery-{}-{broker_name}", case.pool);
    let rig = Rig::start(&name, "schedule-api", case.python, case.on_rabbitmq).expect("servers");
    let Rig { dir, venv, environment, .. } = &rig;
    let environment = environment
        .clone()
        .set("PREFETCH", case.prefetch)
        .set("ACKS_LATE", if case.acks_late { "1" } else { "0" });
    let worker = App::celery(venv, dir, case.pool, &environment.clone().named("celery"));
    let worker = worker.expect("a worker starts");
    let api = App::uvicorn(venv, dir, "schedule_api:app", EventLoop::Uvloop, 1, &environment);
    let api = api.expect("the publishing service starts");
    let load = Load {
        port: api.port(),
        connections: 64,
        requests: REQUESTS,
        paths: vec!["/task".to_owned()],
        tls: api.tls(),
    };
    let one_by_one = || {
        // What waits at a list since before the agent came is not judged.
        thread::sleep(Duration::from_secs(2));
        for number in 0..5 {
            api.get(&format!("/task?rid=single{number}"))?;
            thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    };
    let done = || {
        // What lies on a list of Redis is done soon.
        thread::sleep(Duration::from_secs(if case.on_rabbitmq { 0 } else { 3 }));
        rig.wait_empty()
    };
    let watched = watch_between(dir, &[api.pid(), worker.pid()], one_by_one, &load, done);
    let watched = watched.expect("a watched load");
    assert_eq!(watched.report.failed(), 0, "every request is answered");
    let verdict = &watched.verdict;
    assert_eq!((verdict.wrong, verdict.orphan), (0, 0), "all under their tasks: {verdict}");
    let tasks: Vec<_> = watched.spans.iter().filter(|span| span.span.kind() == SpanKind::Consumer).collect();
    assert_eq!(tasks.len(), REQUESTS + 5, "a consumer span for each task");
    for task in &tasks {
        assert_eq!(task.service(), "celery");
        assert_eq!(task.attribute("celery.task").as_deref(), Some("tasks.work"));
        assert!(!task.span.parent_span_id.is_empty(), "the request is its parent");
    }
    // Two statements and a Redis command each; and what the broker was told is in the requests' traces.
    assert!(verdict.right >= (REQUESTS + 5) * 3, "all that the tasks did: {verdict}");
    drop((worker, api));
    drop(rig);
}

#[test]
fn a_pool_of_processes_on_rabbitmq() {
    let case = Case { pool: "prefork", python: "3.11", on_rabbitmq: true, prefetch: "4", acks_late: false };
    run(&case);
}

#[test]
fn a_pool_of_processes_on_redis() {
    let case = Case { pool: "prefork", python: "3.13", on_rabbitmq: false, prefetch: "1", acks_late: true };
    run(&case);
}

#[test]
fn a_pool_of_threads_on_rabbitmq() {
    let case = Case { pool: "threads", python: "3.13", on_rabbitmq: true, prefetch: "4", acks_late: true };
    run(&case);
}

#[test]
fn a_pool_of_threads_on_redis() {
    let case = Case { pool: "threads", python: "3.11", on_rabbitmq: false, prefetch: "4", acks_late: false };
    run(&case);
}

#[test]
fn a_worker_without_a_pool() {
    let case = Case { pool: "solo", python: "3.11", on_rabbitmq: true, prefetch: "4", acks_late: false };
    run(&case);
}
