//! conf/: every shipped file loads; the reference file shows every key at its full path, and what it
//! says of defaults and bounds is what the domains have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::*;
use crate::tls::listener;
use crate::tls::record::ChunkSize;
use crate::units::Wait;
use crate::{limits, runtime, s3, spool};

#[test]
fn every_shipped_file_loads() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut found = 0;
    for entry in fs::read_dir(shipped).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let sources = Sources { file: Some(path.clone()), ..Sources::default() };
            let loaded = Config::load(&sources);
            assert!(loaded.is_ok(), "{}:\n{}", path.display(), loaded.unwrap_err());
            found += 1;
        }
    }
    assert!(found > 0, "there is no shipped file");
}

/// Every key that is read, as `listen[].tls.cert`.
fn known_keys() -> BTreeSet<String> {
    let everything = "listen: [{addr: x, tls: {}}, {addr: x, tls: {certificates: [{}]}, proxy_protocol: {}}]\n\
         health: {addr: x}\nadmin: {addr: x}\ndrip: {trusted_header: {}}\n\
         profiles: [{match: {}, bounds: {}}]\nforward_proxy: {users: [{}], classes: [{}]}\n\
         shaping: {links: [{}], classes: [{pcq: {}}]}";
    let reader = Reader::default();
    let Value::Mapping(tree) = serde_yaml::from_str(everything).unwrap() else { panic!("no map") };
    let env = Environment::gather(&Sources::default(), &mut Reader::default());
    let _ = assemble::config(reader.root(tree), &env);
    reader.known()
}

/// The reference file.
fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/dripline.yaml")
}

/// A key of the reference file.
struct Shown {
    value: Value,
    /// What its comment says: the text behind it, or the lines above it if there is none.
    comment: String,
    /// Whether the line is none of the commented-out ones.
    live: bool,
}

/// A line of the reference file.
struct Line<'a> {
    raw: &'a str,
    live: bool,
    /// Of a line with a key, commented out or not: its column, whether a `-` stands before it, its
    /// name and what follows.
    key: Option<(usize, bool, &'a str, &'a str)>,
}

impl<'a> Line<'a> {
    fn new(raw: &'a str) -> Self {
        let indent = raw.len() - raw.trim_start().len();
        let commented = raw[indent..].strip_prefix("# ");
        let text = commented.unwrap_or(&raw[indent..]);
        let column = indent + text.len() - text.trim_start().len();
        let text = text.trim_start();
        let item = text.strip_prefix("- ");
        let (column, text) = item.map_or((column, text), |text| (column + 2, text));
        let key = text.split_once(':').filter(|(name, rest)| {
            let is_name =
                name.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'1'..=b'9'));
            is_name && !name.is_empty() && (rest.is_empty() || rest.starts_with(' '))
        });
        let key = key.map(|(name, rest)| (column, item.is_some(), name, rest));
        Self { raw, live: commented.is_none(), key }
    }

    /// The column of its `#` and the text behind that, if it has nothing but a comment.
    fn prose(&self) -> Option<(usize, &'a str)> {
        let text = self.raw.trim_start_matches([' ', '#']);
        (self.key.is_none() && self.raw.contains('#') && !text.is_empty())
            .then(|| (self.raw[..self.raw.len() - text.len()].rfind('#').unwrap_or(0), text))
    }
}

/// Every key that the text shows, live or commented out, by its path as in [`known_keys`].
fn shown_keys(text: &str) -> BTreeMap<String, Shown> {
    let lines: Vec<Line<'_>> = text.lines().map(Line::new).collect();
    let mut shown = BTreeMap::new();
    // The keys around the current line, with their columns.
    let mut around: Vec<(usize, String)> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some((column, is_item, name, rest)) = line.key else { continue };
        let dash = if is_item { column - 2 } else { column };
        around.retain(|(outer, _)| *outer < dash);
        let outer = around.last().map_or(String::new(), |(_, path)| path.clone());
        let outer = if is_item { format!("{outer}[]") } else { outer };
        if is_item {
            around.push((dash, outer.clone()));
        }
        let path = if outer.is_empty() { name.to_owned() } else { format!("{outer}.{name}") };
        around.push((column, path.clone()));
        let (value, behind) = rest.split_once(" #").unwrap_or((rest, ""));
        let value: Value =
            serde_yaml::from_str(value.trim()).unwrap_or_else(|e| panic!("{path}: {e}"));
        let comment = comment(&lines, at, column, behind);
        insert_inner(&mut shown, &path, &value, line.live);
        // The first one counts, so that a commented-out alternative does not replace it.
        shown.entry(path).or_insert(Shown { value, comment, live: line.live });
    }
    shown
}

