//! A throw-away `RabbitMQ`; what its firehose reports is the ground truth.
//!
//! A node has a name, an Erlang port mapper and files of its own, and listens on loopback alone.

use std::{
    env,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{certificates::Certificates, free_port, process::Process, wait_until};

/// How long the consumers may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where Debian's package has its programs.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// A running broker.
#[derive(Debug)]
pub struct RabbitMq {
    _mapper: Process,
    process: Process,
    home: PathBuf,
    port: u16,
    /// The port of encrypted connections, and the authority that its clients are to trust.
    tls: Option<(u16, PathBuf)>,
    environment: Vec<(String, String)>,
}

impl RabbitMq {
    /// A broker with its files in the folder `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, None)
    }

    /// A broker whose URL, with certificates, is one for encrypted connections.
    pub fn start_with(dir: &Path, tls: Option<&Certificates>) -> Result<Self> {
        let home = dir.join("rabbitmq");
        fs::create_dir_all(home.join("home"))?;
        let (port, mapper_port, distribution) = (free_port()?, free_port()?, free_port()?);
        let config = home.join("rabbitmq.conf");
        let mut lines = format!("listeners.tcp.1 = 127.0.0.1:{port}\nlog.file.level = warning\n");
        let tls = tls.map(|tls| anyhow::Ok((free_port()?, tls))).transpose()?;
        if let Some((port, tls)) = &tls {
            write!(lines, "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.verify = verify_none\n")?;
            for (name, path) in
                [("cacertfile", &tls.authority), ("certfile", &tls.certificate), ("keyfile", &tls.key)]
            {
                writeln!(lines, "ssl_options.{name} = {}", path.display())?;
            }
        }
        fs::write(&config, lines)?;
        fs::write(home.join("plugins"), "[].\n")?;
        let path = |name: &str| home.join(name).display().to_string();
        let environment: Vec<(String, String)> = [
            ("RABBITMQ_NODENAME", format!("adder{port}@localhost")),
            ("RABBITMQ_CONFIG_FILE", config.display().to_string()),
            ("RABBITMQ_MNESIA_BASE", path("mnesia")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
            ("RABBITMQ_DIST_PORT", distribution.to_string()),
            ("RABBITMQ_CTL_ERL_ARGS", "-proto_dist inet_tcp".to_owned()),
            // One scheduler thread that does not spin: the machine is small, and the load is not for the broker.
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none".to_owned(),
            ),
            ("ERL_EPMD_PORT", mapper_port.to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("HOME", path("home")),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        let mut mapper = Command::new("epmd");
        mapper.args(["-port", &mapper_port.to_string(), "-address", "127.0.0.1"]);
        let mapper = Process::start(&mut mapper, &home.join("epmd.log"), libc::SIGKILL)?;
        let process = serve(&home, &environment, port)?;
        let tls = tls.map(|(port, tls)| (port, tls.authority.clone()));
        if let Some((port, _)) = &tls {
            process.wait_ready(|| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok())?;
        }
        Ok(Self { _mapper: mapper, process, home, port, tls, environment })
    }

    /// Its URL, with the guest's account, which is for loopback only.
    pub fn url(&self) -> String {
        match &self.tls {
            Some((port, authority)) => {
                format!("amqps://guest:guest@localhost:{port}/?cafile={}", authority.display())
            }
            None => format!("amqp://guest:guest@127.0.0.1:{}/", self.port),
        }
    }

    /// The broker's process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Lets it hang: its connections stand, but nobody answers.
    pub fn freeze(&self) {
        for pid in self.process.group() {
            // SAFETY: kill has no memory effects; the group is the broker's own.
            unsafe { libc::kill(pid as i32, libc::SIGSTOP) };
        }
        assert!(
            wait_until(Duration::from_secs(10), || self.process.is_stopped()),
            "the broker does not stop"
        );
    }

    /// Ends it at once, without a word to anybody.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(|_| ())
    }

    /// Starts it again, with what it had on disk.
    pub fn start_again(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = serve(&self.home, &self.environment, self.port)?;
        Ok(())
    }

    /// Makes the broker report each publish and each delivery to `amq.rabbitmq.trace`.
    pub fn trace_on(&self) -> Result<()> {
        self.control(&["trace_on"]).map(|_| ())
    }

    /// Waits until no queue holds a message, delivered or not.
    pub fn wait_empty(&self) -> Result<()> {
        // An event that is about to be published is in no queue: twice in a row is empty.
        let mut empty = 0;
        let done = wait_until(PATIENCE, || {
            let messages = self.control(&["list_queues", "messages", "--no-table-headers"]);
            let all = messages.is_ok_and(|text| text.split_whitespace().all(|count| count == "0"));
            empty = if all { empty + 1 } else { 0 };
            empty == 2
        });
        ensure!(done, "messages are left in the queues: {:?}", self.control(&["list_queues"]));
        Ok(())
    }

    /// Runs `rabbitmqctl`; what it says.
    pub fn control(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program("rabbitmqctl"));
        command.args(["-q", "-t", "30"]).args(arguments).envs(self.environment.iter().cloned());
        let output = command.output().context("starting rabbitmqctl")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rabbitmqctl {arguments:?}: {errors}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn serve(home: &Path, environment: &[(String, String)], port: u16) -> Result<Process> {
    let mut command = Command::new(program("rabbitmq-server"));
    command.envs(environment.iter().cloned());
    let process = Process::start(&mut command, &home.join("rabbitmq.log"), libc::SIGTERM)?;
    process.wait_ready(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
    Ok(process)
}

/// The package's own program: the one on the path insists on a user of its own.
fn program(name: &str) -> PathBuf {
    let packaged = Path::new(PROGRAMS).join(name);
    if packaged.exists() {
        return packaged;
    }
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file()).unwrap_or(packaged)
}
