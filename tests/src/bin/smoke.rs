//! The smoke test of a kernel: each way of attaching, a few requests with SQL and Redis below them, and the judge.
//!
//! `smoke VENV [WAY …]`: every WAY that is named must work; without any, at least one of all must. It is made to run in
//! an emulated machine too (`cargo xtask test --kernel`), where everything takes ten to twenty times as long: hence
//! limits of its own, and a start of its own for the service.

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
    thread,
    time::Duration,
};

use adder_tests::{
    agent::Agent,
    certificates::Certificates,
    collector::{CollectedSpan, Collector, Protocol},
    folder, free_port,
    judge::judge,
    load::Load,
    postgres::Postgres,
    process::Process,
    python::Counts,
    redis::Redis,
    root, wait_until,
};
use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

/// The ways of attaching, by the agent's names for them.
const WAYS: [&str; 3] = ["fexit", "tp_btf", "raw_tp"];

const SERVICE: &str = "games-api";

/// What is asked, and what the service then does: SQL statements, and whether Redis commands. Between them they run
/// every program: asyncpg under uvloop, psycopg2 in threads that are reached by a copied context and by a queue, work
/// after the response.
const ASKED: [(&str, usize, bool); 8] = [
    ("/hit/{n}", 0, true),
    ("/games/{n}", 3, true),
    ("/gather", 3, true),
    ("/sync", 2, true),
    ("/tothread", 2, true),
    ("/executor", 2, true),
    ("/task", 1, true),
    ("/error", 1, false),
];

/// Requests for each way.
const REQUESTS: usize = 3 * ASKED.len();
const CONNECTIONS: usize = 3;

/// How long the service may take to answer, and the agent to attach and to end.
const PATIENCE: Duration = Duration::from_mins(5);

/// Time in which work after the last responses ends.
const AFTERWARDS: Duration = Duration::from_secs(4);

/// Lines at the end of the agent's log that are shown where a way should have worked; a verifier says last what it
/// does not like.
const LOG_TAIL: usize = 120;

/// What the agent says where the kernel has refused it.
const REFUSALS: [&str; 2] = ["this kernel cannot run", "not allowed to load BPF programs"];

/// What became of one way.
enum Finding {
    Works(String),
    NotOffered(String),
    Broken(String),
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works(what) => write!(out, "works: {what}"),
            Self::NotOffered(why) => write!(out, "not offered here: {why}"),
            Self::Broken(how) => write!(out, "broken: {how}"),
        }
    }
}

