//! A closed-loop HTTP load where only rate and latency count: one thread, which costs the machine less than [`crate::load`] and can
//! pause between two turns.

use std::{
    io,
    net::{Ipv4Addr, TcpStream},
    os::fd::AsRawFd as _,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustls::ClientConfig;

use crate::{
    http::{self, Message},
    load::{percentile, rid_prefix},
};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Whether each request carries an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// `rid=…` in the query, another for each request.
    Unique,
    /// The path as it is.
    None,
}

/// What one turn gave.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// How long each request took, from before its first byte left to after its answer's last byte.
    pub latencies: Vec<Duration>,
    /// From before the first request to after the last answer.
    pub elapsed: Duration,
}

impl Turn {
    /// Several turns as one.
    pub fn total<'a>(turns: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut total = Self::default();
        for turn in turns {
            total.latencies.extend(&turn.latencies);
            total.elapsed += turn.elapsed;
        }
        total
    }

    /// How many requests were answered.
    pub fn requests(&self) -> u64 {
        self.latencies.len() as u64
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.requests() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency below which this share of the requests stayed.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        percentile(&sorted, share).unwrap_or_default()
    }
}

/// Connections to a service, each with one request under way at a time.
pub struct Rate {
    connections: Vec<Connection>,
    path: String,
    ids: Ids,
    prefix: String,
    sent: u64,
}

struct Connection {
    stream: http::Connection,
    fd: i32,
    /// When the request that is under way was sent.
    since: Option<Instant>,
}

impl Rate {
    /// Connects to a port on 127.0.0.1.
    ///
    /// # Errors
    ///
    /// Where the service does not accept.
    pub fn connect(
        port: u16,
        tls: Option<&Arc<ClientConfig>>,
        (path, ids): (&str, Ids),
        connections: u32,
    ) -> Result<Self> {
        let connect = |_| -> io::Result<Connection> {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            let fd = stream.as_raw_fd();
            Ok(Connection { stream: http::over(stream, TIMEOUT, tls)?, fd, since: None })
        };
        let connections = (0..connections).map(connect).collect::<io::Result<_>>()?;
        Ok(Self { connections, path: path.to_string(), ids, prefix: rid_prefix(), sent: 0 })
    }

    /// Sends requests for so long, and waits for the answers.
    ///
    /// # Errors
    ///
    /// Where an answer's status is not 200, or a connection breaks.
    pub fn run(&mut self, duration: Duration) -> Result<Turn> {
        let start = Instant::now();
        let mut latencies = Vec::new();
        for index in 0..self.connections.len() {
            self.send(index)?;
        }
        let mut polled: Vec<_> = self.connections.iter().map(Connection::polled).collect();
        while self.connections.iter().any(|connection| connection.since.is_some()) {
            // SAFETY: as many valid `pollfd` as are said to be there.
            let ready = unsafe {
                libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, TIMEOUT.as_millis() as i32)
            };
            if ready < 0 {
                let error = io::Error::last_os_error();
                ensure!(error.kind() == io::ErrorKind::Interrupted, "waiting for an answer: {error}");
                continue;
            }
            ensure!(ready > 0, "no answer within {} s", TIMEOUT.as_secs());
            for (index, polled) in polled.iter().enumerate() {
                if polled.revents == 0 {
                    continue;
                }
                let connection = &mut self.connections[index];
                let answer = Message::read(&mut connection.stream)?.context("the service has hung up")?;
                let now = Instant::now();
                ensure!(answer.status() == Some(200), "answered {:?}", answer.start);
                latencies.extend(connection.since.take().map(|since| now - since));
                if now - start < duration {
                    self.send(index)?;
                }
            }
        }
        Ok(Turn { latencies, elapsed: start.elapsed() })
    }

    fn send(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        connection.since = Some(Instant::now());
        let joint = if self.path.contains('?') { '&' } else { '?' };
        self.sent += 1;
        match self.ids {
            Ids::None => http::send(&mut connection.stream, "127.0.0.1", &self.path),
            Ids::Unique => {
                let target = format!("{}{joint}rid={}{}", self.path, self.prefix, self.sent);
                http::send(&mut connection.stream, "127.0.0.1", &target)
            }
        }
    }
}

impl Connection {
    fn polled(&self) -> libc::pollfd {
        libc::pollfd { fd: self.fd, events: libc::POLLIN, revents: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_add_up() {
        let turn = |milliseconds: &[u64]| Turn {
            latencies: milliseconds.iter().copied().map(Duration::from_millis).collect(),
            elapsed: Duration::from_millis(500),
        };
        let total = Turn::total(&[turn(&[1, 5, 2]), turn(&[4, 3])]);
        assert_eq!((total.requests(), total.rate()), (5, 5.0));
        assert_eq!(total.quantile(0.5), Duration::from_millis(3));
        assert_eq!(total.quantile(1.0), Duration::from_millis(5));
        assert_eq!(Turn::default().quantile(0.5), Duration::ZERO);
    }
}
