//! What a class tree is made from, with every default and bound.
//!
//! Invariant: settings without [`Settings::faults`] make a tree that can keep every guarantee in it.
//!
//! Pure: names, rates and rules. It must not know what a configuration file looks like.

mod dscp;
mod faults;
mod words;

pub use dscp::Dscp;
pub use faults::Fault;
pub use words::{Classifier, Count, Priority, WordError};

use std::sync::Arc;

use super::timetable::Timetable;
use crate::units::{ByteSize, Rate};

/// The lowest max-limit, limit-at and pcq-rate: below it one segment takes more than the 20 s of silence
/// that S3 bears.
pub const MIN_RATE: Rate = Rate::from_bits(1_000);
/// The highest rate. The arithmetic in `bucket` rests on it.
pub const MAX_RATE: Rate = Rate::from_bits(1_000_000_000_000);
/// The largest burst: what 8 Gbit/s carries in a second.
pub const MAX_BURST: ByteSize = ByteSize::new(1 << 30);

/// A whole tree. The default has no classes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The links that classes send on, in any order.
    pub links: Vec<Link>,
    /// Every class, parents and leaves, in any order.
    pub classes: Vec<ClassSettings>,
    /// What a byte costs.
    pub count: Count,
}

/// A link that classes send on: a line to the internet, whose capacity they share with other traffic.
///
/// It has a name only, and changes nothing yet. What measures a link and derives a ceiling from it has
/// its settings here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The name that classes give it.
    pub name: Arc<str>,
}

/// One class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassSettings {
    /// The name by which it is found, logged and counted; unique.
    pub name: Arc<str>,
    /// The class whose rate it shares; None at the root of a tree.
    pub parent: Option<Arc<str>>,
    /// The link that it sends on, by name; None: not said.
    pub link: Option<Arc<str>>,
    /// What it is guaranteed, [`MIN_RATE`] to [`MAX_RATE`]; 0 is nothing.
    pub limit_at: Rate,
    /// What it never exceeds, [`MIN_RATE`] to [`MAX_RATE`]; None is no limit of its own.
    pub max_limit: Option<Rate>,
    /// Who goes first among those that borrow.
    pub priority: Priority,
    /// What may leave in one go after a pause, at most [`MAX_BURST`]; None is 10 ms of the rate.
    pub burst: Option<ByteSize>,
    /// How the class is divided among its flows.
    pub pcq: Pcq,
    /// How its packets are marked; None: as they are.
    pub dscp: Option<Dscp>,
    /// Whether the kernel is to smooth each connection (SO_MAX_PACING_RATE).
    pub pacing: bool,
    /// Lower ceilings at some times of the week.
    pub timetable: Option<Timetable>,
}

impl ClassSettings {
    /// A class of that name with the default of everything else.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            parent: None,
            link: None,
            limit_at: Rate::ZERO,
            max_limit: None,
            priority: Priority::default(),
            burst: None,
            pcq: Pcq::default(),
            dscp: None,
            pacing: false,
            timetable: None,
        }
    }
}

/// Per connection queue: how a class is divided among those that use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pcq {
    /// Who counts as one.
    pub classifier: Classifier,
    /// What each of them never exceeds, [`MIN_RATE`] to [`MAX_RATE`]; 0 is no limit but its equal share.
    pub rate: Rate,
}

impl Settings {
    /// The children of a class.
    pub fn children(&self, class: usize) -> impl Iterator<Item = usize> {
        let name = &self.classes[class].name;
        let child = move |at: &usize| self.classes[*at].parent.as_ref() == Some(name);
        (0..self.classes.len()).filter(child)
    }

    /// Whether a class has no children. Only such a class can have flows.
    #[must_use]
    pub fn is_leaf(&self, class: usize) -> bool {
        self.children(class).next().is_none()
    }

    /// The lowest max-limit from a class upward, as configured.
    pub(super) fn lowest_limit(&self, class: usize) -> Option<Rate> {
        let parent = |at: &usize| self.index(self.classes[*at].parent.as_deref()?);
        let path = std::iter::successors(Some(class), parent);
        path.filter_map(|at| self.classes[at].max_limit).min()
    }

    /// The class of a name.
    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|class| *class.name == *name)
    }
}
