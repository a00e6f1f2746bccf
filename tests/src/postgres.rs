//! A throw-away Postgres whose statement log is the ground truth.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{certificates::Certificates, free_port, process::Process, root};

/// The user and database of the demo services; loopback connections of this user need no password.
const USER: &str = "games";

/// A user of the same rights that logs in with SCRAM-SHA-256 and [`PASSWORD`].
const SCRAM_USER: &str = "scram";

const PASSWORD: &str = "secret";

/// Each line of the log begins with this sign, the backend's process id, a bar, the application's name, a bar.
const LOG_SIGN: char = '@';

/// A running server with the demo schema (`tests/apps/schema.sql`).
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    dir: PathBuf,
    encrypted: bool,
}

/// A statement that the server's log tells of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Its text as the client sent it.
    pub text: String,
    /// Process id of the backend, as in the protocol's `BackendKeyData`.
    pub pid: u32,
    /// `application_name` of the session.
    pub application: String,
}

impl Postgres {
    /// A server in the folder `dir` that logs every statement.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::start_with(dir, "log_statement = all", None)
    }

    /// A server that logs no statements, for measurements.
    pub fn start_unlogged(dir: &Path) -> Result<Self> {
        Self::start_with(dir, "log_statement = none", None)
    }

    /// A server with more lines in its `postgresql.conf`; with certificates it wants every TCP connection encrypted.
    pub fn start_with(dir: &Path, settings: &str, tls: Option<&Certificates>) -> Result<Self> {
        let programs = programs()?;
        let dir = dir.join("postgres");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let account = Account::for_server()?;
        if let Some(account) = &account {
            chown(&dir, Some(account.uid), Some(account.gid))?;
        }
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(&dir).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
            if let Some(account) = &account {
                command.uid(account.uid).gid(account.gid);
            }
            command
        };

        let data = dir.join("data");
        let made = command("initdb")
            .args([
                "--username=postgres",
                "--auth=trust",
                "--encoding=UTF8",
                "--no-sync",
                "--no-instructions",
                "-D",
            ])
            .arg(&data)
            .output()?;
        ensure!(
            made.status.success(),
            "initdb failed (can its user reach {}?): {}",
            dir.display(),
            String::from_utf8_lossy(&made.stderr)
        );
        let port = free_port()?;
        let mut encryption = String::new();
        if let Some(tls) = tls {
            // The server refuses a key that is not its own.
            for (from, name) in [(&tls.certificate, "server.crt"), (&tls.key, "server.key")] {
                let to = data.join(name);
                fs::copy(from, &to)?;
                fs::set_permissions(&to, fs::Permissions::from_mode(0o600))?;
                if let Some(account) = &account {
                    chown(&to, Some(account.uid), Some(account.gid))?;
                }
            }
            encryption.push_str("ssl = on\n");
        }
        fs::write(
            data.join("postgresql.conf"),
            format!(
                "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n\
                 fsync = off\nsynchronous_commit = off\nfull_page_writes = off\njit = off\n\
                 max_connections = 500\nshared_buffers = 64MB\npassword_encryption = 'scram-sha-256'\n\
                 log_destination = stderr\nlogging_collector = off\nlog_line_prefix = '{LOG_SIGN}%p|%a|'\n{encryption}{settings}\n",
                dir.display()
            ),
        )?;
        let host = if tls.is_some() { "hostssl" } else { "host" };
        fs::write(
            data.join("pg_hba.conf"),
            format!(
                "local all all trust\n{host} all {SCRAM_USER} 127.0.0.1/32 scram-sha-256\n{host} all all 127.0.0.1/32 trust\n"
            ),
        )?;

        let log = dir.join("postgres.log");
        let process = Process::start(command("postgres").arg("-D").arg(&data), &log, libc::SIGINT)?;
        let server = Self { process, port, dir, encrypted: tls.is_some() };
        let ready = server.log_contains_ready();
        server.process.wait_ready(ready)?;
        server.psql(
            "postgres",
            "postgres",
            &format!(
                "CREATE ROLE {USER} LOGIN; CREATE ROLE {SCRAM_USER} LOGIN PASSWORD '{PASSWORD}' IN ROLE {USER};\n\
                 CREATE DATABASE {USER} OWNER {USER};"
            ),
        )?;
        server.psql(USER, USER, &fs::read_to_string(root().join("tests/apps/schema.sql"))?)?;
        Ok(server)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its Unix socket, as libpq's `host` wants it.
    pub fn socket_folder(&self) -> &Path {
        &self.dir
    }

    /// Connection string of the user who needs no password.
    pub fn dsn(&self) -> String {
        format!("postgresql://{USER}@127.0.0.1:{}/{USER}{}", self.port, self.query())
    }

    /// Connection string of the user who logs in with SCRAM.
    pub fn scram_dsn(&self) -> String {
        format!("postgresql://{SCRAM_USER}:{PASSWORD}@127.0.0.1:{}/{USER}{}", self.port, self.query())
    }

    fn query(&self) -> &'static str {
        if self.encrypted { "?sslmode=require" } else { "" }
    }

    /// The server process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Runs SQL through psql, as a user in a database.
    pub fn psql(&self, user: &str, database: &str, sql: &str) -> Result<String> {
        let mut psql = Command::new(programs()?.join("psql"))
            .args([
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                "127.0.0.1",
                "-U",
                user,
                "-d",
                database,
            ])
            .args(["-p", &self.port.to_string()])
            .env_remove("PGOPTIONS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting psql")?;
        psql.stdin.take().context("psql without stdin")?.write_all(sql.as_bytes())?;
        let output = psql.wait_with_output()?;
        ensure!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The statements executed so far, in the order of the log. Those that failed before they ran are in
    /// [`Self::failed`].
    pub fn statements(&self) -> Result<Vec<Statement>> {
        Ok(read_log(&fs::read_to_string(self.process.log())?, executed))
    }

    /// The statements that failed so far.
    pub fn failed(&self) -> Result<Vec<Statement>> {
        Ok(read_log(&fs::read_to_string(self.process.log())?, |message| message.strip_prefix("STATEMENT:  ")))
    }

    fn log_contains_ready(&self) -> impl FnMut() -> bool {
        let (log, port) = (self.process.log().to_path_buf(), self.port);
        move || {
            fs::read_to_string(&log).is_ok_and(|log| log.contains("ready to accept connections"))
                && TcpStream::connect(("127.0.0.1", port)).is_ok()
        }
    }
}

