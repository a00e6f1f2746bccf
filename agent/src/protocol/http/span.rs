//! What the stable OpenTelemetry semantic conventions for HTTP spans say of an exchange.

use super::{Exchange, Outcome, Version};
use crate::protocol::discord;
use crate::signal::{Address, Attribute, Description, Endpoints, Role, Status};

/// Methods that the conventions know: RFC 9110, RFC 5789 and the QUERY draft. All others are `_OTHER`.
const KNOWN_METHODS: [&str; 10] =
    ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "QUERY"];
/// Query parameters whose values are never shown, in lower case. The first seven are those of the conventions
/// (`url.query`), the others are ours.
const SENSITIVE: [&str; 21] = [
    "awsaccesskeyid",
    "signature",
    "sig",
    "x-goog-signature",
    "x-amz-signature",
    "x-amz-credential",
    "x-amz-security-token",
    "token",
    "access_token",
    "refresh_token",
    "id_token",
    "auth_token",
    "password",
    "passwd",
    "pwd",
    "secret",
    "client_secret",
    "api_key",
    "api-key",
    "apikey",
    "key",
];

impl Exchange {
    /// The path of the target, without the query: what a route is learned from. Empty for `CONNECT`, and where it is not known.
    pub fn path(&self) -> &str {
        Url::of(self).path
    }
}

/// Describes an exchange as a span of the watched process. `route` is the template that the path follows, where one is
/// known; only server spans have it.
pub fn describe(exchange: &Exchange, role: Role, endpoints: &Endpoints, route: Option<&str>) -> Description {
    let route = route.filter(|_| role == Role::Server);
    let known = KNOWN_METHODS.contains(&exchange.method.as_ref());
    let method = if known { exchange.method.as_ref() } else { "HTTP" };
    let url = Url::of(exchange);
    // A token in a path is a secret; where Discord's interface has one is known.
    let masked = discord::redacted(url.path).filter(|_| role == Role::Client);
    let (path, template) = masked.unzip();
    let url = Url { path: path.as_deref().unwrap_or(url.path), ..url };
    let known_path = route.or(template.as_deref());
    let name = known_path.map_or_else(|| method.to_owned(), |path| format!("{method} {path}"));

    let mut attributes = Attribute::list([]);
    let mut push = |attribute| attributes.push(attribute);
    if known {
        push(Attribute::new("http.request.method", exchange.method.clone().into_owned()));
    } else {
        push(Attribute::new("http.request.method", "_OTHER"));
    }
    if !known && !exchange.method.is_empty() {
        push(Attribute::new("http.request.method_original", exchange.method.clone().into_owned()));
    }

    let scheme = scheme(exchange, role, &url);
    match role {
        Role::Server => {
            if !url.path.is_empty() {
                push(Attribute::new("url.path", url.path.to_owned()));
            }
            if let Some(query) = url.query {
                push(Attribute::new("url.query", redacted(query)));
            }
            push(Attribute::new("url.scheme", scheme.clone()));
            if let Some(route) = route {
                push(Attribute::new("http.route", route.to_owned()));
            }
        }
        Role::Client => {
            if let Some(full) = full(exchange, &scheme, &url, endpoints) {
                push(Attribute::new("url.full", full));
            }
            if let Some(template) = &template {
                push(Attribute::new("url.template", template.clone()));
            }
        }
    }

    let (address, port) = server(exchange, role, &scheme, &url, endpoints);
    if let Some(address) = address {
        push(Attribute::new("server.address", address));
        if let Some(port) = port {
            push(Attribute::new("server.port", i64::from(port)));
        }
    }
    let (peer, peer_port) = socket(&endpoints.remote);
    if let Some(peer) = peer {
        if role == Role::Server {
            push(Attribute::new("client.address", peer.clone()));
        }
        push(Attribute::new("network.peer.address", peer));
    }
    if let Some(port) = peer_port {
        push(Attribute::new("network.peer.port", i64::from(port)));
    }
    push(Attribute::new(
        "network.protocol.version",
        match exchange.version {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
            Version::Http2 => "2",
        },
    ));
    if let Some(user_agent) = &exchange.user_agent {
        push(Attribute::new("user_agent.original", user_agent.clone()));
    }

    if exchange.request_size > 0 {
        push(Attribute::new("http.request.body.size", exchange.request_size as i64));
    }
    if let Some(status) = exchange.status {
        push(Attribute::new("http.response.status_code", i64::from(status)));
        // A size with unseen bytes in it would be wrong.
        if exchange.outcome != Outcome::Lost {
            push(Attribute::new("http.response.body.size", exchange.response_size as i64));
        }
    }
    if exchange.unknown {
        push(Attribute::new("adder.http.fields.unknown", true));
    }
    let error = error(exchange, role);
    if let Some(error) = &error {
        push(Attribute::new("error.type", error.clone()));
    }
    let status = error.map_or(Status::Unset, |_| Status::Error(String::new()));
    Description { name, attributes, status }
}

/// `error.type`, where it failed. A client that goes away while it is being answered is no failure of the server.
fn error(exchange: &Exchange, role: Role) -> Option<String> {
    let failing = match role {
        Role::Server => 500,
        Role::Client => 400,
    };
    match (exchange.status, exchange.outcome, role) {
        (Some(status), _, _) if status >= failing => Some(status.to_string()),
        (None, Outcome::CutShort, _) | (Some(_), Outcome::CutShort, Role::Client) => {
            Some("connection_closed".to_owned())
        }
        _ => None,
    }
}

