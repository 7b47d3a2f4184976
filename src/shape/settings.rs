//! What a class tree is made from, and what can be wrong with it.
//!
//! Pure: names, rates and rules; it must not know of keys in a file.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::timetable::Timetable;
use crate::units::{ByteSize, Rate};

/// The lowest ceiling: at less, one segment takes more than the 20 s of silence that S3 bears.
const LEAST: Rate = Rate::from_bits(1_000);
/// The highest rate; the arithmetic in [`super::bucket`] rests on it.
const MOST: Rate = Rate::from_bits(1_000_000_000_000);
/// The largest burst: a second at 8 Gbit/s.
const MOST_BURST: ByteSize = ByteSize::new(1 << 30);

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
    /// Whether the kernel is to smooth each connection (SO_MAX_PACING_RATE).
    pub pacing: bool,
    /// Lower ceilings at some times of the week.
    pub timetable: Option<Timetable>,
}

impl ClassSettings {
    /// A class with the defaults of everything but its name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            parent: None,
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

/// What a byte costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Count {
    /// Itself.
    #[default]
    Payload,
    /// Itself and its share of the Ethernet, IP and TCP headers around it: 1.046.
    Wire,
}

/// A word in a configuration that is none of those it can be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not {wanted}", text.escape_debug())]
pub struct WordError {
    text: String,
    wanted: &'static str,
}

impl WordError {
    fn new(text: &str, wanted: &'static str) -> Self {
        Self { text: text.to_owned(), wanted }
    }
}

impl FromStr for Count {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "payload" => Ok(Self::Payload),
            "wire" => Ok(Self::Wire),
            _ => Err(WordError::new(text, "what can be counted; write payload or wire")),
        }
    }
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

impl FromStr for Classifier {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        match text {
            "src-address" => Ok(Self::SrcAddress),
            "user" => Ok(Self::User),
            "connection" => Ok(Self::Connection),
            _ => Err(WordError::new(text, "a classifier; write src-address, user or connection")),
        }
    }
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

impl FromStr for Dscp {
    type Err = WordError;

