//! The services of `tests/apps`, started as their users would start them.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustls::ClientConfig;

use crate::{
    certificates::Certificates,
    collector::{Collector, Protocol},
    free_port, http,
    postgres::Postgres,
    process::Process,
    rabbitmq::RabbitMq,
    redis::Redis,
    root,
};

/// How long a request of the rig's own may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The event loop of an asyncio service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventLoop {
    /// Python's own.
    Asyncio,
    /// uvloop.
    Uvloop,
}

impl EventLoop {
    fn name(self) -> &'static str {
        match self {
            Self::Asyncio => "asyncio",
            Self::Uvloop => "uvloop",
        }
    }
}

/// What a service is told by its environment.
#[derive(Clone, Debug)]
pub struct Environment {
    service: String,
    variables: Vec<(String, String)>,
    has_sdk: bool,
    certificates: Option<Certificates>,
}

impl Environment {
    /// For a service of this name (`OTEL_SERVICE_NAME`).
    pub fn new(service: &str) -> Self {
        Self { service: service.to_string(), variables: Vec::new(), has_sdk: false, certificates: None }
    }

    /// The same for another service.
    #[must_use]
    pub fn named(mut self, service: &str) -> Self {
        self.service = service.to_string();
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_string(), value.to_string()));
        self
    }

    /// The service uses these servers.
    #[must_use]
    pub fn servers(self, postgres: &Postgres, redis: &Redis) -> Self {
        self.set("PG_DSN", &postgres.dsn()).set("REDIS_URL", &redis.url())
    }

    /// The service uses this broker.
    #[must_use]
    pub fn broker(self, broker: &RabbitMq) -> Self {
        self.set("AMQP_URL", &broker.url())
    }

    /// The service calls this one.
    #[must_use]
    pub fn players(self, players: &App) -> Self {
        self.set("PLAYERS_URL", &players.url(""))
    }

    /// The service trusts their authority, and speaks TLS itself where it serves by uvicorn.
    #[must_use]
    pub fn encrypted(mut self, certificates: &Certificates) -> Self {
        self.certificates = Some(certificates.clone());
        self.set("SSL_CERT_FILE", &certificates.authority.display().to_string())
            .set("TLS_CERTIFICATE", &certificates.certificate.display().to_string())
            .set("TLS_KEY", &certificates.key.display().to_string())
    }

    /// The service runs under the OpenTelemetry SDK (an environment of `requirements-sdk.txt`) and exports there.
    #[must_use]
    pub fn sdk(mut self, collector: &Collector) -> Self {
        self.has_sdk = true;
        self.variables.extend(collector.env(Protocol::Http));
        self.set("OTEL_METRICS_EXPORTER", "none")
            .set("OTEL_LOGS_EXPORTER", "none")
            .set("OTEL_BSP_SCHEDULE_DELAY", "500")
    }
}

/// What the services say that they did for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// SQL statements, without transaction control.
    pub sql: usize,
    /// Redis commands.
    pub redis: usize,
    /// Requests to other services.
    pub http: usize,
    /// Messages published.
    pub publish: usize,
}

/// A running service, ready for requests.
#[derive(Debug)]
pub struct App {
    process: Process,
    port: u16,
    service: String,
    marker: String,
    tls: Option<Arc<ClientConfig>>,
}

impl App {
    /// `uvicorn MODULE:app`. The log is in the folder `dir`.
    ///
    /// With several workers on Python's own loop uvicorn leaves Nagle's algorithm on (its workers inherit a socket
    /// made without a protocol number), and each answer of two writes takes 40 ms: no setting to measure in.
    pub fn uvicorn(
        venv: &Path,
        dir: &Path,
        app: &str,
        event_loop: EventLoop,
        workers: u32,
        environment: &Environment,
    ) -> Result<Self> {
        Self::start(venv, dir, environment, |command, port| {
            command.args(["-m", "uvicorn", app, "--port", port, "--loop", event_loop.name()]);
            command.args(["--workers", &workers.to_string(), "--no-access-log", "--log-level", "warning"]);
            if let Some(tls) = &environment.certificates {
                command.arg("--ssl-keyfile").arg(&tls.key).arg("--ssl-certfile").arg(&tls.certificate);
            }
        })
    }

