//! What an operator sets for the spool, with each value's default and bounds.
//!
//! This file must not know the configuration file.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::units::ByteSize;

/// How the spool is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory of its files.
    pub dir: PathBuf,
    /// Bytes of all files together, within [`Self::BYTES`]; 0 switches the spool off.
    pub max_bytes: u64,
    /// Bytes of one object, within [`Self::OBJECT_BYTES`]; larger ones go direct.
    pub max_object: u64,
    /// Objects at a time, within [`Self::OBJECTS`]. Each takes a file descriptor.
    pub max_objects: usize,
    /// Fills at a time, within [`Self::FILLS`]; more wait their turn.
    pub max_fills: usize,
    /// For how long an authorised request is not checked again, within [`Self::TRUST`]; zero asks S3
    /// every time.
    pub trust: Duration,
}

impl Settings {
    /// Bytes of the spool: at most more than a disk has, and less than a file offset can count.
    pub const BYTES: RangeInclusive<ByteSize> = ByteSize::new(0)..=ByteSize::new(1 << 60);

    /// Bytes of one object. S3's have 5 TiB at most; those of other services may have more.
    pub const OBJECT_BYTES: RangeInclusive<ByteSize> = ByteSize::new(1)..=ByteSize::new(1 << 60);

    /// How many objects.
    pub const OBJECTS: RangeInclusive<usize> = 1..=1 << 20;

    /// How many fills at a time.
    pub const FILLS: RangeInclusive<usize> = 1..=1024;

    /// How long an authorisation is trusted: S3's longest signature is valid for a week.
    pub const TRUST: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(7 * 24 * 3600);
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("/var/cache/dripline"),
            max_bytes: 1 << 30,
            max_object: 512 << 20,
            max_objects: 4096,
            max_fills: 16,
            trust: Duration::ZERO,
        }
    }
}