    /// Reads a name of IANA's registry (`le`, RFC 8622; `cs1`, RFC 2474; `af11`, RFC 2597; `ef`, RFC
    /// 3246) or a number.
    fn from_str(text: &str) -> Result<Self, WordError> {
        let error =
            || WordError::new(text, "a DSCP; write le, cs0 to cs7, af11 to af43, ef or 0 to 63");
        let digits = |text: &str| -> Option<Vec<u8>> {
            text.bytes().map(|b| b.is_ascii_digit().then(|| b - b'0')).collect()
        };
        let point = if text == "le" {
            Some(1)
        } else if text == "ef" {
            Some(46)
        } else if let Some(class) = text.strip_prefix("cs") {
            match digits(class).as_deref() {
                Some([class @ 0..=7]) => Some(class * 8),
                _ => None,
            }
        } else if let Some(class) = text.strip_prefix("af") {
            match digits(class).as_deref() {
                Some([class @ 1..=4, drop @ 1..=3]) => Some(class * 8 + drop * 2),
                _ => None,
            }
        } else {
            text.parse().ok()
        };
        point.and_then(Self::new).ok_or_else(error)
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

impl Settings {
    /// Everything that keeps the classes from being a tree whose guarantees can be kept, each where it
    /// stands. Empty: it holds together.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut names = BTreeSet::new();
        for (at, class) in self.classes.iter().enumerate() {
            let mut fault = |setting, message| faults.push(Fault { class: at, setting, message });
            if class.name.is_empty() {
                fault("name", "is empty; write a name for the log and the metrics".into());
            }
            if !names.insert(&class.name) {
                let name = &class.name;
                fault(
                    "name",
                    format!("`{name}` is the name of another class; choose one of its own"),
                );
            }
            class.own_faults(&mut fault);
            if let Some(parent) = &class.parent {
                let known = self.classes.iter().any(|other| other.name == *parent);
                if !known {
                    fault("parent", format!("there is no class `{parent}`"));
                } else if self.is_above_itself(at) {
                    fault("parent", format!("`{parent}` leads back to this class: that is a loop"));
                }
            }
        }
        if faults.is_empty() {
            self.commitments(&mut faults);
        }
        faults
    }

    /// The children of a class.
    pub fn children(&self, class: usize) -> impl Iterator<Item = usize> {
        let name = &self.classes[class].name;
        let child = move |at: &usize| self.classes[*at].parent.as_ref() == Some(name);
        (0..self.classes.len()).filter(child)
    }

    /// What a class has to have for its guarantees: its own limit-at or, without one, its children's.
    fn guarantee(&self, class: usize) -> u64 {
        match self.classes[class].limit_at.bits() {
            0 => self.children(class).map(|child| self.guarantee(child)).sum(),
            bits => bits,
        }
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

    fn is_above_itself(&self, class: usize) -> bool {
        let parent = |at: &usize| self.index(self.classes[*at].parent.as_deref()?);
        // Whoever has not come to a top after as many steps as there are classes goes round; this
        // class is in the round if it is met again.
        let path = std::iter::successors(parent(&class), parent).take(self.classes.len());
        path.into_iter().any(|at| at == class)
    }

    /// Guarantees that do not fit: Linux would keep them and exceed the parent, RouterOS would keep
    /// none.
    fn commitments(&self, faults: &mut Vec<Fault>) {
        for (at, class) in self.classes.iter().enumerate() {
            let children: u64 = self.children(at).map(|child| self.guarantee(child)).sum();
            let of = |limit: Rate, what: &str| {
                let children = Rate::from_bits(children);
                format!(
                    "the limit_at of its children are {children} together, more than its {what} of {limit}"
                )
            };
            let mut fault = |setting, message| faults.push(Fault { class: at, setting, message });
            let below = |limit: Option<Rate>| limit.filter(|limit| limit.bits() < children);
            if let Some(max) = below(class.max_limit) {
                fault("max_limit", of(max, "max_limit"));
            } else if let Some(limit) = below(Some(class.limit_at).filter(|limit| limit.bits() > 0))
            {
                fault("limit_at", of(limit, "limit_at"));
            }
            let lowest = class.timetable.as_ref().and_then(Timetable::lowest);
            if let Some(lowest) = below(lowest) {
                fault("timetable", of(lowest, "lowest rate"));
            }
        }
    }
}

impl ClassSettings {
    /// What is wrong with a class whatever the others are.
    fn own_faults(&self, fault: &mut impl FnMut(&'static str, String)) {
        let ceilings = [
            ("max_limit", self.max_limit),
            ("timetable", self.timetable.as_ref().and_then(Timetable::lowest)),
        ];
        for (setting, rate) in ceilings {
            let Some(rate) = rate else { continue };
            if !(LEAST..=MOST).contains(&rate) {
                fault(setting, format!("{rate} is out of range; write {LEAST} to {MOST}"));
            } else if self.limit_at > rate {
                let limit = self.limit_at;
                fault(
                    setting,
                    format!(
                        "{rate} is less than limit_at, {limit}; a guarantee cannot exceed the ceiling"
                    ),
                );
            }
        }
        for (setting, rate) in [("limit_at", self.limit_at), ("pcq.rate", self.pcq.rate)] {
            if rate.bits() > 0 && !(LEAST..=MOST).contains(&rate) {
                fault(
                    setting,
                    format!("{rate} is out of range; write 0 for none, or {LEAST} to {MOST}"),
                );
            }
        }
        if let Some(burst) = self.burst.filter(|burst| *burst > MOST_BURST) {
            fault("burst", format!("{burst} is too much; write at most {MOST_BURST}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn mbit(mbit: u64) -> Rate {
        Rate::from_bits(mbit * 1_000_000)
    }

    fn class(name: &str, parent: &str, limit_at: u64, max_limit: u64) -> ClassSettings {
        ClassSettings {
            parent: (!parent.is_empty()).then(|| parent.into()),
            limit_at: mbit(limit_at),
            max_limit: (max_limit > 0).then(|| mbit(max_limit)),
            ..ClassSettings::new(name)
        }
    }

    fn faults(classes: &[ClassSettings]) -> Vec<(usize, &'static str, String)> {
        let settings = Settings { classes: classes.to_vec(), count: Count::default() };
        settings.faults().into_iter().map(|f| (f.class, f.setting, f.message)).collect()
    }

    #[test]
    fn a_tree_whose_guarantees_fit_has_no_faults() {
        let wish =
            [class("regular", "up", 19, 20), class("up", "", 0, 20), class("bulk", "up", 1, 0)];
        assert_eq!(faults(&wish), []);
        assert_eq!(faults(&[]), []);
    }

    #[test]
    fn guarantees_must_fit_their_parents_over_several_levels() {
        let blog = [class("up", "", 0, 20), class("a", "up", 20, 20), class("b", "up", 10, 10)];
        let told =
            "the limit_at of its children are 30Mbit together, more than its max_limit of 20Mbit";
        assert_eq!(faults(&blog), [(0, "max_limit", told.to_owned())]);
        let deep = [
            class("up", "", 0, 20),
            class("middle", "up", 0, 0),
            class("low", "middle", 15, 0),
            class("other", "up", 6, 0),
        ];
        let told =
            "the limit_at of its children are 21Mbit together, more than its max_limit of 20Mbit";
        assert_eq!(faults(&deep), [(0, "max_limit", told.to_owned())]);
        let middle = [class("up", "", 0, 0), class("m", "up", 5, 0), class("low", "m", 6, 0)];
        let told =
            "the limit_at of its children are 6Mbit together, more than its limit_at of 5Mbit";
        assert_eq!(faults(&middle), [(1, "limit_at", told.to_owned())]);
        let mut night = [class("up", "", 0, 20), class("a", "up", 3, 0)];
        night[0].timetable = Timetable::parse("00:00,2Mbit 08:00,off", TimeZone::UTC).ok();
        let told =
            "the limit_at of its children are 3Mbit together, more than its lowest rate of 2Mbit";
        assert_eq!(faults(&night), [(0, "timetable", told.to_owned())]);
    }

    #[test]
    fn names_and_parents() {
        let classes = [
            class("", "", 0, 0),
            class("a", "b", 0, 0),
            class("b", "c", 0, 0),
            class("c", "b", 0, 0),
            class("d", "d", 0, 0),
            class("e", "nobody", 0, 0),
            class("e", "", 0, 0),
        ];
        assert_eq!(
            faults(&classes),
            [
                (0, "name", "is empty; write a name for the log and the metrics".to_owned()),
                (2, "parent", "`c` leads back to this class: that is a loop".to_owned()),
                (3, "parent", "`b` leads back to this class: that is a loop".to_owned()),
                (4, "parent", "`d` leads back to this class: that is a loop".to_owned()),
                (5, "parent", "there is no class `nobody`".to_owned()),
                (6, "name", "`e` is the name of another class; choose one of its own".to_owned()),
            ]
        );
    }

    #[test]
    fn words() {
        for (text, tos) in
            [("le", 0x04), ("cs1", 0x20), ("af41", 0x88), ("ef", 0xb8), ("63", 0xfc), ("0", 0)]
        {
            assert_eq!(text.parse::<Dscp>().map(Dscp::tos), Ok(tos), "{text}");
        }
        for text in ["", "cs8", "cs12", "af50", "af14", "af1", "64", "-1", "LE", "0x04"] {
            let error = text.parse::<Dscp>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "`{text}` is not a DSCP; write le, cs0 to cs7, af11 to af43, ef or 0 to 63"
                )
            );
        }
        assert_eq!("user".parse(), Ok(Classifier::User));
        assert!("dst-address".parse::<Classifier>().is_err() && "bytes".parse::<Count>().is_err());
    }

    #[test]
    fn ranges() {
        let mut all = class("a", "", 3, 2);
        all.pcq.rate = Rate::from_bits(5);
        all.burst = Some(ByteSize::new(2 << 30));
        let mut slow = class("b", "", 0, 0);
        slow.max_limit = Some(Rate::ZERO);
        let huge = class("c", "", 2_000_000, 0);
        assert_eq!(
            faults(&[all, slow, huge]),
            [
                (
                    0,
                    "max_limit",
                    "2Mbit is less than limit_at, 3Mbit; a guarantee cannot exceed the ceiling"
                        .to_owned()
                ),
                (
                    0,
                    "pcq.rate",
                    "5bit is out of range; write 0 for none, or 1kbit to 1000Gbit".to_owned()
                ),
                (0, "burst", "2GiB is too much; write at most 1GiB".to_owned()),
                (1, "max_limit", "0bit is out of range; write 1kbit to 1000Gbit".to_owned()),
                (
                    2,
                    "limit_at",
                    "2000Gbit is out of range; write 0 for none, or 1kbit to 1000Gbit".to_owned()
                ),
            ]
        );
    }
}
