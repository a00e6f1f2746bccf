//! Processes: which to watch, and who they are.

use std::{
    collections::HashMap,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use crate::{
    fact::{OutputInfo, ProcessInfo},
    logs::lines::Buffering,
};

/// Programs that run an application named in their arguments.
const RUNNERS: [&str; 9] =
    ["uvicorn", "gunicorn", "hypercorn", "daphne", "celery", "flask", "granian", "waitress-serve", "fastapi"];

/// Ids of all processes.
pub fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// The processes that `pid` has started, and theirs.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for child in processes() {
        if let Some(parent) = parent(child) {
            children.entry(parent).or_default().push(child);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(next) = open.pop() {
        for child in children.remove(&next).unwrap_or_default() {
            found.push(child);
            open.push(child);
        }
    }
    found
}

/// Whether a process looks like `CPython`, and fits one of the patterns where there are any.
pub fn wanted(pid: u32, patterns: &[String]) -> bool {
    if pid == std::process::id() {
        return false;
    }
    let Ok(executable) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let executable = executable.to_string_lossy();
    let arguments = arguments(pid);
    if patterns.is_empty() {
        return looks_like_python(&executable);
    }
    patterns.iter().any(|pattern| {
        let name = executable.rsplit('/').next().unwrap_or_default();
        glob(pattern, &executable)
            || glob(pattern, name)
            || arguments.iter().take(4).any(|word| glob(pattern, word) || glob(pattern, base(word)))
    })
}

fn looks_like_python(executable: &str) -> bool {
    let name = base(executable);
    name.starts_with("python") || name.starts_with("uwsgi")
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// Shell patterns with `*` and `?`, over the whole text.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut back = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p, t));
                p += 1;
            }
            Some(letter) if *letter == b'?' || *letter == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match back {
                Some((star, from)) => {
                    p = star + 1;
                    t = from + 1;
                    back = Some((star, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|letter| *letter == b'*')
}

/// The parent of a process.
pub fn parent(pid: u32) -> Option<u32> {
    stat_field(pid, 1)?.parse().ok()
}

/// Field of `/proc/PID/stat`, counted from 0 behind the name in parentheses (`state` is 0).
fn stat_field(pid: u32, field: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = stat.rsplit_once(") ")?.1;
    rest.split(' ').nth(field).map(str::to_owned)
}

fn arguments(pid: u32) -> Vec<String> {
    split_zero(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
}

fn environment(pid: u32) -> HashMap<String, String> {
    split_zero(&fs::read(format!("/proc/{pid}/environ")).unwrap_or_default())
        .into_iter()
        .filter_map(|entry| entry.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())))
        .collect()
}

fn split_zero(bytes: &[u8]) -> Vec<String> {
    bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into())
        .collect()
}

/// What the resource of a process says. `extra` comes from the agent's own `OTEL_RESOURCE_ATTRIBUTES`.
pub fn info(pid: u32, extra: &[(String, String)]) -> ProcessInfo {
    let environment = environment(pid);
    let arguments = arguments(pid);
    let container = container(pid);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let own_pid = own_pid(pid);
    let mut attributes: Vec<(String, String)> = Vec::new();
    let mut set = |key: &str, value: String| {
        if !value.is_empty() && !attributes.iter().any(|(known, _)| known == key) {
            attributes.push((key.to_owned(), value));
        }
    };
    let declared = parse_attributes(environment.get("OTEL_RESOURCE_ATTRIBUTES").map_or("", String::as_str));
    let named = environment.get("OTEL_SERVICE_NAME").filter(|name| !name.is_empty()).cloned();
    let named = named
        .or_else(|| declared.iter().find(|(key, _)| key == "service.name").map(|(_, name)| name.clone()));
    let compose = container.as_deref().and_then(compose_service);
    set("service.name", named.or(compose).unwrap_or_else(|| name_of(&arguments)));
    let started = stat_field(pid, 19).unwrap_or_default();
    set("service.instance.id", instance_id(&host, pid, &started));
    for (key, value) in declared {
        set(&key, value);
    }
    for (key, value) in extra {
        set(key, value.clone());
    }
    set("process.pid", own_pid.to_string());
    let executable = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let executable = executable.to_string_lossy();
    set("process.executable.name", base(&executable).to_owned());
    set("process.executable.path", executable.into_owned());
    set("process.runtime.name", "cpython".into());
    set("container.id", container.unwrap_or_default());
    set("host.name", host);
    set("telemetry.sdk.name", "adder".into());
    set("telemetry.sdk.language", "python".into());
    set("telemetry.sdk.version", env!("CARGO_PKG_VERSION").into());
    ProcessInfo { attributes, own_pid, parent: parent(pid).unwrap_or_default() }
}

/// `process.pid` inside the innermost pid namespace (`NSpid` of `/proc/PID/status`).
fn own_pid(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    line.and_then(|line| line.split_whitespace().last()?.parse().ok()).unwrap_or(pid)
}

/// Looks random, is the same for the same process.
fn instance_id(host: &str, pid: u32, started: &str) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, host, pid, started).hash(&mut hasher);
        hasher.finish()
    };
    let (high, low) = (half(0), half(1));
    // Version 8 (RFC 9562, section 5.8): the content is the implementation's own.
    format!(
        "{:08x}-{:04x}-8{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 48) & 0x3fff,
        low & 0xffff_ffff_ffff
    )
}

