//! What all measurements together say.

use std::{collections::BTreeMap, fmt};

use crate::rig::{AgentSample, Case, Sample, Variant};

const MEGABYTE: f64 = 1e6;

/// Share of the machine that others may use, and of the bare rate by which rounds may differ, before the results are
/// called noisy.
const QUIET: f64 = 0.1;

/// The samples of all rounds.
pub(crate) struct Results {
    cases: Vec<Case>,
    /// By case and variant, one sample for each round.
    samples: BTreeMap<(usize, Variant), Vec<Sample>>,
}

/// A number that was measured once in each round.
#[derive(Clone, Copy, Debug)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        };
        Self { median, min: at(0), max: at(values.len().wrapping_sub(1)) }
    }

    /// Distance of the extremes, as a share of the median.
    fn width(self) -> f64 {
        (self.max - self.min) / self.median
    }
}

impl Results {
    pub(crate) fn new(cases: Vec<Case>) -> Self {
        Self { cases, samples: BTreeMap::new() }
    }

    /// The next round's sample of a case, by its index.
    pub(crate) fn push(&mut self, case: usize, variant: Variant, sample: Sample) {
        self.samples.entry((case, variant)).or_default().push(sample);
    }

    /// One line: what Adder may cost, and whether it stays within that. The worst case counts.
    pub(crate) fn aims(&self) -> String {
        let worst = |name: &str, at_least: bool, limit: f64, unit: &str, value: &dyn Fn(usize) -> f64| {
            let values = (0..self.cases.len()).map(|case| (value(case), case));
            let ordered = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0);
            let found = if at_least { values.min_by(ordered) } else { values.max_by(ordered) };
            let Some((value, case)) = found else { return format!("{name}: not measured") };
            let (sign, reached) = if at_least { (">=", value >= limit) } else { ("<=", value <= limit) };
            let verdict = if reached { "reached" } else { "MISSED" };
            let digits = if unit.is_empty() { 2 } else { 1 };
            format!("{name} {sign} {limit}{unit}: {verdict} ({value:.digits$}{unit}, {})", self.cases[case])
        };
        let adder = |case: usize, value: fn(&Sample) -> f64| self.ratio(case, Variant::Adder, value).median;
        [
            worst("throughput ratio", true, 0.95, "", &|case| adder(case, rate)),
            worst("p50 ratio", false, 1.05, "", &|case| adder(case, p50)),
            worst("agent CPU per service CPU", false, 0.1, "", &|case| {
                self.spread(case, Variant::Adder, share).median
            }),
            worst("agent RSS", false, 60.0, " MB", &|case| self.spread(case, Variant::Adder, resident).max),
            worst("BPF maps", false, 32.0, " MB", &|case| self.spread(case, Variant::Adder, maps).max),
        ]
        .join("; ")
    }

    /// A line that says how far throughput and latency can be trusted, where that is not far.
    pub(crate) fn noise(&self) -> Option<String> {
        let foreign = Spread::of(self.samples.values().flatten().map(Sample::foreign));
        let cases = 0..self.cases.len();
        let width = cases.map(|case| self.spread(case, Variant::Bare, rate).width()).fold(0.0, f64::max);
        (foreign.median > QUIET || width > QUIET).then(|| {
            format!(
                "The machine was not quiet: others used {:.0}% of it (median; up to {:.0}%), bare services differed by \
                 up to {:.0}% between rounds. CPU per request says more here than throughput and latency.",
                100.0 * foreign.median,
                100.0 * foreign.max,
                100.0 * width
            )
        })
    }

    fn of(&self, case: usize, variant: Variant) -> &[Sample] {
        self.samples.get(&(case, variant)).map_or(&[], Vec::as_slice)
    }

    fn spread(&self, case: usize, variant: Variant, value: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(self.of(case, variant).iter().map(value))
    }

    /// A value as a multiple of the bare service's in the same round.
    fn ratio(&self, case: usize, variant: Variant, value: impl Fn(&Sample) -> f64) -> Spread {
        let pairs = self.of(case, variant).iter().zip(self.of(case, Variant::Bare));
        Spread::of(pairs.map(|(sample, bare)| value(sample) / value(bare)))
    }

    fn case(&self, f: &mut fmt::Formatter<'_>, index: usize) -> fmt::Result {
        writeln!(f, "\n{}", self.cases[index])?;
        writeln!(
            f,
            "  {:<6} {:>8} {:>17} {:>8} {:>6} {:>8} {:>6} {:>11} {:>17} {:>9} {:>7} {:>9} {:>6} {:>5} {:>8}",
            "",
            "req/s",
            "ratio [min, max]",
            "p50 µs",
            "ratio",
            "p99 µs",
            "ratio",
            "service µs",
            "ratio [min, max]",
            "agent µs",
            "share",
            "coll. µs",
            "spans",
            "load",
            "foreign"
        )?;
        for variant in Variant::ALL.into_iter().filter(|variant| !self.of(index, *variant).is_empty()) {
            let median = |value: fn(&Sample) -> f64| self.spread(index, variant, value).median;
            let ratio = |value: fn(&Sample) -> f64| self.ratio(index, variant, value).median;
            let with_extremes = |value: fn(&Sample) -> f64| {
                let Spread { median, min, max } = self.ratio(index, variant, value);
                format!("{median:.3} [{min:.2}, {max:.2}]")
            };
            let [agent, share] = match variant {
                Variant::Adder => [format!("{:.1}", median(agent)), format!("{:.3}", median(share))],
                Variant::Bare | Variant::Sdk => [String::new(), String::new()],
            };
            writeln!(
                f,
                "  {variant:<6} {:>8.0} {:>17} {:>8.0} {:>6.2} {:>8.0} {:>6.2} {:>11.1} {:>17} {agent:>9} {share:>7} {:>9.1} {:>6.1} {:>4.0}% {:>7.0}%",
                median(rate),
                with_extremes(rate),
                median(p50),
                ratio(p50),
                median(p99),
                ratio(p99),
                median(service),
                with_extremes(service),
                median(collector),
                median(|sample| sample.spans),
                100.0 * median(Sample::load),
                100.0 * median(Sample::foreign),
            )?;
        }
        let width = |variant| 100.0 * self.spread(index, variant, rate).width();
        let pairs: Vec<f64> =
            self.of(index, Variant::Adder).iter().flat_map(|sample| sample.pairs.iter().copied()).collect();
        let (mean, error) = mean(&pairs);
        writeln!(
            f,
            "  noise: (max - min) / median of req/s over rounds: bare {:.0}%, Adder {:.0}%; ratio of {} pairs of turns: \
             {mean:.3} with a standard error of {error:.3}",
            width(Variant::Bare),
            width(Variant::Adder),
            pairs.len(),
        )
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "Medians over rounds; a ratio is to the bare service of the same round. CPU is per request. `share` is \
             the agent's CPU per service CPU, `coll.` the CPU of the collector (an Adder or SDK user runs it \
             elsewhere), `spans` what it got per request, `load` how busy the load was itself, `foreign` the part of the \
             machine that others used. The bare service runs beside an agent that watches another: where all system calls \
             are hooked (tp_btf, raw_tp), its own are, too."
        )?;
        for index in 0..self.cases.len() {
            self.case(f, index)?;
        }
        let agents: Vec<_> =
            self.samples.values().flatten().filter_map(|sample| sample.agent.as_ref()).collect();
        let Some(first) = agents.first() else { return Ok(()) };
        let largest = |value: fn(&AgentSample) -> u64| {
            agents.iter().map(|agent| value(agent)).max().unwrap_or(0) as f64 / MEGABYTE
        };
        writeln!(
            f,
            "\nAdder (attached by {}): RSS at most {:.1} MB, of it anonymous {:.1} MB, after at most {} requests; \
             BPF maps {:.1} MB; facts dropped {}, spans dropped {}",
            first.status.attached_by,
            largest(|agent| agent.memory.resident),
            largest(|agent| agent.memory.anonymous),
            agents.iter().map(|agent| agent.requests).max().unwrap_or(0),
            largest(|agent| agent.maps),
            agents.iter().map(|agent| agent.status.dropped_facts).sum::<u64>(),
            agents.iter().map(|agent| agent.status.dropped_spans).sum::<u64>(),
        )
    }
}

