//! One watched load: the agent, the requests, and what came out.

use std::{path::Path, thread, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    agent::Agent,
    collector::{CollectedSpan, Collector, Protocol},
    judge::{Verdict, judge},
    load::{Load, Report},
};

/// Time in which background work of the last requests ends.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// What came out.
#[derive(Debug)]
pub struct Watched {
    /// The requests.
    pub report: Report,
    /// The spans.
    pub spans: Vec<CollectedSpan>,
    /// What the judge says of them.
    pub verdict: Verdict,
    /// What the agent has said.
    pub lines: Vec<String>,
}

/// Texts are shown as they are: the ids are in comments and keys.
const RAW: [(&str, &str); 2] = [("ADDER_SQL_TEXT", "raw"), ("ADDER_REDIS_TEXT", "raw")];

/// `adder` on these processes with texts shown, so that the judge can read the ids in them.
pub fn attach(dir: &Path, pids: &[u32], collector: &Collector) -> Result<(Agent, Option<Agent>)> {
    let arguments = of_pids(pids);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Ok((run(dir, &arguments, collector)?, record(dir, pids)?))
}

/// `ADDER_RECORD=FOLDER` keeps the facts of each run there, to be looked at with `adder replay`.
pub fn record(dir: &Path, pids: &[u32]) -> Result<Option<Agent>> {
    let Some(folder) = std::env::var_os("ADDER_RECORD") else { return Ok(None) };
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = Path::new(&folder).join(format!("{name}.rec")).display().to_string();
    let pids = of_pids(pids);
    let arguments = ["record", &file].into_iter().chain(pids.iter().map(String::as_str));
    Agent::start(&crate::folder("record")?, &arguments.collect::<Vec<_>>(), RAW).map(Some)
}

fn of_pids(pids: &[u32]) -> Vec<String> {
    pids.iter().flat_map(|pid| ["--pid".into(), pid.to_string()]).collect()
}

/// Lets an agent watch what the arguments of `adder run` say, with all texts as they are.
pub fn run(dir: &Path, arguments: &[&str], collector: &Collector) -> Result<Agent> {
    let mut variables = collector.env(Protocol::Grpc);
    variables.extend(RAW.map(|(name, value)| (name.to_owned(), value.to_owned())));
    Agent::start(dir, &[&["run"], arguments].concat(), variables)
}

/// Watches processes during a load.
pub fn watch(dir: &Path, pids: &[u32], load: &Load) -> Result<Watched> {
    watch_between(dir, pids, || Ok(()), load, || Ok(()))
}

/// Watches processes during a load, with something before it (warming up) and something behind (waiting until all work
/// that it has caused is done).
pub fn watch_between(
    dir: &Path,
    pids: &[u32],
    before: impl FnOnce() -> Result<()>,
    load: &Load,
    done: impl FnOnce() -> Result<()>,
) -> Result<Watched> {
    let collector = Collector::start()?;
    let (agent, recorder) = attach(dir, pids, &collector)?;
    before()?;
    let report = load.run()?;
    done()?;
    thread::sleep(AFTERWARDS);
    let (status, lines) = agent.stop()?;
    ensure!(status.success(), "adder ended with {status}: {lines:#?}");
    if let Some(recorder) = recorder {
        recorder.stop()?;
    }
    let spans = collector.spans();
    let verdict = judge(&spans);
    println!("{}: {} requests\n{verdict}\n{}", dir.display(), report.outcomes.len(), lines.join("\n"));
    Ok(Watched { report, spans, verdict, lines })
}

impl Watched {
    /// No span under a wrong request, at least 99.9 % under the right one, no fact dropped.
    ///
    /// # Panics
    ///
    /// Where that is not so.
    pub fn expect_right_parents(&self) {
        self.expect_parents(0.999);
    }

    /// The same with at least this share under the right request.
    ///
    /// # Panics
    ///
    /// Where that is not so.
    pub fn expect_parents(&self, least: f64) {
        assert_eq!(self.verdict.wrong, 0, "no span under a wrong request");
        let share = self.verdict.right as f64 / self.verdict.marked() as f64;
        assert!(share >= least, "{share:.4} of the spans are under the right request");
        let full = self.lines.iter().any(|line| line.contains("ring buffer was full"));
        assert!(!full, "no fact was dropped");
    }
}
