//! Settings: a TOML file and the environment, which wins.
//!
//! [`Config::load`] is pure: it takes the file's text and a look-up for variables. A mistake in the file, or in one of
//! the agent's own `ADDER_*` variables, is an error of one line that says where it is. A mistake in one of
//! OpenTelemetry's `OTEL_*` variables is a warning, and the variable counts as not set ("Environment Variable
//! Specification", "Type-specific guidance"), except for an endpoint that is no URL: spans must not go elsewhere, or
//! nowhere, in silence.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use crate::{
    code,
    export::Settings,
    logs,
    signal::{LogRecord, Metric, Span, TextMode},
    stitch::{JobOptions, LoopOptions},
};

mod env;
mod file;
mod otlp;

/// All settings of the agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What is captured and shown.
    pub capture: Capture,
    /// Where spans go; `None` without an endpoint: they are drawn on the terminal then.
    pub otlp: Option<Settings>,
    /// Where log records go; `None` without an endpoint.
    pub otlp_logs: Option<Settings>,
    /// Where metrics go; `None` without an endpoint.
    pub otlp_metrics: Option<Settings>,
    /// Logs.
    pub logs: Logs,
    /// Metrics.
    pub metrics: Metrics,
    /// Where in the code things are done.
    pub code: Code,
    /// HTTP.
    pub http: Http,
    /// Messages.
    pub messaging: Messaging,
    /// `[jobs]`: what is made of the jobs of daemons.
    pub jobs: JobOptions,
    /// `[asyncio]`: what is made of event loops.
    pub asyncio: LoopOptions,
    /// Which processes are watched.
    pub discover: Discover,
    /// How services are named.
    pub service: Service,
    /// The agent's own log.
    pub log: Log,
    /// The status socket.
    pub status: StatusSocket,
    /// `OTEL_RESOURCE_ATTRIBUTES`: for every resource, in the order given.
    pub resource: Vec<(String, String)>,
    /// `OTEL_SDK_DISABLED`: nothing is to be watched.
    pub disabled: bool,
}

/// `[capture]`: what is captured and shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// SQL texts (`ADDER_SQL_TEXT`).
    pub sql: TextMode,
    /// Redis commands (`ADDER_REDIS_TEXT`).
    pub redis: TextMode,
    /// Most bytes copied of one system call's buffer.
    pub max_bytes: u32,
}

/// `[http]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// Route templates such as `/games/{game_id}`, tried before those that are learned.
    pub routes: Vec<String>,
}

/// `[logs]`: what is made of what processes write to their outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// Log records are made (`OTEL_LOGS_EXPORTER`).
    pub enabled: bool,
    /// Services of which none are made, by `service.name`.
    pub exclude: Vec<String>,
    /// How they are made.
    pub options: logs::Options,
}

/// `[metrics]`: what is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// It is exported (`OTEL_METRICS_EXPORTER`).
    pub enabled: bool,
    /// How often (`OTEL_METRIC_EXPORT_INTERVAL`).
    pub interval: Duration,
}

/// `[code]`: where in the code things are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Code {
    /// It is looked at.
    pub enabled: bool,
    /// Which code is the application's own.
    pub options: code::Options,
}

/// `[messaging]`: what is made of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Messaging {
    /// Spans for operations that arrange things at a broker: declarations, bindings, consumers.
    pub declarations: bool,
    /// A message that is delivered later than this after it was published is linked to its publish, not its child.
    pub link_after: Duration,
}

/// `[discover]`: which processes are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discover {
    /// Globs on the path of the executable; empty for every Python process.
    pub exec: Vec<String>,
    /// Process ids, watched whatever their executable.
    pub pids: Vec<u32>,
}

/// `[service]`: how services are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Executable or module to `service.name`.
    pub names: BTreeMap<String, String>,
}

/// `[log]`: the agent's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or a list of directives `TARGET=LEVEL` (`ADDER_LOG`).
    pub level: String,
}

/// `[status]`: the socket that answers `adder status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSocket {
    /// Its path.
    pub socket: PathBuf,
}

