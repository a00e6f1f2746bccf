//! Servers for one live test, and how its services are told of them.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    certificates::Certificates, folder, postgres::Postgres, python::Environment, rabbitmq::RabbitMq,
    redis::Redis, stack::venv,
};

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
        Self::start_with(name, service, python, with_broker, false)
    }

    /// The same, with every connection encrypted.
    pub fn start_encrypted(name: &str, service: &str, python: &str, with_broker: bool) -> Result<Self> {
        Self::start_with(name, service, python, with_broker, true)
    }

    fn start_with(
        name: &str,
        service: &str,
        python: &str,
        with_broker: bool,
        encrypted: bool,
    ) -> Result<Self> {
        let dir = folder(name)?;
        let certificates = encrypted.then(|| Certificates::make(&dir)).transpose()?;
        let tls = certificates.as_ref();
        let postgres = Postgres::start_with(&dir, "log_statement = none", tls)?;
        let redis = Redis::start_with(&dir, false, tls)?;
        let broker = with_broker.then(|| RabbitMq::start_with(&dir, tls)).transpose()?;
        let mut environment = Environment::new(service).servers(&postgres, &redis);
        if let Some(certificates) = tls {
            environment = environment.encrypted(certificates);
        }
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
