//! Logs: every line once, whole, in order, and under the request that wrote it.
//!
//! The service marks each line with its request and a number (`tests/apps/logs.py`), so whose it is needs no belief in
//! whoever collected it.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use adder_tests::{
    agent::Agent,
    collector::{CollectedSpan, Collector, Protocol, attribute, text},
    judge::find_rid,
    load::{Load, Outcome},
    python::{App, Environment, EventLoop},
    stack::venv,
};
use opentelemetry_proto::tonic::logs::v1::LogRecord;

/// Time in which the last lines are settled and sent.
const AFTERWARDS: Duration = Duration::from_secs(8);

/// A record with the service and logger that it was sent under.
struct Line {
    service: String,
    logger: String,
    record: LogRecord,
}

impl Line {
    fn attribute(&self, key: &str) -> Option<String> {
        attribute(&self.record.attributes, key)
    }

    /// The message, and the traceback where there is one.
    fn whole(&self) -> String {
        let body = self.record.body.as_ref().map(text).unwrap_or_default();
        body + "\n" + &self.attribute("exception.stacktrace").unwrap_or_default()
    }

    /// Request and number of all marks, one for each time that it stands there.
    fn marks(&self) -> Vec<(String, u32)> {
        let whole = self.whole();
        whole
            .split("rid=")
            .skip(1)
            .filter_map(|rest| {
                let end = rest.find(|letter: char| letter != '.' && !letter.is_alphanumeric());
                let (rid, number) = rest[..end.unwrap_or(rest.len())].split_once('.')?;
                Some((rid.to_owned(), number.parse().ok()?))
            })
            .collect()
    }
}

fn lines(collector: &Collector) -> Vec<Line> {
    let mut lines = Vec::new();
    for batch in collector.logs() {
        let resource = batch.resource.unwrap_or_default();
        let service = resource.attributes.iter().find(|attribute| attribute.key == "service.name");
        let service = service.and_then(|name| name.value.as_ref()).map(text).unwrap_or_default();
        for scoped in batch.scope_logs {
            let logger = scoped.scope.unwrap_or_default().name;
            let line = |record| Line { service: service.clone(), logger: logger.clone(), record };
            lines.extend(scoped.log_records.into_iter().map(line));
        }
    }
    lines
}

/// What came of a load.
struct Run {
    outcomes: Vec<Outcome>,
    lines: Vec<Line>,
    spans: Vec<CollectedSpan>,
    said: Vec<String>,
}

struct Case<'a> {
    name: &'a str,
    python: &'a str,
    event_loop: EventLoop,
    unbuffered: bool,
    protocol: Protocol,
    config: &'a str,
    paths: &'a [&'a str],
    connections: usize,
    requests: usize,
}

fn run(case: &Case<'_>) -> Run {
    let dir = adder_tests::folder(case.name).expect("a folder");
    let venv = venv(case.python).expect("a virtual environment");
    let mut environment = Environment::new("log-api");
    if case.unbuffered {
        environment = environment.set("PYTHONUNBUFFERED", "1");
    }
    let app = App::uvicorn(&venv, &dir, "logs:app", case.event_loop, 1, &environment).expect("the service");
    let collector = Collector::start().expect("a collector");
    let config = dir.join("adder.toml");
    std::fs::write(&config, format!("[logs]\n{}", case.config)).expect("the settings");
    let config = config.display().to_string();
    let pid = app.pid().to_string();
    let arguments = ["run", "--config", &config, "--pid", &pid];
    let agent = Agent::start(&dir, &arguments, collector.env(case.protocol)).expect("the agent");
    let load = Load {
        port: app.port(),
        connections: case.connections,
        requests: case.requests,
        paths: case.paths.iter().map(|path| (*path).to_owned()).collect(),
        tls: None,
    };
    let report = load.run().expect("a load");
    // What is left in a buffer of Python's has not been written.
    app.get("/flush").expect("the buffer is flushed");
    thread::sleep(AFTERWARDS);
    let (status, said) = agent.stop().expect("the agent ends");
    assert!(status.success(), "{said:#?}");
    println!("{}: {}", case.name, said.join("\n"));
    Run { outcomes: report.outcomes, lines: lines(&collector), spans: collector.spans(), said }
}