impl Default for Capture {
    fn default() -> Self {
        Self { sql: TextMode::default(), redis: TextMode::default(), max_bytes: 16 * 1024 }
    }
}

impl Default for Messaging {
    fn default() -> Self {
        Self { declarations: false, link_after: Duration::from_mins(5) }
    }
}

impl Default for Logs {
    fn default() -> Self {
        Self { enabled: true, exclude: Vec::new(), options: logs::Options::default() }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enabled: true, interval: Duration::from_mins(1) }
    }
}

impl Default for Code {
    fn default() -> Self {
        Self { enabled: true, options: code::Options::default() }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned() }
    }
}

impl Default for StatusSocket {
    fn default() -> Self {
        Self { socket: "/run/adder/status.sock".into() }
    }
}

/// A setting that cannot be used, told in one line: where it is, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct ConfigError {
    /// `FILE:LINE`, or the name of a variable.
    pub place: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl Config {
    /// Settings from the file (its name for messages, and its text), if there is one, and from the environment. Beside
    /// them the warnings, one line each.
    pub fn load(
        file: Option<(&str, &str)>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<(Self, Vec<String>), ConfigError> {
        let mut draft = Draft::default();
        if let Some((name, text)) = file {
            file::read(name, text, &mut draft)?;
        }
        let mut env = env::Env::new(&env);
        env.read(&mut draft)?;
        let mut warnings = env.warnings;
        let otlp = draft.otlp.settings::<Span>(&mut warnings)?;
        let otlp_logs =
            if draft.logs.enabled { draft.otlp_logs.settings::<LogRecord>(&mut warnings)? } else { None };
        let otlp_metrics =
            if draft.metrics.enabled { draft.otlp_metrics.settings::<Metric>(&mut warnings)? } else { None };
        // Most settings are the same for all.
        let mut said = BTreeSet::new();
        warnings.retain(|warning| said.insert(warning.clone()));
        let config = Self {
            capture: draft.capture,
            otlp,
            otlp_logs,
            otlp_metrics,
            logs: draft.logs,
            metrics: draft.metrics,
            code: draft.code,
            http: draft.http,
            messaging: draft.messaging,
            jobs: draft.jobs,
            asyncio: draft.asyncio,
            discover: draft.discover,
            service: draft.service,
            log: draft.log,
            status: draft.status,
            resource: draft.resource,
            disabled: draft.disabled,
        };
        Ok((config, warnings))
    }
}

/// The settings while they are read.
#[derive(Debug, Default)]
struct Draft {
    capture: Capture,
    otlp: otlp::Draft,
    otlp_logs: otlp::Draft,
    otlp_metrics: otlp::Draft,
    logs: Logs,
    metrics: Metrics,
    code: Code,
    http: Http,
    messaging: Messaging,
    jobs: JobOptions,
    asyncio: LoopOptions,
    discover: Discover,
    service: Service,
    log: Log,
    status: StatusSocket,
    resource: Vec<(String, String)>,
    disabled: bool,
}

/// What [`TextMode`] is called.
fn text_mode(value: &str) -> Result<TextMode, String> {
    match value {
        "sanitized" => Ok(TextMode::Sanitized),
        "raw" => Ok(TextMode::Raw),
        "off" => Ok(TextMode::Off),
        _ => Err(format!("{value:?} is not one of \"sanitized\", \"raw\", \"off\"")),
    }
}

/// A log level, or directives with their targets. A lone word that is no level would be taken for a target and turn
/// everything on, so it is refused.
fn log_level(value: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let wrong = value.split(',').map(str::trim).find(|directive| {
        let level = directive.rsplit_once('=').map_or(*directive, |(_, level)| level);
        !LEVELS.contains(&level.to_ascii_lowercase().as_str())
    });
    match wrong {
        None => Ok(value.to_owned()),
        Some(wrong) => Err(format!("{wrong:?} is not one of {} or TARGET=LEVEL", LEVELS.join(", "))),
    }
}

#[cfg(test)]
mod tests;
