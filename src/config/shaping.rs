//! `shaping`: the class tree, and who feeds which class.
//!
//! Whether the classes make a tree whose guarantees can be kept is for [`shape::Settings::faults`] to
//! say; here each fault gets its key. Classes are named in other sections: [`ClassUses`] collects
//! where, and [`ClassUses::judge`] looks at all of them once everything is read.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::field::{Field, shown};
use super::reader::Reader;
use super::section::Section;
use crate::shape::timetable::Timetable;
use crate::shape::{ClassSettings, Count, Pcq, Priority, Settings};
use crate::units::{ByteSize, Rate};

/// The settings of a class that flows join. On one with children they change nothing.
const OF_LEAVES: [&str; 4] = ["priority", "pcq", "dscp", "pacing"];

/// Who feeds which class.
#[derive(Default)]
pub(super) struct ClassUses(Vec<(String, Arc<str>)>);

impl ClassUses {
    /// Takes the name of a class out of a section, and notes it.
    pub(super) fn take(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
    ) -> Option<Arc<str>> {
        self.take_or_off(section, key).flatten()
    }

    /// The same, with `off` told apart from nothing at all: it is no class where another section may
    /// have named one.
    pub(super) fn take_or_off(
        &mut self,
        section: &mut Section<'_>,
        key: &'static str,
    ) -> Option<Option<Arc<str>>> {
        let field = section.take(key)?;
        if field.is_off() {
            return Some(None);
        }
        let name: Arc<str> = field.text()?.into();
        self.0.push((field.at.clone(), Arc::clone(&name)));
        Some(Some(name))
    }

    /// Says which of the names are none of a class that can be fed, and which classes nothing feeds.
    pub(super) fn judge(&self, reader: &Reader, shaping: &Shaping) {
        let classes = &shaping.settings.classes;
        for (at, name) in &self.0 {
            let class = classes.iter().position(|class| class.name == *name);
            match class {
                Some(class) if shaping.settings.children(class).next().is_none() => {}
                Some(class) => {
                    let children = shaping.settings.children(class);
                    let names: Vec<_> = children.map(|child| &*classes[child].name).collect();
                    let names = names.join(", ");
                    let message = "has children, and only a class without any can be fed";
                    reader.fail(at, format!("`{}` {message}; write one of {names}", shown(name)));
                }
                None if classes.is_empty() => {
                    let message = "there are no classes; describe it in shaping.classes";
                    reader.fail(at, format!("`{}`: {message}", shown(name)));
                }
                None => {
                    let leaf = |at: &usize| shaping.settings.children(*at).next().is_none();
                    let leaves = (0..classes.len()).filter(leaf);
                    let names: Vec<_> = leaves.map(|leaf| &*classes[leaf].name).collect();
                    let names = names.join(", ");
                    reader.fail(
                        at,
                        format!("there is no class `{}`; write one of {names}", shown(name)),
                    );
                }
            }
        }
        for (class, settings) in classes.iter().enumerate() {
            let is_leaf = shaping.settings.children(class).next().is_none();
            if is_leaf && self.0.iter().all(|(_, name)| *name != settings.name) {
                let (at, name) = (&shaping.places[class], &settings.name);
                reader.warn(format!(
                    "{at}: nothing feeds {name}; name it in uploads.class, forward_proxy.class or profiles[].class"
                ));
            }
        }
    }
}

/// The class tree as it was read.
#[derive(Default)]
pub(super) struct Shaping {
    settings: Settings,
    /// Where each class stands.
    places: Vec<String>,
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
    let count = section.take("count").and_then(|field| field.parse::<Count>()).unwrap_or_default();
    let items = section.take("links").and_then(Field::items).unwrap_or_default();
    let links: Vec<_> = items.into_iter().filter_map(link).collect();
    let items = section.take("classes").and_then(Field::items).unwrap_or_default();
    section.finish(&[]);
    let mut shaping =
        Shaping { settings: Settings { count, ..Settings::default() }, ..Shaping::default() };
    let mut written = Vec::new();
    for item in items {
        let at = item.at.clone();
        let (class, of_leaves) = class(item.section(), shaping.places.len(), &links);
        shaping.settings.classes.push(class);
        shaping.places.push(at);
        written.push(of_leaves);
    }
    for fault in shaping.settings.faults() {
        let at = &shaping.places[fault.class];
        reader.fail(&format!("{at}.{}", fault.setting), fault.message);
    }
    warn(reader, &shaping, &written);
    shaping
}

