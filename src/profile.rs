//! Which schedule and record size a request gets: those of the first profile whose criteria all
//! match, or else of the default one.
//!
//! Pure. Profiles keep the configuration's order. During the handshake only the listener, the server
//! name and the client's address are known, so the first matching profile that needs nothing else
//! limits its records ([`Profiles::handshake_cap`]).

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::drip;
use crate::networks::Networks;
use crate::tls::record::ChunkSize;
use crate::units::Wait;

/// What is known of a request, or of a connection before its first request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// The listener's configured address.
    pub listener: Option<SocketAddr>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The TLS server name, in lower case.
    pub server_name: Option<&'a str>,
    /// The object's key, percent-encoded as it was sent, and the request's headers.
    pub request: Option<(&'a [u8], &'a HeaderMap)>,
}

impl Facts<'_> {
    /// Whether one of the networks holds the client; an unknown client is in none.
    fn client_is_in(&self, networks: &Networks) -> bool {
        self.client.is_some_and(|client| networks.contains(client))
    }
}

/// The criteria of a profile. An absent criterion matches everything.
#[derive(Debug, Clone, Default)]
pub struct Criteria {
    /// A listener's configured address.
    pub listener: Option<SocketAddr>,
    /// A TLS server name, in lower case.
    pub server_name: Option<String>,
    /// A prefix of the key, percent-encoded as clients send it.
    pub key_prefix: Option<String>,
    /// Request headers, all of which must be present with a matching value.
    pub headers: Vec<(HeaderName, ValuePattern)>,
    /// Networks, one of which must contain the client.
    pub clients: Networks,
}

impl Criteria {
    /// Whether there is no criterion.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listener.is_none()
            && self.server_name.is_none()
            && self.clients.is_empty()
            && !self.needs_request()
    }

    fn match_connection(&self, facts: &Facts<'_>) -> bool {
        self.listener.is_none_or(|listener| facts.listener == Some(listener))
            && self.server_name.as_deref().is_none_or(|name| facts.server_name == Some(name))
            && (self.clients.is_empty() || facts.client_is_in(&self.clients))
    }

    fn match_request(&self, facts: &Facts<'_>) -> bool {
        let Some((key, headers)) = facts.request else { return !self.needs_request() };
        let header = |(name, pattern): &(HeaderName, ValuePattern)| {
            headers.get_all(name).iter().any(|value| pattern.matches(value.as_bytes()))
        };
        self.key_prefix.as_deref().is_none_or(|prefix| key.starts_with(prefix.as_bytes()))
            && self.headers.iter().all(header)
    }

    /// Whether a criterion needs a request.
    #[must_use]
    pub fn needs_request(&self) -> bool {
        self.key_prefix.is_some() || !self.headers.is_empty()
    }
}

/// A pattern for a header's value: the exact value, or with a `*` for any text at its beginning, its
/// end or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValuePattern {
    text: String,
    open_start: bool,
    open_end: bool,
}

impl ValuePattern {
    fn matches(&self, value: &[u8]) -> bool {
        let text = self.text.as_bytes();
        match (self.open_start, self.open_end) {
            (false, false) => value == text,
            (false, true) => value.starts_with(text),
            (true, false) => value.ends_with(text),
            (true, true) => text.is_empty() || value.windows(text.len()).any(|part| part == text),
        }
    }
}

impl From<&str> for ValuePattern {
    fn from(text: &str) -> Self {
        let (open_start, text) = text.strip_prefix('*').map_or((false, text), |rest| (true, rest));
        let (open_end, text) = text.strip_suffix('*').map_or((false, text), |rest| (true, rest));
        // A single star is open at both ends.
        let open_end = open_end || (open_start && text.is_empty());
        Self { text: text.to_owned(), open_start, open_end }
    }
}

/// How a kind of device is served.
#[derive(Debug, Clone)]
pub struct Profile {
    /// For the log and the metrics.
    pub name: String,
    /// Which requests it is for.
    pub criteria: Criteria,
    /// Record size, wait, response headers and class.
    pub drip: drip::Settings,
    /// For a client whose own limit is below the record size: send as many records in one tick as fit
    /// the record size, instead of one.
    pub fill: bool,
    /// The bounds of what a trusted header may choose.
    pub bounds: Option<Bounds>,
}

