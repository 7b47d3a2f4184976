//! `drip`: how responses are sent, unless a profile says otherwise.

use http::HeaderName;

use super::class_uses::ClassUses;
use super::field::Field;
use super::section::Section;
use crate::drip::Settings;
use crate::header_pattern::HeaderPattern;
use crate::networks::Networks;
use crate::profile::TrustedHeader;
use crate::tls::record::ChunkSize;
use crate::units::ByteSize;

/// Reads `drip`.
pub(super) fn drip(
    mut section: Section<'_>,
    uses: &mut ClassUses,
) -> (Settings, Option<TrustedHeader>) {
    let default = Settings::default();
    let drip = Settings {
        chunk_size: chunk_size(&mut section).unwrap_or(default.chunk_size),
        wait: section.time("wait", default.wait, &Settings::WAIT),
        response_headers: response_headers(&mut section).unwrap_or(default.response_headers),
        class: uses.take(&mut section, "class"),
    };
    let trusted = section.take("trusted_header").and_then(trusted_header);
    section.finish(&[]);
    (drip, trusted)
}

/// Takes `chunk_size` out, in `drip` or in a profile.
pub(super) fn chunk_size(section: &mut Section<'_>) -> Option<ChunkSize> {
    let field = section.take("chunk_size")?;
    let size = field.parse::<ByteSize>()?;
    ChunkSize::new(size.bytes()).map_err(|error| field.fail(error.to_string())).ok()
}

/// Takes `response_headers` out, in `drip` or in a profile.
pub(super) fn response_headers(section: &mut Section<'_>) -> Option<Vec<HeaderPattern>> {
    let patterns = section.take("response_headers").and_then(Field::items)?;
    Some(patterns.iter().filter_map(Field::parse_text::<HeaderPattern>).collect())
}

/// Reads `drip.trusted_header`.
fn trusted_header(field: Field<'_>) -> Option<TrustedHeader> {
    let mut section = field.section();
    let name = match section.take("name") {
        Some(field) => field.parse_text::<HeaderName>(),
        None => {
            section.missing("name", "missing; write a header's name, such as X-Drip");
            None
        }
    };
    let from = match section.take("from") {
        Some(field) => field.networks(),
        None => {
            section.missing("from", "missing; write the networks whose clients may send it");
            Networks::default()
        }
    };
    section.finish(&[]);
    Some(TrustedHeader { name: name?, from })
}
