//! Whether a region's code looks like a mistyped one.
//!
//! Invariant: a code is never refused here, because Amazon adds regions. Only the area of a code is
//! compared (`eu-west` of `eu-west-1`), so a new number in a known area is no mistake. Neither is a new
//! area that is well formed: a known prefix and a direction, as in `me-west`. Pure.

use super::settings::Region;

/// The areas of Amazon's regions, all partitions (AWS General Reference, "Amazon S3 endpoints").
const AREAS: [&str; 30] = [
    "af-south",
    "ap-east",
    "ap-northeast",
    "ap-south",
    "ap-southeast",
    "ca-central",
    "ca-west",
    "cn-north",
    "cn-northwest",
    "eu-central",
    "eu-isoe-west",
    "eu-north",
    "eu-south",
    "eu-west",
    "eusc-de-east",
    "il-central",
    "me-central",
    "me-south",
    "mx-central",
    "sa-east",
    "us-east",
    "us-gov-east",
    "us-gov-west",
    "us-iso-east",
    "us-iso-west",
    "us-isob-east",
    "us-isob-west",
    "us-isof-east",
    "us-isof-south",
    "us-west",
];

/// The last words of areas: where a region lies.
const DIRECTIONS: [&str; 9] = [
    "central",
    "east",
    "north",
    "northeast",
    "northwest",
    "south",
    "southeast",
    "southwest",
    "west",
];

/// The code that was probably meant, if `region` looks like a mistyped one: the code of an
/// availability zone (`eu-west-1a`), or an area that is at most two edits from a known one.
#[must_use]
pub fn probably_meant(region: &Region) -> Option<String> {
    let code = region.as_str();
    let zone = |c: char| c.is_ascii_lowercase();
    let number_at =
        code.trim_end_matches(zone).trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (area, number) = (code[..number_at].strip_suffix('-')?, &code[number_at..]);
    let digits = number.trim_end_matches(zone);
    if digits.is_empty() {
        return None;
    }
    // A zone's letter is a mistake in any area.
    if digits == number && is_well_formed(area) {
        return None;
    }
    let near = |known| (strsim::damerau_levenshtein(area, known), known);
    let (edits, known) = AREAS.into_iter().map(near).min()?;
    let meant = format!("{known}-{digits}");
    (edits <= 2 && meant != code).then_some(meant)
}

/// Whether an area is made as Amazon makes them: the prefix of a known one, and a direction.
fn is_well_formed(area: &str) -> bool {
    let known = |prefix| {
        let prefixes = AREAS.iter().filter_map(|area| area.rsplit_once('-'));
        prefixes.map(|(known, _)| known).any(|known| known == prefix)
    };
    let parts = area.rsplit_once('-');
    parts.is_some_and(|(prefix, direction)| DIRECTIONS.contains(&direction) && known(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(code: &str) -> Option<String> {
        probably_meant(&code.parse().expect("a region"))
    }

    #[test]
    fn a_mistyped_area_and_an_availability_zone_are_recognised() {
        for (code, expected) in [
            ("eu-wset-1", "eu-west-1"),
            ("eu-west-1a", "eu-west-1"),
            ("ap-southest-2", "ap-southeast-2"),
            ("us-esat-1", "us-east-1"),
            ("us-east-1f", "us-east-1"),
            ("us-gov-wst-1", "us-gov-west-1"),
        ] {
            assert_eq!(meant(code).as_deref(), Some(expected), "{code}");
        }
    }

    #[test]
    fn known_areas_and_names_of_another_kind_are_left_alone() {
        for area in AREAS {
            assert_eq!(meant(&format!("{area}-1")), None, "{area}");
            assert_eq!(meant(&format!("{area}-9")), None, "{area}");
        }
        for code in ["sa-west-1", "me-west-1", "us-isof-east-1", "us-isob-west-1", "ap-west-2"] {
            assert_eq!(meant(code), None, "{code}");
        }
        for code in ["auto", "garage", "my-region", "local-1", "eu", "datacenter-7"] {
            assert_eq!(meant(code), None, "{code}");
        }
    }
}
