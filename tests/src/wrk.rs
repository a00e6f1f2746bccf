//! wrk (<https://github.com/wg/wrk>) where only rate and latency count: it costs the machine less than [`crate::load`].

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::load::rid_prefix;

/// What wrk measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measurement {
    /// Responses received.
    pub requests: u64,
    /// Responses with a status of 400 or more, and broken connections.
    pub errors: u64,
    /// Wall time.
    pub elapsed: Duration,
    /// Median latency.
    pub median: Duration,
    /// 99th percentile of the latency.
    pub p99: Duration,
    /// Largest latency.
    pub max: Duration,
}

impl Measurement {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }
}

/// Whether each request carries an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// `rid=…` in the query, another for each request.
    Unique,
    /// The path as it is.
    None,
}

/// Runs wrk with one thread against a port on 127.0.0.1, by `http` or `https`; its script is written to the folder `dir`.
pub fn run(
    dir: &Path,
    (scheme, port): (&str, u16),
    path: &str,
    ids: Ids,
    connections: u32,
    duration: Duration,
) -> Result<Measurement> {
    let script = dir.join("wrk.lua");
    fs::write(&script, lua(path, ids))?;
    let output = Command::new("wrk")
        .args([
            "-t",
            "1",
            "-c",
            &connections.to_string(),
            "-d",
            &format!("{}s", duration.as_secs().max(1)),
            "-s",
        ])
        .arg(&script)
        .arg(format!("{scheme}://127.0.0.1:{port}{path}"))
        .output()
        .context("starting wrk")?;
    ensure!(output.status.success(), "wrk: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).with_context(|| format!("wrk said: {text}"))
}

fn lua(path: &str, ids: Ids) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    let request = match ids {
        Ids::None => String::new(),
        Ids::Unique => format!(
            "local n = 0\n\
             request = function()\n  n = n + 1\n  return wrk.format(\"GET\", \"{path}{joint}rid={}\" .. n)\nend\n",
            rid_prefix()
        ),
    };
    // wrk counts latencies in microseconds.
    format!(
        "{request}done = function(summary, latency, requests)\n  local e = summary.errors\n  io.write(string.format(\n    \
         \"measured %d %d %d %d %d %d\\n\", summary.requests, summary.duration,\n    \
         e.connect + e.read + e.write + e.status + e.timeout,\n    \
         latency:percentile(50), latency:percentile(99), latency.max))\nend\n"
    )
}

fn parse(output: &str) -> Option<Measurement> {
    let line = output.lines().find_map(|line| line.strip_prefix("measured "))?;
    let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let [requests, elapsed, errors, median, p99, max] = numbers[..] else { return None };
    let micros = Duration::from_micros;
    Some(Measurement {
        requests,
        errors,
        elapsed: micros(elapsed),
        median: micros(median),
        p99: micros(p99),
        max: micros(max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_script_is_read() {
        let text = "Running 1s test\nmeasured 100 2000000 3 400 900 1000\n";
        let measurement = parse(text).unwrap();
        assert_eq!((measurement.requests, measurement.errors, measurement.rate()), (100, 3, 50.0));
        assert_eq!(measurement.p99, Duration::from_micros(900));
        assert_eq!(parse("measured 1 2"), None);
    }
}
