//! What the OpenTelemetry semantic conventions for RPC say of a gRPC call.

use crate::{
    protocol::http::{Exchange, Outcome, socket, split_host},
    signal::{Attribute, Description, Endpoints, Role, Status},
};

/// Names of status codes, by number: <https://grpc.github.io/grpc/core/md_doc_statuscodes.html>.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// What the conventions call an error of the server: not what the client could have avoided.
const SERVER_ERRORS: [u32; 6] = [2, 4, 12, 13, 14, 15];
/// `CANCELLED`
const CANCELLED: u32 = 1;
const DEADLINE_EXCEEDED: u32 = 4;
/// `CANCEL`, RFC 9113 §7.
pub(super) const CANCEL: u32 = 8;

/// Describes a call as a span of the watched process.
pub fn describe(exchange: &Exchange, role: Role, endpoints: &Endpoints) -> Description {
    let path = exchange.path();
    let (service, method) = path.trim_start_matches('/').rsplit_once('/').unwrap_or_default();
    let mut attributes = vec![Attribute::new("rpc.system", "grpc")];
    let known = !service.is_empty() && !method.is_empty();
    if known {
        attributes.push(Attribute::new("rpc.service", service.to_owned()));
        attributes.push(Attribute::new("rpc.method", method.to_owned()));
    }
    let status = exchange.grpc.as_ref().and_then(|grpc| grpc.status);
    if let Some(status) = status {
        attributes.push(Attribute::new("rpc.grpc.status_code", i64::from(status)));
    }
    let end = if role == Role::Client { &endpoints.remote } else { &endpoints.local };
    let (address, port) =
        match exchange.host.as_deref().filter(|host| role == Role::Client && !host.is_empty()) {
            Some(host) => {
                let (address, port) = split_host(host);
                (Some(address.to_owned()), port.or(socket(end).1))
            }
            None => socket(end),
        };
    let (peer, peer_port) = socket(&endpoints.remote);
    let client = peer.clone().filter(|_| role == Role::Server);
    for (key, text) in
        [("server.address", address), ("client.address", client), ("network.peer.address", peer)]
    {
        attributes.extend(text.map(|text| Attribute::new(key, text)));
    }
    for (key, port) in [("server.port", port), ("network.peer.port", peer_port)] {
        attributes.extend(port.map(|port| Attribute::new(key, i64::from(port))));
    }
    if let Some(user_agent) = &exchange.user_agent {
        attributes.push(Attribute::new("user_agent.original", user_agent.clone()));
    }
    if exchange.unknown {
        attributes.push(Attribute::new("adder.http.fields.unknown", true));
    }
    let failed = match (status, role) {
        (Some(status), Role::Server) => SERVER_ERRORS.contains(&status).then(|| code(status)),
        (Some(status), Role::Client) => (status != 0).then(|| code(status)),
        (None, _) => (exchange.outcome == Outcome::CutShort).then(|| "connection_closed".to_owned()),
    };
    if let Some(failed) = &failed {
        attributes.push(Attribute::new("error.type", failed.clone()));
    }
    let status = failed.map_or(Status::Unset, |_| Status::Error(String::new()));
    let name = if known { format!("{service}/{method}") } else { "grpc".to_owned() };
    Description { name, attributes, status }
}

/// The status of a call that was given up after so long, nanoseconds, and has no trailers. The time that it had counts from
/// before it is sent, and is told rounded up.
pub(super) fn given_up(timeout: Option<u64>, lasted: u64) -> u32 {
    let is_late = timeout.is_some_and(|timeout| lasted >= timeout - timeout / 20);
    if is_late { DEADLINE_EXCEEDED } else { CANCELLED }
}

/// Whether a status says that a call was given up.
pub(super) fn is_given_up(status: u32) -> bool {
    matches!(status, CANCELLED | DEADLINE_EXCEEDED)
}

/// Reads `grpc-timeout`, nanoseconds: at most eight digits and a unit
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Timeout").
pub(super) fn timeout(value: &[u8]) -> Option<u64> {
    let (unit, digits) = value.split_last()?;
    let unit = match unit {
        b'H' => 3_600_000_000_000,
        b'M' => 60_000_000_000,
        b'S' => 1_000_000_000,
        b'm' => 1_000_000,
        b'u' => 1_000,
        b'n' => 1,
        _ => return None,
    };
    let number: u64 = std::str::from_utf8(digits).ok().filter(|digits| digits.len() <= 8)?.parse().ok()?;
    Some(number.saturating_mul(unit))
}

fn code(status: u32) -> String {
    CODES.get(status as usize).map_or_else(|| status.to_string(), |name| (*name).to_owned())
}
