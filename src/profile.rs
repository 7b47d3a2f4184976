//! Which schedule and caps a request gets: the first profile whose every criterion fits, else the
//! default one.
//!
//! Pure. Profiles keep the configuration's order. Before the handshake only the listener, the
//! server name and the client's network are known: the handshake's records are capped by the first
//! profile that asks for nothing else ([`Profiles::handshake_cap`]).

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::drip;
use crate::networks::Networks;
use crate::tls::record::ChunkSize;
use crate::units::Wait;

/// What is known of a request, or, before there is one, of a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// The listener, as it is configured.
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

/// Criteria; those that are absent fit everything.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// A listener's address, as it is configured.
    pub listener: Option<SocketAddr>,
    /// A TLS server name, in lower case.
    pub server_name: Option<String>,
    /// How the key begins, percent-encoded as clients send it.
    pub key_prefix: Option<String>,
    /// Request headers that must all be there.
    pub headers: Vec<(HeaderName, Pattern)>,
    /// Networks, of which one must hold the client.
    pub clients: Networks,
}

impl Match {
    /// Whether there is no criterion at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listener.is_none()
            && self.server_name.is_none()
            && self.clients.is_empty()
            && !self.asks_of_the_request()
    }

    fn fits_connection(&self, facts: &Facts<'_>) -> bool {
        self.listener.is_none_or(|listener| facts.listener == Some(listener))
            && self.server_name.as_deref().is_none_or(|name| facts.server_name == Some(name))
            && (self.clients.is_empty() || facts.client_is_in(&self.clients))
    }

    fn fits_request(&self, facts: &Facts<'_>) -> bool {
        let Some((key, headers)) = facts.request else { return !self.asks_of_the_request() };
        let header = |(name, pattern): &(HeaderName, Pattern)| {
            headers.get_all(name).iter().any(|value| pattern.fits(value.as_bytes()))
        };
        self.key_prefix.as_deref().is_none_or(|prefix| key.starts_with(prefix.as_bytes()))
            && self.headers.iter().all(header)
    }

    /// Whether it needs more than what is known before a request.
    #[must_use]
    pub fn asks_of_the_request(&self) -> bool {
        self.key_prefix.is_some() || !self.headers.is_empty()
    }
}

/// A header's value, whole or with a `*` for anything at its beginning, its end or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    open_start: bool,
    open_end: bool,
}

impl Pattern {
    fn fits(&self, value: &[u8]) -> bool {
        let text = self.text.as_bytes();
        match (self.open_start, self.open_end) {
            (false, false) => value == text,
            (false, true) => value.starts_with(text),
            (true, false) => value.ends_with(text),
            (true, true) => text.is_empty() || value.windows(text.len()).any(|part| part == text),
        }
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        let (open_start, text) = text.strip_prefix('*').map_or((false, text), |rest| (true, rest));
        let (open_end, text) = text.strip_suffix('*').map_or((false, text), |rest| (true, rest));
        // A lone star is both ends.
        let open_end = open_end || (open_start && text.is_empty());
        Self { text: text.to_owned(), open_start, open_end }
    }
}

/// How a kind of device is served.
#[derive(Debug, Clone)]
pub struct Profile {
    /// For the log and the metrics.
    pub name: String,
    /// Whom it is for.
    pub matches: Match,
    /// Record size, wait and head.
    pub drip: drip::Settings,
    /// With a client whose own limit is below the record size: send several records in one tick, up
    /// to the record size together, instead of one.
    pub fill: bool,
    /// What a trusted header may choose.
    pub bounds: Option<Bounds>,
}

/// What a trusted header may choose.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Record sizes.
    pub chunk_size: RangeInclusive<ChunkSize>,
    /// Waits.
    pub wait: RangeInclusive<Duration>,
}

impl Bounds {
    /// Puts the wish into the settings, as far as it is allowed.
    pub fn apply(&self, wish: &Wish, settings: &mut drip::Settings) {
        if let Some(chunk) = wish.chunk_size {
            settings.chunk_size = chunk.clamp(*self.chunk_size.start(), *self.chunk_size.end());
        }
        if let Some(wait) = wish.wait {
            settings.wait = wait.clamp(*self.wait.start(), *self.wait.end());
        }
    }
}

