//! The benchmarks' parts. `lab` holds certificates and objects, `process` starts what is measured,
//! `nginx` and `haproxy` say how the others are set, `client` is the devices, `tap` their sockets,
//! `rush` clients in a hurry, `journeys` drips to their end, `crowd` clients that hold connections and do no more, `prober` one that
//! connects again and again, `observe` one proxy's run, `measure` asks the kernel, `report` turns
//! observations into figures, `program` is around it all. None of them knows dripline's code: it is
//! measured as its users meet it.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub mod client;
pub mod crowd;
pub mod haproxy;
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
