//! A single measurement: one service, bare or watched or instrumented, under one load.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use adder_tests::{
    agent::Agent,
    certificates::Certificates,
    collector::{Collector, Protocol},
    folder,
    postgres::Postgres,
    python::{App, Environment, EventLoop},
    rate::{Ids, Rate, Turn},
    redis::Redis,
};
use anyhow::{Context as _, Result, ensure};

use crate::{
    kernel::{KernelCost, StatsGuard, Status, map_memory},
    machine::{self, MachineTime, Memory},
};

/// Load before each measurement: imports are done, statements prepared, connections open, code specialised.
const WARM_UP: Duration = Duration::from_secs(2);

/// Load before a service is measured that is watched anew: connections are resolved, statements learned.
const SETTLE: Duration = Duration::from_secs(1);

/// One of the turns in which two services are measured. The speed of a machine that is shared with others changes within seconds.
const TURN: Duration = Duration::from_secs(1);

/// Load before each turn that is not counted: what the agent does a little later has begun, and the service that had the turn before has
/// left its own things in the caches.
const BEFORE: Duration = Duration::from_millis(300);

/// Load while the run times of programs are counted, at most.
const COUNTED: Duration = Duration::from_secs(10);

/// After a turn of the watched one: the agent has done what it has left for later, but for what it collects to send.
const REST: Duration = Duration::from_millis(700);

/// How a service is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    /// Not at all.
    Bare,
    /// By Adder, from outside.
    Adder,
    /// By the OpenTelemetry SDK, from inside.
    Sdk,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Bare, Self::Adder, Self::Sdk];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bare => "bare",
            Self::Adder => "Adder",
            Self::Sdk => "SDK",
        })
    }
}

/// What is asked of the service.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) name: &'static str,
    path: &'static str,
    ids: Ids,
    /// Over TLS, and so are the connections to the servers.
    pub(crate) encrypted: bool,
}

/// A cached answer, one with two lines in the log, and a miss; a cached answer and a large one over TLS. An id of its own makes each
/// request miss, since it is in the key; `plain` keeps it out of the SQL text, so that statements are prepared once, as in most programs.
pub(crate) const ENDPOINTS: [Endpoint; 5] = [
    Endpoint { name: "hit (1 Redis command)", path: "/hit/7", ids: Ids::None, encrypted: false },
    Endpoint { name: "hit and 2 log lines", path: "/logged/7", ids: Ids::None, encrypted: false },
    Endpoint {
        name: "miss (3 queries, 2 Redis commands)",
        path: "/games/7?plain=1",
        ids: Ids::Unique,
        encrypted: false,
    },
    Endpoint { name: "hit over TLS", path: "/hit/7", ids: Ids::None, encrypted: true },
    Endpoint { name: "1 MB over TLS", path: "/bytes/1000000", ids: Ids::None, encrypted: true },
];

/// An endpoint under a number of connections.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) endpoint: &'static Endpoint,
    pub(crate) connections: u32,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.connections == 1 { "" } else { "s" };
        write!(f, "{}, {} connection{plural}", self.endpoint.name, self.connections)
    }
}

/// What one measurement gave.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) turn: Turn,
    /// CPU time of the service; what BPF programs do in its system calls is in it.
    pub(crate) service: Duration,
    /// CPU time of the collector, which competes for the same processors.
    pub(crate) collector: Duration,
    /// CPU time of the thread that makes the load.
    load: Duration,
    /// Time of the machine's processors that went to processes of others, or away, of all that they had, in seconds.
    others: [f64; 2],
    /// Spans per request, as the collector got them.
    pub(crate) spans: f64,
    /// CPU time of the agent.
    pub(crate) agent_cpu: Duration,
    pub(crate) agent: Option<AgentSample>,
    /// Of each of its turns, how many requests it took as a multiple of the bare service's turn beside it.
    pub(crate) pairs: Vec<f64>,
}

