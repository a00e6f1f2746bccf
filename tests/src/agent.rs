//! The agent, as a user would start it.

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{process::Process, root, wait_until};

/// The line on standard error that says that all probes are in place begins so.
const READY: &str = "ready";

/// How long the agent may take to end: it sends what it has first, then the kernel needs about 0.1 s for each probe
/// that it lets go.
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// How long the reader of standard error may need to see its end.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// A running agent, ended with SIGTERM on drop.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    output: Arc<Mutex<Output>>,
}

#[derive(Debug, Default)]
struct Output {
    lines: Vec<String>,
    has_ended: bool,
}

impl Agent {
    /// Starts `adder` with these arguments and variables ([`crate::collector::Collector::env`] among them) and waits
    /// until it says that it is ready. Its log is in the folder `dir`.
    pub fn start<I, K, V>(dir: &Path, arguments: &[&str], variables: I) -> Result<Self>
    where
        I: IntoIterator<Item = (K, V)>,
        K: AsRef<std::ffi::OsStr>,
        V: AsRef<std::ffi::OsStr>,
    {
        let agent = Self::spawn(dir, arguments, variables)?;
        let is_ready = || agent.lines().iter().any(|line| line.trim_start().starts_with(READY));
        if let Err(error) = agent.process.wait_ready(is_ready) {
            // Its last words are on their way to the log, or else it still runs.
            wait_until(FLUSH_LIMIT, || agent.has_said_all());
            bail!("{}\n{}", error.to_string().lines().next().unwrap_or_default(), agent.lines().join("\n"));
        }
        Ok(agent)
    }

    /// Starts it and does not wait, for runs that are meant to end by themselves.
    pub fn spawn<I, K, V>(dir: &Path, arguments: &[&str], variables: I) -> Result<Self>
    where
        I: IntoIterator<Item = (K, V)>,
        K: AsRef<std::ffi::OsStr>,
        V: AsRef<std::ffi::OsStr>,
    {
        let program = program();
        ensure!(program.exists(), "no agent at {}: `cargo xtask build` makes it", program.display());
        let mut command = Command::new(&program);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command.args(arguments).envs(variables).stdout(Stdio::null()).stderr(Stdio::piped());
        let log = dir.join("adder.log");
        let mut file = File::create(&log)?;
        let mut process =
            Process::start_with_output(&mut command, &log, libc::SIGTERM)?.with_patience(STOP_LIMIT);
        let errors = process.child().stderr.take().context("agent without standard error")?;
        let output = Arc::new(Mutex::new(Output::default()));
        let shared = Arc::clone(&output);
        thread::Builder::new().name("agent-log".into()).spawn(move || {
            for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                // The log file is a convenience for people; the lines are what counts.
                let _ = writeln!(file, "{line}");
                shared.lock().unwrap_or_else(PoisonError::into_inner).lines.push(line);
            }
            shared.lock().unwrap_or_else(PoisonError::into_inner).has_ended = true;
        })?;
        Ok(Self { process, output })
    }

    /// The lines of its standard error so far.
    pub fn lines(&self) -> Vec<String> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// The process, with its log, CPU time and memory.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Waits for a line with this text; whether it came within `limit`.
    pub fn wait_line(&self, text: &str, limit: Duration) -> bool {
        wait_until(limit, || self.lines().iter().any(|line| line.contains(text)))
    }

    /// Waits, at most `limit`, until it ends by itself, and stops it otherwise; how it ended, what it said.
    pub fn wait(mut self, limit: Duration) -> Result<(ExitStatus, Vec<String>)> {
        wait_until(limit, || self.process.has_ended());
        self.finish()
    }

    /// Sends SIGTERM, upon which it exports what it has; how it ended, what it said.
    pub fn stop(mut self) -> Result<(ExitStatus, Vec<String>)> {
        self.finish()
    }

    fn has_said_all(&self) -> bool {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).has_ended
    }

    fn finish(&mut self) -> Result<(ExitStatus, Vec<String>)> {
        let status = self.process.stop()?;
        wait_until(FLUSH_LIMIT, || self.has_said_all());
        Ok((status, self.lines()))
    }
}

/// The agent's program: `ADDER_BIN`, or the release build of this repository.
fn program() -> PathBuf {
    env::var_os("ADDER_BIN").map_or_else(|| root().join("target/release/adder"), PathBuf::from)
}
