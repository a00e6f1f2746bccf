//! What the log says of the export: the first of each trouble at once, then at most one line a minute, and one line
//! when it is over.

use std::time::{Duration, Instant};

use super::{
    Settings, Snapshot,
    otlp::{Accepted, Failure},
};

/// Time between two lines about the same kind of trouble.
const INTERVAL: Duration = Duration::from_mins(1);

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// For the operator to mend.
    Error(String),
    /// May pass.
    Warn(String),
    /// All is well again.
    Info(String),
}

impl Line {
    /// Writes it.
    pub(super) fn log(&self) {
        match self {
            Self::Error(text) => tracing::error!("{text}"),
            Self::Warn(text) => tracing::warn!("{text}"),
            Self::Info(text) => tracing::info!("{text}"),
        }
    }
}

/// Kinds of trouble, each with its own minute.
#[derive(Clone, Copy)]
enum Trouble {
    Later,
    Denied,
    Never,
    Partial,
}

/// Decides which events are worth a line.
#[derive(Debug)]
pub(super) struct Reporter {
    /// What is exported, in the plural.
    noun: &'static str,
    /// When each kind of trouble was last told.
    told: [Option<Instant>; 4],
    episode: Option<Episode>,
}

/// From the first failure to the next success.
#[derive(Debug)]
struct Episode {
    since: Instant,
    told: bool,
    /// Spans lost before it.
    lost: u64,
}

impl Reporter {
    /// A reporter on the export of this.
    pub(super) fn new(noun: &'static str) -> Self {
        Self { noun, told: [None; 4], episode: None }
    }

    /// A message has failed; so many are held.
    pub(super) fn failed(
        &mut self,
        settings: &Settings,
        failure: &Failure,
        waiting: usize,
        stats: &Snapshot,
        now: Instant,
    ) -> Option<Line> {
        let trouble = match failure {
            Failure::Later { .. } => Trouble::Later,
            Failure::Denied { .. } => Trouble::Denied,
            Failure::Never { .. } => Trouble::Never,
        };
        let due = self.due(trouble, now);
        let noun = self.noun;
        let episode = self.episode.get_or_insert(Episode { since: now, told: false, lost: stats.lost() });
        if !due {
            return None;
        }
        let first = !std::mem::replace(&mut episode.told, true);
        let lost = stats.lost().saturating_sub(episode.lost);
        let lasting = duration(now.saturating_duration_since(episode.since));
        let text = match failure {
            Failure::Later { cause, .. } if !first => format!(
                "{noun} still cannot be delivered to {} after {lasting}: {cause} ({waiting} wait, {lost} were \
                 dropped)",
                settings.shown_endpoint()
            ),
            Failure::Later { .. } => format!(
                "{} (up to {} wait in memory, and are sent when it answers)",
                first_failure(settings, failure, noun),
                settings.limits.max_items
            ),
            Failure::Denied { .. } | Failure::Never { .. } => {
                format!("{} ({lost} dropped so far)", first_failure(settings, failure, noun))
            }
        };
        Some(match failure {
            Failure::Denied { .. } => Line::Error(text),
            Failure::Later { .. } | Failure::Never { .. } => Line::Warn(text),
        })
    }

    /// A message was accepted, perhaps not all of it.
    pub(super) fn accepted(
        &mut self,
        settings: &Settings,
        accepted: &Accepted,
        stats: &Snapshot,
        now: Instant,
    ) -> Vec<Line> {
        let mut lines = Vec::new();
        let noun = self.noun;
        if let Some(episode) = self.episode.take().filter(|episode| episode.told) {
            let lasting = duration(now.saturating_duration_since(episode.since));
            let lost = match stats.lost().saturating_sub(episode.lost) {
                0 => "nothing was lost".to_owned(),
                lost => format!("{lost} were dropped meanwhile"),
            };
            lines.push(Line::Info(format!(
                "{} takes {noun} again after {lasting}; {lost}",
                settings.shown_endpoint()
            )));
        }
        let Accepted { rejected, message } = accepted;
        if (*rejected > 0 || !message.is_empty()) && self.due(Trouble::Partial, now) {
            let endpoint = settings.shown_endpoint();
            lines.push(Line::Warn(if *rejected > 0 {
                format!(
                    "{endpoint} rejected {rejected} {noun} of a message ({} in all): {message}",
                    stats.rejected
                )
            } else {
                format!("{endpoint} accepted the {noun} and says: {message}")
            }));
        }
        lines
    }

    fn due(&mut self, trouble: Trouble, now: Instant) -> bool {
        let told = &mut self.told[trouble as usize];
        let due = told.is_none_or(|told| now.saturating_duration_since(told) >= INTERVAL);
        if due {
            *told = Some(now);
        }
        due
    }
}

/// What has happened, where, and what to do, in one line.
pub(super) fn first_failure(settings: &Settings, failure: &Failure, noun: &str) -> String {
    let endpoint = settings.shown_endpoint();
    match failure {
        Failure::Later { cause, hint, .. } => {
            format!("{noun} cannot be delivered to {endpoint}: {cause}{}", after(hint))
        }
        Failure::Never { cause, hint } => {
            format!("{endpoint} does not take our {noun}: {cause}{}", after(hint))
        }
        Failure::Denied { cause } => {
            let source = &settings.headers_source;
            let names: Vec<&str> = settings.headers.iter().map(|(name, _)| name.as_str()).collect();
            let advice = if names.is_empty() {
                format!("no header is set: put the collector's token into {source}")
            } else {
                format!("check the value of {} in {source}", names.join(", "))
            };
            format!("{endpoint} refuses the credentials: {cause}; {advice}")
        }
    }
}

fn after(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("; {hint}") }
}

/// A time span for people: whole seconds up to two minutes, then minutes, then hours.
fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests;
