//! The routes that a web framework has, read from its own objects.
//!
//! They are found by what has started the server: its function is on the stack of a thread for as long as it runs, with
//! the application among its local variables.

use super::frames::Codes;
use crate::signal::{Dialect, PART, RouteTable, Rule};

/// Functions that serve an application: file, last part of the name, the local variable, and the attributes that lead from
/// it to the application.
const SERVERS: [(&str, &str, &str, &[&str]); 7] = [
    ("uvicorn/server.py", "run", "self", &["config", "loaded_app"]),
    ("gunicorn/workers/sync.py", "run", "self", &["wsgi"]),
    ("gunicorn/workers/gthread.py", "run", "self", &["wsgi"]),
    ("gunicorn/workers/base.py", "init_process", "self", &["wsgi"]),
    ("werkzeug/serving.py", "run_simple", "application", &[]),
    ("aiohttp/web.py", "run_app", "app", &[]),
    ("django/core/servers/basehttp.py", "run", "wsgi_handler", &[]),
];
/// Attributes in which middleware keeps what it is around.
const INNER: [&str; 3] = ["app", "application", "wsgi_app"];
/// How often the stacks are read until one shows a server. A thread that runs meanwhile shows a part of its stack: of a
/// busy one, one reading in thirty did not reach the server.
const TRIES: usize = 16;
/// What a resolver of Django at the root takes.
const ROOT: &str = "^/";
/// How many layers of middleware, and mounts within mounts, are looked through.
const LAYERS_MAX: usize = 16;
/// Objects looked at, routes and what holds them.
const OBJECTS_MAX: usize = 4096;
/// Bytes of a table at most; a fact is shorter than [`crate::record`] takes.
const TABLE_MAX: usize = 512 * 1024;

/// The routes of a process, given the thread states of its interpreter; `None` where they are not found, or in which order
/// they are tried is not known. The table is empty where the application is found, but nothing is known of its routes (yet).
pub fn routes(codes: &Codes, states: &[u64]) -> Option<RouteTable> {
    let mut object = (0..TRIES).find_map(|_| application(codes, states))?;
    for _ in 0..LAYERS_MAX {
        let mut reader = Reader { codes, rules: Vec::new(), left: OBJECTS_MAX, within: 0 };
        if let Some(dialect) = reader.read(object) {
            let table = RouteTable { dialect, rules: reader.rules };
            return Some(table).filter(|table| table.size() <= TABLE_MAX);
        }
        object = inner(codes, object)?;
    }
    None
}

/// The application that a thread of these serves.
fn application(codes: &Codes, states: &[u64]) -> Option<u64> {
    states.iter().find_map(|state| {
        codes.frames(*state).into_iter().find_map(|(frame, code)| {
            let (path, name) = codes.function(code)?;
            let serves = |(file, function, _, _): &&(&str, &str, _, _)| {
                name.rsplit('.').next() == Some(*function) && path.ends_with(file)
            };
            let (_, _, variable, path) = SERVERS.iter().find(serves)?;
            let object = codes.behind_cell(codes.local_value(frame, code, variable)?)?;
            path.iter().try_fold(object, |object, name| codes.attribute(object, name))
        })
    })
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

/// The resolver at the root of a Django application: the function that keeps it is known to the module of its handler's
/// class. It is made for the first request.
fn django_resolver(codes: &Codes, handler: u64) -> Option<u64> {
    let method = codes.class_attribute(handler, "resolve_request")?;
    let keeper = codes.global(codes.global(method, "get_resolver")?, "_get_cached_resolver")?;
    let mut resolvers =
        codes.cached(keeper).into_iter().filter(|object| codes.attribute(*object, "urlconf_name").is_some());
    // Of several it shows elsewhere which is asked.
    resolvers.next().filter(|_| resolvers.next().is_none())
}

/// Reads the routes of one application.
struct Reader<'a> {
    codes: &'a Codes,
    rules: Vec<Rule>,
    /// Objects that may still be looked at.
    left: usize,
    /// Applications within the application so far.
    within: u16,
}

