//! The arithmetic of a probe: plaintext sizes, messages spread over records, medians and pace.
//!
//! Pure. All sizes are plaintext bytes of one record, as in [`crate::tls::record`].

use std::time::Duration;

use super::offer::Version;

/// A median gap below this is caused by the network and the kernel: a server at full speed writes its
/// records less than a millisecond apart.
const SHORTEST_PACE: Duration = Duration::from_millis(5);

/// Gaps needed to call them regular.
const FEWEST_GAPS: usize = 2;

/// The most plaintext that an encrypted record of `length` bytes can hold. It is exact for the
/// AEAD suites of TLS 1.2; in TLS 1.3 it includes the padding, which a receiver must buffer too
/// (RFC 8446 §5.4); of a CBC suite's padding only the one mandatory byte is known.
pub(super) fn plaintext(version: Version, cipher: &str, length: usize) -> usize {
    let overhead = match version {
        // Content type and tag (RFC 8446 §5.2); CCM_8 is the one with a shorter tag.
        Version::Tls13 if cipher.contains("CCM_8") => 1 + 8,
        Version::Tls13 => 1 + 16,
        // No explicit nonce (RFC 7905 §2).
        Version::Tls12 if cipher.contains("CHACHA20") => 16,
        // Explicit nonce and tag (RFC 5288 §3, RFC 6655 §4).
        Version::Tls12 if cipher.contains("CCM_8") => 8 + 8,
        Version::Tls12 if cipher.contains("GCM") || cipher.contains("CCM") => 8 + 16,
        // IV, MAC and the padding's length byte (RFC 5246 §6.2.3.2); the MAC is at least SHA-1's.
        Version::Tls12 => 16 + 20 + 1,
    };
    length.saturating_sub(overhead)
}

/// For each message, the number of records that it is spread over. Both lists are in the order of
/// arrival and hold the same bytes.
pub(super) fn spread(messages: &[usize], records: &[usize]) -> Vec<usize> {
    let ends: Vec<usize> = records
        .iter()
        .scan(0, |end, record| {
            *end += record;
            Some(*end)
        })
        .collect();
    let mut start = 0;
    let spread = messages.iter().map(|message| {
        let end = start + message;
        let inside = ends.iter().filter(|&&boundary| start < boundary && boundary < end).count();
        start = end;
        inside + 1
    });
    spread.collect()
}

/// The same if padding hides how much of a record is used: `after` is, for each message, the number of
/// records that had arrived when it was complete. Each result is the smallest possible number.
pub(super) fn spread_at_least(after: &[usize]) -> Vec<usize> {
    let before = [0].into_iter().chain(after.iter().copied());
    after.iter().zip(before).map(|(after, before)| (after - before).max(1)).collect()
}

/// The middle value, the lower of the two in an even number of them.
pub(super) fn median<T: Ord + Copy>(values: impl IntoIterator<Item = T>) -> Option<T> {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// Whether records come at regular times: three gaps of four are within a fifth of the median. A
/// link that is slower than the server looks the same.
pub(super) fn paced(gaps: &[Duration]) -> bool {
    let Some(median) = median(gaps.iter().copied()) else { return false };
    let regular = gaps.iter().filter(|gap| gap.abs_diff(median) <= median / 5).count();
    gaps.len() >= FEWEST_GAPS && median >= SHORTEST_PACE && regular * 4 >= gaps.len() * 3
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GCM: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";

    #[test]
    fn what_encryption_adds_depends_on_version_and_suite() {
        assert_eq!(plaintext(Version::Tls12, GCM, 4096 + 24), 4096);
        assert_eq!(plaintext(Version::Tls13, "TLS_AES_128_GCM_SHA256", 4096 + 17), 4096);
        assert_eq!(plaintext(Version::Tls13, "TLS_AES_128_CCM_8_SHA256", 4096 + 9), 4096);
        let chacha = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256";
        assert_eq!(plaintext(Version::Tls12, chacha, 4096 + 16), 4096);
        assert_eq!(plaintext(Version::Tls12, "TLS_RSA_WITH_AES_128_CCM_8", 4096 + 16), 4096);
        // Finished has 16 bytes: 16 + 20 + 12 of padding on top, of which 1 is certain.
        let cbc = "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA";
        assert_eq!(plaintext(Version::Tls12, cbc, 64), 27);
        assert_eq!(plaintext(Version::Tls12, GCM, 3), 0);
    }

    #[test]
    fn a_message_is_cut_where_a_record_ends_inside_it() {
        assert_eq!(spread(&[100, 900, 50], &[100, 900, 50]), [1, 1, 1]);
        assert_eq!(spread(&[100, 900, 50], &[1050]), [1, 1, 1], "all in one record");
        assert_eq!(spread(&[100, 900, 50], &[512, 512, 26]), [1, 2, 2]);
        assert_eq!(spread(&[100, 2000], &[100, 1024, 976]), [1, 2]);
        assert_eq!(spread(&[], &[]), [0; 0]);
    }

    #[test]
    fn under_padding_only_whole_records_tell() {
        assert_eq!(spread_at_least(&[1, 2, 2, 5]), [1, 1, 1, 3]);
        assert_eq!(spread_at_least(&[]), [0; 0]);
    }

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(median([3, 1, 2]), Some(2));
        assert_eq!(median([4, 1, 2, 3]), Some(2));
        assert_eq!(median([7]), Some(7));
        assert_eq!(median([0; 0]), None);
    }

    #[test]
    fn only_regular_gaps_are_a_pace() {
        let gaps = |ms: &[u64]| ms.iter().map(|ms| Duration::from_millis(*ms)).collect::<Vec<_>>();
        assert!(paced(&gaps(&[50, 51, 49, 50])));
        assert!(paced(&gaps(&[50, 110, 49, 50])), "one late record");
        assert!(!paced(&gaps(&[50, 110, 9, 50])));
        assert!(!paced(&gaps(&[0, 0, 1, 0])));
        assert!(!paced(&gaps(&[500])), "one gap is no rhythm");
        assert!(!paced(&[]));
    }

    #[test]
    fn thousands_are_grouped() {
        let texts = [0, 999, 1000, 16_384, 1_234_567].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "16,384", "1,234,567"]);
    }
}
