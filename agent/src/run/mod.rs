//! A run of the agent: facts out of the kernel, through the engine, to a collector, the terminal or a recording.

mod attaching;
mod codes;
mod loops;
mod manners;
mod pace;
mod routes;
mod watch;

use std::{
    io::{self, IsTerminal as _, Stdout},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use adder_ebpf::{Header, kind};

use self::{pace::FACTS_PER_TURN, watch::Watcher};
use crate::{
    config::Config,
    export::{self, CheckError, Exported, console::Console},
    fact::{Clock, Fact},
    probe::{AttachWay, Bpf, LoadError, Settings},
    record::{RecordError, Recorder},
    signal::{LogRecord, Metric, Span},
    status,
    stitch::{Engine, Options},
};

/// Time between two looks at counters.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// How long spans wait for the routes of an application that are being read, at most.
const READING_MAX: Duration = Duration::from_secs(3);
/// How long the export may take at the end.
const FLUSH: Duration = Duration::from_secs(10);
/// How often two clocks are looked at to compare them.
const CLOCK_LOOKS: u32 = 3;

static STOP: AtomicBool = AtomicBool::new(false);

/// What a run is to do beside what the configuration says.
#[derive(Clone, Debug, Default)]
pub struct Task {
    /// Watch these processes and their children.
    pub pids: Vec<u32>,
    /// Watch processes whose program or script fits one of these patterns.
    pub exec: Vec<String>,
    /// Store the facts here and make no spans.
    pub record: Option<PathBuf>,
    /// End after this time.
    pub duration: Option<Duration>,
}

/// Why a run could not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kernel side cannot run.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No process can be watched.
    #[error("{0}")]
    Nothing(String),
    /// The recording cannot be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The collector refuses the agent.
    #[error("{0}")]
    Refused(String),
    /// The export cannot be set up.
    #[error("{0}")]
    Export(String),
    /// The trees cannot be printed.
    #[error("cannot print: {0}")]
    Terminal(io::Error),
    /// A signal handler cannot be set.
    #[error("cannot handle signals: {0}")]
    Signal(io::Error),
}

/// Where spans and log records go.
enum Sink {
    Otlp {
        spans: export::Sender<Span>,
        logs: Option<export::Sender<LogRecord>>,
        metrics: Option<export::Sender<Metric>>,
    },
    Console(Box<Console<Stdout>>),
    None,
}

impl Sink {
    fn spans(&mut self, spans: Vec<Span>) -> io::Result<()> {
        match self {
            Self::Otlp { spans: sender, .. } => {
                sender.offer(spans);
                Ok(())
            }
            Self::Console(console) => console.spans(&spans),
            Self::None => Ok(()),
        }
    }

    fn logs(&mut self, records: Vec<LogRecord>) {
        match self {
            Self::Otlp { logs: Some(sender), .. } => sender.offer(records),
            Self::Console(console) => console.logs(&records),
            Self::Otlp { logs: None, .. } | Self::None => {}
        }
    }

    fn metrics(&mut self, metrics: Vec<Metric>) {
        if let Self::Otlp { metrics: Some(sender), .. } = self {
            sender.offer(metrics);
        }
    }

    fn tick(&mut self, now: u64) -> io::Result<()> {
        match self {
            Self::Console(console) => console.tick(now),
            Self::Otlp { .. } | Self::None => Ok(()),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Otlp { spans, logs, metrics } => {
                // Side by side: none waits for another's collector.
                std::thread::scope(|scope| {
                    if let Some(logs) = &*logs {
                        scope.spawn(|| logs.shutdown(FLUSH));
                    }
                    if let Some(metrics) = &*metrics {
                        scope.spawn(|| metrics.shutdown(FLUSH));
                    }
                    spans.shutdown(FLUSH);
                });
                Ok(())
            }
            Self::Console(console) => console.finish(),
            Self::None => Ok(()),
        }
    }
}

