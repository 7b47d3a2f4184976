//! What a class tree is made from, and what can be wrong with it.
//!
//! Pure: names, rates and rules; it must not know of keys in a file.

use std::fmt;
use std::sync::Arc;

use crate::units::{ByteSize, Rate};

/// A whole tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Every class, parents and leaves, in any order.
    pub classes: Vec<ClassSettings>,
    /// What a byte costs.
    pub count: Count,
}

/// One class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassSettings {
    /// By which it is found, logged and counted; unique.
    pub name: Arc<str>,
    /// The class whose rate it shares; None at the top.
    pub parent: Option<Arc<str>>,
    /// What it is guaranteed; 0 is nothing.
    pub limit_at: Rate,
    /// What it never exceeds; None is no limit of its own.
    pub max_limit: Option<Rate>,
    /// Who goes first among those that borrow.
    pub priority: Priority,
    /// What may leave in one go after a pause; None is 10 ms of the rate.
    pub burst: Option<ByteSize>,
    /// How the class is divided among its flows.
    pub pcq: Pcq,
    /// How its packets are marked.
    pub dscp: Option<Dscp>,
}

/// What a byte costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Count {
    /// Itself.
    #[default]
    Payload,
    /// Itself and its share of the Ethernet, IP and TCP headers around it: 1.046.
    Wire,
}

/// Who goes first: 1 to 8, 8 last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// A priority of 1 to 8; None beyond.
    #[must_use]
    pub const fn new(priority: u8) -> Option<Self> {
        if priority >= 1 && priority <= 8 { Some(Self(priority)) } else { None }
    }

    /// 1 to 8.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    /// 8, as RouterOS has it.
    fn default() -> Self {
        Self(8)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Per connection queue: how a class is divided among those that use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pcq {
    /// Who counts as one.
    pub classifier: Classifier,
    /// What each of them never exceeds; 0 is no limit but its equal share.
    pub rate: Rate,
}

/// Who counts as one when a class is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Classifier {
    /// A client's address, however many connections it opens.
    SrcAddress,
    /// A user's name; an address where there is none.
    User,
    /// Each connection.
    #[default]
    Connection,
}

/// How packets are marked (RFC 2474).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dscp(u8);

impl Dscp {
    /// A code point of 0 to 63; None beyond.
    #[must_use]
    pub const fn new(point: u8) -> Option<Self> {
        if point <= 63 { Some(Self(point)) } else { None }
    }

    /// The TOS or traffic class byte: the code point in its upper six bits.
    #[must_use]
    pub const fn tos(self) -> u8 {
        self.0 << 2
    }
}

/// What is wrong with a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The class's index in [`Settings::classes`].
    pub class: usize,
    /// Which of its settings: `name`, `parent`, `limit_at`, `max_limit`.
    pub setting: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
}
