//! Which ceiling holds at which time of the week, in rclone's syntax with dripline's units:
//! `Mon-00:00,512kbit 12:00,1Mbit Sun-20:00,off`.
//!
//! An entry holds from its time until that of the next one. An entry without a day is for every day; at
//! the same minute, one with a day replaces it. `off` is no ceiling but the class's max-limit. Times are
//! local times of a time zone. When clocks are put forward, an entry that falls into the gap begins when
//! the gap ends; when they are put back, an entry that has begun does not begin again.
//!
//! Pure: time is a parameter. A caller asks again at [`Timetable::next_change`], and at least every
//! minute, since the clock may be set and the machine may sleep. This file must not know which class a
//! timetable is for.
//!
//! ```
//! use dripline::shape::timetable::Timetable;
//! use jiff::tz::TimeZone;
//!
//! let table = Timetable::parse("08:00,2Mbit 23:00,off", TimeZone::UTC).unwrap();
//! assert_eq!(table.at("2026-03-02T09:00:00Z".parse().unwrap()), Some("2Mbit".parse().unwrap()));
//! assert_eq!(table.at("2026-03-02T23:30:00Z".parse().unwrap()), None);
//! ```

use std::fmt;

use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp};

use crate::units::Rate;

/// The most entries: four an hour for a whole week. Nobody writes more by hand.
const MAX_ENTRIES: usize = 7 * 24 * 4;

/// Days before and after now that are looked at: every entry begins at least once a week.
const DAYS: i32 = 8;

/// What is wrong with a timetable, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TimetableError(String);

/// A week of ceilings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timetable {
    entries: Vec<Entry>,
    zone: TimeZone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    day: Option<Weekday>,
    hour: i8,
    minute: i8,
    /// None: off.
    rate: Option<Rate>,
}

impl Timetable {
    /// Reads a timetable whose times are local times of `zone`.
    ///
    /// # Errors
    ///
    /// If there is no entry or too many, one is not written as an entry, or two are for one time.
    pub fn parse(text: &str, zone: TimeZone) -> Result<Self, TimetableError> {
        let entries: Vec<_> = text.split_whitespace().map(entry).collect::<Result<_, _>>()?;
        if entries.is_empty() || entries.len() > MAX_ENTRIES {
            let count = entries.len();
            return Err(TimetableError(format!(
                "{count} entries; write 1 to {MAX_ENTRIES}, such as \"08:00,2Mbit 18:00,off\""
            )));
        }
        for (index, entry) in entries.iter().enumerate() {
            let same = |other: &Entry| other.clock() == entry.clock() && other.day == entry.day;
            if entries[..index].iter().any(same) {
                return Err(TimetableError(format!(
                    "`{entry}` is for a time that has an entry already"
                )));
            }
        }
        Ok(Self { entries, zone })
    }

    /// The ceiling at that time; None: off.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> Option<Rate> {
        let starts = self.starts(now);
        let past = starts.into_iter().rfind(|(at, ..)| *at <= now);
        past.and_then(|(.., rate)| rate)
    }

    /// When the next entry begins.
    #[must_use]
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.starts(now).into_iter().map(|(at, ..)| at).find(|at| *at > now)
    }

    /// The lowest ceiling of the week.
    #[must_use]
    pub fn lowest(&self) -> Option<Rate> {
        self.entries.iter().filter_map(|entry| entry.rate).min()
    }

    /// When entries begin in the days around `now`, in order: instant, local time and ceiling.
    fn starts(&self, now: Timestamp) -> Vec<(Timestamp, DateTime, Option<Rate>)> {
        let today = self.zone.to_datetime(now).date();
        let days = (-DAYS..=DAYS).filter_map(|day| today.checked_add(Span::new().days(day)).ok());
        let mut starts: Vec<_> = days.flat_map(|day| self.on(day)).collect();
        // Of several entries that begin when a gap ends, the one with the latest local time holds.
        starts.sort_by_key(|(at, civil, _)| (*at, *civil));
        starts
    }

    /// When entries begin on a day.
    fn on(&self, date: Date) -> impl Iterator<Item = (Timestamp, DateTime, Option<Rate>)> {
        let of_the_day = move |entry: &&Entry| entry.day.is_none_or(|day| day == date.weekday());
        let holds = move |entry: &&Entry| {
            let replaced_by =
                |other: &Entry| other.day == Some(date.weekday()) && other.clock() == entry.clock();
            entry.day.is_some() || !self.entries.iter().any(replaced_by)
        };
        self.entries.iter().filter(of_the_day).filter(holds).filter_map(move |entry| {
            let civil = date.at(entry.hour, entry.minute, 0, 0);
            Some((self.instant(civil)?, civil, entry.rate))
        })
    }

    /// When clocks first show that local time or, if it falls into a gap, when the gap ends.
    fn instant(&self, civil: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(civil).offset() {
            AmbiguousOffset::Unambiguous { offset }
            | AmbiguousOffset::Fold { before: offset, .. } => offset.to_timestamp(civil).ok(),
            AmbiguousOffset::Gap { after, .. } => {
                // Converted with the offset from after the gap, the time lies before the gap.
                let before = after.to_timestamp(civil).ok()?;
                self.zone.following(before).next().map(|transition| transition.timestamp())
            }
        }
    }
}

