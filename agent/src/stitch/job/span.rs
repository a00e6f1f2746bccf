//! The spans of jobs.

use super::Trigger;
use crate::{
    signal::{Attribute, Kind, Span, Status},
    stitch::{Engine, UnitId},
};

impl Engine {
    /// Makes the span of a job.
    pub(in crate::stitch) fn emit_job(&mut self, id: UnitId) {
        let Some(unit) = self.units.get_mut(&id) else { return };
        let found = unit.job.as_ref().and_then(|job| Some((job.trigger, job.first.as_ref()?)));
        let Some((trigger, (_, first))) = found else {
            // What may yet be done in its turn needs a unit that is shown.
            self.drop_idle(id);
            self.units.remove(&id);
            return;
        };
        let handler = unit.handler.take().filter(|handler| handler.is_one());
        let name = match (&handler, trigger) {
            // Several functions may have a part in it.
            (_, Trigger::Start) => trigger.name().to_owned(),
            (Some(handler), _) => handler.name.clone(),
            (None, _) => format!("{} {first}", trigger.name()),
        };
        let mut attributes = vec![Attribute::new("adder.trigger", trigger.name())];
        attributes.extend(handler.iter().flat_map(|handler| handler.attributes()));
        let (pid, start, end) = (unit.pid, unit.start, unit.end.unwrap_or(unit.start));
        let (trace_id, span_id) = (unit.trace_id, unit.span_id);
        let events = std::mem::take(&mut unit.events);
        self.counters.spans += 1;
        self.spans.push(Span {
            trace_id,
            span_id,
            parent_span_id: None,
            parent_is_remote: false,
            trace_state: String::new(),
            name,
            kind: Kind::Internal,
            start: self.unix(start),
            end: self.unix(end),
            attributes,
            events,
            links: Vec::new(),
            status: Status::Unset,
            resource: self.resource_of(pid),
        });
    }
}
