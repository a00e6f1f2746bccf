//! The span of a message that nobody acknowledges: a Redis channel's, an element of a Redis list, a Postgres
//! notification.
//!
//! Source: <https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/>, in development. It knows neither
//! system; `messaging.system` is named like `db.system.name`.

use super::{Attribute, Description, Endpoints, Status, TextMode, route};

/// Describes the handling of such a message: `process {destination}`. Identifiers in the destination's name become
/// placeholders, unless texts are shown as they are.
pub fn describe(
    system: &'static str,
    destination: &str,
    body_size: u64,
    endpoints: &Endpoints,
    text: TextMode,
) -> Description {
    let template = route::name(destination);
    let mut attributes = vec![
        Attribute::new("messaging.system", system),
        Attribute::new("messaging.operation.name", "process"),
        Attribute::new("messaging.operation.type", "process"),
    ];
    if text == TextMode::Raw || template == destination {
        attributes.push(Attribute::new("messaging.destination.name", destination.to_owned()));
    }
    if template != destination {
        attributes.push(Attribute::new("messaging.destination.template", template.clone()));
    }
    let size = i64::try_from(body_size).unwrap_or(i64::MAX);
    attributes.push(Attribute::new("messaging.message.body.size", size));
    super::remote_addresses(endpoints, &mut attributes);
    Description { name: format!("process {template}"), attributes, status: Status::Unset }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Value;

    fn told(destination: &str, text: TextMode) -> (String, Vec<String>) {
        let description = describe("redis", destination, 5, &Endpoints::default(), text);
        let names = description.attributes.iter().filter(|attribute| attribute.key.contains("destination"));
        let names = names.map(|attribute| match &attribute.value {
            Value::Str(value) => format!("{}={value}", attribute.key),
            other => panic!("{other:?}"),
        });
        (description.name, names.collect())
    }

    #[test]
    fn identifiers_do_not_get_into_names() {
        let (name, names) = told("game:17:events", TextMode::Sanitized);
        assert_eq!(name, "process game:{id}:events");
        assert_eq!(names, ["messaging.destination.template=game:{id}:events"]);
        let (_, names) = told("game:17:events", TextMode::Raw);
        assert_eq!(names[0], "messaging.destination.name=game:17:events");
        let (name, names) = told("events", TextMode::Sanitized);
        assert_eq!(
            (name.as_str(), names),
            ("process events", vec!["messaging.destination.name=events".into()])
        );
    }
}