/// The geometric mean of ratios, and its standard error.
fn mean(ratios: &[f64]) -> (f64, f64) {
    let count = ratios.len() as f64;
    let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / count;
    let variance = ratios.iter().map(|ratio| (ratio.ln() - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean.exp(), mean.exp() * (variance / count).sqrt())
}

fn rate(sample: &Sample) -> f64 {
    sample.turn.rate()
}

fn p50(sample: &Sample) -> f64 {
    sample.turn.quantile(0.5).as_secs_f64() * 1e6
}

fn p99(sample: &Sample) -> f64 {
    sample.turn.quantile(0.99).as_secs_f64() * 1e6
}

/// CPU of the service per request, µs.
fn service(sample: &Sample) -> f64 {
    sample.service.as_secs_f64() * 1e6 / sample.turn.requests() as f64
}

fn collector(sample: &Sample) -> f64 {
    sample.collector.as_secs_f64() * 1e6 / sample.turn.requests() as f64
}

/// CPU of the agent per request, µs.
fn agent(sample: &Sample) -> f64 {
    sample.agent_cpu.as_secs_f64() * 1e6 / sample.turn.requests() as f64
}

fn share(sample: &Sample) -> f64 {
    agent(sample) / service(sample)
}

fn resident(sample: &Sample) -> f64 {
    sample.agent.as_ref().map_or(0.0, |agent| agent.memory.resident as f64 / MEGABYTE)
}

fn maps(sample: &Sample) -> f64 {
    sample.agent.as_ref().map_or(0.0, |agent| agent.maps as f64 / MEGABYTE)
}
