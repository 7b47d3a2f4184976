//! What one connection showed, computed from its log.
//!
//! Pure. All sizes are in bytes; those of records are plaintext, as a device's buffer holds it.

use std::time::Duration;

use super::hello;
use super::measure::{median, paced, plaintext, spread, spread_at_least};
use super::offer::{Offer, Version};
use super::tap::{self, Log, Record};

/// One connection: what was offered and what came of it.
#[derive(Debug, Clone)]
pub struct Connection {
    /// What the client offered.
    pub offer: Offer,
    /// What the connection showed, or why there was no handshake.
    pub outcome: Result<Seen, String>,
}

/// What a completed handshake and the request after it showed.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The handshake, session tickets included.
    pub handshake: Handshake,
    /// The response, or why there is none.
    pub response: Result<Response, String>,
}

/// The server's side of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The cipher suite's name in the registry.
    pub cipher: String,
    /// Every handshake message, in order.
    pub messages: Vec<Message>,
    /// The largest handshake record.
    pub largest_record: usize,
    /// The certificates that the server sent.
    pub chain: Chain,
    /// The value with which the server answered the offered limit, if it did.
    pub answer: Option<u16>,
}

/// A handshake message of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Its type in the registry (RFC 8446 §4), such as 11 for Certificate.
    pub kind: u8,
    /// Its size, the four bytes of its header included.
    pub length: usize,
    /// The records over which it is spread; 1 if it is whole.
    pub records: usize,
}

impl Message {
    /// The type of the Certificate message.
    pub const CERTIFICATE: u8 = 11;

    /// The message's name in the RFCs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.kind {
            2 => "ServerHello",
            4 => "NewSessionTicket",
            8 => "EncryptedExtensions",
            Self::CERTIFICATE => "Certificate",
            12 => "ServerKeyExchange",
            13 => "CertificateRequest",
            14 => "ServerHelloDone",
            15 => "CertificateVerify",
            20 => "Finished",
            22 => "CertificateStatus",
            _ => "handshake",
        }
    }
}

/// The certificates in the Certificate message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// How many.
    pub certificates: usize,
    /// Their size together.
    pub bytes: usize,
    /// The leaf's key, such as `EC P-256` or `RSA 2048`.
    pub key: String,
}

impl Handshake {
    /// Computes the handshake from a log.
    pub(super) fn of(log: &Log, offer: Offer, cipher: &str, chain: Chain) -> Self {
        let handshake = log.records.iter().filter(|record| record.kind == tap::HANDSHAKE);
        let records: Vec<usize> = handshake.map(|r| size(r, offer.version, cipher)).collect();
        let lengths: Vec<usize> = log.messages.iter().map(|message| message.length).collect();
        let padded = offer.version == Version::Tls13
            && records.iter().sum::<usize>() != lengths.iter().sum::<usize>();
        let spread = if padded {
            let after: Vec<usize> = log.messages.iter().map(|message| message.after).collect();
            spread_at_least(&after)
        } else {
            spread(&lengths, &records)
        };
        let messages = log.messages.iter().zip(spread);
        Self {
            cipher: cipher.to_owned(),
            messages: messages
                .map(|(m, records)| Message { kind: m.kind, length: m.length, records })
                .collect(),
            largest_record: records.into_iter().max().unwrap_or(0),
            chain,
            answer: answer(log, offer),
        }
    }

    /// The largest message.
    #[must_use]
    pub fn largest_message(&self) -> Option<Message> {
        self.messages.iter().max_by_key(|message| message.length).copied()
    }

    /// The Certificate message.
    #[must_use]
    pub fn certificate(&self) -> Option<Message> {
        self.messages.iter().find(|message| message.kind == Message::CERTIFICATE).copied()
    }
}

