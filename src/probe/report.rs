//! The conclusions: was an offered limit honoured, which buffer does a device need, is a buffer of N
//! bytes enough.
//!
//! Pure. They are about a device that offers nothing, in every version that the server speaks, since
//! most small stacks offer nothing. What an offered limit would gain is reported beside them.

use std::fmt;
use std::net::SocketAddr;

use super::measure::grouped;
use super::offer::{Offer, Version};
use super::seen::{Connection, End, Handshake, Message, Response, Seen};

/// Everything that was seen at one URL.
#[derive(Debug, Clone)]
pub struct Report {
    url: String,
    address: SocketAddr,
    connections: Vec<Connection>,
}

/// What became of an offered limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Honour {
    /// Answered and kept.
    Honoured,
    /// Kept without an answer.
    Obeyed,
    /// Not answered, and nothing to keep: records are no larger when nothing is offered.
    Within,
    /// Neither answered nor kept.
    Ignored,
    /// Answered, and not kept.
    Broken,
}

impl Honour {
    /// One word for it, as the table and the JSON have it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Obeyed => "obeyed",
            Self::Within => "within",
            Self::Ignored => "ignored",
            Self::Broken => "broken",
        }
    }
}

/// The smallest buffer that would have held everything, in bytes, and what asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// The buffer.
    pub bytes: usize,
    /// The connection that shows it.
    pub offer: Offer,
    /// What is as large as that.
    pub what: What,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.offer, self.what)
    }
}

/// Something that a buffer must hold, with its size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A handshake message, which many stacks keep in one piece.
    Message(Message),
    /// A record with several handshake messages in it.
    HandshakeRecord(usize),
    /// A record with some of the response's head.
    HeadRecord(usize),
    /// The largest body record.
    BodyRecord(usize),
}

impl What {
    /// Its size in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Message(message) => message.length,
            Self::HandshakeRecord(bytes) | Self::HeadRecord(bytes) | Self::BodyRecord(bytes) => {
                bytes
            }
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = grouped(self.bytes() as u64);
        match self {
            Self::Message(message) => write!(f, "the {} message is {bytes} bytes", message.name()),
            Self::HandshakeRecord(_) => write!(f, "a handshake record of {bytes} bytes"),
            Self::HeadRecord(_) => write!(f, "a record of {bytes} bytes for the response head"),
            Self::BodyRecord(_) => write!(f, "body records of {bytes} bytes"),
        }
    }
}

/// The first thing that does not fit a buffer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{offer}: {why}")]
pub struct Misfit {
    /// The connection that shows it.
    pub offer: Offer,
    /// What it is.
    pub why: Why,
}

/// Why a device with a buffer of that size would fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It does not fit.
    TooLarge(What),
    /// It would fit, but comes in several records.
    Cut(Message),
    /// There is no response, or only part of one, for this reason.
    NoResponse(String),
    /// The response is not the object: its records say nothing of the object's.
    Status(u16),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(what) => what.fmt(f),
            Self::Cut(message) => write!(
                f,
                "the {} message of {} bytes is cut into {} records, which mbedTLS 2.28 and \
                 embedded-tls do not put together",
                message.name(),
                grouped(message.length as u64),
                message.records
            ),
            Self::NoResponse(reason) => write!(f, "no whole response: {reason}"),
            Self::Status(status) => write!(f, "HTTP status {status}, so this is not the object"),
        }
    }
}

impl Seen {
    /// All that a device must hold, in the order in which it comes.
    fn demands(&self) -> impl Iterator<Item = What> {
        let messages = self.handshake.messages.iter().copied().map(What::Message);
        let record = What::HandshakeRecord(self.handshake.largest_record);
        let response = self.response.iter().flat_map(|response| {
            [
                What::HeadRecord(response.largest_head_record),
                What::BodyRecord(response.largest_record),
            ]
        });
        messages.chain([record]).chain(response)
    }

    /// The largest of these; of equal ones, the one that comes first.
    fn need(&self) -> Option<What> {
        self.demands().reduce(|most, next| if next.bytes() > most.bytes() { next } else { most })
    }

    /// The largest record of all.
    fn largest_record(&self) -> usize {
        let sizes = self.demands().filter(|what| !matches!(what, What::Message(_)));
        sizes.map(What::bytes).max().unwrap_or(0)
    }

    /// The first reason why a buffer of that size will not do.
    fn misfit(&self, buffer: usize) -> Option<Why> {
        let too_large = |what: What| what.bytes() > buffer;
        let (handshake, response): (Vec<What>, Vec<What>) = self
            .demands()
            .partition(|what| matches!(what, What::Message(_) | What::HandshakeRecord(_)));
        let first = |demands: Vec<What>| demands.into_iter().find(|what| too_large(*what));
        if let Some(what) = first(handshake) {
            return Some(Why::TooLarge(what));
        }
        if let Some(message) = self.handshake.cut() {
            return Some(Why::Cut(message));
        }
        match &self.response {
            Err(reason) => Some(Why::NoResponse(reason.clone())),
            Ok(seen) if !seen.is_success() => Some(Why::Status(seen.status)),
            Ok(seen) => first(response).map(Why::TooLarge).or_else(|| match &seen.end {
                End::Broken(reason) => Some(Why::NoResponse(reason.clone())),
                _ => None,
            }),
        }
    }
}

