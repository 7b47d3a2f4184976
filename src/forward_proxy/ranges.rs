//! Amazon's ip-ranges.json as a local file: the addresses of S3. With it, a name of S3 that leads to any other
//! address is refused. An operator keeps the file up to date, by a timer with curl for example.
//!
//! Invariants: the last good copy is used until there is a better one; a file that does not parse, or that
//! has lost more than a quarter of its prefixes, changes nothing. Until the first good copy, no address
//! counts as one of S3.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use log::{info, warn};
use serde::Deserialize;

/// How often the file is looked at. Amazon changes it a few times a week.
const EVERY: Duration = Duration::from_secs(5);

/// The most bytes that are read; the file has 2 MB.
const MAX_BYTES: u64 = 32 << 20;

/// The prefixes of S3, from one state of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// Tells one edition of the file from another: the time of its publication, in seconds.
    token: String,
    list: Vec<IpNet>,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RangesError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what Amazon publishes.
    #[error("{path} is not Amazon's ip-ranges.json: {why}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It has far fewer prefixes than before.
    #[error("{path} has {new} prefixes of S3 where there were {old}")]
    Shrunk {
        /// Which file.
        path: PathBuf,
        /// How many it has.
        new: usize,
        /// How many there were.
        old: usize,
    },
}

/// The file's part that matters.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(rename = "syncToken")]
    sync_token: &'a str,
    #[serde(borrow)]
    prefixes: Vec<Row<'a>>,
    ipv6_prefixes: Vec<Row<'a>>,
}

#[derive(Deserialize)]
struct Row<'a> {
    #[serde(alias = "ipv6_prefix")]
    ip_prefix: &'a str,
    service: &'a str,
}

impl Prefixes {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// If it cannot be used.
    pub fn load(path: &Path) -> Result<Self, RangesError> {
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| RangesError::Read { path: path.into(), source })?;
        Self::parse(&bytes).map_err(|why| RangesError::Parse { path: path.into(), why })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let document: Document<'_> = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        let rows = document.prefixes.iter().chain(&document.ipv6_prefixes);
        // Rows of AMAZON hold S3's addresses and those of all other services.
        let rows = rows.filter(|row| row.service == "S3");
        let list: Result<Vec<IpNet>, _> = rows.map(|row| row.ip_prefix.parse()).collect();
        let list = list.map_err(|_| "a prefix of S3 is none".to_owned())?;
        if list.is_empty() {
            return Err("it has no prefix of S3".into());
        }
        Ok(Self { token: document.sync_token.to_owned(), list })
    }

    /// Whether the address is one of S3. An IPv4 address within IPv6 never is.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        self.list.iter().any(|prefix| prefix.contains(&ip))
    }

    /// Whether this may replace `old`. If it has lost more than a quarter of the prefixes it is taken for a
    /// mistake: Amazon withdraws one prefix at a time.
    fn is_plausible_after(&self, old: &Self) -> bool {
        self.list.len() * 4 >= old.list.len() * 3
    }
}

/// The file, watched.
#[derive(Debug, Default)]
pub struct Ranges {
    path: ArcSwapOption<PathBuf>,
    good: ArcSwapOption<Prefixes>,
    seen: ArcSwap<Option<Stamp>>,
}

/// Tells one state of a file from another.
type Stamp = (SystemTime, u64);

impl Ranges {
    /// Watches another file from now on, or none.
    pub fn set(&self, path: Option<&Path>) {
        if self.path.load().as_ref().map(|old| old.as_path()) == path {
            return;
        }
        self.path.store(path.map(|path| Arc::new(path.to_owned())));
        if path.is_none() {
            self.good.store(None);
        }
        self.seen.store(Arc::new(None));
        self.look();
    }