impl Sample {
    /// Several loads of the same kind together.
    fn total(parts: &[Self]) -> Self {
        let sum = |time: fn(&Self) -> Duration| parts.iter().map(time).sum::<Duration>();
        Self {
            turn: Turn::total(parts.iter().map(|part| &part.turn)),
            service: sum(|part| part.service),
            collector: sum(|part| part.collector),
            load: sum(|part| part.load),
            others: [0, 1].map(|index| parts.iter().map(|part| part.others[index]).sum()),
            spans: 0.0,
            agent_cpu: Duration::ZERO,
            agent: None,
            pairs: Vec::new(),
        }
    }

    /// How busy the load was itself. Where that is near 1 it is what is measured.
    pub(crate) fn load(&self) -> f64 {
        self.load.as_secs_f64() / self.turn.elapsed.as_secs_f64()
    }

    /// Share of the machine that others used. The kernel counts in ticks: of a single turn it says little.
    pub(crate) fn foreign(&self) -> f64 {
        (self.others[0] / self.others[1]).max(0.0)
    }
}

/// What the agent used meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct AgentSample {
    /// Requests that it has seen, in the warm-up too.
    pub(crate) requests: u64,
    /// Memory at the end of the load.
    pub(crate) memory: Memory,
    /// Memory of the BPF maps.
    pub(crate) maps: u64,
    /// How the system calls were seen, and what was lost.
    pub(crate) status: Status,
}

impl AgentSample {
    /// Two runs of it: what both lost, and the most that either needed.
    fn and(mut self, other: &Self) -> Self {
        self.requests = self.requests.max(other.requests);
        self.memory.resident = self.memory.resident.max(other.memory.resident);
        self.memory.anonymous = self.memory.anonymous.max(other.memory.anonymous);
        self.maps = self.maps.max(other.maps);
        self.status.dropped_facts += other.status.dropped_facts;
        self.status.dropped_spans += other.status.dropped_spans;
        self
    }
}

/// The servers that all measurements share.
pub(crate) struct Rig {
    venv: PathBuf,
    sdk_venv: Option<PathBuf>,
    duration: Duration,
    certificates: Option<Certificates>,
    postgres: Postgres,
    redis: Redis,
    dir: PathBuf,
}

/// Fields end in this order: the agent first, what it exports to last.
struct Subject {
    agent: Option<Agent>,
    app: App,
    collector: Option<Collector>,
}

impl Rig {
    pub(crate) fn start(
        venv: &Path,
        sdk_venv: Option<&Path>,
        duration: Duration,
        encrypted: bool,
    ) -> Result<Self> {
        let dir = folder(if encrypted { "bench-tls" } else { "bench" })?;
        let certificates = encrypted.then(|| Certificates::make(&dir)).transpose()?;
        let tls = certificates.as_ref();
        let postgres = Postgres::start_with(&dir, "log_statement = none", tls)?;
        let redis = Redis::start_with(&dir, false, tls)?;
        Ok(Self {
            venv: venv.into(),
            sdk_venv: sdk_venv.map(Path::to_path_buf),
            duration,
            certificates,
            postgres,
            redis,
            dir,
        })
    }

    /// Measures a case under the SDK, if it is to be measured.
    pub(crate) fn measure_sdk(&mut self, case: &Case) -> Result<Option<Sample>> {
        if self.sdk_venv.is_none() {
            return Ok(None);
        }
        let subject = self.subject(Variant::Sdk)?;
        let mut load = Self::connect(&subject, case)?;
        let warm_up = load.run(WARM_UP)?;
        let mut sample = self.sample(&subject, &mut load, self.duration)?;
        let requests = warm_up.requests() + sample.turn.requests();
        sample.spans = subject.finish()? as f64 / requests as f64;
        Ok(Some(sample))
    }