    /// `gunicorn MODULE:app`: `sync` workers with one thread, `gthread` workers with more.
    pub fn gunicorn(
        venv: &Path,
        dir: &Path,
        app: &str,
        workers: u32,
        threads: u32,
        environment: &Environment,
    ) -> Result<Self> {
        Self::start(venv, dir, environment, |command, port| {
            let class = if threads > 1 { "gthread" } else { "sync" };
            command.args([
                "-m",
                "gunicorn",
                app,
                "--bind",
                &format!("127.0.0.1:{port}"),
                "--worker-class",
                class,
            ]);
            command.args(["--workers", &workers.to_string(), "--threads", &threads.to_string()]);
            command.args(["--log-level", "warning"]);
        })
    }

    /// `hypercorn MODULE:app`, in one process, which speaks HTTP/2 too.
    pub fn hypercorn(
        venv: &Path,
        dir: &Path,
        app: &str,
        event_loop: EventLoop,
        environment: &Environment,
    ) -> Result<Self> {
        Self::start(venv, dir, environment, |command, port| {
            command.args(["-m", "hypercorn", app, "--bind", &format!("127.0.0.1:{port}")]);
            command.args(["--workers", "0", "--worker-class", event_loop.name()]);
            if let Some(tls) = &environment.certificates {
                command.arg("--keyfile").arg(&tls.key).arg("--certfile").arg(&tls.certificate);
            }
        })
    }

    /// `python SCRIPT PORT LOOP`, for the scripts that serve by themselves: `web_aiohttp.py`.
    pub fn script(
        venv: &Path,
        dir: &Path,
        script: &str,
        event_loop: EventLoop,
        environment: &Environment,
    ) -> Result<Self> {
        Self::start(venv, dir, environment, |command, port| {
            command.args([script, port, event_loop.name()]);
        })
    }

    /// Flask's own server with a thread per request: `flask --app MODULE run`.
    pub fn flask(venv: &Path, dir: &Path, app: &str, environment: &Environment) -> Result<Self> {
        Self::start(venv, dir, environment, |command, port| {
            command.args(["-m", "flask", "--app", app, "run", "--port", port]);
        })
    }

    /// `discord_server.py`: what a bot needs of Discord, for services that are [`Environment::encrypted`].
    pub fn discord(venv: &Path, dir: &Path, environment: &Environment) -> Result<Self> {
        let tls = environment.certificates.as_ref().context("Discord speaks TLS only")?;
        Self::start(venv, dir, &environment.clone().named("discord"), |command, port| {
            command.args(["discord_server.py", port]).arg(&tls.certificate).arg(&tls.key);
        })
    }

    /// `python SCRIPT ARGUMENTS…`, for what serves nothing: it says `ready` when it is.
    pub fn worker(
        venv: &Path,
        dir: &Path,
        script: &str,
        arguments: &[&str],
        environment: &Environment,
    ) -> Result<Self> {
        let mut app = Self::spawn(venv, dir, environment, |command, _| {
            command.arg(script).args(arguments);
        })?;
        app.process.wait_ready(|| app.process.log_tail().lines().any(|line| line == "ready"))?;
        app.port = 0;
        Ok(app)
    }

    /// `celery --app tasks worker` with a pool (`prefork`, `threads`, `solo`) of eight.
    pub fn celery(venv: &Path, dir: &Path, pool: &str, environment: &Environment) -> Result<Self> {
        let arguments = ["-m", "celery", "--app", "tasks", "worker", "--pool", pool, "--concurrency", "8"];
        let mut app = Self::spawn(venv, dir, environment, |command, _| {
            command.args(arguments).args(["--without-heartbeat", "--without-gossip", "--without-mingle"]);
        })?;
        app.process.wait_ready(|| app.process.log_tail().lines().any(|line| line.trim() == "ready"))?;
        app.port = 0;
        Ok(app)
    }

