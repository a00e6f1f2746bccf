//! `cargo xtask demo`: a small system of services and workers, a load, and what Adder sees of it.

use std::{
    env,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use adder_tests::{
    load::Load,
    messaging::{self, Messaging},
    python::EventLoop,
    root,
    stack::{PATHS, Stack, Wanted},
};
use anyhow::{Context as _, Result, ensure};

/// Requests of the load, spread over all kinds of endpoints.
const REQUESTS: usize = 170;
const CONNECTIONS: usize = 8;
/// Requests that lead to messages.
const MESSAGES: usize = 12;

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> Result<()> {
    let mut arguments = env::args_os().skip(1);
    let venv = PathBuf::from(arguments.next().context("usage: demo VENV [--keep]")?);
    let keep = arguments.next().is_some_and(|word| word == "--keep");
    on_interrupt();
    eprintln!(
        "demo: starting Postgres, Redis, RabbitMQ, three FastAPI services and four workers (files in target/rig) …"
    );
    let wanted = Wanted {
        name: "demo",
        venv: &venv,
        event_loop: EventLoop::Uvloop,
        variables: vec![],
        sdk: None,
        logged: false,
        encrypted: false,
    };
    let stack = Stack::start(&wanted)?;
    let messaging = Messaging::start(&venv, &stack, EventLoop::Uvloop)?;
    let pids: Vec<String> = stack.pids().into_iter().chain(messaging.pids()).collect();
    eprintln!(
        "demo: games-api is process {} on port {}, players-api process {} on port {}, schedule-api process {} on port \
         {}",
        stack.games.pid(),
        stack.games.port(),
        stack.players.pid(),
        stack.players.port(),
        messaging.api.pid(),
        messaging.api.port()
    );
    let socket = stack.dir.join("status.sock");
    let config = stack.dir.join("adder.toml");
    std::fs::write(&config, format!("[status]\nsocket = {:?}\n", socket.display().to_string()))?;
    eprintln!(
        "demo: adder run{} ; then {REQUESTS} requests, and {MESSAGES} that lead to messages …\n",
        pids.iter().fold(String::new(), |a, b| a + " " + b)
    );
    let mut adder = Command::new(root().join("target/release/adder"))
        .args(["run", "--config"])
        .arg(&config)
        .args(&pids)
        .env("ADDER_LOG", env::var("ADDER_LOG").unwrap_or_else(|_| "warn".into()))
        .stderr(Stdio::inherit())
        .spawn()
        .context("starting target/release/adder")?;
    // The status socket is there once the agent is ready.
    let ready = adder_tests::wait_until(Duration::from_secs(20), || {
        socket.exists() || adder.try_wait().is_ok_and(|status| status.is_some())
    });
    ensure!(ready && adder.try_wait()?.is_none(), "adder did not start, see above");
    let load = Load {
        port: stack.games.port(),
        connections: CONNECTIONS,
        requests: REQUESTS,
        paths: PATHS.map(str::to_owned).to_vec(),
        tls: None,
    };
    let report = load.run()?;
    let messages = Load {
        port: messaging.api.port(),
        connections: 1,
        requests: MESSAGES,
        paths: messaging::PATHS.map(str::to_owned).to_vec(),
        tls: None,
    };
    let published = messages.run()?;
    ensure!(published.failed() == 0, "{} of {MESSAGES} messages were not published", published.failed());
    if keep {
        eprintln!(
            "demo: still running; Ctrl-C ends it. Try: curl http://127.0.0.1:{}/games/7",
            stack.games.port()
        );
        while !STOP.load(Ordering::Relaxed) && adder.try_wait()?.is_none() {
            thread::sleep(Duration::from_millis(100));
        }
    } else {
        // Work after the last responses, and the last trees.
        thread::sleep(Duration::from_secs(3));
    }
    terminate(&adder);
    let status = adder.wait()?;
    eprintln!(
        "\ndemo: {} requests in {:.1} s, {} failed as they should (/error), {} lost",
        report.outcomes.len(),
        report.elapsed.as_secs_f64(),
        report.count(500),
        report.failed()
    );
    ensure!(status.success(), "adder ended with {status}");
    Ok(())
}

fn terminate(child: &Child) {
    // SAFETY: a plain system call on a child that has not been waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
}

/// Ctrl-C reaches the agent too; here it only ends the waiting, so that everything is stopped in order.
fn on_interrupt() {
    extern "C" fn stop(_: libc::c_int) {
        STOP.store(true, Ordering::Relaxed);
    }
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::signal(libc::SIGINT, stop as *const () as libc::sighandler_t) };
}