    /// Measures a case bare and watched: two services in short turns, first one of them watched, then the other.
    pub(crate) fn measure_pair(&mut self, case: &Case) -> Result<[Sample; 2]> {
        let mut services = [self.subject(Variant::Bare)?, self.subject(Variant::Bare)?];
        for service in &services {
            Self::connect(service, case)?.run(WARM_UP)?;
        }
        let (mut bare, mut watched) = (Vec::new(), Vec::new());
        let (mut spans, mut counted, mut seen, mut agent_cpu) = (0, 0, 0, Duration::ZERO);
        let mut agent: Option<AgentSample> = None;
        let halves = 2;
        for _ in 0..halves {
            let [subject, other] = &mut services;
            subject.collector = Some(Collector::start()?.patient());
            subject.agent = self.agent(subject)?;
            let mut loads = [Self::connect(subject, case)?, Self::connect(other, case)?];
            let settled = loads[0].run(SETTLE)?.requests();
            thread::sleep(REST);
            let before = self.times(subject).agent;
            let mut requests = 0;
            for _ in 0..self.duration.as_millis() / TURN.as_millis() / halves {
                // Each is as often the first.
                let is_first = watched.len() % 2 == 0;
                for is_watched in [is_first, !is_first] {
                    if !is_watched {
                        loads[1].run(BEFORE)?;
                        bare.push(self.sample(other, &mut loads[1], TURN)?);
                        continue;
                    }
                    requests += loads[0].run(BEFORE)?.requests();
                    let sample = self.sample(subject, &mut loads[0], TURN)?;
                    requests += sample.turn.requests();
                    watched.push(sample);
                    thread::sleep(REST);
                }
            }
            // All of it, whenever it was done, is for the requests of the watched one.
            agent_cpu += self.times(subject).agent.saturating_sub(before);
            seen += requests;
            let half = self.agent_sample(subject, settled + requests)?;
            agent = match (agent, half) {
                (Some(one), Some(other)) => Some(one.and(&other)),
                (one, other) => one.or(other),
            };
            subject.detach()?;
            spans += subject.spans();
            counted += settled + requests;
            services.swap(0, 1);
        }
        for service in services {
            service.finish()?;
        }
        let pairs = bare.iter().zip(&watched);
        let pairs = pairs.map(|(bare, watched)| watched.turn.rate() / bare.turn.rate()).collect();
        let mut watched = Sample::total(&watched);
        watched.pairs = pairs;
        watched.agent = agent;
        watched.agent_cpu = agent_cpu.mul_f64(watched.turn.requests() as f64 / seen.max(1) as f64);
        watched.spans = spans as f64 / counted as f64;
        Ok([Sample::total(&bare), watched])
    }

    /// One load and what it took.
    fn sample(&mut self, subject: &Subject, load: &mut Rate, duration: Duration) -> Result<Sample> {
        let before = self.times(subject);
        let turn = load.run(duration).with_context(|| format!("the load on {}", subject.app.service()))?;
        let after = self.times(subject);
        let used = |time: fn(&Times) -> Duration| time(&after).saturating_sub(time(&before));
        let seconds = |time: fn(&Times) -> Duration| used(time).as_secs_f64();
        Ok(Sample {
            turn,
            service: used(|times| times.service),
            collector: if subject.collector.is_some() { used(Times::collector) } else { Duration::ZERO },
            load: used(|times| times.load),
            others: [
                seconds(|times| times.machine.busy) - seconds(Times::known),
                seconds(|times| times.machine.all),
            ],
            spans: 0.0,
            agent_cpu: Duration::ZERO,
            agent: None,
            pairs: Vec::new(),
        })
    }

    fn agent_sample(&self, subject: &Subject, requests: u64) -> Result<Option<AgentSample>> {
        let Some(agent) = &subject.agent else { return Ok(None) };
        let pid = agent.process().pid();
        let (memory, maps) = (Memory::of(pid), map_memory(pid));
        let status = Status::fresh(&self.socket())?;
        Ok(Some(AgentSample { requests, memory, maps, status }))
    }

