//! `uploads`: whether PUT is served, and the class that limits it.

use std::sync::Arc;

use super::class_uses::ClassUses;
use super::section::Section;

/// Uploads by PUT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploads {
    /// The class of [`Config::shaping`](super::Config::shaping) that holds them back; None: nothing does.
    pub class: Option<Arc<str>>,
}

/// How uploads are taken; None if they are switched off.
pub(super) fn uploads(mut section: Section<'_>, uses: &mut ClassUses) -> Option<Uploads> {
    let enabled = section.flag("enabled", false);
    let class = uses.take(&mut section, "class");
    section.finish(&[]);
    enabled.then_some(Uploads { class })
}