/// The server's answer to the limit that was offered: one byte that names a length (RFC 6066 §4),
/// or the server's own limit in two (RFC 8449 §4).
fn answer(log: &Log, offer: Offer) -> Option<u16> {
    let extension = offer.limit?.extension();
    let value = log.answers.iter().rev().find_map(|message| match offer.version {
        Version::Tls12 => hello::in_server_hello(message, extension),
        Version::Tls13 if message.first() == Some(&tap::ENCRYPTED_EXTENSIONS) => {
            hello::in_encrypted_extensions(message, extension)
        }
        Version::Tls13 => None,
    })?;
    match *value {
        [code @ 1..=4] => Some(256 << code),
        [high, low] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

/// The plaintext that a record needs room for.
fn size(record: &Record, version: Version, cipher: &str) -> usize {
    match (record.sealed, record.content, version) {
        (false, ..) => record.length,
        // Exact, whatever the suite.
        (true, Some((content, _)), Version::Tls12) => content,
        (true, ..) => plaintext(version, cipher, record.length),
    }
}

/// An HTTP response, as far as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The size of the head.
    pub head: usize,
    /// The records over which the head is spread.
    pub head_records: usize,
    /// The largest of these, not counting one that also holds some of the body.
    pub largest_head_record: usize,
    /// Whether the last of these also holds the beginning of the body.
    pub head_shared: bool,
    /// The value of Content-Length.
    pub content_length: Option<u64>,
    /// The records that hold some of the body.
    pub body_records: usize,
    /// The bytes of the body that were read.
    pub body: usize,
    /// The largest body record, 0 if there is none.
    pub largest_record: usize,
    /// The median of the body records.
    pub typical_record: usize,
    /// The median of the times between two body records.
    pub gap: Option<Duration>,
    /// Whether these times are regular.
    pub paced: bool,
    /// How it ended.
    pub end: End,
}

/// How a response ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It is complete.
    Complete {
        /// Whether the server ended the connection with close_notify (RFC 8446 §6.1); unknown if
        /// it left it open.
        close_notify: Option<bool>,
    },
    /// The probe stopped reading at its bound.
    Bounded,
    /// It ended early, for this reason.
    Broken(String),
}

/// What the HTTP layer knows of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The status code, from 200 on.
    pub status: u16,
    /// Bytes up to and including the empty line.
    pub length: usize,
    /// The body's bytes, if that is announced.
    pub content_length: Option<u64>,
    /// Whether the body comes in chunks.
    pub chunked: bool,
}

