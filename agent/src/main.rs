use adder::{fact::Fact, probe::*, python};
fn main() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).init();
    let pid: u32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let t = std::time::Instant::now();
    let proof = python::prove(pid);
    println!("{:?} {proof:#?}", t.elapsed());
    let only = std::env::args().nth(2).map(|w| *AttachWay::ALL.iter().find(|x| x.name() == w).unwrap());
    let mut bpf = match Bpf::load(Settings { max_bytes: 16384, report_every_exec: false, only }) { Ok(b) => b, Err(e) => { println!("{e}"); return } };
    println!("{:?}", bpf.way());
    if let Ok(p) = &proof {
        bpf.watch(pid, p.process).unwrap();
        for probe in &p.probes { bpf.attach(probe.program, pid, &probe.file, probe.offset).unwrap(); }
    } else { bpf.watch(pid, Default::default()).unwrap(); }
    let end = std::time::Instant::now();
    while end.elapsed().as_secs() < 6 {
        bpf.wait(25);
        bpf.drain(100000, |b| { match Fact::parse(b) { Ok(Fact::Data{data, head, tail}) => println!("{:?} {} [{}] {}", data, String::from_utf8_lossy(&head[..head.len().min(60)]).escape_debug(), head.len(), tail.len()), Ok(Fact::Socket(s)) => println!("sock {:?} {:?} {} {}:{} -> {}", s.header, s.socket, s.fd, s.family, s.local_port, s.remote_port), f => println!("{f:?}") } });
    }
    println!("{:?}", bpf.stats());
}
