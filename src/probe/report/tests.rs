//! Reports made by hand, and what they say.

use std::time::Duration;

use super::super::offer::Limit;
use super::super::seen::Chain;
use super::*;

const ADDRESS: ([u8; 4], u16) = ([192, 0, 2, 1], 443);

fn message(kind: u8, length: usize) -> Message {
    Message { kind, length, records: 1 }
}

/// A server with a Certificate message, and body records all of one size.
fn seen(certificate: usize, record: usize) -> Seen {
    let handshake = Handshake {
        cipher: "TLS_AES_128_GCM_SHA256".into(),
        messages: vec![message(2, 90), message(Message::CERTIFICATE, certificate), message(20, 36)],
        largest_record: certificate,
        chain: Chain { certificates: 1, bytes: certificate - 9, key: "EC P-256".into() },
        answer: None,
    };
    let response = Response {
        status: 200,
        head: 180,
        head_records: 1,
        largest_head_record: 180,
        head_shared: false,
        content_length: Some(300_000),
        body_records: 64,
        body: 64 * record,
        largest_record: record,
        typical_record: record,
        gap: Some(Duration::from_millis(50)),
        paced: true,
        end: End::Bounded,
    };
    Seen { handshake, response: Ok(response) }
}

fn report(outcomes: Vec<(Offer, Result<Seen, String>)>) -> Report {
    let connections =
        outcomes.into_iter().map(|(offer, outcome)| Connection { offer, outcome }).collect();
    Report::new("https://h/fw.bin".into(), SocketAddr::from(ADDRESS), connections)
}

const TLS12: Offer = Offer::bare(Version::Tls12);
const TLS13: Offer = Offer::bare(Version::Tls13);
const MFL: Offer = Offer { version: Version::Tls12, limit: Some(Limit::MaxFragmentLength(1024)) };

fn misfit(seen: Seen, bytes: u64) -> String {
    report(vec![(TLS12, Ok(seen))]).fits(bytes).unwrap_err().to_string()
}

#[test]
fn the_first_thing_that_does_not_fit_is_named() {
    assert_eq!(
        misfit(seen(3412, 16_384), 2048),
        "TLS 1.2, nothing offered: the Certificate message is 3,412 bytes"
    );
    assert_eq!(
        misfit(seen(500, 16_384), 2048),
        "TLS 1.2, nothing offered: body records of 16,384 bytes"
    );
    let mut coalesced = seen(500, 1024);
    coalesced.handshake.largest_record = 2100;
    assert!(misfit(coalesced, 2048).ends_with("a handshake record of 2,100 bytes"));
    let mut head = seen(500, 1024);
    head.response.as_mut().unwrap().largest_head_record = 3000;
    assert!(misfit(head, 2048).ends_with("a record of 3,000 bytes for the response head"));
}

#[test]
fn a_message_that_is_cut_does_not_fit_though_it_would() {
    let mut cut = seen(1500, 1024);
    cut.handshake.largest_record = 1024;
    cut.handshake.messages[1].records = 2;
    assert!(misfit(cut.clone(), 1024).contains("the Certificate message is 1,500 bytes"));
    assert!(misfit(cut.clone(), 2048).contains("Certificate message of 1,500 bytes is cut into 2"));
    assert!(report(vec![(TLS12, Ok(cut))]).caveats()[0].contains("is cut into 2 records"));
}

#[test]
fn an_answer_that_is_not_the_object_fits_nothing() {
    let mut forbidden = seen(500, 250);
    forbidden.response.as_mut().unwrap().status = 403;
    assert!(misfit(forbidden, 2048).contains("HTTP status 403"));
    let mut silent = seen(500, 250);
    silent.response = Err("no answer within 10 s".into());
    assert!(misfit(silent, 2048).contains("no whole response: no answer within 10 s"));
    let mut broken = seen(500, 1024);
    broken.response.as_mut().unwrap().end = End::Broken("the server reset".into());
    assert!(misfit(broken, 2048).contains("the server reset"));
}

#[test]
fn every_version_that_is_spoken_counts_and_no_limit_does() {
    let limited = seen(500, 1024);
    let both = report(vec![
        (TLS12, Ok(seen(500, 1024))),
        (MFL, Ok(seen(9000, 9000))),
        (TLS13, Ok(seen(500, 4096))),
    ]);
    assert_eq!(both.fits(1024).unwrap_err().offer, TLS13);
    assert_eq!(both.fits(4096), Ok(()));
    let one = report(vec![(TLS12, Ok(limited)), (TLS13, Err("no 1.3".into()))]);
    assert_eq!(one.fits(1024), Ok(()));
    assert_eq!(
        one.caveats(),
        ["no TLS 1.3 (no 1.3): a device that speaks nothing else cannot connect"]
    );
}

