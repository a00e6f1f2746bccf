//! `cargo xtask bench`: what watching costs a service, beside the same service bare and under the OpenTelemetry SDK.
//!
//! Bare and watched are two services of one kind that take turns of a second, for what a machine does that is shared with others
//! changes within seconds. Two processes of the same program differ too: half of the time one of them is watched, then the other. The
//! one that is not pays something all the same: the hooks at the entry and the exit of every system call look at whose it is, where
//! the kernel offers no others. All run in sessions of their own, as the units of systemd do, and containers in cgroups: the scheduler
//! shares the processors between these. The SDK needs a process of its own, which is compared with the bare ones of the same round.

#[path = "../bench/kernel.rs"]
mod kernel;
#[path = "../bench/machine.rs"]
mod machine;
#[path = "../bench/rig.rs"]
mod rig;
#[path = "../bench/table.rs"]
mod table;

use std::{
    env, path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use adder_tests::process;

use crate::{
    rig::{ENDPOINTS, Rig, Variant},
    table::Results,
};

/// Connections of the load.
const CONNECTIONS: [u32; 2] = [1, 16];

static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> Result<()> {
    const USAGE: &str = "usage: bench VENV SECONDS ROUNDS ONLY [SDK_VENV]";
    let mut arguments = env::args().skip(1);
    let mut next = || arguments.next().context(USAGE);
    // The services start in a folder of their own.
    let venv = path::absolute(next()?)?;
    let seconds: u64 = next()?.parse().context(USAGE)?;
    let rounds: usize = next()?.parse().context(USAGE)?;
    let only = next()?;
    let sdk = next().ok().map(path::absolute).transpose()?;
    ensure!(seconds > 0 && rounds > 0, USAGE);
    on_signal();
    process::in_sessions();

    let start = |encrypted| Rig::start(&venv, sdk.as_deref(), Duration::from_secs(seconds), encrypted);
    let mut rigs = [start(false)?, start(true)?];
    let cases: Vec<_> = ENDPOINTS
        .iter()
        .flat_map(|endpoint| CONNECTIONS.map(|connections| rig::Case { endpoint, connections }))
        .filter(|case| case.to_string().contains(&only))
        .collect();
    ensure!(!cases.is_empty(), "no case has `{only}` in its name");
    let mut results = Results::new(cases.clone());
    for round in 0..rounds {
        for (index, case) in cases.iter().enumerate() {
            let rig = &mut rigs[usize::from(case.endpoint.encrypted)];
            let [bare, adder] = rig.measure_pair(case)?;
            ensure!(!STOP.load(Ordering::Relaxed), "interrupted");
            let sdk = rig.measure_sdk(case)?.map(|sample| (Variant::Sdk, sample));
            ensure!(!STOP.load(Ordering::Relaxed), "interrupted");
            for (variant, sample) in [(Variant::Bare, bare), (Variant::Adder, adder)].into_iter().chain(sdk) {
                eprintln!("round {} of {rounds}: {case}, {variant}: {:.0}/s", round + 1, sample.turn.rate());
                results.push(index, variant, sample);
            }
        }
    }
    print!("{results}");
    for case in &cases {
        match rigs[usize::from(case.endpoint.encrypted)].kernel_cost(case)? {
            Some(cost) => print!("\n{cost}"),
            None => println!("\nBPF run times: not permitted to count them here"),
        }
        ensure!(!STOP.load(Ordering::Relaxed), "interrupted");
    }
    if let Some(noise) = results.noise() {
        println!("\n{noise}");
    }
    println!("\nAims: {}", results.aims());
    Ok(())
}

/// An interrupt ends the run between two steps, so that processes are ended and settings put back.
fn on_signal() {
    extern "C" fn stop(_: libc::c_int) {
        STOP.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, stop as *const () as libc::sighandler_t) };
    }
}
