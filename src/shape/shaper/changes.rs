//! Other rates, priorities and timetables for classes with flows under way: by a reload, or one class at
//! a time.
//!
//! Invariant: what is in force has no fault. A change that would leave one changes nothing.

use std::sync::Arc;
use std::task::Waker;

use super::{Core, Shaper};
use crate::shape::ceiling::Ceilings;
use crate::shape::settings::{ClassSettings, Fault, Priority, Settings};
use crate::units::Rate;

/// Why settings cannot be put in place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// They do not hold together; see [`Settings::faults`].
    #[error("class {name}: {}: {}", fault.setting, fault.message)]
    Fault {
        /// The class's name.
        name: Arc<str>,
        /// What is wrong with it.
        fault: Fault,
    },
    /// Classes, their parents or classifiers differ from those that are running.
    #[error("other classes, parents or classifiers take an upgrade")]
    Structure,
}

/// What may be changed of one class; None leaves a setting as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// The guarantee; 0 is none.
    pub limit_at: Option<Rate>,
    /// The max-limit; `Some(None)` is no limit.
    pub max_limit: Option<Option<Rate>>,
    /// The priority.
    pub priority: Option<Priority>,
}

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// There is no such class.
    #[error("there is no class `{0}`")]
    Unknown(String),
    /// The tree would not hold together.
    #[error("{setting}: {message}")]
    Refused {
        /// Which setting.
        setting: &'static str,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl Shaper {
    /// Puts other rates, priorities and timetables in place, for flows under way as well.
    ///
    /// # Errors
    ///
    /// If the settings have a fault, or their classes are not the same.
    pub fn reload(&self, settings: &Settings) -> Result<(), TreeError> {
        check(settings)?;
        let mut core = self.lock();
        if !same_structure(&core.settings, settings) {
            return Err(TreeError::Structure);
        }
        let woken = self.install(&mut core, settings.clone());
        drop(core);
        woken.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Changes one class, for flows under way as well.
    ///
    /// # Errors
    ///
    /// If there is no such class, the change would have no effect in it, or the tree would not hold
    /// together.
    pub fn change(&self, class: &str, change: &Change) -> Result<(), ChangeError> {
        let unknown = || ChangeError::Unknown(class.to_owned());
        let at = *self.classes.get(class).ok_or_else(unknown)?;
        let mut core = self.lock();
        if let Some((setting, message)) = without_effect(&core, at, change) {
            return Err(ChangeError::Refused { setting, message: message.to_owned() });
        }
        let mut settings = core.settings.clone();
        let changed = &mut settings.classes[at];
        changed.limit_at = change.limit_at.unwrap_or(changed.limit_at);
        changed.max_limit = change.max_limit.unwrap_or(changed.max_limit);
        changed.priority = change.priority.unwrap_or(changed.priority);
        if let Some(fault) = settings.faults().into_iter().next() {
            let name = &settings.classes[fault.class].name;
            let whose = if fault.class == at { String::new() } else { format!("class {name}: ") };
            let message = format!("{whose}{}", fault.message);
            return Err(ChangeError::Refused { setting: fault.setting, message });
        }
        let woken = self.install(&mut core, settings);
        drop(core);
        woken.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Puts settings of the same structure in place. Returns who is to be woken.
    fn install(&self, core: &mut Core, settings: Settings) -> Vec<Waker> {
        core.ceilings = Ceilings::new(&settings, (self.wall_clock)());
        core.settings = settings;
        // The timer updates the ceilings, and so learns how long they hold.
        core.ceilings_due = 0;
        self.rearm.notify_one();
        core.apply(self.now())
    }
}

/// The setting that a change names and that has no effect in the class, and why.
fn without_effect(
    core: &Core,
    class: usize,
    change: &Change,
) -> Option<(&'static str, &'static str)> {
    if change.priority.is_some() && !core.tree.is_leaf(class) {
        return Some((
            "priority",
            "changes nothing in a class with classes below it: only theirs count",
        ));
    }
    if change.limit_at.is_some() && core.settings.classes[class].parent.is_none() {
        return Some((
            "limit_at",
            "changes nothing in a class without a parent: there is nobody to guarantee it against",
        ));
    }
    None
}

/// The first fault of settings, as an error.
pub(super) fn check(settings: &Settings) -> Result<(), TreeError> {
    let Some(fault) = settings.faults().into_iter().next() else { return Ok(()) };
    Err(TreeError::Fault { name: Arc::clone(&settings.classes[fault.class].name), fault })
}

/// Whether the classes are the same but for what can be changed under way.
fn same_structure(running: &Settings, new: &Settings) -> bool {
    let structure = |settings: &Settings| -> Vec<_> {
        let of = |class: &ClassSettings| {
            (Arc::clone(&class.name), class.parent.clone(), class.pcq.classifier)
        };
        settings.classes.iter().map(of).collect()
    };
    structure(running) == structure(new)
}
