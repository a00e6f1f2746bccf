//! The thread that sends, and the handle that fills its queue.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, sync::Notify};

use super::{
    Settings, encode,
    otlp::{Failure, Message, SetupError, Transport},
    queue::{Queue, Step},
    report::Reporter,
    retry::Backoff,
    stats::ExportStats,
};
use crate::signal::Span;

/// How much later than its deadline a shutdown may return.
const GRACE: Duration = Duration::from_millis(250);

/// Starts the export on a thread of its own. Nothing is connected before the first spans come.
pub fn start(settings: Settings) -> Result<Sender, SetupError> {
    let stats = Arc::new(ExportStats::default());
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue::new(settings.limits, Backoff::default(), Arc::clone(&stats))),
        changed: Notify::new(),
        ended: (Mutex::new(false), Condvar::new()),
        stats,
    });
    let (ready, setup) = mpsc::sync_channel(1);
    let sender = Sender { shared: Arc::clone(&shared) };
    thread::Builder::new()
        .name("adder-export".to_owned())
        .spawn(move || {
            let end = End(shared);
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            runtime.block_on(async {
                match Transport::new(&settings) {
                    Ok(transport) => {
                        let _ = ready.send(Ok(()));
                        work(&end.0, &settings, &transport).await;
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            });
            drop(end);
            // A look-up of a host name may still run on a thread that nobody should wait for.
            runtime.shutdown_background();
        })
        .map_err(|error| SetupError::Runtime(error.to_string()))?;
    setup.recv().unwrap_or_else(|_| Err(SetupError::Runtime("it ended at once".to_owned())))?;
    Ok(sender)
}

/// A runtime for one thread.
pub(super) fn runtime() -> Result<Runtime, SetupError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| SetupError::Runtime(error.to_string()))
}

/// The engine's end of the export.
#[derive(Clone, Debug)]
pub struct Sender {
    shared: Arc<Shared>,
}

impl Sender {
    /// Hands over finished spans. Never waits for the collector; where the queue is full the spans are dropped and
    /// counted. (The queue's lock is held by the worker only while it moves one batch out.)
    pub fn offer(&self, spans: Vec<Span>) {
        if !spans.is_empty() && self.shared.queue().offer(spans, Instant::now()) {
            self.shared.changed.notify_one();
        }
    }

    /// Sends what is there, for at most `deadline`, and ends the export. Returns when it has ended. What could not be
    /// sent, and all that is offered later, is counted as dropped. Blocks; not to be called inside an async runtime.
    pub fn shutdown(&self, deadline: Duration) {
        let now = Instant::now();
        self.shared.queue().shut_down(now, now + deadline);
        self.shared.changed.notify_one();
        let (ended, signal) = &self.shared.ended;
        let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
        // The result says only whether it was in time, and there is nothing else to do if not.
        let _ = signal.wait_timeout_while(ended, deadline + GRACE, |ended| !*ended);
    }

    /// The counters.
    pub fn stats(&self) -> &ExportStats {
        &self.shared.stats
    }

    /// Spans held now: waiting and under way.
    pub fn pending(&self) -> usize {
        self.shared.queue().spans()
    }
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// The queue has changed in a way that concerns the worker.
    changed: Notify,
    ended: (Mutex<bool>, Condvar),
    stats: Arc<ExportStats>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue's methods leave it consistent at every point where they could panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the export has to end.
    async fn deadline(&self) {
        loop {
            let deadline = self.queue().deadline();
            match deadline {
                Some(at) => return tokio::time::sleep_until(at.into()).await,
                // Other changes end up here too. They are not lost: the worker looks at the queue after each answer.
                None => self.changed.notified().await,
            }
        }
    }

    async fn wait(&self, until: Option<Instant>) {
        match until {
            None => self.changed.notified().await,
            Some(at) => {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep_until(at.into()) => {}
                }
            }
        }
    }
}

/// However the worker ends, nobody waits for it any more and every span is accounted for.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut queue = self.0.queue();
        queue.shut_down(now, now);
        queue.abandon();
        drop(queue);
        let (ended, signal) = &self.0.ended;
        *ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        signal.notify_all();
    }
}

async fn work(shared: &Shared, settings: &Settings, transport: &Transport) {
    let mut reporter = Reporter::default();
    let mut message: Option<Message> = None;
    loop {
        let step = shared.queue().step(Instant::now());
        match step {
            Step::Send(spans) => message = Some(transport.prepare(encode::request(spans))),
            Step::Again => {}
            Step::Wait(until) => {
                shared.wait(until).await;
                continue;
            }
            Step::Stop => return,
        }
        let Some(current) = &message else { return };
        let answer = tokio::select! {
            answer = transport.send(current) => answer,
            () = shared.deadline() => return,
        };
        let now = Instant::now();
        match &answer {
            Ok(accepted) => {
                shared.queue().accepted(accepted.rejected, current.length());
                for line in reporter.accepted(settings, accepted, &shared.stats.snapshot(), now) {
                    line.log();
                }
                message = None;
            }
            Err(failure) => {
                let waiting = {
                    let mut queue = shared.queue();
                    match failure {
                        Failure::Later { after, .. } => queue.failed(*after, now),
                        Failure::Denied { .. } | Failure::Never { .. } => queue.refused(),
                    }
                    queue.spans()
                };
                if let Some(line) = reporter.failed(settings, failure, waiting, &shared.stats.snapshot(), now)
                {
                    line.log();
                }
            }
        }
    }
}