/// Runs until a signal, the time or the end of all watched processes.
pub fn run(config: &Config, task: &Task) -> Result<(), RunError> {
    if config.disabled {
        tracing::info!("OTEL_SDK_DISABLED is set: nothing is watched");
        return Ok(());
    }
    handle_signals().map_err(RunError::Signal)?;
    manners::give_way();
    let options = Options {
        seed: seed(),
        sql: config.capture.sql,
        redis: config.capture.redis,
        routes: config.http.routes.clone(),
        declarations: config.messaging.declarations,
        link_after: config.messaging.link_after.as_nanos() as u64,
    };
    let mut sink = sink(config, task)?;
    let mut recorder = task.record.as_deref().map(|path| Recorder::create(path, &options)).transpose()?;
    let explicit = !task.pids.is_empty() || !config.discover.pids.is_empty();
    let patterns = if task.exec.is_empty() { &config.discover.exec } else { &task.exec };
    let by_name = !explicit || !patterns.is_empty();
    let only = std::env::var("ADDER_ATTACH").ok().filter(|name| !name.is_empty());
    let settings = Settings {
        max_bytes: config.capture.max_bytes,
        report_every_exec: by_name,
        step_min: Duration::from_nanos(config.asyncio.looked_at_after()),
        only: only.and_then(|name| AttachWay::ALL.into_iter().find(|way| way.name() == name)),
    };
    let bpf = Bpf::load(settings)?;
    let way = bpf.way().name();
    let mut engine = Engine::new(options);
    let logs = config.logs.enabled && !matches!(sink, Sink::Otlp { logs: None, .. });
    let mut watcher =
        Watcher::new(bpf, by_name.then(|| patterns.clone()), config, logs, task.record.is_some());
    let mut facts = Facts { engine: &mut engine, recorder: recorder.as_mut(), failed: None };
    facts.own(&clock(now()));
    facts.own(&Fact::Logs(now(), config.logs.options.clone()));
    facts.own(&Fact::CodeOptions(now(), config.code.options.clone()));
    facts.own(&Fact::JobOptions(now(), config.jobs));
    facts.own(&Fact::LoopOptions(now(), config.asyncio));
    for pid in task.pids.iter().chain(&config.discover.pids) {
        watcher.adopt_family(*pid, &mut facts);
    }
    watcher.look_around(&mut facts);
    watcher.settle(&mut facts);
    if explicit && !by_name && watcher.is_empty() {
        return Err(RunError::Nothing("none of the processes named with --pid is running".into()));
    }
    let server = match status::Server::start(&config.status.socket) {
        Ok(server) => Some(server),
        Err(error) => {
            let path = config.status.socket.display();
            tracing::warn!("no status socket at {path} ({error}): `adder status` will not find this agent");
            None
        }
    };
    let count = watcher.len();
    // Not a log line: whoever starts the agent may wait for it, whatever the log level.
    eprintln!("ready: watching {count} process{} by {way}", if count == 1 { "" } else { "es" });

    let started = Instant::now();
    let mut counted = Instant::now();
    let mut measured = Instant::now();
    let mut ticked = Instant::now();
    loop {
        watcher.wait();
        watcher.turn(FACTS_PER_TURN, &mut facts);
        for (pid, need) in facts.engine.needs() {
            watcher.need(pid, need);
        }
        watcher.want(facts.engine);
        // What is being read is about what has come already.
        if !watcher.is_reading() || ticked.elapsed() >= READING_MAX {
            ticked = Instant::now();
            facts.own(&clock(now()));
        }
        let over = STOP.load(Ordering::Relaxed)
            || task.duration.is_some_and(|duration| started.elapsed() >= duration)
            || explicit && !by_name && watcher.is_empty();
        if over {
            // What is still in the buffer happened before the end.
            watcher.turn(usize::MAX, &mut facts);
            watcher.end_reading(&mut facts);
            facts.own(&clock(now()));
            facts.own(&Fact::End(now()));
        }
        if counted.elapsed() >= COUNT_EVERY || over {
            counted = Instant::now();
            watcher.count_drops(&mut facts);
            if let Some(server) = &server {
                server.publish(report(&watcher, facts.engine, &sink));
            }
        }
        if measured.elapsed() >= config.metrics.interval || over || facts.engine.has_last_metrics() {
            measured = Instant::now();
            watcher.tell_lags(&mut facts);
            sink.metrics(facts.engine.metrics());
        }
        sink.logs(facts.engine.logs());
        let spans = facts.engine.spans();
        if !spans.is_empty() {
            sink.spans(spans).map_err(RunError::Terminal)?;
        }
        sink.tick(unix_now()).map_err(RunError::Terminal)?;
        if let Some(error) = facts.failed.take() {
            return Err(error.into());
        }
        if over {
            break;
        }
    }
    sink.finish().map_err(RunError::Terminal)?;
    summary(&watcher, &engine, &sink, recorder.as_ref().map(Recorder::facts));
    if let Some(recorder) = recorder {
        recorder.finish()?;
    }
    Ok(())
}