fn main() -> ExitCode {
    match smoke() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("smoke: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is as it should be.
fn smoke() -> Result<bool> {
    let mut arguments = env::args().skip(1);
    let venv = PathBuf::from(arguments.next().context("usage: smoke VENV [WAY …]")?);
    let expected: Vec<String> = arguments.collect();
    for way in &expected {
        ensure!(WAYS.contains(&way.as_str()), "no way {way}: there are {}", WAYS.join(", "));
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("smoke: Linux {}: Postgres, Redis and a uvicorn service are started …", release.trim());
    let dir = folder("smoke")?;
    let postgres = Postgres::start_unlogged(&dir)?;
    let redis = Redis::start_unlogged(&dir)?;

    let mut working = 0;
    let mut good = true;
    for way in WAYS {
        let expected = expected.iter().any(|name| name == way);
        let dir = dir.join(way);
        fs::create_dir(&dir)?;
        // A service of its own: a thread that waits for work since before the agent came cannot be told whose work it
        // gets first, and must not be here.
        let service = Service::start(&venv, &dir, &postgres, &redis)?;
        let finding = service.watch(&dir, way, expected)?;
        println!("smoke: {way:<6} {finding}");
        match finding {
            Finding::Works(_) => working += 1,
            Finding::NotOffered(_) => good &= !expected,
            Finding::Broken(_) => good = false,
        }
    }
    let finding = kernel_tls(&venv, &dir)?;
    println!("smoke: kTLS   {finding}");
    good &= !matches!(finding, Finding::Broken(_));
    Ok(good && working > 0)
}

/// How many connections the kernel has encrypted itself, by this line of its statistics (`net/tls/tls_proc.c`); `None` where its
/// module is not loaded.
fn encrypted_by_kernel() -> Option<u64> {
    let text = fs::read_to_string("/proc/net/tls_stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("TlsTxSw")?.trim().parse().ok())
}

/// Requests of a process to itself whose TLS is the kernel's, if that has it: each is seen once at both ends, one below the other.
fn kernel_tls(venv: &Path, dir: &Path) -> Result<Finding> {
    let Some(before) = encrypted_by_kernel() else {
        return Ok(Finding::NotOffered("the module `tls` is not loaded".to_owned()));
    };
    let dir = dir.join("ktls");
    fs::create_dir(&dir)?;
    let certificates = Certificates::make(&dir)?;
    let gate = dir.join("gate");
    let mut command = Command::new(venv.join("bin/python"));
    command
        .args(["kernel_tls.py", &free_port()?.to_string()])
        .args([&certificates.certificate, &certificates.key, &certificates.authority, &gate])
        .current_dir(root().join("tests/apps"))
        .env_clear()
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("OTEL_SERVICE_NAME", SERVICE);
    let process = Process::start(&mut command, &dir.join("service.log"), libc::SIGTERM)?;
    let has_said = |word: &str| {
        let has_said = || process.log_tail().lines().any(|line| line == word);
        wait_until(PATIENCE, || process.has_ended() || has_said());
        ensure!(has_said(), "the service of kTLS has not said {word}; its log: {}", process.log_tail());
        Ok(())
    };
    has_said("ready")?;
    let collector = Collector::start()?;
    let pid = process.pid().to_string();
    let agent = Agent::spawn(&dir, &["run", "--pid", &pid], collector.env(Protocol::Grpc))?;
    wait_ready(&agent);
    fs::write(&gate, "")?;
    has_said("done")?;
    let (status, lines) = end(agent)?;
    let spans = collector.spans();
    let mut wrong = Vec::new();
    if !status.success() {
        wrong.push(format!("adder ended with {status}"));
    }
    let connections = encrypted_by_kernel().unwrap_or_default() - before;
    if connections == 0 {
        return Ok(Finding::NotOffered("OpenSSL does not leave it to the kernel".to_owned()));
    }
    for (version, number) in
        ["2", "3"].into_iter().flat_map(|version| (0..10).map(move |number| (version, number)))
    {
        let path = format!("/planted-{version}-{number}");
        let of = |kind: SpanKind, key: &str| -> Vec<&CollectedSpan> {
            let is_it = |span: &&CollectedSpan| {
                span.span.kind() == kind
                    && span.attribute(key).is_some_and(|shown| shown.ends_with(&path))
                    && span.attribute("tls.protocol.version").as_deref() == Some(&format!("1.{version}"))
            };
            spans.iter().filter(is_it).collect()
        };
        match (&of(SpanKind::Client, "url.full")[..], &of(SpanKind::Server, "url.path")[..]) {
            ([client], [server]) if server.span.parent_span_id == client.span.span_id => {}
            (clients, servers) => {
                wrong.push(format!("{path}: {} client spans, {} server spans", clients.len(), servers.len()));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(Finding::Works(format!("20 requests over {connections} ends of connections")));
    }
    print_tail(&lines);
    Ok(Finding::Broken(wrong.join("; ")))
}

struct Service {
    process: Process,
    port: u16,
}

impl Service {
    fn start(venv: &Path, dir: &Path, postgres: &Postgres, redis: &Redis) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(venv.join("bin/python"));
        command
            .args(["-m", "uvicorn", "games:app", "--loop", "uvloop", "--log-level", "warning"])
            .args(["--port", &port.to_string()])
            .current_dir(root().join("tests/apps"))
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("OTEL_SERVICE_NAME", SERVICE)
            .env("PG_DSN", postgres.dsn())
            .env("REDIS_URL", redis.url());
        let process = Process::start(&mut command, &dir.join("service.log"), libc::SIGTERM)?;
        let service = Self { process, port };
        wait_until(PATIENCE, || service.process.has_ended() || service.answers());
        ensure!(service.answers(), "the service does not answer; its log: {}", service.process.log_tail());
        Ok(service)
    }

    fn answers(&self) -> bool {
        let load = Load {
            port: self.port,
            connections: 1,
            requests: 1,
            paths: vec!["/health".to_owned()],
            tls: None,
        };
        load.run().is_ok_and(|report| report.count(200) == 1)
    }

    /// Watches the service in one way, during a load.
    fn watch(&self, dir: &Path, way: &str, expected: bool) -> Result<Finding> {
        let config = dir.join("adder.toml");
        fs::write(
            &config,
            format!("[status]\nsocket = {:?}\n", dir.join("status.sock").display().to_string()),
        )?;
        let config = config.display().to_string();
        let pid = self.process.pid().to_string();
        let collector = Collector::start()?;
        let mut variables = collector.env(Protocol::Grpc);
        let own = [
            ("ADDER_ATTACH", way),
            ("ADDER_LOG", "info,adder::probe=debug"),
            ("ADDER_SQL_TEXT", "raw"),
            ("ADDER_REDIS_TEXT", "raw"),
        ];
        variables.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let agent = Agent::spawn(dir, &["run", "--config", &config, "--pid", &pid], variables)?;
        if !wait_ready(&agent) {
            let (_, lines) = agent.wait(Duration::ZERO)?;
            if expected {
                print_tail(&lines);
            }
            let said = lines.iter().rev().find_map(|line| line.strip_prefix("adder: "));
            let said = said.unwrap_or("it did not become ready").to_owned();
            let refused = REFUSALS.iter().any(|refusal| said.starts_with(refusal));
            return Ok(if refused { Finding::NotOffered(said) } else { Finding::Broken(said) });
        }

        let paths = ASKED.iter().map(|(path, ..)| (*path).to_owned()).collect();
        let report =
            Load { port: self.port, connections: CONNECTIONS, requests: REQUESTS, paths, tls: None }.run()?;
        let (status, lines) = end(agent)?;
        let verdict = judge(&collector.spans());
        let mut wrong = Vec::new();
        if !status.success() {
            wrong.push(format!("adder ended with {status}"));
        }
        if report.failed() > 0 {
            wrong.push(format!("{} requests were not answered", report.failed()));
        }
        if verdict.right != verdict.marked() || verdict.repeated > 0 {
            wrong.push("the trees are wrong".to_owned());
        }
        let truth: BTreeMap<String, Counts> = report
            .outcomes
            .iter()
            .filter_map(|outcome| {
                let (_, sql, redis) = ASKED.iter().find(|(path, ..)| is_instance(&outcome.path, path))?;
                Some((
                    outcome.rid.clone(),
                    Counts { sql: *sql, redis: usize::from(*redis), ..Counts::default() },
                ))
            })
            .collect();
        ensure!(truth.len() == REQUESTS, "the load asked for something else: {:?}", report.outcomes);
        wrong.extend(verdict.differences(SERVICE, &truth));
        if wrong.is_empty() {
            return Ok(Finding::Works(format!("{REQUESTS} requests, {verdict}")));
        }
        print_tail(&lines);
        Ok(Finding::Broken(format!("{}; {verdict}", wrong.join("; "))))
    }
}

/// Whether a path, as sent with its query, comes from this one of [`ASKED`].
fn is_instance(sent: &str, asked: &str) -> bool {
    let fixed = asked.trim_end_matches("{n}");
    sent.strip_prefix(fixed).is_some_and(|rest| fixed != asked || rest.starts_with('?'))
}

/// Waits until an agent watches, or has ended; whether it watches.
fn wait_ready(agent: &Agent) -> bool {
    let is_ready = || agent.lines().iter().any(|line| line.starts_with("ready"));
    wait_until(PATIENCE, || agent.process().has_ended() || is_ready());
    is_ready()
}

/// Ends an agent when what follows the last responses is over; what it has said. `Agent::stop` is not as patient.
fn end(agent: Agent) -> Result<(ExitStatus, Vec<String>)> {
    thread::sleep(AFTERWARDS);
    agent.process().signal(libc::SIGTERM);
    agent.wait(PATIENCE)
}

fn print_tail(lines: &[String]) {
    for line in &lines[lines.len().saturating_sub(LOG_TAIL)..] {
        println!("  adder: {line}");
    }
}
