//! The demo's stack: Postgres, Redis and two services, ready to be watched.

use std::{
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    certificates::Certificates,
    collector::Collector,
    folder,
    postgres::Postgres,
    python::{App, Environment, EventLoop, venvs},
    redis::Redis,
};

/// Everything that runs. Fields end in this order: services before their servers.
pub struct Stack {
    /// The service under load, `games-api`.
    pub games: App,
    /// The service that it calls, `players-api`.
    pub players: App,
    /// Redis.
    pub redis: Redis,
    /// Postgres.
    pub postgres: Postgres,
    /// Where their files are.
    pub dir: PathBuf,
}

/// What is asked of the stack.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Name of the folder under `target/rig`.
    pub name: &'a str,
    /// Virtual environment of the services.
    pub venv: &'a Path,
    /// Event loop of the services.
    pub event_loop: EventLoop,
    /// Further variables of the services.
    pub variables: Vec<(&'a str, &'a str)>,
    /// The services carry the OpenTelemetry SDK and report there.
    pub sdk: Option<&'a Collector>,
    /// Postgres and Redis log what is asked of them.
    pub logged: bool,
    /// Every connection is encrypted.
    pub encrypted: bool,
}

impl Stack {
    /// Starts everything and waits until it answers.
    pub fn start(wanted: &Wanted<'_>) -> Result<Self> {
        let dir = folder(wanted.name)?;
        let certificates = wanted.encrypted.then(|| Certificates::make(&dir)).transpose()?;
        let tls = certificates.as_ref();
        let log = if wanted.logged { "log_statement = all" } else { "log_statement = none" };
        let (postgres, redis) =
            (Postgres::start_with(&dir, log, tls)?, Redis::start_with(&dir, wanted.logged, tls)?);
        let environment = |service: &str| {
            let mut environment = Environment::new(service).servers(&postgres, &redis);
            for (name, value) in &wanted.variables {
                environment = environment.set(name, value);
            }
            if let Some(certificates) = &certificates {
                environment = environment.encrypted(certificates);
            }
            match wanted.sdk {
                Some(collector) => environment.sdk(collector),
                None => environment,
            }
        };
        let players = App::uvicorn(
            wanted.venv,
            &dir,
            "players:app",
            wanted.event_loop,
            1,
            &environment("players-api"),
        )?;
        let games = environment("games-api").players(&players);
        let games = App::uvicorn(wanted.venv, &dir, "games:app", wanted.event_loop, 1, &games)?;
        Ok(Self { games, players, redis, postgres, dir })
    }

    /// Arguments that make `adder` watch the two services.
    pub fn pids(&self) -> Vec<String> {
        [&self.games, &self.players].iter().flat_map(|app| ["--pid".into(), app.pid().to_string()]).collect()
    }
}

/// Every kind of endpoint of the service under load, with the two that are asked most first.
pub const PATHS: [&str; 17] = [
    "/hit/{n}",
    "/games/{n}",
    "/gather",
    "/alchemy",
    "/sync",
    "/tothread",
    "/executor",
    "/background",
    "/task",
    "/stream",
    "/proxy",
    "/nested",
    "/aiohttp",
    "/pipeline",
    "/redis-lists",
    "/error",
    "/psycopg3",
];

/// A virtual environment whose name begins so, `3.11` for example; the first of all where none does.
pub fn venv(prefix: &str) -> Result<PathBuf> {
    let venvs = venvs();
    let named = venvs.iter().find(|(name, _)| name.starts_with(prefix));
    let plain = || {
        let found = venvs.iter().find(|(name, _)| is_plain(name))?;
        println!("no environment with CPython {prefix} here: {} instead", found.0);
        Some(found)
    };
    let found = named.or_else(plain).map(|(_, path)| path.clone());
    found.context("no virtual environment yet: run `cargo xtask test` or `cargo xtask demo` once")
}

/// The folder with the packages of the environment whose name begins so, for `PYTHONPATH`.
pub fn packages(prefix: &str) -> Result<String> {
    let venv = venvs().into_iter().find(|(name, _)| name.starts_with(prefix));
    let (_, venv) = venv.with_context(|| format!("no environment {prefix}: run `cargo xtask test` once"))?;
    let folders = std::fs::read_dir(venv.join("lib"))?.flatten();
    let found = folders.map(|entry| entry.path().join("site-packages")).find(|folder| folder.exists());
    Ok(found.context("an environment without packages")?.display().to_string())
}

/// Whether an environment has the applications and nothing else.
fn is_plain(name: &str) -> bool {
    !["sdk", "openssl", "uvloop", "discord"].iter().any(|other| name.starts_with(other))
}

/// Runs a test with every environment of the matrix (`cargo xtask test --matrix` makes them), of which `ADDER_MATRIX=3.9`
/// leaves those whose names begin so. What fails says why; the others are to be heard too. A table at the end says what each
/// has shown.
///
/// # Panics
///
/// Where not all are right.
pub fn on_every_python(test: impl Fn(&str, &Path)) {
    let only = std::env::var("ADDER_MATRIX").unwrap_or_default();
    let venvs = venvs().into_iter().filter(|(name, _)| is_plain(name) && name.starts_with(&only));
    let run = |venv: &Path, name: &str| panic::catch_unwind(AssertUnwindSafe(|| test(name, venv))).is_ok();
    let table: Vec<_> = venvs.map(|(name, venv)| (run(&venv, &name), name)).collect();
    for (right, name) in &table {
        println!("{}: {name}", if *right { "right" } else { "WRONG" });
    }
    assert!(table.iter().all(|(right, _)| *right), "every Python is right");
}