#[test]
fn the_smallest_buffer_is_the_largest_demand() {
    let both = report(vec![
        (TLS12, Ok(seen(500, 4096))),
        (MFL, Ok(seen(500, 1024))),
        (TLS13, Ok(seen(5000, 4096))),
    ]);
    let need = both.smallest_buffer().unwrap();
    assert_eq!((need.bytes, need.offer), (5000, TLS13));
    assert!(need.to_string().ends_with("the Certificate message is 5,000 bytes"));
    assert!(both.fits(4999).is_err());
    assert_eq!(both.fits(5000), Ok(()));
    let with_limit = both.smallest_with_a_limit().unwrap();
    assert_eq!((with_limit.bytes, with_limit.offer), (1024, MFL));
}

#[test]
fn a_short_body_proves_little() {
    let mut short = seen(500, 100);
    let response = short.response.as_mut().unwrap();
    (response.body_records, response.body) = (1, 100);
    response.end = End::Complete { close_notify: Some(true) };
    let caveats = report(vec![(TLS12, Ok(short))]).caveats();
    assert_eq!(
        caveats,
        ["TLS 1.2: a body of 100 bytes does not show how large records can become"]
    );
}

#[test]
fn a_limit_is_honoured_obeyed_within_ignored_or_broken() {
    let honour = |usual: usize, limited: usize, answer| {
        let mut offered = seen(500, limited);
        offered.handshake.answer = answer;
        report(vec![(TLS12, Ok(seen(500, usual))), (MFL, Ok(offered))]).honour(MFL).unwrap()
    };
    assert_eq!(honour(16_384, 1024, Some(1024)), Honour::Honoured);
    assert_eq!(honour(16_384, 1024, None), Honour::Obeyed);
    assert_eq!(honour(1024, 1024, None), Honour::Within);
    assert_eq!(honour(16_384, 16_384, None), Honour::Ignored);
    assert_eq!(honour(16_384, 1025, Some(1024)), Honour::Broken);
    assert_eq!(report(vec![(TLS12, Ok(seen(500, 500)))]).honour(TLS12), None);
}

#[test]
fn the_table_is_for_a_terminal() {
    let mut forbidden = seen(123_456, 16_384);
    forbidden.response = Err("x".repeat(200));
    let text = report(vec![
        (TLS12, Ok(seen(500, 4096))),
        (MFL, Ok(seen(500, 1024))),
        (TLS13, Err("the server's alert: protocol version, and more ".repeat(3))),
        (Offer { version: Version::Tls13, limit: MFL.limit }, Ok(forbidden)),
    ])
    .to_string();
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    let row = "  nothing                   -             500      500       180    4,096    4,096     64   50.0 ms";
    assert_eq!(line("  nothing"), row);
    assert!(
        line("smallest device")
            .ends_with("4,096 bytes (because TLS 1.2: body records of 4,096 bytes)")
    );
    assert!(line("with a limit").contains("1,024 bytes (TLS 1.2, max_fragment_length 1024: "));
    assert!(line("of each body").contains("256 KiB or 8 s were read, 64 KiB or 3 s"));
    assert!(text.contains("no handshake: the server's alert: protocol version"));
}

#[test]
fn the_json_has_every_figure() {
    let json = report(vec![
        (TLS12, Ok(seen(500, 4096))),
        (MFL, Ok(seen(500, 1024))),
        (TLS13, Err("no 1.3".into())),
    ])
    .to_json();
    let at = |path: &str| json.pointer(path).unwrap_or_else(|| panic!("{path} in {json:#}"));
    assert_eq!(at("/connections/0/tls"), "1.2");
    assert!(at("/connections/0/offered").is_null());
    assert_eq!(at("/connections/1/offered/extension"), "max_fragment_length");
    assert_eq!(at("/connections/1/offered/result"), "obeyed");
    assert_eq!(at("/connections/1/handshake/certificate_message"), 500);
    assert_eq!(at("/connections/1/response/body/largest_record"), 1024);
    assert_eq!(at("/connections/1/response/body/gap_ms"), 50.0);
    assert_eq!(at("/connections/1/response/end"), "bounded");
    assert_eq!(at("/connections/2/error"), "no 1.3");
    assert!(at("/connections/2/handshake").is_null());
    assert_eq!(at("/smallest_buffer/bytes"), 4096);
    assert_eq!(at("/smallest_buffer_with_limit/bytes"), 1024);
}
