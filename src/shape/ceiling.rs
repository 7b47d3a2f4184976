//! The ceilings of classes: what each may send at most now.
//!
//! What limits a class is a list of sources. Each says the rate that it allows now, and how long that
//! holds; the lowest rate is in force. The tree gets that rate and does not know where it comes from.
//! There are two sources: `max_limit`, which is fixed, and the timetable.
//!
//! Another source is one more variant of [`Source`], with its rate in [`Source::ceiling`] and its place
//! in [`sources`]:
//! - a scavenger: the rate that the controller of a [`Link`](super::Link) found last, in every class that
//!   names the link. The controller is a pure room of its own; its shell samples the sockets.
//! - a lease: the share of a limit that several processes divide among them, until the lease ends, and
//!   a safe share from then on. Its shell talks to the others.
//! - a quota: a low rate once a class has moved its bytes of the month; a pause: a rate until it ends.
//!
//! No method takes such a result yet. A new one of [`Shaper`](super::Shaper) would keep it beside the
//! settings, since new settings make [`Ceilings`] anew, and apply what the sources say, as for a reload.
//!
//! Pure: time is a parameter. This file must not know the tree, or how a rate was found.

use std::time::Duration;

use jiff::Timestamp;

use super::settings::{ClassSettings, Settings};
use super::timetable::Timetable;
use crate::units::Rate;

/// What is allowed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ceiling {
    /// None: no limit.
    rate: Option<Rate>,
    /// How long it holds; None: until the settings change.
    holds_for: Option<Duration>,
}

/// One thing that limits a class.
#[derive(Debug, Clone)]
enum Source {
    /// `max_limit`: one rate until the settings change.
    Fixed(Rate),
    /// `timetable`: a rate, or none, for each time of the week.
    Timetable(Timetable),
}

impl Source {
    /// What it allows at a time of the clock on the wall.
    fn ceiling(&self, now: Timestamp) -> Ceiling {
        match self {
            Self::Fixed(rate) => Ceiling { rate: Some(*rate), holds_for: None },
            Self::Timetable(table) => Ceiling {
                rate: table.at(now),
                holds_for: table.next_change(now).map(|at| at.duration_since(now).unsigned_abs()),
            },
        }
    }
}

/// Everything that limits one class.
fn sources(class: &ClassSettings) -> Vec<Source> {
    let fixed = class.max_limit.map(Source::Fixed);
    let timetable = class.timetable.clone().map(Source::Timetable);
    fixed.into_iter().chain(timetable).collect()
}

/// The ceilings of all classes, as of the last update.
#[derive(Debug)]
pub(super) struct Ceilings {
    /// By class, in the settings' order.
    sources: Vec<Vec<Source>>,
    in_force: Vec<Option<Rate>>,
    hold_for: Option<Duration>,
}

impl Ceilings {
    /// The ceilings at `now`.
    pub(super) fn new(settings: &Settings, now: Timestamp) -> Self {
        let sources: Vec<_> = settings.classes.iter().map(sources).collect();
        let mut ceilings = Self { in_force: vec![None; sources.len()], hold_for: None, sources };
        ceilings.update(now);
        ceilings
    }

    /// The rate in force for each class; None: no limit.
    pub(super) fn in_force(&self) -> &[Option<Rate>] {
        &self.in_force
    }

    /// How long they hold after the update, unless the clock is set; None: until the settings change.
    pub(super) fn hold_for(&self) -> Option<Duration> {
        self.hold_for
    }

    /// Asks every source at `now`. Returns whether a rate in force has changed.
    pub(super) fn update(&mut self, now: Timestamp) -> bool {
        let (mut changed, mut hold_for) = (false, None::<Duration>);
        for (sources, in_force) in self.sources.iter().zip(&mut self.in_force) {
            let mut lowest = None;
            for Ceiling { rate, holds_for } in sources.iter().map(|source| source.ceiling(now)) {
                lowest = lowest.into_iter().chain(rate).min();
                hold_for = hold_for.into_iter().chain(holds_for).min();
            }
            changed |= lowest != *in_force;
            *in_force = lowest;
        }
        self.hold_for = hold_for;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn mbit(mbit: u64) -> Rate {
        Rate::from_bits(mbit * 1_000_000)
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn class(max_limit: Option<u64>, timetable: Option<&str>) -> ClassSettings {
        ClassSettings {
            max_limit: max_limit.map(mbit),
            timetable: timetable.map(|text| Timetable::parse(text, TimeZone::UTC).unwrap()),
            ..ClassSettings::new("one")
        }
    }

    fn ceilings(classes: Vec<ClassSettings>, now: &str) -> Ceilings {
        Ceilings::new(&Settings { classes, ..Settings::default() }, time(now))
    }

    const TABLE: Option<&str> = Some("08:00,2Mbit 18:00,50Mbit 23:00,off");

    #[test]
    fn the_lowest_of_the_sources_is_in_force() {
        let classes = vec![
            class(None, None),
            class(Some(20), None),
            class(None, TABLE),
            class(Some(20), TABLE),
        ];
        for (now, expected) in [
            ("2026-03-02T08:00:00Z", [None, Some(20), Some(2), Some(2)]),
            // A timetable lowers max_limit, and never raises it.
            ("2026-03-02T18:00:00Z", [None, Some(20), Some(50), Some(20)]),
            ("2026-03-02T23:00:00Z", [None, Some(20), None, Some(20)]),
        ] {
            let ceilings = ceilings(classes.clone(), now);
            assert_eq!(ceilings.in_force(), expected.map(|rate| rate.map(mbit)), "{now}");
        }
    }

    #[test]
    fn an_update_tells_whether_a_rate_has_changed() {
        let mut ceilings = ceilings(vec![class(Some(2), TABLE)], "2026-03-02T07:59:59Z");
        // The timetable begins, but max_limit is as low.
        assert!(!ceilings.update(time("2026-03-02T08:00:00Z")));
        assert_eq!(ceilings.in_force(), [Some(mbit(2))]);
        let mut ceilings = self::ceilings(vec![class(Some(20), TABLE)], "2026-03-02T07:59:59Z");
        assert!(ceilings.update(time("2026-03-02T08:00:00Z")));
        assert_eq!(ceilings.in_force(), [Some(mbit(2))]);
        assert!(!ceilings.update(time("2026-03-02T08:00:01Z")));
        // Back, as a clock is that is set.
        assert!(ceilings.update(time("2026-03-02T07:00:00Z")));
        assert_eq!(ceilings.in_force(), [Some(mbit(20))]);
    }

    #[test]
    fn they_hold_until_the_first_source_changes() {
        let now = "2026-03-02T17:59:00Z";
        let early = Some("18:30,1Mbit 19:00,off");
        let classes = vec![class(Some(20), TABLE), class(None, early), class(Some(1), None)];
        let mut ceilings = ceilings(classes, now);
        assert_eq!(ceilings.hold_for(), Some(Duration::from_secs(60)));
        ceilings.update(time("2026-03-02T18:00:00Z"));
        assert_eq!(ceilings.hold_for(), Some(Duration::from_secs(30 * 60)));
        assert_eq!(self::ceilings(vec![class(Some(1), None)], now).hold_for(), None);
    }
}
