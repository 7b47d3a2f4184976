//! Where other sections name a class of `shaping.classes`.
//!
//! A section is read before or after `shaping`, so names are collected first ([`ClassUses::take`]) and
//! checked once everything is read ([`ClassUses::check`]).

use std::sync::Arc;

use super::field::shown;
use super::reader::Reader;
use super::section::Section;
use super::shaping::Shaping;

/// The classes that other sections name, each with the key path where it stands.
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

    /// The same, but tells `off`, `Some(None)`, from an absent key, None: `off` is no class where
    /// another section may have named one.
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

    /// Reports names that are not those of a class without children, and warns of classes that nothing
    /// names.
    pub(super) fn check(&self, reader: &Reader, shaping: &Shaping) {
        let tree = &shaping.settings;
        let names = |classes: Vec<usize>| -> String {
            let names: Vec<_> = classes.iter().map(|class| &*tree.classes[*class].name).collect();
            names.join(", ")
        };
        for (at, name) in &self.0 {
            let quoted = shown(name);
            match tree.classes.iter().position(|class| class.name == *name) {
                Some(class) if tree.is_leaf(class) => {}
                Some(class) => {
                    let names = names(tree.children(class).collect());
                    let message = "has children, and only a class without any can be fed";
                    reader.fail(at, format!("`{quoted}` {message}; write one of {names}"));
                }
                None if tree.classes.is_empty() => {
                    let message = "there are no classes; describe it in shaping.classes";
                    reader.fail(at, format!("`{quoted}`: {message}"));
                }
                None => {
                    let leaves = (0..tree.classes.len()).filter(|class| tree.is_leaf(*class));
                    let names = names(leaves.collect());
                    reader.fail(at, format!("there is no class `{quoted}`; write one of {names}"));
                }
            }
        }
        for (class, settings) in tree.classes.iter().enumerate() {
            let name = &settings.name;
            if tree.is_leaf(class) && self.0.iter().all(|(_, used)| used != name) {
                let at = &shaping.paths[class];
                reader.warn(format!(
                    "{at}: nothing feeds {name}; name it in uploads.class, forward_proxy.class or profiles[].class"
                ));
            }
        }
    }
}
