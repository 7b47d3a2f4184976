//! The class tree: who may send how many bytes, and when.
//!
//! Classes are RouterOS's queues: `limit_at` is what a class is guaranteed, `max_limit` what it never
//! exceeds, `priority` (1 first, 8 last) who gets the bandwidth that is left. Whoever moves bytes registers a
//! [`Flow`] with a class, waits for a permit ([`Flow::acquire`]), and says how much of it was used
//! ([`Flow::spend`]).
//!
//! Invariants: no class, parents included, exceeds its max-limit by more than its burst
//! and one grant; a flow that waits gets some bytes within 15 s.
//!
//! This room must not know what the bytes are, where they go, or what the configuration file looks
//! like.
//!
//! # Where to find what
//!
//! - [`Settings`]: what a tree is made from, its defaults and bounds, and what can be wrong with it.
//! - `ceiling`: what limits a class now, from several sources. A scavenger's or a lease's ceiling goes
//!   there.
//! - `tree`: who is next (`tree/dispatch.rs`), what is charged and given back. It uses `bucket`, one
//!   rate limit, and `fair_queue`, the shares in a class.
//! - [`Shaper`]: the only part that knows a clock and tasks.
//!
//! # Example
//!
//! ```
//! use dripline::shape::{ClassSettings, Settings};
//! use dripline::units::Rate;
//!
//! let mbit = |mbit: u64| Rate::from_bits(mbit * 1_000_000);
//! let upload = ClassSettings { max_limit: Some(mbit(20)), ..ClassSettings::new("upload") };
//! let bulk = ClassSettings {
//!     parent: Some("upload".into()),
//!     limit_at: mbit(30),
//!     ..ClassSettings::new("bulk")
//! };
//! let settings = Settings { classes: vec![upload, bulk], ..Settings::default() };
//! assert_eq!(
//!     settings.faults()[0].message,
//!     "the limit_at of its children are 30Mbit together, more than its max_limit of 20Mbit",
//! );
//! ```

mod bucket;
mod ceiling;
mod counters;
mod fair_queue;
mod flows;
mod settings;
mod shaper;
mod socket_options;
pub mod timetable;
mod tree;

pub use settings::{
    ClassSettings, Classifier, Count, Dscp, Fault, Link, MAX_BURST, MAX_RATE, MIN_RATE, Pcq,
    Priority, Settings, WordError,
};
pub use shaper::{Change, ChangeError, ClassReport, Flow, Owner, Shaper, TreeError};
pub use socket_options::SocketOptions;
