//! What can be wrong with a class tree: names, parents, links, ranges, and guarantees that do not fit.

use std::collections::BTreeSet;

use super::{ClassSettings, MAX_BURST, MAX_RATE, MIN_RATE, Settings};
use crate::shape::timetable::Timetable;
use crate::units::Rate;

/// What is wrong with a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The class's index in [`Settings::classes`].
    pub class: usize,
    /// Which of its settings, as [`ClassSettings`] names it, or `pcq.rate`.
    pub setting: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Settings {
    /// Everything that keeps the classes from being a tree whose guarantees can be kept, each where it
    /// stands. Empty if nothing does. Whether guarantees fit is looked at only in a tree that has no
    /// other fault.
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
            class.range_faults(&mut fault);
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
            self.overcommitments(&mut faults);
        }
        faults
    }

    /// Whether the class's parents lead back to it.
    fn is_above_itself(&self, class: usize) -> bool {
        let parent = |at: &usize| self.index(self.classes[*at].parent.as_deref()?);
        // A path that has not ended after as many steps as there are classes is a loop. This class is
        // part of it if the path meets it again.
        let path = std::iter::successors(parent(&class), parent).take(self.classes.len());
        path.into_iter().any(|at| at == class)
    }

    /// What a class needs to keep its guarantees: its own limit-at or, without one, its children's.
    fn guarantee(&self, class: usize) -> u64 {
        match self.classes[class].limit_at.bits() {
            0 => self.children(class).map(|child| self.guarantee(child)).sum(),
            bits => bits,
        }
    }

    /// Guarantees that do not fit their parent. Linux would keep them and exceed the parent's rate,
    /// RouterOS would keep none.
    fn overcommitments(&self, faults: &mut Vec<Fault>) {
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
    /// Rates and sizes that are out of range, and a limit-at above a ceiling.
    fn range_faults(&self, fault: &mut impl FnMut(&'static str, String)) {
        let ceilings = [
            ("max_limit", self.max_limit),
            ("timetable", self.timetable.as_ref().and_then(Timetable::lowest)),
        ];
        for (setting, rate) in ceilings {
            let Some(rate) = rate else { continue };
            if !(MIN_RATE..=MAX_RATE).contains(&rate) {
                fault(setting, format!("{rate} is out of range; write {MIN_RATE} to {MAX_RATE}"));
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
            if rate.bits() > 0 && !(MIN_RATE..=MAX_RATE).contains(&rate) {
                fault(
                    setting,
                    format!(
                        "{rate} is out of range; write 0 for none, or {MIN_RATE} to {MAX_RATE}"
                    ),
                );
            }
        }
        if let Some(burst) = self.burst.filter(|burst| *burst > MAX_BURST) {
            fault("burst", format!("{burst} is too much; write at most {MAX_BURST}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteSize;
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
        let settings = Settings { classes: classes.to_vec(), ..Settings::default() };
        settings.faults().into_iter().map(|f| (f.class, f.setting, f.message)).collect()
    }

    #[test]
    fn a_tree_whose_guarantees_fit_has_no_faults() {
        let fits =
            [class("regular", "up", 19, 20), class("up", "", 0, 20), class("bulk", "up", 1, 0)];
        assert_eq!(faults(&fits), []);
        assert_eq!(faults(&[]), []);
    }

    #[test]
    fn guarantees_must_fit_their_parents_over_several_levels() {
        let two_classes =
            [class("up", "", 0, 20), class("a", "up", 20, 20), class("b", "up", 10, 10)];
        let told =
            "the limit_at of its children are 30Mbit together, more than its max_limit of 20Mbit";
        assert_eq!(faults(&two_classes), [(0, "max_limit", told.to_owned())]);
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
