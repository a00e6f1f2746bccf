//! The thread that sends, and the handle that fills its queue.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, sync::Notify};

use super::{
    Exported, Settings,
    otlp::{Failure, Message, SetupError, Transport},
    queue::{Queue, Step},
    report::Reporter,
    retry::Backoff,
    stats::ExportStats,
};

/// How much later than its deadline a shutdown may return.
const GRACE: Duration = Duration::from_millis(250);

/// Starts the export of one kind of telemetry on a thread of its own. Nothing is connected before the first comes.
pub fn start<T: Exported>(settings: Settings) -> Result<Sender<T>, SetupError> {
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
        .name(format!("adder-{}", T::NOUN.replace(' ', "-")))
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
#[derive(Debug)]
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Exported> Sender<T> {
    /// Hands over what is finished. Never waits for the collector; what finds no room in the queue is dropped and
    /// counted. (The queue's lock is held by the worker only while it moves one batch out.)
    pub fn offer(&self, items: Vec<T>) {
        if !items.is_empty() && self.shared.queue().offer(items, Instant::now()) {
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

    /// How many are held now: waiting and under way.
    pub fn pending(&self) -> usize {
        self.shared.queue().held()
    }
}

#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<Queue<T>>,
    /// The queue has changed in a way that concerns the worker.
    changed: Notify,
    ended: (Mutex<bool>, Condvar),
    stats: Arc<ExportStats>,
}

impl<T: Exported> Shared<T> {
    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
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

/// However the worker ends, nobody waits for it any more and everything is accounted for.
struct End<T: Exported>(Arc<Shared<T>>);

impl<T: Exported> Drop for End<T> {
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

async fn work<T: Exported>(shared: &Shared<T>, settings: &Settings, transport: &Transport<T>) {
    let mut reporter = Reporter::new(T::NOUN);
    let mut message: Option<Message> = None;
    loop {
        let step = shared.queue().step(Instant::now());
        match step {
            Step::Send(items) => message = Some(transport.prepare(&T::request(items))),
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
                    queue.held()
                };
                if let Some(line) = reporter.failed(settings, failure, waiting, &shared.stats.snapshot(), now)
                {
                    line.log();
                }
            }
        }
    }
}
