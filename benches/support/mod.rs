//! The benchmarks' parts. `lab` makes certificates and objects, `process` starts what is measured,
//! `nginx` and `haproxy` configure the others. Clients: `client` is the devices, `tap` their sockets, `rush`
//! clients without a pace, `journeys` drips that run to their end, `crowd` clients that hold connections
//! and do no more, `prober` one that connects again and again. `observe` is one proxy's run, `measure` asks
//! the kernel, `histograms` counts gaps, `report` turns observations into figures, `program` is what every
//! `main` does. dripline is measured from outside: none of these knows its code.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub mod client;
pub mod crowd;
pub mod haproxy;
pub mod histograms;
pub mod journeys;
pub mod lab;
pub mod measure;
pub mod nginx;
pub mod observe;
pub mod prober;
pub mod process;
pub mod program;
pub mod report;
pub mod rush;
pub mod tap;
