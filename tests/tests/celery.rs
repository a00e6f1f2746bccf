//! Celery: every task under the request that has sent it, all that it does under the task, in whichever process or thread.

use std::{thread, time::Duration};

use adder_tests::{
    folder,
    load::Load,
    postgres::Postgres,
    python::{App, Environment, EventLoop},
    rabbitmq::RabbitMq,
    redis::Redis,
    stack::venv,
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
    let dir = folder(&format!("celery-{}-{broker_name}", case.pool)).expect("a folder");
    let postgres = Postgres::start_unlogged(&dir).expect("Postgres starts");
    let redis = Redis::start_unlogged(&dir).expect("Redis starts");
    let broker = case.on_rabbitmq.then(|| RabbitMq::start(&dir).expect("RabbitMQ starts"));
    let mut environment = Environment::new("schedule-api").servers(&postgres, &redis);
    environment =
        environment.set("PREFETCH", case.prefetch).set("ACKS_LATE", if case.acks_late { "1" } else { "0" });
    if let Some(broker) = &broker {
        environment = environment.broker(broker);
    }
    let venv = venv(case.python).expect("a virtual environment");
    let worker = App::celery(&venv, &dir, case.pool, &environment.clone().named("celery"));
    let worker = worker.expect("a worker starts");
    let api = App::uvicorn(&venv, &dir, "schedule:app", EventLoop::Uvloop, 1, &environment);
    let api = api.expect("the publishing service starts");
    let load =
        Load { port: api.port(), connections: 64, requests: REQUESTS, paths: vec!["/task".to_owned()] };
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
        if let Some(broker) = &broker {
            return broker.wait_empty();
        }
        thread::sleep(Duration::from_secs(3));
        Ok(())
    };
    let watched = watch_between(&dir, &[api.pid(), worker.pid()], one_by_one, &load, done);
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