/// The keys of maps that are written on one line.
fn insert_inner(shown: &mut BTreeMap<String, Shown>, path: &str, value: &Value, live: bool) {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                let path = format!("{path}.{}", key.as_str().unwrap());
                insert_inner(shown, &path, value, live);
                let comment = String::new();
                shown.entry(path).or_insert(Shown { value: value.clone(), comment, live });
            }
        }
        Value::Sequence(items) => {
            for item in items {
                insert_inner(shown, &format!("{path}[]"), item, live);
            }
        }
        _ => {}
    }
}

/// The comment of the key in line `at`.
fn comment(lines: &[Line<'_>], at: usize, column: usize, behind: &str) -> String {
    let raw = lines[at].raw;
    let mut words: Vec<&str> = Vec::new();
    if behind.is_empty() {
        // The `# ` of a line that is commented out stands before it.
        let own = if lines[at].live { column } else { column + 2 };
        let is_above = |line: &&Line<'_>| {
            let at = line.prose().map(|(at, _)| at);
            at == Some(own) || (at == Some(0) && column == 0)
        };
        words.extend(
            lines[..at]
                .iter()
                .rev()
                .take_while(is_above)
                .filter_map(Line::prose)
                .map(|(_, text)| text),
        );
        words.reverse();
    } else {
        let hash = raw.len() - behind.len() - 1;
        words.push(behind);
        let goes_on = |line: &&Line<'_>| line.prose().is_some_and(|(at, _)| at == hash);
        words.extend(
            lines[at + 1..]
                .iter()
                .take_while(goes_on)
                .filter_map(Line::prose)
                .map(|(_, text)| text),
        );
    }
    words.join(" ")
}

#[test]
fn the_reference_file_shows_every_key_and_no_other() {
    let text = fs::read_to_string(reference()).unwrap();
    let known = known_keys();
    assert!(
        known.contains("listen[].tls.cert") && known.contains("upstream.recv_buffer"),
        "{known:?}"
    );
    // These hold names of the user's own.
    let own = ["profiles[].match.header.", "forward_proxy.resolve."];
    let shown: BTreeSet<String> = shown_keys(&text)
        .into_keys()
        .filter(|path| !own.iter().any(|own| path.starts_with(own)))
        .collect();
    let missing: Vec<_> = known.difference(&shown).collect();
    assert!(missing.is_empty(), "conf/dripline.yaml does not show {missing:?}");
    let unknown: Vec<_> = shown.difference(&known).collect();
    assert!(unknown.is_empty(), "conf/dripline.yaml shows {unknown:?}, which are no keys");
}

#[test]
fn live_lines_are_the_defaults() {
    let load = |sources: &Sources| Config::load(sources).unwrap();
    // Taken apart without `..`, so that no section is forgotten.
    let Config {
        listen,
        s3,
        drip,
        profiles,
        spool,
        uploads,
        shaping,
        upstream,
        forward_proxy,
        limits,
        admin,
        health,
        log,
        threads,
        drain,
        upgrade,
        warnings: _,
    } = load(&Sources { file: Some(reference()), ..Sources::default() });
    let default = classic().load();
    let listener = |l: &Listener| {
        let tls = l.tls.as_ref().map(|tls| (tls.tickets, tls.mfl_prefers_tls12, tls.self_signed));
        (l.addr, tls, l.proxy_protocol.clone())
    };
    let listeners = |listen: &[Listener]| listen.iter().map(listener).collect::<Vec<_>>();
    assert_eq!(listeners(&listen), listeners(&default.listen));
    let (s3, default_s3) = (s3.unwrap(), default.s3.unwrap());
    assert_eq!(s3.endpoint.host(), "my-bucket.s3.ap-southeast-2.amazonaws.com");
    assert_eq!((s3.ca, s3.authorization), (default_s3.ca, default_s3.authorization));
    assert_eq!(format!("{drip:?}"), format!("{:?}", crate::drip::Settings::default()));
    assert_eq!(format!("{profiles:?}"), format!("{:?}", default.profiles));
    assert_eq!(spool, Some(spool::Settings::default()));
    assert_eq!((uploads, shaping, forward_proxy), (None, None, None));
    assert_eq!(upstream, s3::upstream::Settings::default());
    assert_eq!(limits, limits::Settings::default());
    assert_eq!((admin, health, log), (default.admin, default.health, default.log));
    assert_eq!((threads, drain), (0, lifecycle::Settings::default()));
    assert_eq!(upgrade, upgrade::Settings::default());
}

