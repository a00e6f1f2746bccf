//! Servers for one live test, and how its services are told of them.

use std::path::PathBuf;

use anyhow::Result;

use crate::{folder, postgres::Postgres, python::Environment, rabbitmq::RabbitMq, redis::Redis, stack::venv};

/// Postgres, Redis and, where it is wanted, `RabbitMQ`, all of them silent. Drop the services before.
pub struct Rig {
    /// Where all files are.
    pub dir: PathBuf,
    /// The virtual environment.
    pub venv: PathBuf,
    /// Of a service that knows the servers.
    pub environment: Environment,
    /// The broker.
    pub broker: Option<RabbitMq>,
    _postgres: Postgres,
    _redis: Redis,
}

impl Rig {
    /// Starts the servers; `python` is the beginning of a virtual environment's name.
    pub fn start(name: &str, service: &str, python: &str, with_broker: bool) -> Result<Self> {
        let dir = folder(name)?;
        let postgres = Postgres::start_unlogged(&dir)?;
        let redis = Redis::start_unlogged(&dir)?;
        let broker = with_broker.then(|| RabbitMq::start(&dir)).transpose()?;
        let mut environment = Environment::new(service).servers(&postgres, &redis);
        if let Some(broker) = &broker {
            environment = environment.broker(broker);
        }
        Ok(Self { venv: venv(python)?, dir, environment, broker, _postgres: postgres, _redis: redis })
    }

    /// Waits until no queue of the broker holds a message.
    pub fn wait_empty(&self) -> Result<()> {
        self.broker.as_ref().map_or(Ok(()), RabbitMq::wait_empty)
    }
}
