//! What a running agent says of itself, over a Unix socket: one JSON document to whoever connects.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde::Serialize;

use crate::{probe::ProgramStat, python::Attribution};

/// What works in a watched process, what does not, and why.
#[derive(Clone, Debug, Serialize)]
pub struct AttachReport {
    /// Process, as the host numbers it.
    pub pid: u32,
    /// `service.name`.
    pub service: String,
    /// Version of `CPython`, empty where there is none.
    pub python: String,
    /// The file with the interpreter.
    pub interpreter: String,
    /// Event loop: `uvloop`, `asyncio` or empty.
    pub r#loop: &'static str,
    /// How exactly work is attributed; `None` while nothing is proven.
    pub attribution: Option<Attribution>,
    /// Probes that are attached.
    pub probes: Vec<&'static str>,
    /// What is not exact, and why.
    pub notes: Vec<String>,
}

/// Everything that `adder status` shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How the system calls are seen.
    pub attached_by: &'static str,
    /// Watched processes.
    pub processes: Vec<AttachReport>,
    /// Facts that found no room in the ring buffer, by process.
    pub dropped_facts: Vec<(u32, u64)>,
    /// Counters of the stitcher.
    pub engine: crate::stitch::Counters,
    /// Counters of the connections.
    pub connections: crate::conn::Counters,
    /// Sizes of the tables.
    pub tables: Vec<(&'static str, usize)>,
    /// Counters of the export of spans, empty without an endpoint.
    pub export: Vec<(&'static str, u64)>,
    /// Likewise of log records.
    pub export_logs: Vec<(&'static str, u64)>,
    /// Likewise of metrics.
    pub export_metrics: Vec<(&'static str, u64)>,
    /// Run counts and times of the BPF programs (counted while `kernel.bpf_stats_enabled` is 1).
    pub programs: Vec<ProgramStat>,
}

/// The socket; dropping it removes the file.
pub struct Server {
    path: PathBuf,
    report: Arc<Mutex<Report>>,
}

impl Server {
    /// Begins to listen. Only the user who runs the agent may connect.
    pub fn start(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if path.exists() {
            if UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another adder listens there"));
            }
            fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let report = Arc::new(Mutex::new(Report::default()));
        let shared = report.clone();
        thread::Builder::new().name("status".into()).spawn(move || {
            for mut client in listener.incoming().flatten() {
                let report = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let json = serde_json::to_vec_pretty(&report).unwrap_or_default();
                // A client that does not read must not keep the next one waiting for ever.
                let _ = client.set_write_timeout(Some(Duration::from_secs(2)));
                let _ = client.write_all(&json);
            }
        })?;
        Ok(Self { path: path.to_owned(), report })
    }

    /// Replaces what is said.
    pub fn publish(&self, report: Report) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already; nothing depends on it any more.
        let _ = fs::remove_file(&self.path);
    }
}

/// Asks a running agent.
pub fn ask(path: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
