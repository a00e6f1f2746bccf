//! Claims 1 and 4 on other servers than uvicorn with one worker: connection tasks that outlive requests, threads,
//! several processes; and an agent that comes late, goes, and comes again.

use std::{collections::HashSet, path::PathBuf, thread, time::Duration};

use adder_tests::{
    collector::{CollectedSpan, Collector},
    folder,
    judge::{find_rid, judge},
    load::Load,
    postgres::Postgres,
    python::{App, Environment, EventLoop},
    redis::Redis,
    stack::venv,
    watch::{attach, watch},
};

struct Servers {
    environment: Environment,
    dir: PathBuf,
    venv: PathBuf,
    _postgres: Postgres,
    _redis: Redis,
}

fn servers(name: &str, python: &str) -> Servers {
    let dir = folder(name).expect("a folder");
    let postgres = Postgres::start_unlogged(&dir).expect("Postgres starts");
    let redis = Redis::start_unlogged(&dir).expect("Redis starts");
    let environment = Environment::new(name).servers(&postgres, &redis);
    let venv = venv(python).expect("a virtual environment");
    Servers { environment, dir, venv, _postgres: postgres, _redis: redis }
}

fn load(app: &App, connections: usize, requests: usize, paths: &[&str]) -> Load {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    Load { port: app.port(), connections, requests, paths, tls: app.tls() }
}

/// Watches a service under load: every operation under its request, a server span for each request.
fn expect_all_right(servers: &Servers, app: &App, connections: usize, requests: usize, paths: &[&str]) {
    let load = load(app, connections, requests, paths);
    let watched = watch(&servers.dir, &[app.pid()], &load).expect("a watched load");
    watched.expect_right_parents();
    assert_eq!(watched.verdict.servers, requests, "a server span for each request");
}

const AIOHTTP: [&str; 4] = ["/games/{n}", "/gather", "/stream", "/error"];
const FLASK: [&str; 4] = ["/games/{n}", "/stream", "/pipeline", "/error"];
const FASTAPI: [&str; 5] = ["/hit/{n}", "/games/{n}", "/sync", "/gather", "/executor"];

fn aiohttp(name: &str, python: &str, event_loop: EventLoop) {
    let servers = servers(name, python);
    let app = App::script(&servers.venv, &servers.dir, "web_aiohttp.py", event_loop, &servers.environment);
    let app = app.expect("the service starts");
    expect_all_right(&servers, &app, 64, 1_600, &AIOHTTP);
}

#[test]
fn a_connection_task_of_aiohttp_serves_one_request_after_the_other_on_asyncio() {
    aiohttp("aiohttp-asyncio", "3.13", EventLoop::Asyncio);
}

#[test]
fn a_connection_task_of_aiohttp_serves_one_request_after_the_other_on_uvloop() {
    aiohttp("aiohttp-uvloop", "3.11", EventLoop::Uvloop);
}

fn gunicorn(name: &str, workers: u32, threads: u32) {
    let servers = servers(name, "3.13");
    let app =
        App::gunicorn(&servers.venv, &servers.dir, "web_flask:app", workers, threads, &servers.environment);
    let app = app.expect("the service starts");
    expect_all_right(&servers, &app, 16, 800, &FLASK);
}

#[test]
fn sync_workers_of_gunicorn_are_watched_through_their_parent() {
    gunicorn("gunicorn-sync", 2, 1);
}

#[test]
fn threads_of_gunicorn_work_for_what_they_have_read() {
    gunicorn("gunicorn-gthread", 2, 4);
}

#[test]
fn a_thread_for_each_request_works_for_it_alone() {
    let servers = servers("flask", "3.11");
    let app = App::flask(&servers.venv, &servers.dir, "web_flask", &servers.environment)
        .expect("the service starts");
    expect_all_right(&servers, &app, 16, 800, &FLASK);
}

#[test]
fn a_connection_with_the_number_of_a_file_that_was_just_closed_is_not_closed_with_it() {
    const REQUESTS: usize = 6_000;
    let servers = servers("churn", "3.11");
    let app = App::script(&servers.venv, &servers.dir, "churn.py", EventLoop::Asyncio, &servers.environment);
    let app = app.expect("the service starts");
    let load = load(&app, 4, REQUESTS, &["/hit/{n}"]);
    let watched = watch(&servers.dir, &[app.pid()], &load).expect("a watched load");
    assert_eq!(watched.verdict.servers, REQUESTS, "a server span for each request");
}

#[test]
fn several_workers_of_uvicorn_are_watched_through_their_parent() {
    let servers = servers("uvicorn-workers", "3.11");
    let app =
        App::uvicorn(&servers.venv, &servers.dir, "games:app", EventLoop::Uvloop, 2, &servers.environment);
    let app = app.expect("the service starts");
    expect_all_right(&servers, &app, 32, 1_600, &FASTAPI);
}