/// The engine, and the recording beside it.
struct Facts<'a> {
    engine: &'a mut Engine,
    recorder: Option<&'a mut Recorder>,
    failed: Option<RecordError>,
}

impl Facts<'_> {
    /// A fact of the kernel side, as it lies in the ring buffer.
    fn raw(&mut self, bytes: &[u8]) {
        if self.recorder.is_some()
            && let Ok(fact) = Fact::parse(bytes)
        {
            self.record(&fact);
        } else {
            self.engine.take(bytes);
        }
    }

    /// One of the agent's own facts.
    fn own(&mut self, fact: &Fact<'_>) {
        if self.recorder.is_some() {
            self.record(fact);
        } else {
            self.engine.fact(fact);
        }
    }

    fn record(&mut self, fact: &Fact<'_>) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.write(fact)
        {
            self.failed.get_or_insert(error);
        }
    }
}

fn sink(config: &Config, task: &Task) -> Result<Sink, RunError> {
    if task.record.is_some() {
        return Ok(Sink::None);
    }
    let Some(settings) = &config.otlp else {
        if config.otlp_logs.is_some() || config.otlp_metrics.is_some() {
            tracing::warn!(
                "the endpoint for logs or metrics is not used without one for spans \
                 (OTEL_EXPORTER_OTLP_TRACES_ENDPOINT)"
            );
        }
        let terminal = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        return Ok(Sink::Console(Box::new(Console::new(io::stdout(), terminal))));
    };
    if let Err(error) = export::check::<Span>(settings) {
        match error {
            CheckError::Unreachable(_) | CheckError::Refused(_) => {
                tracing::warn!("{error}; spans are kept in the meantime, up to the bounds of the queue");
            }
            error => return Err(RunError::Refused(error.to_string())),
        }
    }
    Ok(Sink::Otlp {
        spans: start(settings)?,
        logs: beside(config.otlp_logs.as_ref(), config.logs.enabled, "OTEL_LOGS_EXPORTER")?,
        metrics: beside(config.otlp_metrics.as_ref(), config.metrics.enabled, "OTEL_METRICS_EXPORTER")?,
    })
}

fn start<T: Exported>(settings: &export::Settings) -> Result<export::Sender<T>, RunError> {
    export::start(settings.clone()).map_err(|error| RunError::Export(error.to_string()))
}

/// The export of what is sent beside spans, where it is wanted and there is somebody who takes it.
fn beside<T: Exported>(
    settings: Option<&export::Settings>,
    wanted: bool,
    variable: &str,
) -> Result<Option<export::Sender<T>>, RunError> {
    let Some(settings) = settings else {
        if wanted {
            tracing::info!(
                "no {} are sent: there is no endpoint for them (OTEL_EXPORTER_OTLP_ENDPOINT or {}ENDPOINT)",
                T::NOUN,
                T::VARIABLES
            );
        }
        return Ok(None);
    };
    if takes::<T>(settings, variable)? { start(settings).map(Some) } else { Ok(None) }
}

/// Whether such telemetry is to be sent. Many collectors take spans and nothing else: traces must not suffer from it.
fn takes<T: Exported>(settings: &export::Settings, variable: &str) -> Result<bool, RunError> {
    let noun = T::NOUN;
    match export::check::<T>(settings) {
        Ok(()) => Ok(true),
        Err(error @ CheckError::Unreachable(_)) => {
            tracing::warn!("{error}; {noun} are kept in the meantime, up to the bounds of the queue");
            Ok(true)
        }
        Err(error @ (CheckError::Denied(_) | CheckError::Refused(_))) => {
            tracing::warn!("{error}; no {noun} are sent ({variable}=none says that this is meant)");
            Ok(false)
        }
        Err(error @ CheckError::Setup(_)) => Err(RunError::Refused(error.to_string())),
    }
}