impl Entry {
    /// The local time of day: hour and minute.
    fn clock(&self) -> (i8, i8) {
        (self.hour, self.minute)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(day) = self.day {
            write!(f, "{}-", short(day))?;
        }
        write!(f, "{:02}:{:02},", self.hour, self.minute)?;
        match self.rate {
            Some(rate) => rate.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl fmt::Display for Timetable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.entries.iter().enumerate() {
            write!(f, "{}{entry}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

const WEEK: [Weekday; 7] = [
    Weekday::Monday,
    Weekday::Tuesday,
    Weekday::Wednesday,
    Weekday::Thursday,
    Weekday::Friday,
    Weekday::Saturday,
    Weekday::Sunday,
];

fn name(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "Monday",
        Weekday::Tuesday => "Tuesday",
        Weekday::Wednesday => "Wednesday",
        Weekday::Thursday => "Thursday",
        Weekday::Friday => "Friday",
        Weekday::Saturday => "Saturday",
        Weekday::Sunday => "Sunday",
    }
}

fn short(day: Weekday) -> &'static str {
    &name(day)[..3]
}

/// Reads one entry.
fn entry(text: &str) -> Result<Entry, TimetableError> {
    let error = |what: &str| TimetableError(format!("`{}` {what}", text.escape_debug()));
    let no_entry =
        || error("is not an entry; write one such as 08:00,2Mbit, Sun-20:00,512kbit or 23:00,off");
    let (time, rate) = text.split_once(',').ok_or_else(no_entry)?;
    let (day, clock) = match time.split_once('-') {
        Some((day, clock)) => (Some(day), clock),
        None => (None, time),
    };
    let day = day.map(|day| {
        let is = |one: &&Weekday| {
            [name(**one), short(**one)].iter().any(|n| n.eq_ignore_ascii_case(day))
        };
        WEEK.iter()
            .find(is)
            .copied()
            .ok_or_else(|| error("has no day of the week; write Mon to Sun"))
    });
    let (hour, minute) = clock.split_once(':').ok_or_else(no_entry)?;
    let digits = |text: &str, most: i8| {
        let two = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i8>().ok().filter(|number| two && *number <= most)
    };
    let (Some(hour), Some(minute)) = (digits(hour, 23), digits(minute, 59)) else {
        return Err(error("has no time of the day; write 00:00 to 23:59"));
    };
    let rate = match rate {
        "off" => None,
        rate => match rate.parse::<Rate>() {
            Ok(rate) if rate.bits() > 0 => Some(rate),
            Ok(_) => {
                return Err(error(
                    "would stop everything; write a rate, or `off` for no limit but max_limit",
                ));
            }
            Err(e) => return Err(TimetableError(e.to_string())),
        },
    };
    Ok(Entry { day: day.transpose()?, hour, minute, rate })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    fn table(text: &str, name: &str) -> Timetable {
        Timetable::parse(text, zone(name)).unwrap()
    }

    fn mbit(mbit: u64) -> Option<Rate> {
        Some(Rate::from_bits(mbit * 1_000_000))
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_week_second_by_second() {
        let table = table("Mon-00:00,512kbit 12:00,1Mbit Sun-20:00,off", "Australia/Sydney");
        // Monday, 5 January 2026.
        let midnight = date(2026, 1, 5).at(0, 0, 0, 0).to_zoned(zone("Australia/Sydney")).unwrap();
        let start = midnight.timestamp().as_second();
        let kbit = Some(Rate::from_bits(512_000));
        let mut now = start - 1;
        let mut changes = Vec::new();
        let mut last = table.at(Timestamp::from_second(now).unwrap());
        assert_eq!(last, None, "Sunday night");
        // As the shaper does: at the next change, and at least every minute.
        while now <= start + 7 * 86_400 {
            let at = Timestamp::from_second(now).unwrap();
            let rate = table.at(at);
            if rate != last {
                changes.push((now - start, rate));
                last = rate;
            }
            let next = table.next_change(at).unwrap().as_second();
            assert!(next > now);
            now = next.min(now + 60);
        }
        let (hour, day) = (3600, 86_400);
        assert_eq!(
            changes,
            [(0, kbit), (12 * hour, mbit(1)), (6 * day + 20 * hour, None), (7 * day, kbit)]
        );
        // Every second around a change.
        for (second, rate) in [(-1, kbit), (0, mbit(1)), (1, mbit(1))] {
            let at = Timestamp::from_second(start + 12 * hour + second).unwrap();
            assert_eq!(table.at(at), rate, "{second}");
        }
    }

    #[test]
    fn a_day_of_its_own_goes_before_every_day() {
        let table = table("00:00,1Mbit Saturday-00:00,5Mbit sat-12:00,off", "UTC");
        for (at, rate) in [
            ("2026-01-09T23:59:59Z", mbit(1)),
            ("2026-01-10T00:00:00Z", mbit(5)),
            ("2026-01-10T12:00:00Z", None),
            ("2026-01-11T00:00:00Z", mbit(1)),
        ] {
            assert_eq!(table.at(time(at)), rate, "{at}");
        }
        assert_eq!(table.lowest(), mbit(1));
        assert_eq!(table.to_string(), "00:00,1Mbit Sat-00:00,5Mbit Sat-12:00,off");
    }

    #[test]
    fn one_entry_a_week_holds_all_week() {
        let table = table("Wed-03:00,2Mbit", "UTC");
        for at in ["2026-01-07T02:59:59Z", "2026-01-07T03:00:00Z", "2026-01-13T00:00:00Z"] {
            assert_eq!(table.at(time(at)), mbit(2), "{at}");
        }
        assert_eq!(
            table.next_change(time("2026-01-07T03:00:00Z")),
            Some(time("2026-01-14T03:00:00Z"))
        );
    }

    #[test]
    fn summer_time_begins() {
        // Berlin, 29 March 2026: 02:00 CET is 03:00 CEST, at 01:00 UTC.
        let table = table("01:30,1Mbit 02:15,2Mbit 02:45,3Mbit 03:30,4Mbit", "Europe/Berlin");
        for (at, rate) in [
            ("2026-03-29T00:29:59Z", mbit(4)),
            ("2026-03-29T00:30:00Z", mbit(1)),
            ("2026-03-29T00:59:59Z", mbit(1)),
            ("2026-03-29T01:00:00Z", mbit(3)),
            ("2026-03-29T01:29:59Z", mbit(3)),
            ("2026-03-29T01:30:00Z", mbit(4)),
            ("2026-03-30T00:15:00Z", mbit(2)),
        ] {
            assert_eq!(table.at(time(at)), rate, "{at}");
        }
        let next = table.next_change(time("2026-03-29T00:30:00Z"));
        assert_eq!(next, Some(time("2026-03-29T01:00:00Z")));
    }

    #[test]
    fn summer_time_ends() {
        // Berlin, 25 October 2026: 03:00 CEST is 02:00 CET, at 01:00 UTC. 02:30 comes twice.
        let table = table("02:30,1Mbit 03:30,2Mbit", "Europe/Berlin");
        for (at, rate) in [
            ("2026-10-25T00:29:59Z", mbit(2)),
            ("2026-10-25T00:30:00Z", mbit(1)),
            ("2026-10-25T01:00:00Z", mbit(1)),
            ("2026-10-25T01:30:00Z", mbit(1)),
            ("2026-10-25T02:29:59Z", mbit(1)),
            ("2026-10-25T02:30:00Z", mbit(2)),
        ] {
            assert_eq!(table.at(time(at)), rate, "{at}");
        }
    }

    #[test]
    fn every_error_says_what_would_be_right() {
        for (text, message) in [
            ("", "0 entries; write 1 to 672, such as \"08:00,2Mbit 18:00,off\""),
            (
                "512",
                "`512` is not an entry; write one such as 08:00,2Mbit, Sun-20:00,512kbit or 23:00,off",
            ),
            (
                "8,1Mbit",
                "`8,1Mbit` is not an entry; write one such as 08:00,2Mbit, Sun-20:00,512kbit or 23:00,off",
            ),
            ("24:00,1Mbit", "`24:00,1Mbit` has no time of the day; write 00:00 to 23:59"),
            ("12:+5,1Mbit", "`12:+5,1Mbit` has no time of the day; write 00:00 to 23:59"),
            ("Mo-12:00,1Mbit", "`Mo-12:00,1Mbit` has no day of the week; write Mon to Sun"),
            (
                "12:00,0",
                "`12:00,0` would stop everything; write a rate, or `off` for no limit but max_limit",
            ),
            ("08:00,1Mbit 08:00,off", "`08:00,off` is for a time that has an entry already"),
        ] {
            let error = Timetable::parse(text, TimeZone::UTC).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let bare = Timetable::parse("12:00,512", TimeZone::UTC).unwrap_err().to_string();
        assert!(bare.starts_with("`512` has no unit"), "{bare}");
        let ambiguous = Timetable::parse("12:00,1M", TimeZone::UTC).unwrap_err().to_string();
        assert!(ambiguous.starts_with("`1M` does not say bits or bytes"), "{ambiguous}");
    }
}
