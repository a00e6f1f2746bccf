//! The routes that a web framework has, read from its own objects.
//!
//! They are found by what has started the server: its function is on the stack of a thread for as long as it runs, with
//! the application among its local variables.

use super::frames::Codes;
use crate::signal::{Dialect, RouteTable, Rule};

/// Functions that serve an application: file, last part of the name, the local variable, and the attributes that lead from
/// it to the application.
const SERVERS: [(&str, &str, &str, &[&str]); 6] = [
    ("uvicorn/server.py", "run", "self", &["config", "loaded_app"]),
    ("gunicorn/workers/sync.py", "run", "self", &["wsgi"]),
    ("gunicorn/workers/gthread.py", "run", "self", &["wsgi"]),
    ("gunicorn/workers/base.py", "init_process", "self", &["wsgi"]),
    ("werkzeug/serving.py", "run_simple", "application", &[]),
    ("aiohttp/web.py", "run_app", "app", &[]),
];
/// Attributes in which middleware keeps what it is around.
const INNER: [&str; 3] = ["app", "application", "wsgi_app"];
/// How many layers of middleware, and mounts within mounts, are looked through.
const LAYERS_MAX: usize = 16;
/// Routes of one process.
const RULES_MAX: usize = 4096;

/// The routes of a process, given the thread states of its interpreter.
pub fn routes(codes: &Codes, states: &[u64]) -> Option<RouteTable> {
    let application = states.iter().find_map(|state| {
        codes.frames(*state).into_iter().find_map(|(frame, code)| {
            let (_, _, variable, path) =
                SERVERS.iter().find(|(file, function, _, _)| codes.is(code, file, function))?;
            let object = codes.behind_cell(codes.local_value(frame, code, variable)?)?;
            path.iter().try_fold(object, |object, name| codes.attribute(object, name))
        })
    })?;
    read(codes, application).filter(|table| !table.rules.is_empty())
}

/// Looks for a framework's router in an application, through what is around it.
fn read(codes: &Codes, application: u64) -> Option<RouteTable> {
    let mut object = application;
    for _ in 0..LAYERS_MAX {
        let table = |dialect, rules| Some(RouteTable { dialect, rules });
        if let Some(routes) = router_routes(codes, object) {
            let mut rules = Vec::new();
            starlette(codes, routes, "", LAYERS_MAX, &mut rules);
            return table(Dialect::Starlette, rules);
        }
        let within = |outer, inner| codes.attribute(codes.attribute(object, outer)?, inner);
        // A list of rules for each endpoint.
        if let Some(endpoints) = within("url_map", "_rules_by_endpoint").and_then(|map| codes.values(map)) {
            let rules = endpoints.into_iter().filter_map(|rules| codes.list(rules)).flatten();
            let rules = rules.take(RULES_MAX).filter_map(|rule| werkzeug(codes, rule));
            return table(Dialect::Werkzeug, rules.collect());
        }
        if let Some(resources) = within("_router", "_resources").and_then(|list| codes.list(list)) {
            let mut rules = Vec::new();
            aiohttp(codes, resources, "", LAYERS_MAX, &mut rules);
            return table(Dialect::Aiohttp, rules);
        }
        object = inner(codes, object)?;
    }
    None
}

/// What a middleware is around.
fn inner(codes: &Codes, middleware: u64) -> Option<u64> {
    INNER.iter().find_map(|name| codes.attribute(middleware, name))
}

/// The list of routes of a Starlette application or router.
fn router_routes(codes: &Codes, object: u64) -> Option<Vec<u64>> {
    let router = codes.attribute(object, "router").unwrap_or(object);
    codes.list(codes.attribute(router, "routes")?)
}

/// That of an application that is mounted, which may have middleware around it.
fn mounted_routes(codes: &Codes, application: u64) -> Option<Vec<u64>> {
    let layers = std::iter::successors(Some(application), |object| inner(codes, *object));
    layers.take(LAYERS_MAX).find_map(|object| router_routes(codes, object))
}

/// Adds Starlette's routes, those of mounted applications with what is before them; false where something is among them
/// that is not understood: what lies behind it is not known to be reached.
fn starlette(codes: &Codes, routes: Vec<u64>, before: &str, depth: usize, rules: &mut Vec<Rule>) -> bool {
    for route in routes {
        let Some(depth) = depth.checked_sub(1).filter(|_| rules.len() < RULES_MAX) else { return false };
        // What `include_router` leaves in newer versions of FastAPI; older ones copy the routes.
        if let Some(router) = codes.attribute(route, "original_router") {
            let prefix = codes.attribute(route, "include_context");
            let prefix = prefix.and_then(|context| codes.string(codes.attribute(context, "prefix")?));
            let (Some(prefix), Some(inner)) = (prefix, router_routes(codes, router)) else { return false };
            if !starlette(codes, inner, &format!("{before}{prefix}"), depth, rules) {
                return false;
            }
            continue;
        }
        let path = codes.attribute(route, "path").and_then(|path| codes.string(path));
        let Some(path) = path else { return false };
        let template = format!("{before}{path}");
        // What a mount has, and a route has not.
        if let Some(mounted) = codes.attribute(route, "_base_app") {
            match mounted_routes(codes, mounted) {
                Some(inner) => {
                    if !starlette(codes, inner, &template, depth, rules) {
                        return false;
                    }
                }
                None => rules.push(Rule {
                    pattern: format!("{template}/{{path:path}}"),
                    template,
                    methods: Vec::new(),
                }),
            }
            continue;
        }
        let methods = codes.attribute(route, "methods").map(|methods| codes.strings(methods));
        rules.push(Rule { pattern: template.clone(), template, methods: methods.unwrap_or_default() });
    }
    true
}

fn werkzeug(codes: &Codes, rule: u64) -> Option<Rule> {
    let template = codes.string(codes.attribute(rule, "rule")?)?;
    let methods = codes.attribute(rule, "methods").map(|methods| codes.strings(methods));
    Some(Rule { pattern: template.clone(), template, methods: methods.unwrap_or_default() })
}

/// Adds the resources of aiohttp: `_path` where there are no placeholders, `_formatter` where there are, `_prefix` where
/// all that follows is served, and those of applications within. All of them have what is before them in front, only
/// `_orig_path`, where the expressions are, has not.
fn aiohttp(codes: &Codes, resources: Vec<u64>, before: &str, depth: usize, rules: &mut Vec<Rule>) {
    for resource in resources {
        let text = |name| codes.string(codes.attribute(resource, name)?);
        let inner = || {
            let router = codes.attribute(codes.attribute(resource, "_app")?, "_router")?;
            codes.list(codes.attribute(router, "_resources")?)
        };
        if rules.len() >= RULES_MAX {
            return;
        }
        if let (Some(inner), Some(depth)) = (inner(), depth.checked_sub(1)) {
            aiohttp(codes, inner, &text("_prefix").unwrap_or_default(), depth, rules);
        } else if let Some(template) = text("_formatter") {
            let original = text("_orig_path");
            let pattern = original.map_or_else(|| template.clone(), |original| format!("{before}{original}"));
            rules.push(Rule { template, pattern, methods: Vec::new() });
        } else if let Some(template) = text("_path") {
            rules.push(Rule { pattern: template.clone(), template, methods: Vec::new() });
        } else if let Some(template) = text("_prefix") {
            rules.push(Rule { pattern: format!("{template}/{{path:.*}}"), template, methods: Vec::new() });
        }
    }
}