    /// The prefixes of S3 as they are now; None if no file is configured. They are empty until the first good
    /// copy.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Prefixes>> {
        self.path.load().is_some().then(|| self.good.load_full().unwrap_or_default())
    }

    /// Reads the file if it has changed. If it cannot be used, that is logged, and nothing changes.
    pub fn look(&self) {
        let Some(path) = self.path.load_full() else { return };
        let stamp = fs::metadata(&*path).and_then(|meta| Ok((meta.modified()?, meta.len())));
        let stamp = stamp.ok();
        if stamp.is_some() && **self.seen.load() == stamp {
            return;
        }
        // A file that is gone is reported once.
        let gone = stamp.is_none() && self.seen.load().is_none() && self.good.load().is_some();
        self.seen.store(Arc::new(stamp));
        match self.read(&path) {
            Ok(Some(count)) => info!("ip_ranges: {count} prefixes of S3 from {}", path.display()),
            Ok(None) => {}
            Err(_) if gone => {}
            Err(e) if self.good.load().is_none() => {
                warn!("ip_ranges: {e}; without a good copy no address is S3's");
            }
            Err(e) => warn!("ip_ranges: {e}; the last good copy stays"),
        }
    }

    fn read(&self, path: &Path) -> Result<Option<usize>, RangesError> {
        let new = Prefixes::load(path)?;
        if let Some(old) = self.good.load_full() {
            if old.token == new.token && old.list == new.list {
                return Ok(None);
            }
            if !new.is_plausible_after(&old) {
                let (new, old) = (new.list.len(), old.list.len());
                return Err(RangesError::Shrunk { path: path.into(), new, old });
            }
        }
        let count = new.list.len();
        self.good.store(Some(Arc::new(new)));
        Ok(Some(count))
    }

    /// Reads the file whenever it changes. Never ends.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            let this = Arc::clone(&self);
            // 2 MB of JSON would hold up the drips on this thread.
            if tokio::task::spawn_blocking(move || this.look()).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with `count` prefixes of S3, and others.
    fn document(token: &str, count: usize) -> String {
        let rows: Vec<String> = (0..count)
            .map(|at| format!(r#",{{"ip_prefix":"52.{at}.0.0/16","region":"r","service":"S3","network_border_group":"r"}}"#))
            .collect();
        format!(
            r#"{{"syncToken":"{token}","createDate":"2026-01-01-00-00-00","prefixes":[
                {{"ip_prefix":"3.0.0.0/8","region":"r","service":"AMAZON"}},
                {{"ip_prefix":"18.0.0.0/15","region":"r","service":"EC2"}}{}],"ipv6_prefixes":[
                {{"ipv6_prefix":"2600:1ff9::/32","region":"r","service":"S3"}},
                {{"ipv6_prefix":"2600:1f00::/24","region":"r","service":"EC2"}}]}}"#,
            rows.concat()
        )
    }

    fn has(prefixes: &Prefixes, ip: &str) -> bool {
        prefixes.has(ip.parse().unwrap())
    }

    #[test]
    fn rows_of_s3_alone_count() {
        let prefixes = Prefixes::parse(document("1", 2).as_bytes()).unwrap();
        assert!(has(&prefixes, "52.1.2.3") && has(&prefixes, "2600:1ff9::1"));
        assert!(!has(&prefixes, "3.1.2.3") && !has(&prefixes, "18.0.0.1"));
        assert!(!has(&prefixes, "2600:1f00::1") && !has(&prefixes, "::ffff:52.1.2.3"));
    }

    #[test]
    fn the_last_good_copy_stays_until_there_is_a_better_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ip-ranges.json");
        let write = |text: &str| {
            fs::write(&path, text).unwrap();
            // Two states of a file within one tick of its clock would look the same.
            std::thread::sleep(Duration::from_millis(20));
        };
        write(&document("1", 100));
        let ranges = Ranges::default();
        assert!(ranges.current().is_none());
        ranges.set(Some(&path));
        let token = || ranges.current().map(|good| good.token.clone());
        assert_eq!(token().as_deref(), Some("1"));
        for useless in ["", "{}", "not json", &document("2", 70), &document("2", 0)] {
            write(useless);
            ranges.look();
            assert_eq!(token().as_deref(), Some("1"));
        }
        fs::remove_file(&path).unwrap();
        ranges.look();
        assert_eq!(token().as_deref(), Some("1"));
        write(&document("3", 80));
        ranges.look();
        assert_eq!(token().as_deref(), Some("3"));
        ranges.set(None);
        assert!(ranges.current().is_none());
    }

    #[test]
    fn without_a_good_copy_no_address_is_s3s() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ip-ranges.json");
        let ranges = Ranges::default();
        ranges.set(Some(&path));
        let passes = || ranges.current().is_none_or(|prefixes| has(&prefixes, "52.1.2.3"));
        assert!(!passes(), "it is gone");
        let whole = document("1", 100);
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        ranges.look();
        assert!(!passes(), "it is half written");
        fs::write(&path, &whole).unwrap();
        ranges.look();
        assert!(passes());
    }

    #[test]
    fn a_file_that_cannot_be_used_says_why() {
        let why = |text: &str| Prefixes::parse(text.as_bytes()).unwrap_err();
        assert!(why("{}").contains("missing field"));
        assert_eq!(
            why(&document("1", 0).replace("\"S3\"", "\"EC2\"").replace(",]", "]")),
            "it has no prefix of S3"
        );
    }
}