/// What a trusted header wishes: `chunk_size=2048, wait=250ms`, either of them alone as well.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// A record size.
    pub chunk_size: Option<ChunkSize>,
    /// A wait.
    pub wait: Option<Duration>,
}

impl FromStr for Wish {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut wish = Self::default();
        for part in text.split(',') {
            match part.trim().split_once('=').ok_or(())? {
                ("chunk_size", bytes) => {
                    let bytes = bytes.parse().map_err(|_| ())?;
                    wish.chunk_size = Some(ChunkSize::new(bytes).map_err(|_| ())?);
                }
                ("wait", wait) => {
                    wish.wait = Some(wait.parse::<Wait>().map_err(|_| ())?.duration());
                }
                _ => return Err(()),
            }
        }
        Ok(wish)
    }
}

/// A request header that may change a profile's schedule within its bounds, and from whom.
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
    /// For whatever none of them fits.
    pub default: Profile,
    /// Who may ask for something else.
    pub trusted_header: Option<TrustedHeader>,
}

impl Profiles {
    /// The profile of a request.
    #[must_use]
    pub fn choose(&self, facts: &Facts<'_>) -> &Profile {
        let fits = |p: &&Profile| p.matches.fits_connection(facts) && p.matches.fits_request(facts);
        self.list.iter().find(fits).unwrap_or(&self.default)
    }

    /// The classes of the tree that they name.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        let all = self.list.iter().chain([&self.default]);
        all.filter_map(|profile| profile.drip.class.as_deref())
    }

    /// The largest record for a connection before its first request.
    #[must_use]
    pub fn handshake_cap(&self, facts: &Facts<'_>) -> ChunkSize {
        self.choose(&Facts { request: None, ..*facts }).drip.chunk_size
    }

    /// The schedule of a request: its profile's, or what a trusted header makes of it.
    #[must_use]
    pub fn schedule(&self, profile: &Profile, facts: &Facts<'_>) -> drip::Settings {
        let mut settings = profile.drip.clone();
        if let (Some(bounds), Some(wish)) = (&profile.bounds, self.wish(facts)) {
            bounds.apply(&wish, &mut settings);
        }
        settings
    }

    fn wish(&self, facts: &Facts<'_>) -> Option<Wish> {
        let header = self.trusted_header.as_ref()?;
        let value = facts.request?.1.get(&header.name)?;
        facts.client_is_in(&header.from).then(|| value.to_str().ok()?.parse().ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str, chunk: u64, matches: Match) -> Profile {
        let drip = drip::Settings {
            chunk_size: ChunkSize::new(chunk).unwrap(),
            wait: Duration::from_millis(500),
            response_headers: Vec::new(),
            class: None,
        };
        Profile { name: name.into(), matches, drip, fill: false, bounds: None }
    }

    fn profiles(list: Vec<Profile>) -> Profiles {
        let default = profile("default", 4096, Match::default());
        Profiles { list, default, trusted_header: None }
    }

    fn nrf91() -> Profiles {
        profiles(vec![
            profile("key", 512, Match { key_prefix: Some("nrf/".into()), ..Match::default() }),
            profile(
                "modem",
                2048,
                Match { server_name: Some("nrf.example".into()), ..Match::default() },
            ),
            profile(
                "agent",
                1024,
                Match {
                    headers: vec![(http::header::USER_AGENT, "modem/*".into())],
                    clients: "10.0.0.0/8".parse().unwrap(),
                    ..Match::default()
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
        let fits = |pattern: &str, value: &str| Pattern::from(pattern).fits(value.as_bytes());
        assert!(fits("a", "a") && !fits("a", "ab") && !fits("a", "A"));
        assert!(fits("a*", "ab") && fits("*a", "ba") && fits("*a*", "bab") && fits("*", "x"));
        assert!(!fits("a*", "ba") && !fits("*a", "ab") && !fits("*ab*", "a b"));
    }
}
