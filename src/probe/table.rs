//! The report for people, at most 100 characters wide, and for programs.
//!
//! Pure. The JSON's names are a promise; the table's layout is not.

use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::measure::grouped;
use super::offer::{Offer, Version};
use super::report::{Honour, Need, Report};
use super::seen::{Chain, Connection, End, Handshake, Response, Seen};
use super::{BARE, Bounds, LIMITED};

/// Characters of a line, as terminals and README files take them.
const WIDTH: usize = 100;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} at {}", self.url(), self.address())?;
        writeln!(f)?;
        line(f, ["", "", "largest handshake", "response", "body records"])?;
        let names = ["offered", "limit", "message", "record", "head", "largest", "typical", "seen"];
        row(f, names, "gap")?;
        for version in Version::ALL {
            match self.seen(Offer::bare(version)) {
                Some(seen) => about(f, version, seen)?,
                None => writeln!(f, "{version}")?,
            }
            let of_version = self.connections().iter().filter(|c| c.offer.version == version);
            for connection in of_version {
                self.connection(f, connection)?;
            }
        }
        writeln!(f)?;
        self.verdict(f)
    }
}

impl Report {
    fn connection(&self, f: &mut fmt::Formatter<'_>, connection: &Connection) -> fmt::Result {
        let offer = connection.offer;
        let offered = offer.limit.map_or_else(|| "nothing".into(), |limit| limit.to_string());
        let honour = self.honour(offer).map_or("-", Honour::word);
        let seen = match &connection.outcome {
            Ok(seen) => seen,
            Err(reason) => return short(f, &format!("  {offered:<26}no handshake: {reason}")),
        };
        let message = seen.handshake.largest_message().map_or(0, |message| message.length);
        let record = seen.handshake.largest_record;
        match &seen.response {
            Err(reason) => short(
                f,
                &format!(
                    "  {offered:<26}{honour:<8}{:>9}{:>9}  no response: {reason}",
                    grouped(message as u64),
                    grouped(record as u64)
                ),
            ),
            Ok(response) => {
                let sizes = [
                    message,
                    record,
                    response.head,
                    response.largest_record,
                    response.typical_record,
                    response.body_records,
                ];
                let [message, record, head, largest, typical, seen] =
                    sizes.map(|size| grouped(size as u64));
                let texts = [&offered, honour, &message, &record, &head, &largest, &typical, &seen];
                row(f, texts.map(AsRef::as_ref), &response.gap.map_or_else(|| "-".into(), gap))
            }
        }
    }

    fn verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Need { bytes, offer, what }) = self.smallest_buffer() {
            let (bytes, version) = (grouped(bytes as u64), offer.version);
            let because = format!("(because {version}: {what})");
            wrapped(f, &format!("smallest device buffer that works: {bytes} bytes {because}"))?;
        }
        if let Some(need) = self.smallest_with_a_limit() {
            let bytes = grouped(need.bytes as u64);
            wrapped(f, &format!("with a limit offered: {bytes} bytes ({need})"))?;
        }
        for caveat in self.caveats() {
            wrapped(f, &format!("but {caveat}"))?;
        }
        let (bare, limited) = (bound(BARE), bound(LIMITED));
        writeln!(f, "of each body the first {bare} were read, {limited} where a limit was offered")
    }

    /// The same data for programs. Sizes are bytes and times milliseconds; a value that was not
    /// seen is null.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let need = |need: Need| {
            json!({
                "bytes": need.bytes,
                "because": need.to_string(),
            })
        };
        let bounds = |bounds: Bounds| {
            json!({
                "bytes": bounds.bytes,
                "ms": milliseconds(bounds.time),
            })
        };
        let connections = self.connections().iter();
        json!({
            "url": self.url(),
            "address": self.address().to_string(),
            "connections": connections.map(|c| self.connection_json(c)).collect::<Vec<_>>(),
            "smallest_buffer": self.smallest_buffer().map(need),
            "smallest_buffer_with_limit": self.smallest_with_a_limit().map(need),
            "caveats": self.caveats(),
            "read_at_most": { "nothing_offered": bounds(BARE), "limit_offered": bounds(LIMITED) },
        })
    }

    fn connection_json(&self, connection: &Connection) -> Value {
        let Connection { offer, outcome } = connection;
        let seen = outcome.as_ref().ok();
        let response = seen.map(|seen| &seen.response);
        json!({
            "tls": offer.version.number(),
            "offered": offer.limit.map(|limit| json!({
                "extension": limit.name(),
                "value": limit.value(),
                "result": self.honour(*offer).map(Honour::word),
                "answer": seen.and_then(|seen| seen.handshake.answer),
            })),
            "error": outcome.as_ref().err().or_else(|| response?.as_ref().err()),
            "handshake": seen.map(|seen| handshake_json(&seen.handshake)),
            "response": response.and_then(|response| Some(response_json(response.as_ref().ok()?))),
        })
    }
}