/// How many marks are where they belong.
#[derive(Debug, Default)]
struct Verdict {
    marks: usize,
    missing: usize,
    repeated: usize,
    torn: usize,
    right: usize,
    wrong: usize,
    none: usize,
    disordered: usize,
}

impl Run {
    /// The request of each server span, by its trace and own id.
    fn requests(&self) -> BTreeMap<(Vec<u8>, Vec<u8>), String> {
        let request = |span: &CollectedSpan| {
            let query = span.attribute("url.query")?;
            Some(((span.span.trace_id.clone(), span.span.span_id.clone()), find_rid(&query)?.to_owned()))
        };
        self.spans.iter().filter_map(request).collect()
    }

    fn judge(&self, numbers: impl Fn(&str) -> u32) -> Verdict {
        let requests = self.requests();
        let mut verdict = Verdict::default();
        let mut seen: BTreeMap<(String, u32), usize> = BTreeMap::new();
        let mut last: BTreeMap<(String, Option<String>), (u64, u32)> = BTreeMap::new();
        let mut sorted: Vec<&Line> = self.lines.iter().collect();
        sorted.sort_by_key(|line| line.record.time_unix_nano);
        for line in sorted {
            let marks = line.marks();
            let rids: BTreeSet<&str> = marks.iter().map(|(rid, _)| rid.as_str()).collect();
            verdict.torn += usize::from(rids.len() > 1);
            let Some(rid) = rids.first() else { continue };
            let ids = (line.record.trace_id.clone(), line.record.span_id.clone());
            match requests.get(&ids) {
                _ if ids.0.is_empty() => verdict.none += 1,
                Some(request) if request == rid => verdict.right += 1,
                _ => {
                    verdict.wrong += 1;
                    println!("WRONG: {ids:?} is {:?}: {}", requests.get(&ids), line.whole());
                }
            }
            let first = marks.iter().map(|(_, number)| *number).min().unwrap_or_default();
            // The tasks and threads of one request write at the same time; each line has its own number all the same.
            let stream = (line.logger.clone(), line.attribute("log.iostream"));
            let stream = (format!("{rid} {}", stream.0), stream.1);
            if let Some((time, number)) = last.insert(stream, (line.record.time_unix_nano, first)) {
                verdict.disordered += usize::from(number > first && time < line.record.time_unix_nano);
            }
            let unique: BTreeSet<(String, u32)> = marks.into_iter().collect();
            for mark in unique {
                *seen.entry(mark).or_default() += 1;
            }
        }
        for outcome in &self.outcomes {
            for number in 1..=numbers(&outcome.path) {
                verdict.marks += 1;
                match seen.remove(&(outcome.rid.clone(), number)) {
                    None => verdict.missing += 1,
                    Some(1) => {}
                    Some(_) => verdict.repeated += 1,
                }
            }
        }
        verdict.repeated += seen.len();
        println!("{verdict:?}");
        verdict
    }
}

/// Marks that a request hands out: see `tests/apps/logs.py`.
fn numbers(path: &str) -> u32 {
    match path.split('?').next() {
        Some("/work") => 6 + 3 + 4 + 4 + 2 + 6,
        Some("/tasks") => 6 + 3 + 4 + 4,
        Some("/thread") => 6 + 4,
        Some("/queued") => 2,
        _ => 1,
    }
}

fn expect_right(run: &Run, share: f64) {
    let verdict = run.judge(numbers);
    assert_eq!((verdict.missing, verdict.repeated), (0, 0), "each line is there once");
    assert_eq!((verdict.torn, verdict.wrong), (0, 0), "no line is torn, none is another's");
    assert_eq!(verdict.disordered, 0, "the lines of a logger are in order");
    let found = verdict.right as f64 / (verdict.right + verdict.none) as f64;
    assert!(found >= share, "{found:.4} of the records are under their request");
    assert!(!run.said.iter().any(|line| line.contains("ring buffer was full")), "{:#?}", run.said);
}