/// The text in a message that tells of a statement (`exec_simple_query`, `exec_execute_message` in the server's
/// `postgres.c`).
fn executed(message: &str) -> Option<&str> {
    let message = message.strip_prefix("LOG:  ")?;
    if let Some(text) = message.strip_prefix("statement: ") {
        return Some(text);
    }
    // The name of a statement, and of a portal behind a slash, is the client's choice, but holds no colon with any
    // driver that the rig knows.
    let extended =
        message.strip_prefix("execute fetch from ").or_else(|| message.strip_prefix("execute "))?;
    extended.split_once(": ").map(|(_, text)| text)
}

fn read_log(log: &str, text_of: impl Fn(&str) -> Option<&str>) -> Vec<Statement> {
    let mut entries: Vec<(u32, &str, String)> = Vec::new();
    for line in log.lines() {
        let entry = line.strip_prefix(LOG_SIGN).and_then(|line| {
            let (pid, rest) = line.split_once('|')?;
            let (application, message) = rest.split_once('|')?;
            Some((pid.parse().ok()?, application, message))
        });
        match (entry, entries.last_mut()) {
            (Some((pid, application, message)), _) => entries.push((pid, application, message.to_string())),
            // Further lines of a message begin with a tab.
            (None, Some((_, _, message))) => {
                message.push('\n');
                message.push_str(line.strip_prefix('\t').unwrap_or(line));
            }
            (None, None) => {}
        }
    }
    let statement = |(pid, application, message): &(u32, &str, String)| {
        Some(Statement {
            text: text_of(message)?.to_string(),
            pid: *pid,
            application: (*application).to_string(),
        })
    };
    entries.iter().filter_map(statement).collect()
}

/// The folder with `initdb` and `postgres`: the newest version that Debian has installed.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .filter_map(|entry| {
            Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin")))
        })
        .filter(|(_, folder)| folder.join("initdb").exists())
        .max()
        .map(|(_, folder)| folder)
        .context("no Postgres server programs in /usr/lib/postgresql (Debian package postgresql-15)")
}

/// Whom the server runs as. It refuses root.
struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// Debian's `postgres` where this is root, nobody else otherwise.
    fn for_server() -> Result<Option<Self>> {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            return Ok(None);
        }
        let accounts = fs::read_to_string("/etc/passwd")?;
        let account = accounts.lines().find_map(|line| {
            let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
            Some(Self { uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        });
        account.map(Some).context("no user postgres on this machine")
    }
}

#[cfg(test)]
mod tests;
