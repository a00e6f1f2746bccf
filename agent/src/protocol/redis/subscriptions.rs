//! What a connection is subscribed to.
//!
//! Source: <https://redis.io/docs/latest/develop/pubsub/>, "Format of pushed messages".

/// A command that changes subscriptions, and the confirmation of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Subscribe,
    Unsubscribe,
    PatternSubscribe,
    PatternUnsubscribe,
    ShardSubscribe,
    ShardUnsubscribe,
}

const ACTIONS: [(&str, Action); 6] = [
    ("subscribe", Action::Subscribe),
    ("unsubscribe", Action::Unsubscribe),
    ("psubscribe", Action::PatternSubscribe),
    ("punsubscribe", Action::PatternUnsubscribe),
    ("ssubscribe", Action::ShardSubscribe),
    ("sunsubscribe", Action::ShardUnsubscribe),
];

impl Action {
    /// The action of this name, in any case.
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        ACTIONS
            .iter()
            .find(|(known, _)| known.as_bytes().eq_ignore_ascii_case(name))
            .map(|(_, action)| *action)
    }

    /// Whether it subscribes.
    pub(super) fn adds(self) -> bool {
        matches!(self, Self::Subscribe | Self::PatternSubscribe | Self::ShardSubscribe)
    }
}

/// Numbers of subscriptions, as the confirmations tell them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Subscriptions {
    channels: u64,
    patterns: u64,
    shards: u64,
    /// Messages have come without a subscription having been seen.
    assumed: bool,
}

impl Subscriptions {
    /// Whether messages may come.
    pub(super) fn are_active(self) -> bool {
        self.assumed || self.channels > 0 || self.patterns > 0 || self.shards > 0
    }

    /// A message came: there must be a subscription.
    pub(super) fn assume(&mut self) {
        self.assumed = true;
    }

    /// How many there are of the kind that the action is about.
    pub(super) fn count(self, action: Action) -> u64 {
        match action {
            Action::Subscribe | Action::Unsubscribe => self.channels,
            Action::PatternSubscribe | Action::PatternUnsubscribe => self.patterns,
            Action::ShardSubscribe | Action::ShardUnsubscribe => self.shards,
        }
    }

    /// Takes a confirmation. Its number counts channels and patterns together, and shard channels apart.
    pub(super) fn confirm(&mut self, action: Action, count: Option<u64>) {
        let count = count.unwrap_or(0);
        match action {
            Action::Subscribe | Action::Unsubscribe => self.channels = count.saturating_sub(self.patterns),
            Action::PatternSubscribe | Action::PatternUnsubscribe => {
                self.patterns = count.saturating_sub(self.channels);
            }
            Action::ShardSubscribe | Action::ShardUnsubscribe => self.shards = count,
        }
        if count == 0 {
            self.assumed = false;
        }
    }
}