/// The counters of an export.
fn counters<T: Exported>(sender: &export::Sender<T>) -> Vec<(&'static str, u64)> {
    let stats = sender.stats().snapshot();
    vec![
        ("offered", stats.offered),
        ("sent", stats.sent),
        ("rejected", stats.rejected),
        ("dropped_queue_full", stats.dropped_queue_full),
        ("dropped_not_retryable", stats.dropped_not_retryable),
        ("dropped_shutdown", stats.dropped_shutdown),
        ("retries", stats.retries),
        ("bytes", stats.bytes),
    ]
}

fn report(watcher: &Watcher, engine: &Engine, sink: &Sink) -> status::Report {
    let (export, export_logs, export_metrics) = match sink {
        Sink::Otlp { spans, logs, metrics } => (
            counters(spans),
            logs.as_ref().map(counters).unwrap_or_default(),
            metrics.as_ref().map(counters).unwrap_or_default(),
        ),
        Sink::Console(_) | Sink::None => Default::default(),
    };
    status::Report {
        attached_by: watcher.bpf().way().name(),
        processes: watcher.reports(),
        dropped_facts: watcher.bpf().dropped(),
        engine: engine.counters().clone(),
        connections: engine.connection_counters().clone(),
        tables: engine.sizes().to_vec(),
        export,
        export_logs,
        export_metrics,
        programs: watcher.bpf().stats(),
    }
}

/// The last words: what was seen and what was lost.
fn summary(watcher: &Watcher, engine: &Engine, sink: &Sink, recorded: Option<u64>) {
    let (seen, connections) = (engine.counters(), engine.connection_counters());
    if let Some(recorded) = recorded {
        tracing::info!(
            facts = recorded,
            dropped_facts = watcher.dropped_total(),
            "the recording is complete"
        );
        return;
    }
    tracing::info!(
        facts = seen.facts,
        spans = seen.spans,
        roots = seen.roots,
        unsettled = seen.unsettled,
        joined = seen.joined,
        abandoned = seen.abandoned,
        bad_facts = seen.bad_facts,
        dropped_facts = watcher.dropped_total(),
        log_records = seen.logs.records,
        connections = connections.connections,
        opaque_connections = connections.opaque,
        gap_bytes = connections.gap_bytes,
        lost_bytes = connections.lost_bytes.iter().sum::<u64>(),
        "the run is over"
    );
    if let Sink::Otlp { spans, logs, metrics } = sink {
        warn_of_losses(spans);
        if let Some(logs) = logs {
            warn_of_losses(logs);
        }
        if let Some(metrics) = metrics {
            warn_of_losses(metrics);
        }
    }
}

fn warn_of_losses<T: Exported>(sender: &export::Sender<T>) {
    let stats = sender.stats().snapshot();
    let lost = stats.lost();
    if lost > 0 {
        tracing::warn!(sent = stats.sent, lost, "not all {} have reached the collector", T::NOUN);
    }
}

fn handle_signals() -> io::Result<()> {
    extern "C" fn stop(_: libc::c_int) {
        STOP.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic; a zeroed `sigaction` has no flags and an empty mask.
        let set = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = stop as *const () as usize;
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of the kernel's facts.
fn monotonic() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// The head of one of the agent's own facts.
fn now() -> Header {
    Header { time: monotonic(), kind: kind::EXIT, ..Header::default() }
}

/// The time, as of this head.
fn clock(header: Header) -> Fact<'static> {
    Fact::Clock(header, Clock { offset: clock_offset() })
}

/// Nanoseconds from the kernel's facts' clock to the time since the Unix epoch. The agent may be made to wait between its looks at
/// the two: of a few, that counts which took the shortest time.
fn clock_offset() -> i64 {
    let look = || {
        let (before, unix, after) = (monotonic(), unix_now(), monotonic());
        let took = after.saturating_sub(before);
        (took, unix as i64 - (before + took / 2) as i64)
    };
    (0..CLOCK_LOOKS).map(|_| look()).min_by_key(|(took, _)| *took).map_or(0, |(_, offset)| offset)
}

/// Different in each run.
fn seed() -> u64 {
    fastrand::u64(..)
}
