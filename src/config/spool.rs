//! `spool`: where objects are kept while devices read them.

use std::path::PathBuf;
use std::time::Duration;

use super::section::Section;
use crate::spool::Settings;
use crate::units::ByteSize;

/// Where the spool is without any configuration.
const DEFAULT_SPOOL: &str = "/var/cache/dripline";
/// The most bytes of a spool or an object: an S3 object has 5 TiB at most, and 8 EiB is what a file
/// offset can count.
const MAX_SPOOL: u64 = 1 << 60;
/// The most objects, each of which takes a file descriptor.
const MAX_OBJECTS: usize = 1 << 20;
/// The most fills at a time.
const MAX_FILLS: usize = 1024;
/// The longest trust; S3's longest signature lasts a week.
const MAX_TRUST: Duration = Duration::from_secs(7 * 24 * 3600);

/// The spool's settings; none if it is switched off.
pub(super) fn spool(mut section: Section<'_>) -> Option<Settings> {
    let dir = section.take("dir").and_then(|field| {
        let path = PathBuf::from(field.text()?);
        if !path.is_absolute() {
            field.fail(format!("{} is not an absolute path", path.display()));
        }
        Some(path)
    });
    let bytes = |bytes| ByteSize::new(bytes);
    let max_bytes = section.size("max_bytes", bytes(1 << 30), bytes(0)..=bytes(MAX_SPOOL));
    let max_object = section.size("max_object", bytes(512 << 20), bytes(1)..=bytes(MAX_SPOOL));
    let max_objects = section.number("max_objects", 4096, 1..=MAX_OBJECTS);
    let max_fills = section.number("max_fills", 16, 1..=MAX_FILLS);
    let trust = section.time("trust", Duration::ZERO, &(Duration::ZERO..=MAX_TRUST));
    section.finish(&[]);
    (max_bytes.bytes() > 0).then(|| Settings {
        dir: dir.unwrap_or_else(|| PathBuf::from(DEFAULT_SPOOL)),
        max_bytes: max_bytes.bytes(),
        max_object: max_object.bytes(),
        max_objects,
        max_fills,
        trust,
    })
}