/// The bounds of what a trusted header may choose.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Record sizes.
    pub chunk_size: RangeInclusive<ChunkSize>,
    /// Waits.
    pub wait: RangeInclusive<Duration>,
}

impl Bounds {
    /// Applies the request to the settings, clamped to the bounds.
    pub fn apply(&self, request: &ScheduleRequest, settings: &mut drip::Settings) {
        if let Some(chunk) = request.chunk_size {
            settings.chunk_size = chunk.clamp(*self.chunk_size.start(), *self.chunk_size.end());
        }
        if let Some(wait) = request.wait {
            settings.wait = wait.clamp(*self.wait.start(), *self.wait.end());
        }
    }
}

/// What a trusted header asks for: `chunk_size=2048, wait=250ms`, or one of the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScheduleRequest {
    /// A record size.
    pub chunk_size: Option<ChunkSize>,
    /// A wait.
    pub wait: Option<Duration>,
}

impl FromStr for ScheduleRequest {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut request = Self::default();
        for part in text.split(',') {
            match part.trim().split_once('=').ok_or(())? {
                ("chunk_size", bytes) => {
                    let bytes = bytes.parse().map_err(|_| ())?;
                    request.chunk_size = Some(ChunkSize::new(bytes).map_err(|_| ())?);
                }
                ("wait", wait) => {
                    request.wait = Some(wait.parse::<Wait>().map_err(|_| ())?.duration());
                }
                _ => return Err(()),
            }
        }
        Ok(request)
    }
}

/// A request header that may change a profile's schedule within its bounds, and the clients that may
/// send it.
#[derive(Debug, Clone)]
pub struct TrustedHeader {
    /// The header's name.
    pub name: HeaderName,
    /// The networks whose clients may send it.
    pub from: Networks,
}

/// All profiles, and how one is chosen.
#[derive(Debug, Clone)]
pub struct Profiles {
    /// In the configuration's order.
    pub list: Vec<Profile>,
    /// For requests that match none of them.
    pub default: Profile,
    /// The header by which clients may choose a schedule.
    pub trusted_header: Option<TrustedHeader>,
}

impl Profiles {
    /// The profile of a request.
    #[must_use]
    pub fn choose(&self, facts: &Facts<'_>) -> &Profile {
        let fits =
            |p: &&Profile| p.criteria.match_connection(facts) && p.criteria.match_request(facts);
        self.list.iter().find(fits).unwrap_or(&self.default)
    }

