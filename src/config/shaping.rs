//! `shaping`: the links and the class tree.
//!
//! Whether the classes make a tree whose guarantees can be kept is for [`Settings::faults`] to say; here
//! each fault gets its key path. Defaults and bounds are those of [`crate::shape`]. Which section feeds
//! which class is in `class_uses`.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::field::{Field, shown};
use super::reader::Reader;
use super::section::Section;
use crate::shape::timetable::Timetable;
use crate::shape::{ClassSettings, Link, Pcq, Settings};

/// The settings of a class that only flows make use of. In a class with children they change nothing.
const OF_LEAVES: [&str; 4] = ["priority", "pcq", "dscp", "pacing"];

/// The class tree as it was read.
#[derive(Default)]
pub(super) struct Shaping {
    pub(super) settings: Settings,
    /// The key path of each class.
    pub(super) paths: Vec<String>,
}

impl Shaping {
    /// The tree, if there is one.
    pub(super) fn into_settings(self) -> Option<Settings> {
        (!self.settings.classes.is_empty()).then_some(self.settings)
    }
}

/// Reads `shaping`.
pub(super) fn shaping(mut section: Section<'_>) -> Shaping {
    let reader = section.reader;
    let count = section.take("count").and_then(|field| field.parse()).unwrap_or_default();
    let items = section.take("links").and_then(Field::items).unwrap_or_default();
    let links: Vec<_> = items.into_iter().filter_map(link).collect();
    let items = section.take("classes").and_then(Field::items).unwrap_or_default();
    section.finish(&[]);
    let (mut classes, mut paths, mut of_leaves) = (Vec::new(), Vec::new(), Vec::new());
    for item in items {
        paths.push(item.at.clone());
        let section = item.section();
        of_leaves.push(OF_LEAVES.into_iter().filter(|key| section.has(key)).collect::<Vec<_>>());
        classes.push(class(section, classes.len(), &links));
    }
    let shaping = Shaping { settings: Settings { links, classes, count }, paths };
    for fault in shaping.settings.faults() {
        let at = &shaping.paths[fault.class];
        reader.fail(&format!("{at}.{}", fault.setting), fault.message);
    }
    warn_of_parents(reader, &shaping, &of_leaves);
    shaping
}

/// Warns of settings that change nothing in a class with children. `of_leaves` are, for each class, the
/// keys of that kind that were written.
fn warn_of_parents(reader: &Reader, shaping: &Shaping, of_leaves: &[Vec<&'static str>]) {
    for (at, class) in shaping.settings.classes.iter().enumerate() {
        let (path, name) = (&shaping.paths[at], &class.name);
        if shaping.settings.is_leaf(at) {
            continue;
        }
        for key in &of_leaves[at] {
            reader.warn(format!(
                "{path}.{key} changes nothing: {name} has children, and it is theirs that counts"
            ));
        }
        if class.parent.is_none() && class.max_limit.is_none() {
            reader.warn(format!(
                "{path}: {name} shares nothing out without a max_limit; write a little less than its link can carry"
            ));
        }
    }
}

/// Reads one link: a name that classes may give.
fn link(item: Field<'_>) -> Option<Link> {
    let mut section = item.section();
    let name = match section.take("name") {
        Some(field) => field.text(),
        None => {
            section.missing("name", "missing; write a name that classes can give as link");
            None
        }
    };
    section.finish(&["scavenger", "floor", "target"]);
    Some(Link { name: name?.into() })
}

/// Reads one class. A value that is wrong is replaced by its default, because other
/// classes may name it as their parent.
fn class(mut section: Section<'_>, index: usize, links: &[Link]) -> ClassSettings {
    let name = match section.take("name") {
        Some(field) => field.text(),
        None => {
            section.missing("name", "missing; write a name for the log and the metrics");
            None
        }
    };
    // A class without a name gets one that nobody can have written.
    let default = ClassSettings::new(&name.unwrap_or_else(|| format!("\0{index}")));
    let link = section.take("link").and_then(|field| class_link(&field, links));
    let parent = section.take("parent").and_then(|field| field.text());
    let limit_at = section.take("limit_at").and_then(|field| field.parse());
    let max_limit = section.take("max_limit").filter(|field| !field.is_off());
    let max_limit = max_limit.and_then(|field| field.parse());
    let priority = section.take("priority").and_then(|field| field.parse());
    let pcq = section.take("pcq").map(|field| pcq(field.section(), default.pcq));
    let dscp = section.take("dscp").and_then(|field| field.parse());
    let pacing = section.flag("pacing", default.pacing);
    let burst = section.take("burst").and_then(|field| field.parse());
    let timetable = timetable(&mut section);
    section.finish(&[]);
    // Without `..`, so that a new setting does not compile until it is named here.
    ClassSettings {
        name: default.name,
        parent: parent.map(Into::into).or(default.parent),
        link: link.or(default.link),
        limit_at: limit_at.unwrap_or(default.limit_at),
        max_limit: max_limit.or(default.max_limit),
        priority: priority.unwrap_or(default.priority),
        burst: burst.or(default.burst),
        pcq: pcq.unwrap_or(default.pcq),
        dscp: dscp.or(default.dscp),
        pacing,
        timetable: timetable.or(default.timetable),
    }
}

/// The name of a link, which must be one of `links`.
fn class_link(field: &Field<'_>, links: &[Link]) -> Option<Arc<str>> {
    let name = field.text()?;
    let Some(link) = links.iter().find(|link| *link.name == *name) else {
        field.fail(format!("there is no link `{}`; describe it in shaping.links", shown(&name)));
        return None;
    };
    Some(Arc::clone(&link.name))
}

fn pcq(mut section: Section<'_>, default: Pcq) -> Pcq {
    let classifier = section.take("classifier").and_then(|field| field.parse());
    let rate = section.take("rate").and_then(|field| field.parse());
    section.finish(&[]);
    Pcq { classifier: classifier.unwrap_or(default.classifier), rate: rate.unwrap_or(default.rate) }
}

/// Reads `timetable` and `timezone`.
fn timetable(section: &mut Section<'_>) -> Option<Timetable> {
    let table = section.take("timetable").filter(|field| !field.is_off());
    let zone = section.take("timezone").map(|field| {
        let name = field.text()?;
        if table.is_none() {
            field.reader().warn(format!("{} changes nothing without a timetable", field.at));
        }
        let zone = TimeZone::get(&name);
        let unknown = "is not a time zone; write one such as Australia/Sydney or UTC";
        zone.map_err(|_| field.fail(format!("`{}` {unknown}", shown(&name)))).ok()
    });
    let field = table?;
    let zone = zone.flatten().unwrap_or(TimeZone::UTC);
    let text = field.text()?;
    Timetable::parse(&text, zone).map_err(|e| field.fail(e.to_string())).ok()
}