impl Handshake {
    /// The first message that is spread over several records.
    #[must_use]
    pub fn cut(&self) -> Option<Message> {
        self.messages.iter().find(|message| message.records > 1).copied()
    }
}

impl Response {
    /// Whether the status is 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Report {
    /// A report on connections in the order of the table; of each version that has any, the one
    /// that offers nothing is among them.
    pub(super) fn new(url: String, address: SocketAddr, connections: Vec<Connection>) -> Self {
        Self { url, address, connections }
    }

    /// The URL without its query, which may hold a signature.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every connection, by version, the one that offers nothing first.
    #[must_use]
    pub fn connections(&self) -> &[Connection] {
        &self.connections
    }

    /// What the connection with this offer showed; none if there was no handshake.
    #[must_use]
    pub fn seen(&self, offer: Offer) -> Option<&Seen> {
        let connection = self.connections.iter().find(|connection| connection.offer == offer)?;
        connection.outcome.as_ref().ok()
    }

    fn bare(&self) -> impl Iterator<Item = (Offer, &Seen)> {
        let offers = Version::ALL.map(Offer::bare).into_iter();
        offers.filter_map(|offer| Some((offer, self.seen(offer)?)))
    }

    /// What became of the limit of an offer; none if it has none or there was no handshake.
    #[must_use]
    pub fn honour(&self, offer: Offer) -> Option<Honour> {
        let limit = offer.limit?.content(offer.version);
        let seen = self.seen(offer)?;
        let usual = self.seen(Offer::bare(offer.version)).map_or(usize::MAX, Seen::largest_record);
        let kept = seen.largest_record() <= limit;
        Some(match (seen.handshake.answer, kept) {
            (Some(_), true) => Honour::Honoured,
            (Some(_), false) => Honour::Broken,
            (None, true) if usual <= limit => Honour::Within,
            (None, true) => Honour::Obeyed,
            (None, false) => Honour::Ignored,
        })
    }

    /// The smallest buffer that does for a device that offers nothing, whichever version it speaks.
    #[must_use]
    pub fn smallest_buffer(&self) -> Option<Need> {
        let needs = self.bare().filter_map(|(offer, seen)| need(offer, seen));
        needs.reduce(|most, next| if next.bytes > most.bytes { next } else { most })
    }

    /// The smallest buffer that does for a device that offers a limit, if it is smaller than
    /// without.
    #[must_use]
    pub fn smallest_with_a_limit(&self) -> Option<Need> {
        let usual = self.smallest_buffer()?.bytes;
        let limited = self.connections.iter().filter(|c| c.offer.limit.is_some());
        limited
            .filter_map(|connection| need(connection.offer, connection.outcome.as_ref().ok()?))
            .filter(|need| need.bytes < usual)
            .min_by_key(|need| need.bytes)
    }

    /// What limits the conclusions, in words.
    #[must_use]
    pub fn caveats(&self) -> Vec<String> {
        let mut caveats = Vec::new();
        for offer in Version::ALL.map(Offer::bare) {
            let outcome = self.connections.iter().find(|c| c.offer == offer).map(|c| &c.outcome);
            match outcome {
                Some(Err(reason)) => caveats.push(format!(
                    "no {} ({reason}): a device that speaks nothing else cannot connect",
                    offer.version
                )),
                Some(Ok(seen)) => {
                    let version = offer.version;
                    caveats.extend(
                        seen.handshake.cut().map(|m| format!("{version}: {}", Why::Cut(m))),
                    );
                    caveats.extend(response_caveat(seen).map(|text| format!("{version}: {text}")));
                }
                None => {}
            }
        }
        caveats
    }

    /// Whether a device that offers nothing and has a buffer of `bytes` bytes gets the object, in
    /// every version that the server speaks.
    ///
    /// # Errors
    ///
    /// The first thing that does not fit.
    pub fn fits(&self, bytes: u64) -> Result<(), Misfit> {
        let buffer = usize::try_from(bytes).unwrap_or(usize::MAX);
        let misfit =
            self.bare().find_map(|(offer, seen)| Some(Misfit { offer, why: seen.misfit(buffer)? }));
        misfit.map_or(Ok(()), Err)
    }
}

fn need(offer: Offer, seen: &Seen) -> Option<Need> {
    let what = seen.need()?;
    Some(Need { bytes: what.bytes(), offer, what })
}

fn response_caveat(seen: &Seen) -> Option<String> {
    match &seen.response {
        Err(reason) => Some(Why::NoResponse(reason.clone()).to_string()),
        Ok(response) if !response.is_success() => Some(Why::Status(response.status).to_string()),
        Ok(response) => match &response.end {
            End::Broken(reason) => Some(Why::NoResponse(reason.clone()).to_string()),
            End::Complete { .. } if response.body_records < 2 => Some(format!(
                "a body of {} bytes does not show how large records can become",
                grouped(response.body as u64)
            )),
            _ => None,
        },
    }
}

#[cfg(test)]
pub(super) mod tests;