impl Reader<'_> {
    /// Reads what a framework's application has, which is nothing where it is not understood. `None` if it is none.
    fn read(&mut self, object: u64) -> Option<Dialect> {
        let codes = self.codes;
        if let Some(routes) = router_routes(codes, object) {
            // Those before what is not understood are tried first all the same.
            let _ = self.starlette(routes, "", LAYERS_MAX);
            return Some(Dialect::Starlette);
        }
        if let Some(map) = codes.attribute(object, "url_map") {
            let read = self.werkzeug(map);
            return Some(self.all_or_nothing(read, Dialect::Werkzeug));
        }
        if codes.attribute(object, "_middleware_chain").is_some() {
            if let Some(resolver) = django_resolver(codes, object) {
                // As with Starlette.
                let _ = self.django(resolver, "", ROOT, LAYERS_MAX);
            }
            return Some(Dialect::Django);
        }
        let router = codes.attribute(object, "_router")?;
        codes.attribute(router, "_resources")?;
        // Before 3.9 the order was another.
        let indexed = codes.attribute(router, "_resource_index");
        let read = indexed.and_then(|_| self.aiohttp(router, "", 0, LAYERS_MAX));
        Some(self.all_or_nothing(read, Dialect::Aiohttp))
    }

    fn all_or_nothing(&mut self, read: Option<()>, dialect: Dialect) -> Dialect {
        if read.is_none() {
            self.rules.clear();
        }
        dialect
    }

    fn text(&self, object: u64, name: &str) -> Option<String> {
        self.codes.string(self.codes.attribute(object, name)?)
    }

    fn take_one(&mut self) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        Some(())
    }

    fn add(&mut self, template: String, pattern: String, methods: Vec<String>, within: u16) {
        self.rules.push(Rule { template, pattern, methods, within });
    }

    /// Adds Starlette's routes, those of mounted applications with what is before them; `None` where something is among them
    /// that is not understood: what lies behind it is not known to be reached.
    fn starlette(&mut self, routes: Vec<u64>, before: &str, depth: usize) -> Option<()> {
        let codes = self.codes;
        let depth = depth.checked_sub(1)?;
        for route in routes {
            self.take_one()?;
            // What `include_router` leaves in newer versions of FastAPI; older ones copy the routes.
            if let Some(router) = codes.attribute(route, "original_router") {
                let prefix = self.text(codes.attribute(route, "include_context")?, "prefix")?;
                self.starlette(router_routes(codes, router)?, &format!("{before}{prefix}"), depth)?;
                continue;
            }
            let template = format!("{before}{}", self.text(route, "path")?);
            if codes.attribute(route, "endpoint").is_some() {
                // A WebSocket's has no methods, and serves no request; of others they may be `None`.
                if let Some(methods) = codes.attribute(route, "methods") {
                    self.add(template, String::new(), codes.strings(methods), 0);
                }
                continue;
            }
            let mounted = codes.attribute(route, "_base_app").or_else(|| codes.attribute(route, "app"))?;
            let pattern = format!("{template}/{{path:path}}");
            let routes = mounted_routes(codes, mounted);
            let is_opaque = routes.is_none();
            if let Some(routes) = routes {
                self.starlette(routes, &template, depth)?;
            }
            // Nothing that fits a mount is tried elsewhere.
            let template = if is_opaque { template } else { String::new() };
            self.add(template, pattern, Vec::new(), 0);
        }
        Some(())
    }

    /// Adds the rules of a werkzeug `Map`, of which it keeps a list for each endpoint.
    fn werkzeug(&mut self, map: u64) -> Option<()> {
        let codes = self.codes;
        // Before 2.2 the order was another.
        codes.attribute(map, "_matcher")?;
        for rules in codes.values(codes.attribute(map, "_rules_by_endpoint")?)? {
            for rule in codes.list(rules)? {
                self.take_one()?;
                let is = |name| codes.attribute(rule, name).is_some_and(|object| codes.is_true(object));
                if is("build_only") || is("websocket") {
                    continue;
                }
                let has = |name| self.text(rule, name).is_some_and(|text| !text.is_empty());
                if has("host") || has("subdomain") {
                    return None;
                }
                let methods = codes.attribute(rule, "methods").map(|methods| codes.strings(methods));
                self.add(self.text(rule, "rule")?, String::new(), methods.unwrap_or_default(), 0);
            }
        }
        Some(())
    }

    /// Adds the resources of aiohttp: `_path` where there are no placeholders, `_formatter` where there are, `_prefix` where
    /// all that follows is served, and those of applications within. All of them have what is before them in front, only
    /// `_orig_path`, where the expressions are, has not.
    fn aiohttp(&mut self, router: u64, before: &str, within: u16, depth: usize) -> Option<()> {
        let codes = self.codes;
        let depth = depth.checked_sub(1)?;
        for resource in codes.list(codes.attribute(router, "_resources")?)? {
            self.take_one()?;
            if codes.attribute(resource, "_rule").is_some() {
                // For some hosts only.
                return None;
            }
            if let Some(application) = codes.attribute(resource, "_app") {
                let prefix = self.text(resource, "_prefix")?;
                self.within += 1;
                let within = self.within;
                self.aiohttp(codes.attribute(application, "_router")?, &prefix, within, depth)?;
                // Nothing that fits it is tried elsewhere.
                self.add(String::new(), format!("{prefix}/{{path:.*}}"), Vec::new(), within);
                continue;
            }
            if let Some(prefix) = self.text(resource, "_prefix") {
                let methods = vec!["GET".to_owned(), "HEAD".to_owned()];
                self.add(prefix.clone(), format!("{prefix}/{{path:.*}}"), methods, within);
                continue;
            }
            let routes = codes.attribute(resource, "_routes")?;
            let routes = codes.values(routes).or_else(|| codes.list(routes))?;
            let methods: Option<Vec<_>> =
                routes.into_iter().map(|route| self.text(route, "_method")).collect();
            let methods = methods.filter(|methods| !methods.iter().any(|method| method == "*"));
            let methods = methods.unwrap_or_default();
            if let Some(template) = self.text(resource, "_formatter") {
                let original = self.text(resource, "_orig_path")?;
                self.add(template, format!("{before}{original}"), methods, within);
            } else {
                self.add(self.text(resource, "_path")?, String::new(), methods, within);
            }
        }
        Some(())
    }

    /// Adds the patterns of Django (`django/urls/resolvers.py`), those of included ones with what is before them; `None` where
    /// something is among them that is not understood.
    fn django(&mut self, resolver: u64, before: &str, parts: &str, depth: usize) -> Option<()> {
        let codes = self.codes;
        let depth = depth.checked_sub(1)?;
        let patterns = codes.attribute(resolver, "url_patterns").or_else(|| {
            let named = codes.attribute(resolver, "urlconf_name")?;
            codes.module_attribute(named, "urlpatterns").or(Some(named))
        });
        for route in codes.list(patterns?)? {
            self.take_one()?;
            let pattern = codes.attribute(route, "pattern")?;
            let (text, is_route) = match self.text(pattern, "_route") {
                Some(text) => (text, true),
                None => (self.text(pattern, "_regex")?, false),
            };
            // An expression that fits anywhere fits at once if it is empty.
            let part = if is_route || text.starts_with('^') { text.as_str() } else { "^" };
            if part != text && !text.is_empty() {
                return None;
            }
            // `_join_route`.
            let joined = if before.is_empty() { &text } else { text.strip_prefix('^').unwrap_or(&text) };
            let (template, parts) = (format!("{before}{joined}"), format!("{parts}{PART}{part}"));
            if codes.attribute(route, "urlconf_name").is_some() {
                self.django(route, &template, &parts, depth)?;
            } else {
                self.add(template, parts, Vec::new(), 0);
            }
        }
        Some(())
    }
}
