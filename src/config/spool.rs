//! `spool`: where objects are kept while devices read them.

use std::path::PathBuf;

use super::section::Section;
use crate::spool::Settings;
use crate::units::ByteSize;

/// The spool's settings; none if it is switched off.
pub(super) fn spool(mut section: Section<'_>) -> Option<Settings> {
    let default = Settings::default();
    let dir = section.take("dir").and_then(|field| {
        let path = PathBuf::from(field.text()?);
        if !path.is_absolute() {
            field.fail(format!("{} is not an absolute path", path.display()));
        }
        Some(path)
    });
    let bytes = |bytes| ByteSize::new(bytes);
    let max_bytes = section.size("max_bytes", bytes(default.max_bytes), Settings::BYTES);
    let max_object = section.size("max_object", bytes(default.max_object), Settings::OBJECT_BYTES);
    let settings = Settings {
        dir: dir.unwrap_or(default.dir),
        max_bytes: max_bytes.bytes(),
        max_object: max_object.bytes(),
        max_objects: section.number("max_objects", default.max_objects, Settings::OBJECTS),
        max_fills: section.number("max_fills", default.max_fills, Settings::FILLS),
        trust: section.time("trust", default.trust, &Settings::TRUST),
    };
    section.finish(&[]);
    (settings.max_bytes > 0).then_some(settings)
}
