//! `profiles`: kinds of devices, and how each is served.
//!
//! Whatever a profile leaves out is as in `drip`.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use http::HeaderName;

use super::class_uses::ClassUses;
use super::drip::{chunk_size, response_headers};
use super::field::Field;
use super::listen::Listener;
use super::section::Section;
use crate::drip;
use crate::profile::{Bounds, Criteria, Profile, Profiles, TrustedHeader};
use crate::tls::record::ChunkSize;
use crate::units::{ByteSize, Wait};

/// The name of the default profile, which `drip` describes.
const DEFAULT: &str = "default";

/// Reads `profiles`.
pub(super) fn profiles(
    root: &mut Section<'_>,
    default: &drip::Settings,
    trusted_header: Option<TrustedHeader>,
    listeners: &[Listener],
    uses: &mut ClassUses,
) -> Profiles {
    let items = root.take("profiles").and_then(Field::items).unwrap_or_default();
    let mut names = BTreeSet::from([DEFAULT.to_owned()]);
    let mut list = Vec::new();
    for item in items {
        if let Some(profile) = profile(item, default, listeners, &mut names, uses) {
            list.push(profile);
        }
    }
    if trusted_header.is_some() && list.iter().all(|profile| profile.bounds.is_none()) {
        root.reader.warn("drip.trusted_header changes nothing: no profile has bounds".to_owned());
    }
    let default = Profile {
        name: DEFAULT.to_owned(),
        criteria: Criteria::default(),
        drip: default.clone(),
        fill: false,
        bounds: None,
    };
    Profiles { list, default, trusted_header }
}

fn profile(
    item: Field<'_>,
    default: &drip::Settings,
    listeners: &[Listener],
    names: &mut BTreeSet<String>,
    uses: &mut ClassUses,
) -> Option<Profile> {
    let mut section = item.section();
    let name = match section.take("name") {
        Some(field) => field.text().inspect(|name| {
            if !names.insert(name.clone()) {
                field.fail(format!(
                    "`{name}` is the name of another profile; choose one of its own"
                ));
            }
        }),
        None => {
            section.missing("name", "missing; write a name for the log and the metrics");
            None
        }
    };
    let criteria = match section.take("match") {
        Some(field) => criteria(field, listeners),
        None => {
            section.missing(
                "match",
                "missing; write whom the profile is for, such as {key_prefix: firmware/nrf/}",
            );
            Criteria::default()
        }
    };
    let drip = drip::Settings {
        chunk_size: chunk_size(&mut section).unwrap_or(default.chunk_size),
        wait: section.time("wait", default.wait, &drip::Settings::WAIT),
        response_headers: response_headers(&mut section)
            .unwrap_or_else(|| default.response_headers.clone()),
        class: uses.take_or_off(&mut section, "class").unwrap_or_else(|| default.class.clone()),
    };
    let fill = section.flag("fill", false);
    let bounds = section.take("bounds").map(|field| bounds(field.section(), &drip));
    section.finish(&[]);
    Some(Profile { name: name?, criteria, drip, fill, bounds })
}

fn criteria(field: Field<'_>, listeners: &[Listener]) -> Criteria {
    let (reader, at) = (field.reader(), field.at.clone());
    let errors = reader.error_count();
    let mut section = field.section();
    let listener = section.take("listener").and_then(|field| {
        let addr = field.address()?;
        if listeners.iter().all(|listener| listener.addr != addr) {
            field.fail(format!("{addr} is none of the listeners; write one as in listen[].addr"));
        }
        Some(addr)
    });
    let server_name = section.take("sni").and_then(|field| {
        let name = field.text()?;
        if name.is_empty() || !name.is_ascii() || name.contains('*') {
            field.fail("must be one host name, such as nrf.example.com");
        }
        Some(name.to_ascii_lowercase())
    });
    let key_prefix = section.take("key_prefix").and_then(|field| {
        let prefix = field.text()?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_graphic()) {
            field.fail("must be how keys begin in a URL, without /file/ and percent-encoded, such as fw/nrf/");
        }
        Some(prefix)
    });
    let headers = section.take("header").map(header_patterns).unwrap_or_default();
    let clients = section.take("client").map(Field::networks).unwrap_or_default();
    section.finish(&[]);
    let criteria = Criteria { listener, server_name, key_prefix, headers, clients };
    if criteria.is_empty() && reader.error_count() == errors {
        reader
            .fail(&at, "is empty; name at least one of listener, sni, key_prefix, header, client");
    }
    criteria
}

/// A map of header names to the values they must have.
fn header_patterns(field: Field<'_>) -> Vec<(HeaderName, crate::profile::ValuePattern)> {
    let mut patterns = Vec::new();
    for (name, value) in field.entries().unwrap_or_default() {
        let Some(text) = value.text() else { continue };
        match name.parse::<HeaderName>() {
            Ok(name) => patterns.push((name, text.as_str().into())),
            Err(_) => value.fail("is not the name of a header"),
        }
    }
    patterns
}

/// Reads `bounds`: pairs of the least and the most. What is left out keeps the profile's value.
fn bounds(mut section: Section<'_>, drip: &drip::Settings) -> Bounds {
    let chunk = section.take("chunk_size").and_then(|field| {
        let convert = |field: &Field<'_>| {
            let size = field.parse::<ByteSize>()?.bytes();
            ChunkSize::new(size).map_err(|e| field.fail(e.to_string())).ok()
        };
        pair(field, convert)
    });
    let wait = section.take("wait").and_then(|field| {
        pair(field, |field| {
            Some(field.parse::<Wait>()?.duration().min(*drip::Settings::WAIT.end()))
        })
    });
    section.finish(&[]);
    Bounds {
        chunk_size: chunk.unwrap_or(drip.chunk_size..=drip.chunk_size),
        wait: wait.unwrap_or(drip.wait..=drip.wait),
    }
}

fn pair<T: PartialOrd + Copy>(
    field: Field<'_>,
    convert: impl Fn(&Field<'_>) -> Option<T>,
) -> Option<RangeInclusive<T>> {
    let (reader, at) = (field.reader(), field.at.clone());
    let items = field.items()?;
    let values: Option<Vec<T>> = items.iter().map(convert).collect();
    match values?[..] {
        [least, most] if least <= most => Some(least..=most),
        _ => {
            reader.fail(&at, "must be a list of two: the least and the most");
            None
        }
    }
}