    /// Run times of Adder's programs under a load; `None` where the kernel may not be asked to count them. Apart
    /// from the measurements, since counting takes time of its own.
    pub(crate) fn kernel_cost(&mut self, case: &Case) -> Result<Option<KernelCost>> {
        let Some(_guard) = StatsGuard::enable() else { return Ok(None) };
        let subject = self.subject(Variant::Adder)?;
        let mut load = Self::connect(&subject, case)?;
        load.run(WARM_UP)?;
        let before = Status::fresh(&self.socket())?;
        let turn = load.run(self.duration.min(COUNTED))?;
        let after = Status::fresh(&self.socket())?;
        let title = format!("{case}, attached by {}", after.attached_by);
        subject.finish()?;
        Ok(Some(KernelCost::new(title, &before, &after, turn.requests())))
    }

    fn subject(&self, variant: Variant) -> Result<Subject> {
        let mut environment = Environment::new("games-api").servers(&self.postgres, &self.redis);
        if let Some(certificates) = &self.certificates {
            environment = environment.encrypted(certificates);
        }
        let collector = if variant == Variant::Bare { None } else { Some(Collector::start()?.patient()) };
        let (venv, environment) = match (&collector, variant, &self.sdk_venv) {
            (Some(collector), Variant::Sdk, Some(venv)) => (venv, environment.sdk(collector)),
            _ => (&self.venv, environment),
        };
        let app = App::uvicorn(venv, &self.dir, "games:app", EventLoop::Uvloop, 1, &environment)?;
        let mut subject = Subject { agent: None, app, collector };
        if variant == Variant::Adder {
            subject.agent = self.agent(&subject)?;
        }
        Ok(subject)
    }

    /// An agent that watches the service and reports to its collector.
    fn agent(&self, subject: &Subject) -> Result<Option<Agent>> {
        let Some(collector) = &subject.collector else { return Ok(None) };
        let config = self.dir.join("adder.toml");
        fs::write(&config, format!("[status]\nsocket = {:?}\n", self.socket().display().to_string()))?;
        let pid = subject.app.pid().to_string();
        let arguments = ["run", "--config", &config.display().to_string(), "--pid", &pid];
        Ok(Some(Agent::start(&self.dir, &arguments, collector.env(Protocol::Http))?))
    }

    fn connect(subject: &Subject, case: &Case) -> Result<Rate> {
        let Endpoint { path, ids, .. } = case.endpoint;
        Rate::connect(subject.app.port(), subject.app.tls().as_ref(), (path, *ids), case.connections)
    }

    fn times(&mut self, subject: &Subject) -> Times {
        let sum = |pids: Vec<u32>| pids.into_iter().filter_map(machine::cpu_time).sum::<Duration>();
        let servers = [self.postgres.process().pid(), self.redis.process().pid()];
        Times {
            machine: MachineTime::now(),
            service: sum(subject.app.process().group()),
            agent: subject.agent.as_ref().map_or(Duration::ZERO, |agent| sum(agent.process().group())),
            servers: servers.into_iter().map(|pid| sum(machine::family(pid))).sum(),
            load: machine::thread_cpu_time(),
            rig: machine::own_cpu_time(),
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("adder.sock")
    }
}

impl Subject {
    /// Ends the agent, upon which it sends what it has.
    fn detach(&mut self) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            let (status, lines) = agent.stop()?;
            ensure!(status.success(), "adder ended with {status}: {}", lines.join("\n"));
        }
        Ok(())
    }

    /// How many spans its collector has got, which is not needed any more.
    fn spans(&mut self) -> usize {
        self.collector.take().map_or(0, |collector| collector.spans().len())
    }

    /// Ends agent and service, upon which they send what they have; the number of spans.
    fn finish(mut self) -> Result<usize> {
        self.detach()?;
        self.app.stop()?;
        Ok(self.spans())
    }
}

/// CPU times at a moment.
struct Times {
    machine: MachineTime,
    service: Duration,
    agent: Duration,
    servers: Duration,
    /// Of this thread, which makes the load.
    load: Duration,
    /// Of this process, the load and the collector among it.
    rig: Duration,
}

impl Times {
    fn known(&self) -> Duration {
        self.service + self.agent + self.servers + self.rig
    }

    fn collector(&self) -> Duration {
        self.rig.saturating_sub(self.load)
    }
}