/// A request target, RFC 9112 §3.2.
struct Url<'a> {
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Url<'a> {
    fn of(exchange: &'a Exchange) -> Self {
        let target = exchange.target.as_str();
        if target.is_empty() {
            return Self { scheme: None, authority: None, path: "", query: None };
        }
        if exchange.method == "CONNECT" {
            return Self { scheme: None, authority: Some(target), path: "", query: None };
        }
        let (mut scheme, mut authority, mut rest) = (None, None, target);
        if !target.starts_with('/')
            && let Some((before, behind)) = target.split_once("://")
        {
            let end = behind.find(['/', '?', '#']).unwrap_or(behind.len());
            let (host, path) = behind.split_at(end);
            (scheme, authority, rest) = (Some(before), Some(host), path);
        }
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        let path = if path.is_empty() { "/" } else { path };
        Self { scheme, authority, path, query: query.filter(|query| !query.is_empty()) }
    }
}

fn scheme(exchange: &Exchange, role: Role, url: &Url<'_>) -> String {
    let forwarded = exchange.forwarded_proto.as_deref().filter(|_| role == Role::Server);
    let plausible = |scheme: &&str| {
        scheme.len() <= 16
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    forwarded
        .filter(plausible)
        .or(url.scheme.filter(plausible))
        .unwrap_or(if exchange.secure { "https" } else { "http" })
        .to_ascii_lowercase()
}

/// `url.full`: redacted, without credentials. There is none for `CONNECT`, and none where no host is known.
fn full(exchange: &Exchange, scheme: &str, url: &Url<'_>, endpoints: &Endpoints) -> Option<String> {
    if exchange.method == "CONNECT" || exchange.target.is_empty() {
        return None;
    }
    let peer = match &endpoints.remote {
        Address::Inet(address) => Some(address.to_string()),
        Address::Unix(_) | Address::Unknown => None,
    };
    let host = url.authority.or(exchange.host.as_deref()).map(without_credentials);
    let host = host.filter(|host| !host.is_empty()).or(peer.as_deref())?;
    let mut full = format!("{scheme}://{host}");
    if url.path != "*" {
        full.push_str(url.path);
    }
    if let Some(query) = url.query {
        full.push('?');
        full.push_str(&redacted(query));
    }
    Some(full)
}

/// `server.address` and `server.port`: what the client asked for, else the server's end of the connection.
fn server(
    exchange: &Exchange,
    role: Role,
    scheme: &str,
    url: &Url<'_>,
    endpoints: &Endpoints,
) -> (Option<String>, Option<u16>) {
    let end = match role {
        Role::Server => &endpoints.local,
        Role::Client => &endpoints.remote,
    };
    let forwarded = exchange.forwarded_host.as_deref().filter(|_| role == Role::Server);
    let host = forwarded.or(url.authority).or(exchange.host.as_deref()).map(without_credentials);
    let Some(host) = host.filter(|host| !host.is_empty()) else {
        return socket(end);
    };
    let (address, port) = split_host(host);
    let port = port.or_else(|| match end {
        // A client without a proxy is connected to the very port; a server may be behind one.
        Address::Inet(end) if role == Role::Client && url.authority.is_none() => Some(end.port()),
        Address::Inet(_) | Address::Unix(_) | Address::Unknown => match scheme {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        },
    });
    (Some(address.to_owned()), port)
}

/// Address and port of one end, as far as they are known.
pub(in crate::protocol) fn socket(address: &Address) -> (Option<String>, Option<u16>) {
    match address {
        Address::Inet(address) => (Some(address.ip().to_canonical().to_string()), Some(address.port())),
        Address::Unix(path) if !path.is_empty() => (Some(path.clone()), None),
        Address::Unix(_) | Address::Unknown => (None, None),
    }
}

fn without_credentials(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
pub(in crate::protocol) fn split_host(host: &str) -> (&str, Option<u16>) {
    if let Some((address, rest)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        return (address, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match host.split_once(':') {
        Some((address, port)) if !port.contains(':') => (address, port.parse().ok()),
        _ => (host, None),
    }
}

/// The query with `REDACTED` for each sensitive value.
fn redacted(query: &str) -> String {
    let mut text = String::with_capacity(query.len());
    for part in query.split_inclusive(['&', ';']) {
        let end = part.strip_suffix(['&', ';']).unwrap_or(part);
        match end.split_once('=') {
            Some((key, _)) if is_sensitive(key) => {
                text.push_str(key);
                text.push_str("=REDACTED");
                text.push_str(part.strip_prefix(end).unwrap_or_default());
            }
            _ => text.push_str(part),
        }
    }
    text
}

/// Percent-encoding and case do not hide a key.
fn is_sensitive(key: &str) -> bool {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let mut decoded = String::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let mut byte = byte;
        if byte == b'%'
            && let (Some(high), Some(low)) = (digit(after.first()), digit(after.get(1)))
        {
            byte = (high * 16 + low) as u8;
            rest = after.get(2..).unwrap_or_default();
        }
        decoded.push(char::from(byte.to_ascii_lowercase()));
    }
    SENSITIVE.contains(&decoded.as_str())
}
