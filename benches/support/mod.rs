//! The benchmark's parts. `lab` holds files and certificates, `process` starts what is measured,
//! `client` is the devices, `tap` their sockets, `measure` asks the kernel, `report` turns
//! observations into figures. None of them knows dripline's code: it is measured as its users meet
//! it.

pub mod client;
pub mod lab;
pub mod measure;
pub mod process;
pub mod report;
pub mod tap;
