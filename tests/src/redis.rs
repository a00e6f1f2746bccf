//! A throw-away Redis; `MONITOR` is the ground truth.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{certificates::Certificates, free_port, process::Process};

/// A running server.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    /// The port of encrypted connections, and the authority that its clients are to trust.
    tls: Option<(u16, PathBuf)>,
    commands: Arc<Mutex<Vec<RedisCommand>>>,
}

/// A command that the server has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisCommand {
    /// Address and port of the client.
    pub client: String,
    /// The command's name and arguments; bytes that are not UTF-8 are replaced.
    pub words: Vec<String>,
}

impl Redis {
    /// A server in the folder `dir` whose commands are collected.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, true, None)
    }

    /// A server whose commands are not collected, for measurements.
    pub fn start_unlogged(dir: &Path) -> Result<Self> {
        Self::start_with(dir, false, None)
    }

    /// A server whose URL, with certificates, is one for encrypted connections.
    pub fn start_with(dir: &Path, logged: bool, tls: Option<&Certificates>) -> Result<Self> {
        let port = free_port()?;
        let dir = dir.join("redis");
        fs::create_dir_all(&dir)?;
        let mut command = Command::new("redis-server");
        command
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
            ])
            .arg(&dir);
        let tls = tls.map(|tls| anyhow::Ok((free_port()?, tls))).transpose()?;
        if let Some((port, tls)) = &tls {
            command.args(["--tls-port", &port.to_string(), "--tls-auth-clients", "no", "--tls-cert-file"]);
            command.arg(&tls.certificate).arg("--tls-key-file").arg(&tls.key);
            command.arg("--tls-ca-cert-file").arg(&tls.authority);
        }
        let process = Process::start(&mut command, &dir.join("redis.log"), libc::SIGINT)?;
        process.wait_ready(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
        let tls = tls.map(|(port, tls)| (port, tls.authority.clone()));
        let redis = Self { process, port, tls, commands: Arc::default() };
        if logged {
            redis.monitor()?;
        }
        Ok(redis)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        match &self.tls {
            Some((port, authority)) => {
                format!("rediss://localhost:{port}/0?ssl_ca_certs={}", authority.display())
            }
            None => format!("redis://127.0.0.1:{}/0", self.port),
        }
    }

    /// The server process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The commands run so far, in the server's order.
    pub fn commands(&self) -> Vec<RedisCommand> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn monitor(&self) -> Result<()> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"MONITOR\r\n")?;
        let mut lines = BufReader::new(stream);
        let mut answer = String::new();
        lines.read_line(&mut answer).context("MONITOR")?;
        ensure!(answer.trim() == "+OK", "MONITOR answered {answer:?}");
        lines.get_ref().set_read_timeout(None)?;
        let commands = Arc::clone(&self.commands);
        // Ends with the connection, that is with the server.
        thread::Builder::new().name("redis-monitor".into()).spawn(move || {
            for line in lines.split(b'\n').map_while(Result::ok) {
                if let Some(command) = parse(&line) {
                    commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
                }
            }
        })?;
        Ok(())
    }
}

/// Reads a line of `MONITOR`: `+1700000000.123456 [0 127.0.0.1:4000] "SET" "key" "\x00"`.
fn parse(line: &[u8]) -> Option<RedisCommand> {
    let from = line.iter().position(|byte| *byte == b'[')?;
    let length = line.get(from..)?.iter().position(|byte| *byte == b']')?;
    let client = String::from_utf8_lossy(line.get(from + 1..from + length)?).into_owned();
    let (_, client) = client.split_once(' ')?;
    let mut words = Vec::new();
    let mut bytes = line.get(from + length + 1..)?.iter().copied();
    while bytes.by_ref().any(|byte| byte == b'"') {
        words.push(String::from_utf8_lossy(&quoted(&mut bytes)?).into_owned());
    }
    Some(RedisCommand { client: client.to_string(), words })
}

/// The content of a string in the notation of Redis's `sdscatrepr`, whose opening quote has been read.
fn quoted(bytes: &mut impl Iterator<Item = u8>) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let byte = match bytes.next()? {
            b'"' => return Some(content),
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'a' => 7,
                b'b' => 8,
                b'x' => {
                    let mut digit = || char::from(bytes.next()?).to_digit(16);
                    u8::try_from(digit()? * 16 + digit()?).ok()?
                }
                other => other,
            },
            other => other,
        };
        content.push(byte);
    }
}

#[cfg(test)]
mod tests;
