//! The rig: everything that a live test, `cargo xtask demo` and `cargo xtask bench` need around the agent.
//!
//! - [`postgres`], [`redis`]: real servers on free loopback ports, whose own logs are the ground truth.
//! - [`python`]: the demo services of `tests/apps` under uvicorn, gunicorn, aiohttp or Flask.
//! - [`collector`]: an OTLP receiver in this process.
//! - [`agent`]: the agent itself, as a user would start it.
//! - [`load`]: a closed-loop HTTP load, each request with an id of its own; [`rate`] where only the rate counts.
//! - [`judge`]: which of the collected spans hang under the request that caused them.
//!
//! The trick of the judge: the services plant the id of the request (`rid`) in each SQL text, Redis key and
//! downstream URL. A client span whose own text carries another id than the server span above it is wrong, and no
//! one has to be trusted for it.
//!
//! Callers need no async. All processes are ended when their handle is dropped; files are under `target/rig`.

pub mod agent;
pub mod certificates;
pub mod collector;
mod http;
pub mod judge;
pub mod load;
pub mod messaging;
pub mod postgres;
pub mod process;
pub mod python;
pub mod rabbitmq;
pub mod rate;
pub mod redis;
pub mod rig;
pub mod stack;
pub mod watch;

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the repository")
}

/// A new, empty folder under `target/rig` for the files of one test.
pub fn folder(name: &str) -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = root().join("target/rig").join(format!("{name}-{}-{number}", std::process::id()));
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// A loopback port that nobody listens on now. It is below those that the kernel gives to connections
/// (`net.ipv4.ip_local_port_range`, 32768 and up), one of which might have it before the server does.
pub fn free_port() -> io::Result<u16> {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes that run at the same time begin at different ones.
    let start = std::process::id().wrapping_mul(61);
    let free = (0..COUNT).find_map(|_| {
        let port = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(port).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|_| port)
    });
    free.ok_or_else(|| io::ErrorKind::AddrInUse.into())
}

/// Asks `condition` every few milliseconds until it is true; whether it became so within `limit`.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