#[test]
fn lines_of_64_requests_at_a_time_on_uvloop() {
    let run = run(&Case {
        name: "logs-uvloop",
        python: "3.11",
        event_loop: EventLoop::Uvloop,
        unbuffered: true,
        protocol: Protocol::Grpc,
        config: "per_second = 100000",
        paths: &["/work", "/thread", "/queued"],
        connections: 64,
        requests: 2400,
    });
    assert!(run.lines.len() >= 20_000, "{} lines", run.lines.len());
    expect_right(&run, 0.999);
    expect_what_is_said(&run.lines);
}

#[test]
fn lines_of_64_requests_at_a_time_on_asyncio() {
    let run = run(&Case {
        name: "logs-asyncio",
        python: "3.13",
        event_loop: EventLoop::Asyncio,
        unbuffered: true,
        protocol: Protocol::Http,
        config: "per_second = 100000",
        paths: &["/work", "/thread", "/queued"],
        connections: 64,
        requests: 2400,
    });
    expect_right(&run, 0.999);
}

/// What lies in a buffer of Python's is written by whoever fills it: no line may be given to that one. Standard error is
/// flushed at each line.
#[test]
fn lines_out_of_a_buffer_are_nobodys_rather_than_anothers() {
    let run = run(&Case {
        name: "logs-buffered",
        python: "3.11",
        event_loop: EventLoop::Uvloop,
        unbuffered: false,
        protocol: Protocol::Grpc,
        config: "per_second = 100000",
        paths: &["/tasks"],
        connections: 64,
        requests: 1200,
    });
    let verdict = run.judge(numbers);
    assert_eq!((verdict.missing, verdict.repeated, verdict.torn, verdict.wrong), (0, 0, 0, 0));
    let (sure, unsure): (Vec<_>, Vec<_>) = run
        .lines
        .iter()
        .filter(|line| line.attribute("log.iostream").as_deref() == Some("stderr"))
        .filter(|line| !line.marks().is_empty())
        .partition(|line| !line.record.trace_id.is_empty());
    assert!(unsure.len() * 1000 <= sure.len(), "{} lines of standard error have no span", unsure.len());
    let marked = run.lines.iter().filter(|line| line.attribute("adder.log.uncorrelated").is_some()).count();
    assert!(marked > 0, "some were written together");
}

/// Threads flush each other's lines: see `agent/src/logs/lines.rs`.
#[test]
fn lines_of_threads_that_share_a_buffer_are_nobodys_rather_than_anothers() {
    let run = run(&Case {
        name: "logs-shared",
        python: "3.13",
        event_loop: EventLoop::Asyncio,
        unbuffered: false,
        protocol: Protocol::Grpc,
        config: "per_second = 100000",
        paths: &["/tasks", "/thread"],
        connections: 64,
        requests: 1200,
    });
    let verdict = run.judge(numbers);
    assert_eq!((verdict.missing, verdict.repeated, verdict.wrong), (0, 0, 0));
}

/// Severity, logger, message and attributes of each way to log.
fn expect_what_is_said(lines: &[Line]) {
    let find = |start: &str| {
        lines
            .iter()
            .filter(|line| line.whole().starts_with(start))
            // One whose span does not show is sent later.
            .min_by_key(|line| line.record.time_unix_nano)
            .unwrap_or_else(|| panic!("no line begins with {start:?}"))
    };
    let cases = [
        ("plain rid=", 9, "INFO", "log.plain", "stderr"),
        ("on stdout rid=", 13, "WARNING", "log.out", "stdout"),
        ("json rid=", 17, "ERROR", "log.json", "stderr"),
        ("structured rid=", 9, "info", "adder", "stdout"),
        ("printed rid=", 0, "", "adder", "stdout"),
        ("loguru rid=", 5, "DEBUG", "logs", "stderr"),
        ("queued rid=", 9, "INFO", "log.queued", "stderr"),
        ("of several lines rid=", 9, "INFO", "log.plain", "stderr"),
        ("caught rid=", 17, "ERROR", "log.plain", "stderr"),
        ("ValueError: chained rid=", 0, "", "adder", "stderr"),
    ];
    for (start, number, word, logger, stream) in cases {
        let line = find(start);
        let record = &line.record;
        assert_eq!((record.severity_number, record.severity_text.as_str()), (number, word), "{start}");
        assert_eq!((line.logger.as_str(), line.service.as_str()), (logger, "log-api"), "{start}");
        assert_eq!(line.attribute("log.iostream").as_deref(), Some(stream), "{start}");
    }
    let json = find("json rid=");
    assert_eq!(json.attribute("game").as_deref(), Some("5"));
    assert_eq!(json.attribute("code.function.name").as_deref(), Some("words"));
    assert!(find("of several lines rid=").whole().trim_end().lines().count() == 3);
    let caught = find("caught rid=");
    assert_eq!(caught.attribute("exception.type").as_deref(), Some("LookupError"));
    assert!(caught.attribute("exception.message").is_some_and(|text| text.starts_with("no such game: rid=")));
    let chained = find("ValueError: chained rid=");
    let stacktrace = chained.attribute("exception.stacktrace").unwrap_or_default();
    assert_eq!(stacktrace.matches("Traceback (most recent call last):").count(), 2, "{stacktrace}");
}

