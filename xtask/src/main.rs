//! The project's own commands. Each installs what it needs and says so; a second run finds it all there.

mod bpf;
mod fuzz;
mod kernel;
mod pythons;
mod setup;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};

use crate::setup::root;

#[derive(Parser)]
#[command(about = "The project's own commands")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the kernel side.
    BuildEbpf,
    /// Build the release binary, with the kernel side inside: target/release/adder.
    Build,
    /// Start Postgres, Redis and two Python services, put load on them, and show what Adder sees.
    Demo {
        /// Leave everything running until Ctrl-C.
        #[arg(long)]
        keep: bool,
    },
    /// Build, and run `adder` with these arguments.
    Run {
        /// Arguments of `adder`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run all tests: format, lints, unit tests, live tests.
    Test {
        /// Only the live tests whose name contains this.
        #[arg(long)]
        only: Option<String>,
        /// Only the smoke test, in a stock Debian kernel of this series, in an emulator.
        #[arg(long, conflicts_with = "only", value_parser = kernel::SERIES)]
        kernel: Option<String>,
        /// Only the parents test, on every Python that Adder knows and that can be had here, on both event loops.
        #[arg(long, conflicts_with_all = ["only", "kernel"])]
        matrix: bool,
    },
    /// Feed random bytes to all that reads bytes of others.
    Fuzz {
        /// Only this target.
        target: Option<String>,
        /// Seconds for each.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Measure bare services, Adder and the OpenTelemetry SDK side by side.
    Bench {
        /// Seconds per measurement.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Rounds, in each of which all are measured once.
        #[arg(long, default_value_t = 3)]
        rounds: u32,
        /// Only the cases whose name has this in it (`hit over TLS`, `16 connections`).
        #[arg(long, default_value = "")]
        only: String,
        /// Leave the SDK out.
        #[arg(long)]
        without_sdk: bool,
    },
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(task: Task) -> Result<()> {
    match task {
        Task::BuildEbpf => bpf::build(),
        Task::Build => build(),
        Task::Demo { keep } => {
            build()?;
            servers()?;
            let venv = environments(1)?.remove(0);
            let mut demo =
                cargo(&["run", "--quiet", "--release", "--package", "adder-tests", "--bin", "demo", "--"]);
            run(demo.arg(venv).args(keep.then_some("--keep")))
        }
        Task::Run { arguments } => {
            build()?;
            run(Command::new(root().join("target/release/adder")).args(arguments))
        }
        Task::Test { matrix: true, .. } => {
            build()?;
            servers()?;
            main_python()?;
            pythons::environments(&root().join("tests/requirements.txt"))?;
            run(cargo(&["test", "--package", "adder-tests", "--no-fail-fast"])
                .args(["--test", "parents", "--test", "routes", "--test", "code", "--"])
                .args(["--ignored", "--nocapture"]))
        }
        Task::Test { only, kernel: None, .. } => test(only.as_deref()),
        Task::Test { kernel: Some(series), .. } => {
            build()?;
            servers()?;
            let venv = environments(1)?.remove(0);
            run(&mut cargo(&["build", "--release", "--package", "adder-tests", "--bin", "smoke"]))?;
            kernel::test(&series, &main_python()?, &venv)
        }
        Task::Fuzz { target, seconds } => fuzz::fuzz(target.as_deref(), seconds),
        Task::Bench { seconds, rounds, only, without_sdk } => {
            build()?;
            servers()?;
            let venv = environments(1)?.remove(0);
            let python = main_python()?;
            let mut bench =
                cargo(&["run", "--quiet", "--release", "--package", "adder-tests", "--bin", "bench", "--"]);
            bench.arg(venv).args([seconds.to_string(), rounds.to_string(), only]);
            if !without_sdk {
                bench.arg(other("sdk", &python)?);
            }
            run(&mut bench)
        }
    }
}

fn build() -> Result<()> {
    bpf::build()?;
    run(&mut cargo(&["build", "--release", "--package", "adder"]))
}

fn test(only: Option<&str>) -> Result<()> {
    build()?;
    servers()?;
    environments(2)?;
    let python = main_python()?;
    for what in ["sdk", "openssl11", "uvloop19", "uvloop21", "uvloop22", "discord23"] {
        other(what, &python)?;
    }
    if let Some(only) = only {
        return run(
            cargo(&["test", "--package", "adder-tests", "--", "--test-threads=1", "--nocapture"]).arg(only)
        );
    }
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    run(&mut cargo(&["test", "--workspace", "--exclude", "adder-tests"]))?;
    // One at a time: each has servers and a load of its own, and there may be only two cores.
    run(&mut cargo(&["test", "--package", "adder-tests", "--", "--test-threads=1"]))
}

/// The servers that demo, tests and benchmarks start for themselves.
fn servers() -> Result<()> {
    setup::debian(
        &[
            ("/usr/lib/postgresql/*/bin/initdb", "postgresql"),
            ("redis-server", "redis-server"),
            ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"),
            ("setpriv", "util-linux"),
        ],
        "servers for the demo and the tests, started on loopback by them alone",
    )
}

/// Virtual environments for the demo services, at most `most`: the main Python first, then the newest other.
fn environments(most: usize) -> Result<Vec<PathBuf>> {
    let main = main_python()?;
    let mut chosen = vec![main.clone()];
    let mut others: Vec<_> = setup::pythons().into_iter().rev().filter(|(_, path)| *path != main).collect();
    // Debian's own stands behind all others in that list whatever its version: here it is the last to be chosen.
    others.sort_by_key(|(label, _)| label.starts_with("debian-"));
    chosen.extend(others.into_iter().map(|(_, path)| path).take(most.saturating_sub(1)));
    let requirements = root().join("tests/requirements.txt");
    chosen.iter().map(|python| setup::venv(python, &label(python), &requirements)).collect()
}

/// `CPython` 3.11 where there is one, else the newest there is; Debian's where there is none.
fn main_python() -> Result<PathBuf> {
    if setup::pythons().is_empty() {
        setup::debian(&[("/usr/bin/python3", "python3")], "the demo services")?;
    }
    setup::debian(
        &[
            ("/usr/lib/python3/dist-packages/pip", "python3-pip"),
            ("/usr/lib/python3*/ensurepip", "python3-venv"),
        ],
        "virtual environments",
    )
    .or_else(|error| if setup::pythons().is_empty() { Err(error) } else { Ok(()) })?;
    let pythons = setup::pythons();
    let wanted = pythons.iter().find(|(label, _)| label.starts_with("3.11")).or(pythons.last());
    wanted.map(|(_, path)| path.clone()).context("no CPython from 3.8 on was found")
}

fn label(python: &Path) -> String {
    let pythons = setup::pythons();
    pythons.into_iter().find(|(_, path)| path == python).map_or_else(|| "default".into(), |(label, _)| label)
}

/// An environment from requirements of its own.
fn other(what: &str, python: &Path) -> Result<PathBuf> {
    setup::venv(python, &name(what, python), &root().join(format!("tests/requirements-{what}.txt")))
}

fn name(prefix: &str, python: &Path) -> String {
    format!("{prefix}-{}", label(python))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("starting {program}"))?;
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    ensure!(status.success(), "{program} {}: {status}", words.join(" "));
    Ok(())
}