fn handshake_json(handshake: &Handshake) -> Value {
    let Handshake { cipher, messages, largest_record, chain, answer: _ } = handshake;
    let Chain { certificates, bytes, key } = chain;
    json!({
        "cipher": cipher,
        "largest_message": handshake.largest_message().map(|message| message.length),
        "largest_record": largest_record,
        "certificate_message": handshake.certificate().map(|message| message.length),
        "messages": messages.iter().map(|message| json!({
            "type": message.kind,
            "name": message.name(),
            "bytes": message.length,
            "records": message.records,
        })).collect::<Vec<_>>(),
        "chain": { "certificates": certificates, "bytes": bytes, "key": key },
    })
}

fn response_json(response: &Response) -> Value {
    let (end, close_notify) = match &response.end {
        End::Complete { close_notify } => ("complete", *close_notify),
        End::Bounded => ("bounded", None),
        End::Broken(_) => ("broken", None),
    };
    json!({
        "status": response.status,
        "content_length": response.content_length,
        "head": {
            "bytes": response.head,
            "records": response.head_records,
            "largest_record": response.largest_head_record,
            "shared_with_body": response.head_shared,
        },
        "body": {
            "bytes": response.body,
            "records": response.body_records,
            "largest_record": response.largest_record,
            "typical_record": response.typical_record,
            "gap_ms": response.gap.map(milliseconds),
            "paced": response.paced,
        },
        "end": end,
        "error": match &response.end { End::Broken(reason) => Some(reason), _ => None },
        "close_notify": close_notify,
    })
}

/// What a version's connections have in common, from the one that offers nothing.
fn about(f: &mut fmt::Formatter<'_>, version: Version, seen: &Seen) -> fmt::Result {
    let Handshake { cipher, chain, .. } = &seen.handshake;
    short(f, &format!("{version}, {cipher}"))?;
    let certificate = seen.handshake.certificate();
    let certificate = certificate.map_or_else(
        || "no Certificate message".into(),
        |message| format!("Certificate message of {} bytes", grouped(message.length as u64)),
    );
    let many = if chain.certificates == 1 { "certificate" } else { "certificates" };
    short(
        f,
        &format!(
            "  {certificate}: {} {many}, {} bytes, {}",
            chain.certificates,
            grouped(chain.bytes as u64),
            chain.key
        ),
    )?;
    let Ok(response) = &seen.response else { return Ok(()) };
    let mut facts = vec![format!("  HTTP {}", response.status)];
    facts.push(match response.content_length {
        Some(length) => format!("Content-Length {length}"),
        None => "no Content-Length".into(),
    });
    let own = "the head in a record of its own";
    facts.push(match (response.head_records, response.head_shared) {
        (1, false) => own.into(),
        (1, true) => "the head in one record with the body".into(),
        (records, _) => format!("the head in {records} records"),
    });
    facts.extend(response.paced.then(|| "paced".into()));
    facts.extend(match response.end {
        End::Complete { close_notify: Some(true) } => Some("close_notify".into()),
        End::Complete { close_notify: Some(false) } => Some("no close_notify".into()),
        _ => None,
    });
    short(f, &facts.join(", "))
}

fn row(f: &mut fmt::Formatter<'_>, texts: [&str; 8], gap: &str) -> fmt::Result {
    let [offered, limit, message, record, head, largest, typical, seen] = texts;
    let text = format!(
        "  {offered:<26}{limit:<8}{message:>9}{record:>9}{head:>10}{largest:>9}{typical:>9}\
         {seen:>7}{gap:>10}"
    );
    short(f, &text)
}

/// The heading above [`row`]'s.
fn line(f: &mut fmt::Formatter<'_>, texts: [&str; 5]) -> fmt::Result {
    let [offered, limit, handshake, response, body] = texts;
    short(f, &format!("  {offered:<26}{limit:<8}{handshake:>18}{response:>10}{body:>18}"))
}

/// A line that fits the width, without blanks at its end.
fn short(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let text: String = text.chars().take(WIDTH).collect();
    writeln!(f, "{}", text.trim_end())
}

/// Text broken between words, its further lines indented.
fn wrapped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column == 0 {
            f.write_str(word)?;
            column = length;
        } else if column + 1 + length <= WIDTH {
            write!(f, " {word}")?;
            column += 1 + length;
        } else {
            write!(f, "\n    {word}")?;
            column = 4 + length;
        }
    }
    writeln!(f)
}

fn bound(bounds: Bounds) -> String {
    format!("{} KiB or {} s", bounds.bytes / 1024, bounds.time.as_secs())
}

fn gap(gap: Duration) -> String {
    format!("{:.1} ms", milliseconds(gap))
}

/// With a resolution of a microsecond.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}
