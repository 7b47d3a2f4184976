//! The class tree: who may send how many bytes, and when.
//!
//! Classes are RouterOS's queues: `limit_at` is what a class is guaranteed, `max_limit` what it never
//! exceeds, `priority` (1 first, 8 last) who gets what is to spare. Whoever moves bytes registers a
//! [`Flow`] with a class, waits for a permit ([`Flow::acquire`]), and says how much of it was used
//! ([`Flow::spend`]).
//!
//! Invariants: no class, parents included, exceeds its max-limit by more than its burst, whatever
//! happens; a flow that waits gets some bytes within 15 s.
//!
//! This room must not know what the bytes are, where they go, or what the configuration file looks
//! like.

mod bucket;
mod ceiling;
mod counters;
mod fair_queue;
mod flow;
mod flows;
mod settings;
mod shaper;
mod socket_options;
pub mod timetable;
mod tree;

pub use flow::{Flow, Owner};
pub use settings::{
    ClassSettings, Classifier, Count, Dscp, Fault, Link, MAX_BURST, MAX_RATE, MIN_RATE, Pcq,
    Priority, Settings, WordError,
};
pub use shaper::{Change, ChangeError, ClassReport, Shaper, TreeError};
pub use socket_options::SocketOptions;