/// The container id in the cgroup path of a process: 64 hexadecimal digits, however the engine decorates them.
fn container(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    container_in(&text)
}

fn container_in(cgroups: &str) -> Option<String> {
    cgroups.split(|letter: char| !letter.is_ascii_hexdigit()).find(|part| part.len() == 64).map(str::to_owned)
}

/// The compose service of a Docker container, from the engine's own files where they can be read.
fn compose_service(container: &str) -> Option<String> {
    let path = format!("/proc/1/root/var/lib/docker/containers/{container}/config.v2.json");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    json["Config"]["Labels"]["com.docker.compose.service"].as_str().map(str::to_owned)
}

/// How a process's Python buffers what it writes: standard output unless it is a terminal, `-u` was given or
/// `PYTHONUNBUFFERED` is set; standard error likewise before 3.9 (`Python/pylifecycle.c`, `create_stdio`).
pub fn output(pid: u32, version: &str) -> OutputInfo {
    let unbuffered = environment(pid).get("PYTHONUNBUFFERED").is_some_and(|value| !value.is_empty())
        || arguments(pid).iter().skip(1).take_while(|word| word.starts_with('-')).any(|word| word == "-u");
    let minor = crate::python::minor(version);
    let stdio = |fd: u32| {
        if unbuffered {
            return Buffering::None;
        }
        let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap_or_default();
        let target = target.to_string_lossy();
        let is_terminal =
            ["/dev/pts/", "/dev/tty", "/dev/console"].iter().any(|prefix| target.starts_with(prefix));
        if is_terminal || fd == 2 && minor >= 9 { Buffering::Line } else { Buffering::Block }
    };
    OutputInfo { stdout: stdio(1), stderr: stdio(2) }
}

/// A name from the command line: the module or script, or the application that a server was told to run.
fn name_of(arguments: &[String]) -> String {
    let mut words = arguments.iter().map(String::as_str);
    let mut program = base(words.next().unwrap_or("python"));
    if program.starts_with("python") {
        while let Some(word) = words.next() {
            match word {
                "-m" => {
                    program = words.next().unwrap_or(program);
                    break;
                }
                "-c" => return "python -c".into(),
                // These take a value of their own.
                "-W" | "-X" => {
                    words.next();
                }
                word if word.starts_with('-') => {}
                word => {
                    program = base(word);
                    break;
                }
            }
        }
    }
    let program = program.strip_suffix(".py").unwrap_or(program);
    if RUNNERS.contains(&program)
        && let Some(application) = application(words)
    {
        return application.to_owned();
    }
    program.to_owned()
}

/// The module of the application in the arguments of a server: `module:attribute`, or the value of `-A` or `--app`.
fn application<'a>(words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let is_module = |word: &str| {
        !word.is_empty()
            && word
                .split('.')
                .all(|part| part.starts_with(|first: char| first.is_alphabetic() || first == '_'))
    };
    let mut named = false;
    for word in words {
        let module = word.split([':', '(']).next().unwrap_or_default();
        if (named || word.contains(':')) && is_module(module) {
            return Some(module);
        }
        named = matches!(word, "-A" | "--app");
    }
    None
}

/// `key=value,key=value` with percent-encoded values (OpenTelemetry resource specification).
fn parse_attributes(text: &str) -> Vec<(String, String)> {
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), percent_decode(value.trim())))
        .filter(|(key, _)| !key.is_empty())
        .collect()
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok());
        if let Some(byte) =
            digits.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| bytes[at] == b'%')
        {
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(line: &str) -> String {
        name_of(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn services_are_named_after_what_they_run() {
        assert_eq!(name("python app.py --port 80"), "app");
        assert_eq!(name("/usr/bin/python3 -u -W ignore /srv/bot/main.py"), "main");
        assert_eq!(name("python -m services.scheduler"), "services.scheduler");
        assert_eq!(name("python -m uvicorn --host 0.0.0.0 games.api:app"), "games.api");
        assert_eq!(name("/venv/bin/python /venv/bin/gunicorn -w 2 shop:create_app()"), "shop");
        assert_eq!(name("python -m celery -A jobs.app worker"), "jobs.app");
        assert_eq!(name("/venv/bin/flask --app web run -p 80"), "web");
        assert_eq!(name("gunicorn -b 127.0.0.1:80 -k uvicorn.workers.UvicornWorker api:app"), "api");
        assert_eq!(name("python -c print(1)"), "python -c");
        assert_eq!(name("python"), "python");
    }

    #[test]
    fn patterns_match_whole_names() {
        assert!(glob("*python*", "/usr/bin/python3.11"));
        assert!(glob("uvicorn", "uvicorn"));
        assert!(!glob("uvicorn", "uvicorn2"));
        assert!(glob("a?c*", "abcd"));
        assert!(glob("*", ""));
        assert!(!glob("?", ""));
    }

    #[test]
    fn containers_are_found_in_any_decoration() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(container_in(&format!("0::/system.slice/docker-{id}.scope\n")).as_deref(), Some(&*id));
        assert_eq!(container_in(&format!("3:cpu:/docker/{id}\n")).as_deref(), Some(&*id));
        assert_eq!(container_in("0::/init.scope\n"), None);
    }

    #[test]
    fn resource_attributes_are_percent_decoded() {
        let parsed = parse_attributes("team=blue%2Cgreen, region = eu ,bad,=x");
        assert_eq!(parsed, [("team".into(), "blue,green".into()), ("region".into(), "eu".into())]);
    }
}
