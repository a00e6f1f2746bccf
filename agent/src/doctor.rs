//! `adder doctor`: what this kernel and each Python process allow, in plain lines.

use std::{fs, time::Duration};

use crate::{
    discover,
    probe::{AttachWay, Bpf, LoadError, Settings, kernel_offsets},
    python::{self, Attribution},
};

/// Prints what it finds; false where Adder cannot run here.
pub fn doctor(pids: &[u32]) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!("kernel      {}", release.trim());
    let mut good = true;
    match kernel_offsets() {
        Ok(_) => println!("types       BTF, every structure found"),
        Err(error) => {
            println!("types       {error}");
            good = false;
        }
    }
    let mut any = false;
    if good {
        for way in AttachWay::ALL {
            match Bpf::load(Settings {
                max_bytes: 1024,
                report_every_exec: false,
                step_min: Duration::MAX,
                only: Some(way),
            }) {
                Ok(bpf) => {
                    let steps = if bpf.sees_steps() { "" } else { ", but for the lag of event loops" };
                    println!("{:<11} works{steps}", way.name());
                    any = true;
                }
                Err(LoadError::Denied(why) | LoadError::Confined(why) | LoadError::Unsupported(why)) => {
                    let why = why.strip_prefix(&format!("{}: ", way.name())).unwrap_or(&why);
                    println!("{:<11} not here: {why}", way.name());
                }
                Err(error) => println!("{:<11} not here: {error}", way.name()),
            }
        }
    }
    if !any {
        // SAFETY: plain system call.
        let advice =
            if unsafe { libc::geteuid() } == 0 { "" } else { " without more rights: run it as root" };
        println!("result      Adder cannot run here{advice}");
        return false;
    }
    let pids = if pids.is_empty() {
        discover::processes().into_iter().filter(|pid| discover::wanted(*pid, &[])).collect()
    } else {
        pids.to_vec()
    };
    for pid in pids {
        let info = discover::info(pid, &[]);
        let service =
            info.attributes.iter().find(|(key, _)| key == "service.name").map_or("", |(_, name)| name);
        match python::prove(pid) {
            Ok(proof) => {
                let exact = match proof.attribution {
                    Attribution::Context => "exact, by Python context",
                    Attribution::Thread => "by thread",
                };
                let event_loop = if proof.uvloop { "uvloop" } else { "asyncio or none" };
                println!(
                    "process     {pid} {service}: CPython {}, {event_loop}, parents {exact}",
                    proof.version
                );
                for note in proof.notes {
                    println!("            {note}");
                }
            }
            Err(error) => println!("process     {pid} {service}: {error}"),
        }
    }
    println!("result      Adder can run here");
    true
}
