//! What the agent's kernel side costs: run times of its programs, memory of its maps.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    io::Read as _,
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The switch for run times (`bpf_stats_enabled` in the kernel's `Documentation/admin-guide/sysctl/kernel.rst`).
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The agent renews its status once a second.
const STATUS_PERIOD: Duration = Duration::from_millis(1500);

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Counts the run times of BPF programs while it lives; the former setting returns with its end.
#[derive(Debug)]
pub(crate) struct StatsGuard {
    former: String,
}

impl StatsGuard {
    /// `None` where that is not permitted.
    pub(crate) fn enable() -> Option<Self> {
        let former = fs::read_to_string(STATS).ok()?;
        fs::write(STATS, "1").ok()?;
        Some(Self { former })
    }
}

impl Drop for StatsGuard {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATS, &self.former) {
            eprintln!("bench: {STATS} could not be set back to {}: {error}", self.former.trim());
        }
    }
}

/// Run count and time of a program.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Runs {
    count: u64,
    time: Duration,
}

/// What the agent says of itself at a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    /// Programs by name.
    pub(crate) programs: BTreeMap<String, Runs>,
    /// How the system calls are seen.
    pub(crate) attached_by: String,
    /// Facts that found no room in the ring buffer.
    pub(crate) dropped_facts: u64,
    /// Spans that no collector got.
    pub(crate) dropped_spans: u64,
}

impl Status {
    /// The next one that the agent publishes, so that it is at most a few milliseconds old.
    pub(crate) fn fresh(socket: &Path) -> Result<Self> {
        let first = ask(socket)?;
        let start = Instant::now();
        loop {
            thread::sleep(Duration::from_millis(20));
            let text = ask(socket)?;
            // While run times are counted each one differs: there are always system calls.
            if text != first || start.elapsed() >= STATUS_PERIOD {
                return Self::parse(&text);
            }
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("the agent's status")?;
        let Value::Array(programs) = &value["programs"] else { bail!("no programs in the status: {text}") };
        let programs = programs.iter().map(|program| {
            let name = program["name"].as_str().unwrap_or("?").to_string();
            let time = Duration::from_nanos(program["nanoseconds"].as_u64().unwrap_or(0));
            (name, Runs { count: program["runs"].as_u64().unwrap_or(0), time })
        });
        let pairs = |name: &str| value[name].as_array().cloned().unwrap_or_default();
        let is_loss = |name: &str| name == "rejected" || name.starts_with("dropped");
        let export = pairs("export");
        let dropped_spans = export.iter().filter(|pair| pair[0].as_str().is_some_and(is_loss));
        Ok(Self {
            programs: programs.collect(),
            attached_by: value["attached_by"].as_str().unwrap_or("?").to_string(),
            dropped_facts: pairs("dropped_facts").iter().filter_map(|pair| pair[1].as_u64()).sum(),
            dropped_spans: dropped_spans.filter_map(|pair| pair[1].as_u64()).sum(),
        })
    }
}

fn ask(socket: &Path) -> Result<String> {
    let read = || -> io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    read().with_context(|| format!("asking the agent at {}", socket.display()))
}

/// Memory that the kernel charges for the maps of a process (`memlock` in `bpf_map_show_fdinfo`), bytes.
pub(crate) fn map_memory(pid: u32) -> u64 {
    let entries = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let maps = entries.filter_map(|entry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        let field = |name| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        // Several descriptors may stand for one map.
        Some((field("map_id:")?, field("memlock:")?))
    });
    maps.collect::<BTreeMap<_, _>>().into_values().sum()
}

/// Run times of the programs during a load.
#[derive(Debug)]
pub(crate) struct KernelCost {
    title: String,
    requests: u64,
    programs: Vec<(String, Runs)>,
}

impl KernelCost {
    /// The difference of two statuses between which there were `requests`.
    pub(crate) fn new(title: String, before: &Status, after: &Status, requests: u64) -> Self {
        let programs = after.programs.iter().map(|(name, runs)| {
            let former = before.programs.get(name).copied().unwrap_or_default();
            let count = runs.count.saturating_sub(former.count);
            (name.clone(), Runs { count, time: runs.time.saturating_sub(former.time) })
        });
        let mut programs: Vec<_> = programs.filter(|(_, runs)| runs.count > 0).collect();
        programs.sort_by_key(|(_, runs)| std::cmp::Reverse(runs.time));
        Self { title, requests, programs }
    }
}

impl fmt::Display for KernelCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "BPF programs, {} ({} requests)", self.title, self.requests)?;
        writeln!(f, "  {:<24} {:>12} {:>8} {:>12}", "program", "runs/request", "ns/run", "µs/request")?;
        let line = |f: &mut fmt::Formatter<'_>, name: &str, runs: &Runs| {
            let per_request = 1.0 / self.requests.max(1) as f64;
            writeln!(
                f,
                "  {name:<24} {:>12.1} {:>8.0} {:>12.2}",
                runs.count as f64 * per_request,
                runs.time.as_nanos() as f64 / runs.count.max(1) as f64,
                runs.time.as_secs_f64() * 1e6 * per_request
            )
        };
        for (name, runs) in &self.programs {
            line(f, name, runs)?;
        }
        let count = self.programs.iter().map(|(_, runs)| runs.count).sum();
        let time = self.programs.iter().map(|(_, runs)| runs.time).sum();
        line(f, "all", &Runs { count, time })
    }
}