#[test]
fn workers_that_are_killed_and_replaced_in_the_middle_of_the_load_are_watched() {
    const KILLS: usize = 3;
    let servers = servers("killed", "3.13");
    let app = App::gunicorn(&servers.venv, &servers.dir, "web_flask:app", 2, 1, &servers.environment);
    let app = app.expect("the service starts");
    let load = load(&app, 16, 2_400, &FLASK);
    let collector = Collector::start().expect("a collector");
    let (agent, _) = attach(&servers.dir, &[app.pid()], &collector).expect("adder starts");
    let report = thread::scope(|scope| {
        let running = scope.spawn(|| load.run().expect("the load runs"));
        for _ in 0..KILLS {
            thread::sleep(Duration::from_millis(900));
            let workers = app.process().group().into_iter().filter(|pid| *pid != app.pid());
            let newest = workers.max().expect("a worker");
            // SAFETY: kill has no memory effects; the worker belongs to a group that this test has started.
            unsafe { libc::kill(newest as i32, libc::SIGKILL) };
        }
        running.join().expect("the load ends")
    });
    thread::sleep(Duration::from_secs(1));
    let (status, lines) = agent.stop().expect("adder stops");
    assert!(status.success());
    let spans = collector.spans();
    let verdict = judge(&spans);
    println!("{verdict}\n{} requests failed\n{}", report.failed(), lines.join("\n"));
    assert_eq!(verdict.wrong, 0, "no span under a wrong request");
    let answered: HashSet<_> = report
        .outcomes
        .iter()
        .filter(|outcome| outcome.status.is_some())
        .map(|outcome| &outcome.rid)
        .collect();
    let seen: HashSet<_> = verdict.found.keys().map(|(_, rid)| rid).collect();
    assert!(answered.is_subset(&seen), "a server span for each request that was answered");
    assert!(report.failed() <= KILLS, "no more than what the killed workers had begun");
    assert!(
        lines.iter().any(|line| line.contains(" dropped_facts=0 ")),
        "facts are read while probes come and go"
    );
    // One that loads a library later is attached to once more.
    let attached: HashSet<_> =
        lines.iter().filter_map(|line| line.split_once("attached pid=")?.1.split(' ').next()).collect();
    assert_eq!(attached.len(), 1 + 2 + KILLS, "gunicorn's first process and every worker was watched");
    // Which of two idle workers gets a connection is the kernel's choice.
    let served: HashSet<_> = spans.iter().filter_map(|span| span.resource.get("process.pid")).collect();
    assert!(served.len() > 1, "a worker that came later has served");
}

#[test]
fn an_agent_that_comes_late_or_again_is_right_from_its_first_complete_request() {
    let servers = servers("late", "3.11");
    let app =
        App::uvicorn(&servers.venv, &servers.dir, "games:app", EventLoop::Uvloop, 1, &servers.environment);
    let app = app.expect("the service starts");
    let load = load(&app, 32, 8_000, &FASTAPI);
    let (verdicts, report) = thread::scope(|scope| {
        let running = scope.spawn(|| load.run().expect("the load runs"));
        let mut verdicts = Vec::new();
        for _ in 0..2 {
            thread::sleep(Duration::from_secs(1));
            let collector = Collector::start().expect("a collector");
            let (agent, _) = attach(&servers.dir, &[app.pid()], &collector).expect("adder starts");
            thread::sleep(Duration::from_secs(3));
            let (status, _) = agent.stop().expect("adder stops");
            assert!(status.success());
            let spans = collector.spans();
            verdicts.push((judge(&spans), unexplained(&spans)));
        }
        (verdicts, running.join().expect("the load ends"))
    });
    assert_eq!(report.failed(), 0, "the service is not disturbed");
    for (verdict, unexplained) in verdicts {
        println!("{verdict}");
        assert_eq!(verdict.wrong, 0, "no span under a wrong request");
        assert!(verdict.servers > 200, "it saw requests: {}", verdict.servers);
        assert_eq!(unexplained, Vec::<String>::new(), "an orphan is of a request that had begun before");
    }
}

/// Threads of the default executor on a machine of up to 28 cores (`min(32, cores + 4)`).
const POOL_THREADS: usize = 32;

/// Operations without a parent although their request, which the agent saw from its beginning, has a span.
///
/// A pool thread that was idle when the agent came waits inside `SimpleQueue.get`, whose return is not seen this once:
/// its first piece of work has no parent. No more than one for each thread is excused.
fn unexplained(spans: &[CollectedSpan]) -> Vec<String> {
    let rid = |span: &CollectedSpan, key: &str| {
        span.attribute(key).and_then(|text| find_rid(&text).map(str::to_owned))
    };
    let by_path = |pooled: bool| -> HashSet<String> {
        let of_path = spans
            .iter()
            .filter(|span| span.attribute("url.path").is_some_and(|path| (path == "/executor") == pooled));
        of_path.filter_map(|span| rid(span, "url.query")).collect()
    };
    let (pooled, others) = (by_path(true), by_path(false));
    let orphans = spans.iter().filter(|span| span.span.parent_span_id.is_empty());
    let orphans: HashSet<String> = orphans.filter_map(|span| rid(span, "db.query.text")).collect();
    let excused = orphans.intersection(&pooled).count() <= POOL_THREADS;
    orphans.into_iter().filter(|rid| others.contains(rid) || !excused && pooled.contains(rid)).collect()
}
