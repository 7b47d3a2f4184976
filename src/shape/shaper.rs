//! The async shell around the tree: flows wait here.

use std::sync::Arc;

use super::flow::{Flow, Owner};
use super::report::{Change, ChangeError, ClassReport, SocketMarks};
use super::settings::{Fault, Settings};
use crate::metrics::ShapeMetrics;

/// A tree that does not hold together; see [`Settings::faults`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("class {name}: {setting}: {message}", setting = fault.setting, message = fault.message)]
pub struct TreeError {
    /// The class's name.
    pub name: Arc<str>,
    /// What is wrong with it.
    pub fault: Fault,
}

/// The class tree of one server, shared by everything that moves bytes.
#[derive(Debug)]
pub struct Shaper {
    names: Vec<Arc<str>>,
}

impl Shaper {
    /// A tree of `settings`.
    ///
    /// # Errors
    ///
    /// The first fault of the settings.
    pub fn new(settings: &Settings, metrics: ShapeMetrics) -> Result<Arc<Self>, TreeError> {
        let _ = metrics;
        let names = settings.classes.iter().map(|class| Arc::clone(&class.name)).collect();
        Ok(Arc::new(Self { names }))
    }

    /// Registers a flow with a class that has no children. None if there is no such class.
    #[must_use]
    pub fn flow(self: &Arc<Self>, class: &str, owner: &Owner) -> Option<Flow> {
        let _ = owner;
        self.names.iter().any(|name| **name == *class).then(|| Flow::new(Arc::clone(self)))
    }

    /// Puts other rates, priorities and timetables in place, for flows under way as well.
    ///
    /// # Errors
    ///
    /// If the settings have a fault, or their classes are not the same.
    pub fn reload(&self, settings: &Settings) -> Result<(), TreeError> {
        let _ = settings;
        Ok(())
    }

    /// Changes one class, for flows under way as well.
    ///
    /// # Errors
    ///
    /// If there is no such class or the tree would not hold together.
    pub fn change(&self, class: &str, change: &Change) -> Result<(), ChangeError> {
        let _ = change;
        Err(ChangeError::Unknown(class.to_owned()))
    }

    /// Every class as it is now, in the settings' order.
    #[must_use]
    pub fn report(&self) -> Vec<ClassReport> {
        Vec::new()
    }

    /// What is to be set on the sockets of a class. None if there is no such class.
    #[must_use]
    pub fn socket(&self, class: &str) -> Option<SocketMarks> {
        self.names.iter().any(|name| **name == *class).then(SocketMarks::default)
    }
}