#[test]
fn a_failed_request_shows_its_exception() {
    let run = run(&Case {
        name: "logs-failed",
        python: "3.11",
        event_loop: EventLoop::Uvloop,
        unbuffered: true,
        protocol: Protocol::Grpc,
        config: "per_second = 100000",
        paths: &["/fails", "/refuses", "/thread"],
        connections: 1,
        requests: 150,
    });
    let mut failed = 0;
    for span in run.spans.iter().filter(|span| span.attribute("url.query").is_some()) {
        let query = span.attribute("url.query").unwrap_or_default();
        let rid = find_rid(&query).unwrap_or_default();
        let attribute = |key: &str| {
            let event = span.span.events.iter().find(|event| event.name == "exception")?;
            let found = event.attributes.iter().find(|attribute| attribute.key == key)?;
            found.value.as_ref().map(text)
        };
        let path = span.attribute("url.path").unwrap_or_default();
        match path.as_str() {
            "/fails" => {
                failed += 1;
                assert_eq!(attribute("exception.type").as_deref(), Some("LookupError"), "{query}");
                assert_eq!(attribute("exception.message"), Some(format!("no such game: rid={rid}.1")));
                let stacktrace = attribute("exception.stacktrace").unwrap_or_default();
                assert!(stacktrace.contains("in fail") && stacktrace.contains("logs.py"), "{stacktrace}");
            }
            "/refuses" => assert_eq!(span.span.events, [], "{query}"),
            _ => {
                // What it has caught itself and logged.
                assert_eq!(span.span.events.len(), 2, "{query}");
                assert_eq!(attribute("exception.message").map(|text| text.contains(rid)), Some(true));
            }
        }
    }
    assert_eq!(failed, 50);
}

#[test]
fn secrets_do_not_leave_and_settings_are_obeyed() {
    const SECRET: &str = "dJ8-planted-SECRET-x0";
    let path = format!("/secrets?secret={SECRET}");
    let run = run(&Case {
        name: "logs-secrets",
        python: "3.11",
        event_loop: EventLoop::Asyncio,
        unbuffered: true,
        protocol: Protocol::Http,
        config: "level = \"info\"\nredact = ['plain rid']\nper_second = 1000",
        paths: &[&path, "/thread", "/child", "/flood"],
        connections: 1,
        requests: 4,
    });
    let records: Vec<&LogRecord> = run.lines.iter().map(|line| &line.record).collect();
    let exported = format!("{records:?}");
    assert!(!exported.contains(SECRET), "a secret has left");
    assert!(exported.contains("postgresql://games:***@db/games") && exported.contains("refused"));
    assert!(!exported.contains("of another program") && !exported.contains("import asyncio"));
    assert!(exported.contains("a child has written"));
    let of = |start: &str| run.lines.iter().filter(|line| line.whole().starts_with(start)).count();
    assert_eq!((of("loguru"), of("json")), (0, 1), "what is below the level is left out");
    assert_eq!((of("plain"), of("***")), (0, 1), "what the settings name is replaced");
    let left_out: u64 =
        run.lines.iter().filter_map(|line| line.attribute("adder.log.left_out")?.parse::<u64>().ok()).sum();
    let flood = of("flood") as u64;
    assert!(
        flood >= 1000 && flood + left_out >= 5000 && left_out > 0,
        "{flood} came, {left_out} were left out"
    );
}
