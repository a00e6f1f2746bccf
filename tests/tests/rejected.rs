//! Claim 8: what cannot work says so in one line, with the right exit code, and disturbs nobody.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use adder_tests::{
    agent::Agent,
    collector::{Answer, Collector, Protocol},
    folder, root, wait_until,
};

const LIMIT: Duration = Duration::from_secs(30);

struct Ended {
    code: Option<i32>,
    lines: Vec<String>,
}

/// Runs `adder` to its end.
fn adder(arguments: &[&str], variables: &[(String, String)]) -> Ended {
    let dir = folder("rejected").expect("a folder");
    let agent = Agent::spawn(&dir, arguments, variables.iter().cloned()).expect("adder starts");
    let (status, lines) = agent.wait(LIMIT).expect("adder ends");
    Ended { code: status.code(), lines }
}

/// A process that is no Python and lives until it is dropped.
struct Sleeper(std::process::Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("120").spawn().expect("sleep starts"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn without_rights_one_line_says_what_to_grant() {
    let dir = folder("unprivileged").expect("a folder");
    let program = dir.join("adder");
    // The folder of the repository may be closed to others.
    let copy = std::env::temp_dir().join(format!("adder-{}", std::process::id()));
    fs::copy(root().join("target/release/adder"), &copy).expect("a copy");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&copy)
        .args(["run", "--pid", "1"])
        .stdin(Stdio::null())
        .output()
        .expect("setpriv runs");
    fs::remove_file(&copy).expect("the copy is removed");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{} {text}", program.display());
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1, "one line: {lines:#?}");
    assert!(lines[0].contains("run as root") && lines[0].contains("CAP_BPF"), "{}", lines[0]);
}

#[test]
fn a_wrong_configuration_is_named_by_file_line_and_key() {
    let dir = folder("config").expect("a folder");
    let file = dir.join("adder.toml");
    fs::write(&file, "[capture]\nsqll = \"raw\"\n").expect("a file");
    let name = file.display().to_string();
    let ended = adder(&["run", "--config", &name, "--pid", "1"], &[]);
    assert_eq!(ended.code, Some(2));
    assert_eq!(ended.lines.len(), 1, "one line: {:#?}", ended.lines);
    assert!(
        ended.lines[0].contains(&format!("{name}:2")) && ended.lines[0].contains("sqll"),
        "{}",
        ended.lines[0]
    );
    let ended = adder(&["run", "--config", "/nonexistent.toml"], &[]);
    assert_eq!((ended.code, ended.lines.len()), (Some(2), 1), "{:#?}", ended.lines);
}

#[test]
fn a_process_that_is_not_there_ends_the_run() {
    let ended = adder(&["run", "--pid", "4194000"], &[]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.lines.last().is_some_and(|line| line.contains("--pid")), "{:#?}", ended.lines);
}

#[test]
fn a_collector_that_refuses_the_credentials_ends_the_run() {
    let collector = Collector::start().expect("a collector");
    collector.answer(Answer::Unauthorized);
    for protocol in [Protocol::Grpc, Protocol::Http] {
        let sleeper = Sleeper::start();
        let ended = adder(&["run", "--pid", &sleeper.pid()], &collector.env(protocol));
        assert_eq!(ended.code, Some(1), "{:#?}", ended.lines);
        assert_eq!(ended.lines.len(), 1, "one line: {:#?}", ended.lines);
        assert!(ended.lines[0].contains("OTEL_EXPORTER_OTLP_HEADERS"), "{}", ended.lines[0]);
    }
}

#[test]
fn a_collector_that_cannot_be_reached_is_a_warning() {
    let sleeper = Sleeper::start();
    let port = adder_tests::free_port().expect("a port");
    let dir = folder("unreachable").expect("a folder");
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"));
    let agent =
        Agent::start(&dir, &["run", "--pid", &sleeper.pid()], [endpoint]).expect("adder starts all the same");
    let named = agent.lines().iter().any(|line| line.contains("WARN") && line.contains(&port.to_string()));
    assert!(named, "the endpoint is named: {:#?}", agent.lines());
    let (status, _) = agent.stop().expect("adder stops");
    assert!(status.success());
}

#[test]
fn a_program_that_is_no_python_is_watched_by_thread_and_says_so() {
    let sleeper = Sleeper::start();
    let dir = folder("no-python").expect("a folder");
    let socket = dir.join("status.sock");
    let config = dir.join("adder.toml");
    fs::write(&config, format!("[status]\nsocket = {:?}\n", socket.display().to_string())).expect("a file");
    let config = config.display().to_string();
    let none: [(&str, &str); 0] = [];
    let agent = Agent::start(&dir, &["run", "--config", &config, "--pid", &sleeper.pid()], none)
        .expect("adder starts");
    let mut said = String::new();
    let told = wait_until(LIMIT, || {
        let output =
            Command::new(root().join("target/release/adder")).args(["status", "--config", &config]).output();
        said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        said.contains("no CPython")
    });
    assert!(told, "{said}");
    // The last watched process ends, and with it the run.
    drop(sleeper);
    let (status, _) = agent.wait(LIMIT).expect("adder ends by itself");
    assert!(status.success());
}

#[test]
fn a_file_that_is_no_recording_is_refused() {
    let ended = adder(&["replay", "/etc/hostname"], &[]);
    assert_eq!((ended.code, ended.lines.len()), (Some(2), 1), "{:#?}", ended.lines);
    assert!(ended.lines[0].contains("is not a recording"), "{}", ended.lines[0]);
}

#[test]
fn status_without_an_agent_says_so() {
    let dir = folder("no-agent").expect("a folder");
    let config = dir.join("adder.toml");
    fs::write(&config, format!("[status]\nsocket = {:?}\n", dir.join("none.sock").display().to_string()))
        .expect("a file");
    let ended = adder(&["status", "--config", &config.display().to_string()], &[]);
    assert_eq!((ended.code, ended.lines.len()), (Some(1), 1), "{:#?}", ended.lines);
}
