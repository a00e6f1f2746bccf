//! The command line.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use adder::{
    config::Config,
    doctor,
    export::{console::Console, encode},
    record,
    run::{self, Task},
    status,
};
use clap::{Args, Parser, Subcommand};
use prost::Message as _;

/// Exit code where the command line, the configuration or an input file is wrong.
const USAGE: u8 = 2;

/// Traces of Python services, taken from the kernel: no change to their code, no restart.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch Python processes and send their traces.
    Run {
        #[command(flatten)]
        target: Target,
    },
    /// Store what the kernel reports in a file, to be replayed anywhere.
    Record {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        target: Target,
    },
    /// Make the spans of a recording; needs neither root nor BPF.
    Replay {
        /// The file.
        file: PathBuf,
        /// Write the spans as OTLP protobuf (an `ExportTraceServiceRequest`) into this file.
        #[arg(long)]
        otlp: Option<PathBuf>,
        /// Write the log records as OTLP protobuf (an `ExportLogsServiceRequest`) into this file.
        #[arg(long)]
        otlp_logs: Option<PathBuf>,
    },
    /// Say what this kernel and each Python process allow.
    Doctor {
        /// Look at these processes instead of every Python process.
        #[arg(long)]
        pid: Vec<u32>,
    },
    /// Show counters and attach reports of the running agent.
    Status {
        /// The configuration file that the agent was started with.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Target {
    /// Configuration file (TOML).
    #[arg(long)]
    config: Option<PathBuf>,
    /// Watch this process and its children; may be repeated.
    #[arg(long)]
    pid: Vec<u32>,
    /// Watch processes whose executable, script or module fits this glob; may be repeated.
    #[arg(long)]
    exec: Vec<String>,
    /// End after so many seconds.
    #[arg(long)]
    duration: Option<u64>,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { target } => watch(target, None),
        Command::Record { file, target } => watch(target, Some(file)),
        Command::Replay { file, otlp, otlp_logs } => {
            end_with_the_reader();
            replay(&file, otlp.as_deref(), otlp_logs.as_deref())
        }
        Command::Doctor { pid } => {
            end_with_the_reader();
            if doctor::doctor(&pid) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Command::Status { config } => match load(config.as_deref()) {
            Ok((config, _)) => match status::ask(&config.status.socket) {
                Ok(text) => {
                    end_with_the_reader();
                    println!("{text}");
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    let path = config.status.socket.display();
                    fail(&format!("no agent answers at {path} ({error}): is `adder run` running?"), 1)
                }
            },
            Err(error) => fail(&error, USAGE),
        },
    }
}

/// Whoever reads the output may stop (`adder doctor | head`): that is no error. An agent that watches goes on.
fn end_with_the_reader() {
    // SAFETY: plain system call; no other thread runs yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

fn watch(target: Target, record: Option<PathBuf>) -> ExitCode {
    let (config, warnings) = match load(target.config.as_deref()) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error, USAGE),
    };
    start_log(&config);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let duration = target.duration.map(Duration::from_secs);
    let task = Task { pids: target.pid, exec: target.exec, record, duration };
    match run::run(&config, &task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string(), 1),
    }
}

/// Reads the configuration.
fn load(path: Option<&Path>) -> Result<(Config, Vec<String>), String> {
    let text = match path {
        Some(path) => {
            let name = path.display().to_string();
            let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
            Some((name, text))
        }
        None => None,
    };
    let file = text.as_ref().map(|(name, text)| (name.as_str(), text.as_str()));
    Config::load(file, |name| std::env::var(name).ok()).map_err(|error| error.to_string())
}

fn start_log(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::new(&config.log.level);
    let colour = io::IsTerminal::is_terminal(&io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .init();
}

fn replay(file: &Path, otlp: Option<&Path>, otlp_logs: Option<&Path>) -> ExitCode {
    let (mut spans, mut logs) = (Vec::new(), Vec::new());
    let replayed = record::replay(file, |engine| {
        spans.append(&mut engine.spans());
        logs.append(&mut engine.logs());
    });
    if let Err(error) = replayed {
        return fail(&error.to_string(), USAGE);
    }
    if otlp.is_some() || otlp_logs.is_some() {
        let spans = otlp.map(|path| (path, encode::request(spans).encode_to_vec()));
        let logs = otlp_logs.map(|path| (path, encode::logs::request(logs).encode_to_vec()));
        for (path, message) in spans.into_iter().chain(logs) {
            if let Err(error) = fs::write(path, message) {
                return fail(&format!("{}: {error}", path.display()), 1);
            }
        }
        ExitCode::SUCCESS
    } else {
        let colour = io::IsTerminal::is_terminal(&io::stdout());
        let mut console = Console::new(io::stdout(), colour);
        console.logs(&logs);
        match console.spans(&spans).and_then(|()| console.finish()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("cannot print: {error}"), 1),
        }
    }
}

fn fail(message: &str, code: u8) -> ExitCode {
    eprintln!("adder: {message}");
    ExitCode::from(code)
}
