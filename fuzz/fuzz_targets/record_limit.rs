//! No offer of a client's makes records larger than it can take, larger than the cap, or empty.
#![no_main]

use dripline::tls::record::{Fragments, MaxFragmentLength, Offer, RecordSizeLimit};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(([cap, tls13, length], data)) = data.split_first_chunk::<3>() else { return };
    let cap = 64 + usize::from(*cap) * 64;
    let (mfl, limit) = data.split_at(usize::from(*length).min(data.len()));
    let tls13 = tls13 % 2 == 1;
    let record_size_limit = RecordSizeLimit::parse(limit).ok().map(|limit| limit.plaintext(tls13));
    if let Some(plaintext) = record_size_limit {
        let asked = usize::from(u16::from_be_bytes([limit[0], limit[1]]));
        assert!((63..=16_384).contains(&plaintext) && plaintext + usize::from(tls13) <= asked);
    }
    let max_fragment_length = MaxFragmentLength::parse(mfl);
    let offer = Offer { max_fragment_length, record_size_limit };
    let most = offer.limit(cap);
    assert!((63..=cap).contains(&most));
    assert!(record_size_limit.is_none_or(|limit| most <= limit));
    assert!(max_fragment_length.is_none_or(|limit| most <= limit.bytes()));
    assert_eq!(Fragments::within(most).split, most);
    let _ = offer.to_string();
});
