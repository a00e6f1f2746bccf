//! Units of work (requests that a watched process handles) and operations (requests that it makes).

use std::sync::Arc;

use super::{
    context::{ContextId, Work},
    job::Job,
    message::Delivery,
    notice::Notice,
    site::Handler,
    stacks::StackId,
};
use crate::{
    conn::ConnectionId,
    protocol::{Detail, Incoming, amqp::Outcome},
    signal::{Endpoints, SpanEvent, hex},
};

/// Number of a unit; never reused in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct UnitId(pub(super) u64);

/// Number of an operation; never reused in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct OperationId(pub(super) u64);

/// Trace context that came in a `traceparent` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteParent {
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) trace_state: String,
}

impl RemoteParent {
    /// Reads the header value (W3C Trace Context, section 3.2).
    pub(super) fn parse(incoming: &Incoming) -> Option<Self> {
        let mut parts = incoming.traceparent.trim().split('-');
        let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
        let flags = parts.next()?;
        let known = version == "00" && parts.next().is_none() || version != "00" && version != "ff";
        if !known || version.len() != 2 || flags.len() != 2 {
            return None;
        }
        let trace_id: [u8; 16] = hex(trace)?;
        let span_id: [u8; 8] = hex(span)?;
        if trace_id == [0; 16] || span_id == [0; 8] {
            return None;
        }
        Some(Self { trace_id, span_id, trace_state: incoming.tracestate.clone() })
    }
}

/// A request or a message that a watched process handles.
pub(super) struct Unit {
    pub(super) pid: u32,
    pub(super) endpoints: Arc<Endpoints>,
    pub(super) start: u64,
    /// When the first byte of the response left.
    pub(super) replied: Option<u64>,
    /// When the last did.
    pub(super) end: Option<u64>,
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) remote: Option<RemoteParent>,
    /// The operation of another watched process that is this request, seen from there.
    pub(super) caller: Option<OperationId>,
    /// A watched process is at the other end: its operation may still turn up.
    pub(super) may_have_caller: bool,
    /// The context that was made for it.
    pub(super) claimed_by: ContextId,
    /// Of a message: what only deliveries have.
    pub(super) delivery: Option<Box<Delivery>>,
    /// Of a message that nobody acknowledges, likewise.
    pub(super) notice: Option<Box<Notice>>,
    /// Of a job, likewise.
    pub(super) job: Option<Box<Job>>,
    /// Exceptions that were logged for it, and waits that kept its loop from running.
    pub(super) events: Vec<SpanEvent>,
    /// The thread and the context in which it was received, or has waited.
    pub(super) received_by: (u32, ContextId),
    /// Where that was.
    pub(super) stack: StackId,
    /// The function that handles it, as far as is known.
    pub(super) handler: Option<Box<Handler>>,
    /// What it was, until the span is made of it.
    pub(super) detail: Option<Detail>,
}

impl Unit {
    /// A job in which something is open.
    pub(super) fn is_busy(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.is_open())
    }

    /// A delivery that nobody will acknowledge.
    pub(super) fn is_automatic(&self) -> bool {
        self.delivery.as_ref().is_some_and(|delivery| delivery.outcome() == Some(Outcome::Auto))
    }
}

/// Whether tasks send for each other on a connection: who sends a request is not who makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shared {
    /// They do not.
    #[default]
    No,
    /// They do, but this one was sent by who makes it.
    Own,
    /// Who makes it may yet show: [`Act::woken`].
    Open,
    /// It will show no more.
    Closed,
}

/// Something that a process does: who, when, and what was known then of the reason.
#[derive(Clone, Debug, Default)]
pub(super) struct Act {
    pub(super) pid: u32,
    /// Thread that did it; of an operation, that sent its first byte.
    pub(super) tid: u32,
    pub(super) start: u64,
    pub(super) context: ContextId,
    /// The loop has sent it for somebody, when all tasks had run.
    pub(super) late: bool,
    pub(super) shared: Shared,
    /// Whom the sender has woken right after; 0 where nobody.
    pub(super) woken: ContextId,
    /// What the thread was serving when it began, by the rules for threads.
    pub(super) by_thread: Option<UnitId>,
    /// The piece of work from a queue in which it began.
    pub(super) work: Option<Work>,
    /// The message for which it was begun, where nothing speaks for another unit.
    pub(super) notice: Option<UnitId>,
    /// Where in the code it was done.
    pub(super) stack: StackId,
    /// The job in which it was done, where nothing else is behind it.
    pub(super) job: Option<UnitId>,
}

/// A request that a watched process makes.
pub(super) struct Operation {
    pub(super) act: Act,
    pub(super) connection: ConnectionId,
    pub(super) endpoints: Arc<Endpoints>,
    /// It only waits for an element of a list.
    pub(super) waits: bool,
    pub(super) end: Option<u64>,
    /// The request in another watched process that is this operation, seen from there.
    pub(super) joined: Option<UnitId>,
    /// Trace of its own, used where nothing caused it.
    pub(super) trace_id: [u8; 16],
    pub(super) span_id: [u8; 8],
    pub(super) detail: Option<Detail>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(traceparent: &str) -> Option<RemoteParent> {
        RemoteParent::parse(&Incoming { traceparent: traceparent.into(), tracestate: String::new() })
    }

    #[test]
    fn a_valid_header_is_taken() {
        let parent = parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").expect("valid");
        assert_eq!(parent.span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
    }

    #[test]
    fn invalid_headers_are_refused() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-extra",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