    fn start(
        venv: &Path,
        dir: &Path,
        environment: &Environment,
        arguments: impl FnOnce(&mut Command, &str),
    ) -> Result<Self> {
        let app = Self::spawn(venv, dir, environment, arguments)?;
        app.process.wait_ready(|| app.get("/health").is_ok_and(|(status, _)| status == 200))?;
        Ok(app)
    }

    fn spawn(
        venv: &Path,
        dir: &Path,
        environment: &Environment,
        arguments: impl FnOnce(&mut Command, &str),
    ) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Environment { service, variables, has_sdk, certificates } = environment;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let marker = format!("{service}-{}-{number}", process::id());
        let port = free_port()?;
        let python = venv.join("bin/python");
        ensure!(python.exists(), "no Python environment at {}", venv.display());
        let mut command = if *has_sdk {
            let mut command = Command::new(venv.join("bin/opentelemetry-instrument"));
            command.arg(python);
            command
        } else {
            Command::new(python)
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign(name)) {
            command.env_remove(name);
        }
        // The folder of the sources stays clean, and the module is found from it.
        command.current_dir(root().join("tests/apps")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("OTEL_SERVICE_NAME", service).env("ADDER_TEST", &marker);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        arguments(&mut command, &port.to_string());
        let log = dir.join(format!("{marker}.log"));
        let process = Process::start(&mut command, &log, libc::SIGTERM)?;
        let tls = certificates.as_ref().map(|tls| Arc::clone(&tls.client));
        Ok(Self { process, port, service: service.clone(), marker, tls })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a path of the service.
    pub fn url(&self, path: &str) -> String {
        match self.tls {
            Some(_) => format!("https://localhost:{}{path}", self.port),
            None => format!("http://127.0.0.1:{}{path}", self.port),
        }
    }

    /// What a client needs to speak TLS with it, where it does.
    pub fn tls(&self) -> Option<Arc<ClientConfig>> {
        self.tls.clone()
    }

    /// Its `OTEL_SERVICE_NAME`.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The value of `ADDER_TEST` in its environment, which no other process on the machine has.
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// Its first process; with one worker the one that serves.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process, with its log, CPU time and memory.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it now instead of at drop.
    pub fn stop(&mut self) -> Result<()> {
        self.process.stop().map(|_| ())
    }

    /// One GET; status and body.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = http::connect(self.port, TIMEOUT, self.tls.as_ref())?;
        let answer = http::get(&mut stream, "127.0.0.1", path)?;
        let status = answer.status().context("no status")?;
        Ok((status, String::from_utf8_lossy(&answer.body).into_owned()))
    }

    /// What it did, by request. Of a service with several workers only the one that answers is heard: use the logs
    /// of the servers there.
    pub fn truth(&self) -> Result<BTreeMap<String, Counts>> {
        let (status, body) = self.get("/truth")?;
        ensure!(status == 200, "/truth answered {status}");
        let value: serde_json::Value = serde_json::from_str(&body)?;
        let requests = value.as_object().context("/truth is no object")?;
        let counts = requests.iter().map(|(rid, value)| {
            let count = |kind: &str| value[kind].as_u64().unwrap_or(0) as usize;
            (
                rid.clone(),
                Counts {
                    sql: count("sql"),
                    redis: count("redis"),
                    http: count("http"),
                    publish: count("publish"),
                },
            )
        });
        Ok(counts.collect())
    }
}

/// The Python environments that `cargo xtask` has made, by name: `3.11.7`, `sdk-3.11.7`, `openssl11-3.11.7`.
pub fn venvs() -> BTreeMap<String, PathBuf> {
    let folders = std::fs::read_dir(root().join("target/venv")).into_iter().flatten().flatten();
    folders
        .filter(|entry| entry.path().join("adder-stamp").exists())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect()
}

/// Variables of the caller that must not reach a service.
fn is_foreign(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    ["OTEL_", "ADDER_", "PYTHON", "UVICORN_", "GUNICORN_"].iter().any(|prefix| name.starts_with(prefix))
}
