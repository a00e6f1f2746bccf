//! The demo's other half: a service that publishes, workers that take what it publishes, a bot that takes what they do.

use std::path::Path;

use anyhow::Result;

use crate::{
    python::{App, Environment, EventLoop},
    rabbitmq::RabbitMq,
    stack::Stack,
};

/// What a load asks of the publishing service.
pub const PATHS: [&str; 3] = ["/publish/jobs", "/publish-pika/jobs", "/task"];

/// Everything that runs. Fields end in this order: services before the broker.
pub struct Messaging {
    /// The publishing service, `schedule-api`.
    pub api: App,
    /// Workers: aio-pika, pika, the bot, Celery.
    workers: [App; 4],
    _broker: RabbitMq,
}

impl Messaging {
    /// Starts everything beside a running stack and waits until it is ready.
    pub fn start(venv: &Path, stack: &Stack, event_loop: EventLoop) -> Result<Self> {
        let dir = &stack.dir;
        let broker = RabbitMq::start(dir)?;
        let environment =
            Environment::new("schedule-api").servers(&stack.postgres, &stack.redis).broker(&broker);
        let environment = environment.players(&stack.players);
        let worker = |service: &str, way: &str, kind: &str| {
            App::worker(venv, dir, "worker.py", &[way, kind], &environment.clone().named(service))
        };
        let workers = [
            worker("worker", "callbacks", "jobs")?,
            worker("pika-worker", "pika", "jobs")?,
            worker("bot", "bot", "events")?,
            App::celery(venv, dir, "prefork", &environment.clone().named("celery"))?,
        ];
        let api = App::uvicorn(venv, dir, "schedule_api:app", event_loop, 1, &environment)?;
        Ok(Self { api, workers, _broker: broker })
    }

    /// Arguments that make `adder` watch them.
    pub fn pids(&self) -> Vec<String> {
        let apps = self.workers.iter().chain([&self.api]);
        apps.flat_map(|app| ["--pid".into(), app.pid().to_string()]).collect()
    }
}