/// Says what of the tree will not do what it looks like.
fn warn(reader: &Reader, shaping: &Shaping, written: &[Vec<&'static str>]) {
    for (at, class) in shaping.settings.classes.iter().enumerate() {
        let (place, name) = (&shaping.places[at], &class.name);
        if shaping.settings.children(at).next().is_none() {
            continue;
        }
        for key in &written[at] {
            reader.warn(format!(
                "{place}.{key} changes nothing: {name} has children, and it is theirs that counts"
            ));
        }
        if class.parent.is_none() && class.max_limit.is_none() {
            reader.warn(format!(
                "{place}: {name} shares nothing out without a max_limit; write a little less than its link can carry"
            ));
        }
    }
}

/// Reads one link: a name that classes may give.
fn link(item: Field<'_>) -> Option<String> {
    let mut section = item.section();
    let name = match section.take("name") {
        Some(field) => field.text(),
        None => {
            section.missing("name", "missing; write a name that classes can give as link");
            None
        }
    };
    section.finish(&["scavenger", "floor", "target"]);
    name
}

/// Reads one class. Returns which keys were written that only leaves need. Whatever is wrong is
/// replaced by its default, so that the class is there for the others.
fn class(
    mut section: Section<'_>,
    index: usize,
    links: &[String],
) -> (ClassSettings, Vec<&'static str>) {
    let of_leaves = OF_LEAVES.into_iter().filter(|key| section.has(key)).collect();
    let name = match section.take("name") {
        Some(field) => field.text(),
        None => {
            section.missing("name", "missing; write a name for the log and the metrics");
            None
        }
    };
    // One that nobody can have written.
    let name = name.unwrap_or_else(|| format!("\0{index}"));
    if let Some(field) = section.take("link")
        && let Some(link) = field.text()
        && !links.contains(&link)
    {
        field.fail(format!("there is no link `{}`; describe it in shaping.links", shown(&link)));
    }
    let parent = section.take("parent").and_then(|field| field.text());
    let limit_at = section.take("limit_at").and_then(|field| field.parse::<Rate>());
    let max_limit = section.take("max_limit").filter(|field| !field.is_off());
    let max_limit = max_limit.and_then(|field| field.parse::<Rate>());
    let priority = section.take("priority").and_then(|field| {
        let text = field.scalar()?;
        let priority = text.parse().ok().and_then(Priority::new);
        if priority.is_none() {
            field.fail(format!("`{}` is not a number from 1 (first) to 8", shown(&text)));
        }
        priority
    });
    let pcq = section.take("pcq").map(|field| pcq(field.section()));
    let dscp = section.take("dscp").and_then(|field| field.parse());
    let pacing = section.flag("pacing", false);
    let burst = section.take("burst").and_then(|field| field.parse::<ByteSize>());
    let timetable = timetable(&mut section);
    section.finish(&[]);
    let class = ClassSettings {
        name: name.into(),
        parent: parent.map(Into::into),
        limit_at: limit_at.unwrap_or_default(),
        max_limit,
        priority: priority.unwrap_or_default(),
        burst,
        pcq: pcq.unwrap_or_default(),
        dscp,
        pacing,
        timetable,
    };
    (class, of_leaves)
}

fn pcq(mut section: Section<'_>) -> Pcq {
    let classifier = section.take("classifier").and_then(|field| field.parse());
    let rate = section.take("rate").and_then(|field| field.parse::<Rate>());
    section.finish(&[]);
    Pcq { classifier: classifier.unwrap_or_default(), rate: rate.unwrap_or_default() }
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
    let zone = match zone {
        None => TimeZone::UTC,
        Some(zone) => zone.unwrap_or(TimeZone::UTC),
    };
    let text = field.text()?;
    Timetable::parse(&text, zone).map_err(|e| field.fail(e.to_string())).ok()
}