#[test]
fn every_key_of_a_section_without_choices_is_live() {
    let shown = shown_keys(&fs::read_to_string(reference()).unwrap());
    let mut count = 0;
    for path in known_keys() {
        let section = path.split('.').next().unwrap();
        if ["spool", "upstream", "limits", "log", "server", "admin"].contains(&section) {
            assert!(shown[&path].live, "{path} has a default and is a comment");
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}

#[test]
fn defaults_in_commented_lines_are_the_defaults_too() {
    let shown = shown_keys(&fs::read_to_string(reference()).unwrap());
    let text = |path: &str| serde_yaml::to_string(&shown[path].value).unwrap().trim().to_owned();
    let limits = forward_proxy_limits();
    assert_eq!(limits.len(), 8, "{limits:?}");
    let keys: Vec<_> = limits
        .iter()
        .map(|key| format!("{key}: {}", text(&format!("forward_proxy.{key}"))))
        .collect();
    let yaml = format!("forward_proxy: {{addr: '127.0.0.1:3128', {}}}", keys.join(", "));
    let tunnels = classic().yaml(&yaml).load().forward_proxy.unwrap();
    assert_eq!(tunnels.limits, crate::forward_proxy::Limits::default());
    let tls = |key: &str| text(&format!("listen[].tls.{key}"));
    assert_eq!(tls("tickets"), listener::Settings::DEFAULT_TICKETS.to_string());
    assert_eq!(
        tls("max_fragment_length_prefers_tls12"),
        listener::Settings::DEFAULT_MFL_PREFERS_TLS12.to_string()
    );
}

/// The keys of `forward_proxy` that are numbers, sizes and times.
fn forward_proxy_limits() -> Vec<String> {
    let known = known_keys();
    let keys = known.iter().filter_map(|path| path.strip_prefix("forward_proxy."));
    let limit = |key: &&str| {
        !key.contains('.')
            && (key.ends_with("_timeout")
                || key.ends_with("_bytes")
                || key.contains("conn")
                || *key == "per_client")
    };
    keys.filter(limit).map(str::to_owned).collect()
}

#[test]
fn bounds_in_comments_are_the_domains_bounds() {
    fn ends<T: Display>(range: &RangeInclusive<T>) -> String {
        format!("{} to {}", range.start(), range.end())
    }
    let sizes = |range: RangeInclusive<usize>| {
        let size = |bytes: &usize| ByteSize::new(*bytes as u64);
        ends(&(size(range.start())..=size(range.end())))
    };
    let hours = |time: &Duration| format!("{}h", time.as_secs() / 3600);
    let days = |time: &Duration| format!("{} days", time.as_secs() / 86_400);
    let times = |range: RangeInclusive<Duration>| {
        format!("{} to {}", Wait::new(*range.start()), hours(range.end()))
    };
    let most = |text: String| format!("at most {text}");
    let drains = most(days(lifecycle::Settings::DRAIN_TIMEOUTS.end()));
    let tunnels = "forward_proxy";
    let shown = shown_keys(&fs::read_to_string(reference()).unwrap());
    for (path, expected) in [
        ("listen[].tls.tickets", ends(&listener::Settings::TICKETS)),
        ("drip.chunk_size", ends(&(ChunkSize::MIN..=ChunkSize::MAX))),
        ("drip.wait", most(hours(crate::drip::Settings::WAIT.end()))),
        ("spool.max_objects", ends(&spool::Settings::OBJECTS)),
        ("spool.max_fills", ends(&spool::Settings::FILLS)),
        ("spool.trust", most(days(spool::Settings::TRUST.end()))),
        ("upstream", times(s3::upstream::Settings::TIMEOUTS)),
        ("upstream.recv_buffer", ends(&s3::upstream::Settings::RECV_BUFFERS)),
        ("limits", times(limits::Settings::TIMEOUTS)),
        ("limits.connections", ends(&limits::Settings::CONNECTIONS)),
        ("limits.header_bytes", sizes(limits::Settings::HEADER_BYTES)),
        ("limits.requests_per_connection", ends(&limits::Settings::REQUESTS_PER_CONNECTION)),
        ("server.threads", most(runtime::THREADS.end().to_string())),
        ("server.shutdown_delay", most(hours(lifecycle::Settings::SHUTDOWN_DELAY.end()))),
        ("server.drain_timeout", drains.clone()),
        ("server.upgrade_drain_timeout", drains),
        ("server.upgrade_timeout", times(upgrade::Settings::TIMEOUT)),
        (&format!("{tunnels}.connections"), ends(&crate::forward_proxy::Limits::CONNECTIONS)),
        (&format!("{tunnels}.header_bytes"), sizes(crate::forward_proxy::Limits::HEADER_BYTES)),
        (&format!("{tunnels}.hello_bytes"), sizes(crate::forward_proxy::Limits::HELLO_BYTES)),
        (
            "shaping.classes[].priority",
            ends(&(shape::Priority::FIRST.number()..=shape::Priority::LAST.number())),
        ),
        ("shaping.classes[].max_limit", format!("{} to {}", shape::MIN_RATE, shape::MAX_RATE)),
    ] {
        let comment = &shown[path].comment;
        assert!(
            comment.to_lowercase().contains(&expected.to_lowercase()),
            "{path}: {expected}: {comment}"
        );
    }
}