    /// The classes of the tree that profiles name.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        let all = self.list.iter().chain([&self.default]);
        all.filter_map(|profile| profile.drip.class.as_deref())
    }

    /// The largest record of a connection before its first request.
    #[must_use]
    pub fn handshake_cap(&self, facts: &Facts<'_>) -> ChunkSize {
        self.choose(&Facts { request: None, ..*facts }).drip.chunk_size
    }

    /// The schedule of a request: its profile's, as changed by a trusted header.
    #[must_use]
    pub fn schedule(&self, profile: &Profile, facts: &Facts<'_>) -> drip::Settings {
        let mut settings = profile.drip.clone();
        if let (Some(bounds), Some(request)) = (&profile.bounds, self.schedule_request(facts)) {
            bounds.apply(&request, &mut settings);
        }
        settings
    }

    fn schedule_request(&self, facts: &Facts<'_>) -> Option<ScheduleRequest> {
        let header = self.trusted_header.as_ref()?;
        let value = facts.request?.1.get(&header.name)?;
        facts.client_is_in(&header.from).then(|| value.to_str().ok()?.parse().ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str, chunk: u64, criteria: Criteria) -> Profile {
        let drip = drip::Settings {
            chunk_size: ChunkSize::new(chunk).unwrap(),
            wait: Duration::from_millis(500),
            response_headers: Vec::new(),
            class: None,
        };
        Profile { name: name.into(), criteria, drip, fill: false, bounds: None }
    }

    fn profiles(list: Vec<Profile>) -> Profiles {
        let default = profile("default", 4096, Criteria::default());
        Profiles { list, default, trusted_header: None }
    }

    fn nrf91() -> Profiles {
        profiles(vec![
            profile(
                "key",
                512,
                Criteria { key_prefix: Some("nrf/".into()), ..Criteria::default() },
            ),
            profile(
                "modem",
                2048,
                Criteria { server_name: Some("nrf.example".into()), ..Criteria::default() },
            ),
            profile(
                "agent",
                1024,
                Criteria {
                    headers: vec![(http::header::USER_AGENT, "modem/*".into())],
                    clients: "10.0.0.0/8".parse().unwrap(),
                    ..Criteria::default()
                },
            ),
        ])
    }

    #[test]
    fn the_first_that_fits_is_chosen_and_every_criterion_counts() {
        let profiles = nrf91();
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", "modem/1.0".parse().unwrap());
        let client: IpAddr = "10.1.2.3".parse().unwrap();
        let name = |key: &str, server_name, client, headers: &HeaderMap| {
            let facts = Facts {
                listener: None,
                client,
                server_name,
                request: Some((key.as_bytes(), headers)),
            };
            profiles.choose(&facts).name.clone()
        };
        let none = HeaderMap::new();
        assert_eq!(name("nrf/a", Some("nrf.example"), None, &none), "key");
        assert_eq!(name("a", Some("nrf.example"), None, &none), "modem");
        assert_eq!(name("a", None, Some(client), &headers), "agent");
        assert_eq!(name("a", None, Some("::ffff:10.1.2.3".parse().unwrap()), &headers), "agent");
        assert_eq!(name("a", None, Some(client), &none), "default");
        assert_eq!(name("a", None, Some("192.0.2.1".parse().unwrap()), &headers), "default");
        assert_eq!(name("a", None, None, &headers), "default");
    }

    #[test]
    fn a_handshake_is_capped_by_what_is_known_before_a_request() {
        let cap =
            |server_name| nrf91().handshake_cap(&Facts { server_name, ..Facts::default() }).bytes();
        assert_eq!(cap(Some("nrf.example")), 2048);
        assert_eq!(cap(None), 4096);
    }

    #[test]
    fn a_trusted_header_moves_the_schedule_within_the_bounds() {
        let mut profiles = profiles(Vec::new());
        let chunk = |bytes| ChunkSize::new(bytes).unwrap();
        profiles.default.bounds = Some(Bounds {
            chunk_size: chunk(512)..=chunk(8192),
            wait: Duration::from_millis(100)..=Duration::from_secs(1),
        });
        profiles.trusted_header = Some(TrustedHeader {
            name: HeaderName::from_static("x-drip"),
            from: "10.0.0.0/8".parse().unwrap(),
        });
        let scheduled = |value: &str, client: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-drip", value.parse().unwrap());
            let facts = Facts {
                client: client.parse().ok(),
                request: Some((b"k", &headers)),
                ..Facts::default()
            };
            let settings = profiles.schedule(&profiles.default, &facts);
            (settings.chunk_size.bytes(), settings.wait.as_millis())
        };
        assert_eq!(scheduled("chunk_size=1024, wait=250ms", "10.0.0.1"), (1024, 250));
        assert_eq!(scheduled("chunk_size=64", "10.0.0.1"), (512, 500));
        assert_eq!(scheduled("wait=1h,chunk_size=16384", "10.0.0.1"), (8192, 1000));
        assert_eq!(scheduled("chunk_size=1024", "192.0.2.1"), (4096, 500));
        for nonsense in ["", "chunk_size", "chunk_size=0", "wait=500", "colour=blue"] {
            assert_eq!(scheduled(nonsense, "10.0.0.1"), (4096, 500), "{nonsense}");
        }
    }

    #[test]
    fn a_star_stands_for_anything_at_an_end() {
        let fits =
            |pattern: &str, value: &str| ValuePattern::from(pattern).matches(value.as_bytes());
        assert!(fits("a", "a") && !fits("a", "ab") && !fits("a", "A"));
        assert!(fits("a*", "ab") && fits("*a", "ba") && fits("*a*", "bab") && fits("*", "x"));
        assert!(!fits("a*", "ba") && !fits("*a", "ab") && !fits("*ab*", "a b"));
    }
}