impl Response {
    /// Computes the response from its head and the records of a log.
    pub(super) fn of(log: &Log, version: Version, cipher: &str, head: Head, end: End) -> Self {
        let data = log.records.iter().filter(|record| record.kind == tap::APPLICATION_DATA);
        let (mut offset, mut head_records, mut head_shared) = (0, 0, false);
        let (mut heads, mut bodies, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for record in data {
            let size = size(record, version, cipher);
            let Some((content, at)) = record.content else {
                // A record that OpenSSL refused, or that is incomplete, had a header.
                if matches!(end, End::Broken(_)) {
                    bodies.push(size);
                }
                continue;
            };
            let (starts, ends) = (offset, offset + content);
            head_records += usize::from(starts < head.length);
            if ends > head.length {
                head_shared |= starts < head.length;
                bodies.push(size);
                times.push(at);
            } else {
                heads.push(size);
            }
            offset = ends;
        }
        let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        Self {
            status: head.status,
            head: head.length,
            head_records,
            largest_head_record: heads.into_iter().max().unwrap_or(0),
            head_shared,
            content_length: head.content_length,
            body_records: bodies.len(),
            body: offset.saturating_sub(head.length),
            largest_record: bodies.iter().copied().max().unwrap_or(0),
            typical_record: median(bodies).unwrap_or(0),
            gap: median(gaps.iter().copied()),
            paced: paced(&gaps),
            end,
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests measure time")]
mod tests {
    use std::time::Instant;

    use super::super::offer::Limit;
    use super::*;

    const GCM: &str = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";

    fn application(sizes: &[usize], gap: Duration) -> Log {
        let start = Instant::now();
        let records = sizes.iter().zip(0..).map(|(size, at)| Record {
            kind: tap::APPLICATION_DATA,
            length: size + 24,
            sealed: true,
            content: Some((*size, start + gap * at)),
        });
        Log { records: records.collect(), ..Log::default() }
    }

    fn response(sizes: &[usize], head: usize) -> Response {
        let head = Head { status: 200, length: head, content_length: None, chunked: false };
        let log = application(sizes, Duration::from_millis(50));
        Response::of(&log, Version::Tls12, GCM, head, End::Bounded)
    }

    #[test]
    fn a_head_in_a_record_of_its_own() {
        let seen = response(&[200, 1024, 1024, 7], 200);
        assert_eq!((seen.head_records, seen.head_shared), (1, false));
        assert_eq!((seen.body_records, seen.body), (3, 2055));
        assert_eq!((seen.largest_record, seen.typical_record), (1024, 1024));
        assert_eq!((seen.gap, seen.paced), (Some(Duration::from_millis(50)), true));
    }

    #[test]
    fn a_head_that_shares_its_record_with_the_body() {
        let seen = response(&[16_384, 16_384], 200);
        assert_eq!((seen.head_records, seen.head_shared), (1, true));
        assert_eq!((seen.body_records, seen.body), (2, 2 * 16_384 - 200));
        assert_eq!((seen.largest_record, seen.largest_head_record), (16_384, 0));
    }

    #[test]
    fn a_head_cut_into_records_and_no_body() {
        let seen = response(&[64, 64, 10], 138);
        assert_eq!((seen.head_records, seen.head_shared, seen.largest_head_record), (3, false, 64));
        assert_eq!((seen.body_records, seen.largest_record, seen.gap), (0, 0, None));
    }

    #[test]
    fn a_record_that_broke_the_response_counts() {
        let mut log = application(&[200, 1024, 16_384], Duration::ZERO);
        log.records[2].content = None;
        let largest = |end| {
            let head = Head { status: 200, length: 200, content_length: None, chunked: false };
            Response::of(&log, Version::Tls12, GCM, head, end).largest_record
        };
        assert_eq!(largest(End::Broken("data length too long".into())), 16_384);
        assert_eq!(largest(End::Bounded), 1024);
    }

    #[test]
    fn messages_are_laid_over_handshake_records() {
        let record = |kind, length, sealed| Record { kind, length, sealed, content: None };
        let log = Log {
            records: vec![
                record(22, 600, false),
                record(22, 500, false),
                record(20, 1, false),
                record(22, 16 + 24, true),
            ],
            messages: [(2, 100, 1), (11, 1000, 2), (20, 16, 3)]
                .map(|(kind, length, after)| tap::Message { kind, length, after })
                .to_vec(),
            answers: Vec::new(),
        };
        let chain = Chain { certificates: 1, bytes: 990, key: "EC P-256".into() };
        let seen = Handshake::of(&log, Offer::bare(Version::Tls12), GCM, chain);
        assert_eq!(seen.largest_record, 600);
        assert_eq!(seen.certificate().map(|m| (m.length, m.records)), Some((1000, 2)));
        assert_eq!(seen.messages[2].records, 1);
        assert_eq!(seen.largest_message(), seen.certificate());
    }

    #[test]
    fn an_answer_is_a_length() {
        let answered = |extension: u8, value: &[u8], limit| {
            let mut message = vec![8, 0, 0, 0, 0, 4 + u8::try_from(value.len()).unwrap()];
            message.extend([0, extension, 0, u8::try_from(value.len()).unwrap()]);
            message.extend(value);
            let log = Log { answers: vec![message], ..Log::default() };
            answer(&log, Offer { version: Version::Tls13, limit })
        };
        assert_eq!(answered(1, &[1], Some(Limit::MaxFragmentLength(512))), Some(512));
        assert_eq!(answered(1, &[4], Some(Limit::MaxFragmentLength(4096))), Some(4096));
        assert_eq!(answered(28, &[0x40, 1], Some(Limit::RecordSizeLimit(1024))), Some(16_385));
        assert_eq!(answered(28, &[4, 0], Some(Limit::MaxFragmentLength(512))), None);
        assert_eq!(answered(1, &[1], None), None);
    }
}
