//! The map in `src/lib.rs` is true: every path that the sources name is read (with `syn`, so that
//! comments and strings do not count), and fails this test if it points up or closes a ring.
//!
//! Code under `#[cfg(test)]` does not count: a test may look wherever it needs to.

#[path = "structure/map.rs"]
mod map;
#[path = "structure/rules.rs"]
mod rules;
#[path = "structure/sources.rs"]
mod sources;

use std::path::Path;
use std::sync::OnceLock;

use map::Map;
use rules::{RingInside, impurities, map_differences, rings_inside, rings_of_rooms, upward};
use sources::Sources;

/// Rings between files of one room that may stay, each with a reason. A ring of a parent file and
/// its own children is none: it needs no entry.
const RINGS_INSIDE: &[RingInside] = &[];

/// Whatever reads a clock. Clippy has to refuse each outside the shells that expect it.
const CLOCKS: [&str; 5] = [
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "tokio::time::Instant::now",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The sources and the map, read once.
fn house() -> &'static (Sources, Map) {
    static HOUSE: OnceLock<(Sources, Map)> = OnceLock::new();
    HOUSE.get_or_init(|| {
        (Sources::below(&root().join("src")), Map::parse(&read("src/lib.rs")).unwrap())
    })
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}\n", found.join("\n  "));
}

#[test]
fn the_map_names_every_room_and_no_other() {
    let (sources, map) = house();
    assert_none("src/lib.rs's map and src/ differ", &map_differences(sources, map));
}

#[test]
fn no_arrow_points_up() {
    let (sources, map) = house();
    let count = sources.arrows().len();
    assert!(count > 300, "{count} arrows were read");
    assert_none("imports from a layer above", &upward(sources, map));
}

#[test]
fn rooms_form_no_ring() {
    let (sources, _) = house();
    assert_none("rooms that import each other", &rings_of_rooms(sources));
}

#[test]
fn files_of_a_room_form_no_ring() {
    let (sources, _) = house();
    assert_none("files that import each other", &rings_inside(sources, RINGS_INSIDE));
}

#[test]
fn pure_rooms_do_no_io_and_read_no_clock() {
    let (sources, map) = house();
    assert!(map.pure.len() >= 15, "pure rooms found in the map: {:?}", map.pure);
    assert_none("pure rooms that are not pure", &impurities(sources, map));
}

#[test]
fn clippy_refuses_every_clock() {
    let clippy = read("clippy.toml");
    let (_, methods) = clippy.split_once("disallowed-methods").expect("disallowed-methods");
    for clock in CLOCKS {
        assert!(
            methods.contains(&format!("path = \"{clock}\"")),
            "clippy.toml does not ban {clock}"
        );
    }
}

/// That the rules find what they are for, on sources made up for it.
mod rules_are_red {
    use super::*;

    const MAP: &str = "
        //! A tour.
        //!
        //! # The map
        //!
        //! 1. [`cli`]: commands.
        //! 2. - [`proxy`]: phases.
        //!    - `admin`: a page
        //!      that [`proxy::plan`] has no part in.
        //! 3. [`spool`]: files. `tls`: records.
        //!
        //! # Pure rooms
        //!
        //! - [`proxy::plan`] and `tls`
        //!
        //! # More
        //!
        //! - `neither`: here
    ";

    fn map() -> Map {
        Map::parse(MAP).unwrap()
    }

    /// A crate that keeps every rule; `changed` replaces or adds files.
    fn sources(changed: &[(&str, &str)]) -> Sources {
        let mut files = vec![
            ("lib.rs", "pub mod cli; pub mod proxy; mod admin; pub mod spool; pub mod tls;"),
            ("cli.rs", "use crate::{proxy::{self, Proxy}, tls}; fn run() { proxy::serve() }"),
            (
                "proxy/mod.rs",
                "pub mod plan; mod upload; pub use plan::Plan; use crate::admin::Page;",
            ),
            ("proxy/plan.rs", "use http::Method; pub struct Plan;"),
            ("proxy/upload.rs", "fn f() { let plan = super::plan::Plan; }"),
            ("admin.rs", "use crate::spool::Spool;"),
            (
                "spool.rs",
                "//! [`crate::cli`] is above.\n use std::fs::File; use crate::tls::Record;",
            ),
            (
                "tls.rs",
                "#[cfg(test)] mod tests { use crate::cli; use std::fs; } pub struct Record;",
            ),
        ];
        for (path, text) in changed {
            files.retain(|(other, _)| other != path);
            files.push((path, text));
        }
        Sources::new(files.into_iter().map(|(path, text)| (path.to_owned(), text.to_owned())))
    }

    fn assert_found(found: &[String], words: &[&str]) {
        assert_eq!(found.len(), 1, "{found:?}");
        for word in words {
            assert!(found[0].contains(word), "{found:?} lacks {word}");
        }
    }

    #[test]
    fn a_crate_that_keeps_the_rules_passes() {
        let (sources, map) = (sources(&[]), map());
        assert_eq!(map.layers.len(), 3);
        assert_eq!(map.layers[1], ["proxy", "admin"]);
        assert_eq!(map.layers[2], ["spool", "tls"]);
        assert_eq!(map.pure, ["proxy::plan", "tls"]);
        assert_none("map", &map_differences(&sources, &map));
        assert_none("up", &upward(&sources, &map));
        assert_none("rooms", &rings_of_rooms(&sources));
        assert_none("inside", &rings_inside(&sources, &[]));
        assert_none("pure", &impurities(&sources, &map));
    }

    #[test]
    fn an_arrow_that_is_turned_round_is_found_however_it_is_written() {
        for text in [
            "use crate::cli::run;",
            "use crate::{tls, cli};",
            "use crate::{tls::{self, Record}, cli as commands};",
            "fn f() { crate::cli::run() }",
            "fn f() -> super::cli::Run { todo!() }",
            "fn f() { log::info!(\"{}\", crate::cli::run()) }",
            "macro_rules! m { () => { $crate::cli::run() } }",
            "#[arg(value_parser = crate::cli::parse)] struct S;",
            "mod inner { use super::super::cli::run; }",
            "#[cfg(not(test))] use crate::cli::run;",
            "#[cfg(feature = \"test\")] mod inner { use crate::cli::run; }",
        ] {
            let sources = sources(&[("spool.rs", text)]);
            assert_found(&upward(&sources, &map()), &["spool.rs", "spool → cli", "crate::cli"]);
        }
    }

    #[test]
    fn a_reexport_hides_no_arrow() {
        let sources = sources(&[
            ("proxy/mod.rs", "pub mod plan; mod upload; pub use crate::cli::Command;"),
            ("cli.rs", "pub struct Command;"),
            ("admin.rs", "use crate::proxy::Command;"),
        ]);
        let found = upward(&sources, &map());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|found| found.contains("admin → cli")), "{found:?}");
    }

    #[test]
    fn a_ring_of_rooms_is_found_in_a_layer_too() {
        let two = [("admin.rs", "use crate::proxy::Proxy;")];
        let sources = sources(&two);
        assert_none("within a layer either way is down", &upward(&sources, &map()));
        assert_found(&rings_of_rooms(&sources), &["admin → proxy", "proxy → admin"]);
    }

    #[test]
    fn a_ring_of_three_rooms_is_found_whole_and_nothing_besides() {
        let sources = sources(&[
            ("admin.rs", "use crate::spool; use crate::tls;"),
            ("spool.rs", "use crate::proxy::Proxy;"),
        ]);
        let found = rings_of_rooms(&sources);
        assert_found(&found, &["proxy → admin", "admin → spool", "spool → proxy"]);
        assert!(!found[0].contains("tls") && !found[0].contains("cli"), "{found:?}");
    }

    #[test]
    fn a_ring_inside_a_room_is_found() {
        for text in ["use super::upload::Upload;", "fn f() { crate::proxy::upload::f() }"] {
            let sources = sources(&[("proxy/plan.rs", text)]);
            assert_none("rooms", &rings_of_rooms(&sources));
            let words = ["proxy: ", "plan → upload", "upload → plan"];
            assert_found(&rings_inside(&sources, &[]), &words);
            let excused = RingInside { room: "proxy", files: &["plan", "upload"], reason: "" };
            assert_none("excused", &rings_inside(&sources, &[excused]));
        }
    }

    #[test]
    fn a_ring_inside_a_room_is_found_through_the_parent_s_names() {
        let sources = sources(&[
            ("proxy/plan.rs", "use super::Upload;"),
            ("proxy/upload.rs", "use super::Plan; pub struct Upload;"),
            ("proxy/mod.rs", "pub mod plan; mod upload; pub use plan::Plan; use upload::Upload;"),
        ]);
        assert_found(&rings_inside(&sources, &[]), &["plan → upload", "upload → plan"]);
    }

    #[test]
    fn an_excuse_for_a_ring_that_is_gone_is_found() {
        let excused = RingInside { room: "proxy", files: &["plan", "upload"], reason: "" };
        assert_found(&rings_inside(&sources(&[]), &[excused]), &["no such ring", "plan, upload"]);
    }

    #[test]
    fn a_room_that_the_map_lacks_or_invents_is_found() {
        let more = sources(&[
            ("lib.rs", "mod cli; mod proxy; mod admin; mod spool; mod tls; mod x;"),
            ("x.rs", ""),
        ]);
        assert_found(&map_differences(&more, &map()), &["x", "the map lacks"]);
        let less = sources(&[("lib.rs", "mod cli; mod proxy; mod admin; mod spool;")]);
        let found = map_differences(&less, &map());
        assert!(found.iter().any(|found| found.contains("src/ lacks") && found.contains("tls")));
        assert!(found.iter().any(|found| found.contains("no module") && found.contains("tls.rs")));
        let pure = Map::parse(&MAP.replace("[`proxy::plan`] and", "`proxy::plans` and")).unwrap();
        assert_found(&map_differences(&sources(&[]), &pure), &["proxy::plans", "src/ lacks"]);
        let twice = Map::parse(&MAP.replace("`cli`", "`tls`")).unwrap();
        assert!(map_differences(&sources(&[]), &twice).iter().any(|found| found.contains("twice")));
    }

    #[test]
    fn a_map_that_cannot_be_read_is_an_error() {
        for (from, to) in [("# The map", "# A map"), ("# Pure rooms", "# Rooms"), ("1. ", "- ")] {
            assert!(Map::parse(&MAP.replace(from, to)).is_err(), "{from}");
        }
    }

    #[test]
    fn what_a_pure_room_may_not_do_is_found() {
        for text in [
            "use tokio::time::sleep;",
            "use std::{fmt, fs};",
            "use std::net::{IpAddr, TcpStream};",
            "use std::net;",
            "use pingora_core::Error;",
            "fn f() { std::thread::sleep(std::time::Duration::ZERO) }",
            "use std::time::Instant; fn f() { Instant::now(); }",
            "use std::time::Instant; fn f() { let clock = Instant::now; }",
            "fn f(then: std::time::SystemTime) { then.elapsed(); }",
            "fn f() { jiff::Timestamp::now(); }",
            "fn f() { println!(\"{}\", std::env::args().count()) }",
            "#[expect(clippy::disallowed_methods)] fn f() {}",
            "use crate::spool::Spool;",
        ] {
            let found = impurities(&sources(&[("tls.rs", text)]), &map());
            assert!(!found.is_empty(), "{text}");
            assert!(found[0].contains("tls.rs"), "{found:?}");
        }
        let fine = "use std::net::{IpAddr, SocketAddr}; use std::time::Instant;
            fn f(now: Instant, then: Instant) -> bool { now.duration_since(then).is_zero() }";
        assert_none(fine, &impurities(&sources(&[("tls.rs", fine)]), &map()));
    }

    #[test]
    fn what_is_below_a_pure_room_is_pure_too() {
        let sources = sources(&[("tls.rs", "mod inner;"), ("tls/inner.rs", "use std::fs;")]);
        assert_found(&impurities(&sources, &map()), &["tls/inner.rs", "std::fs"]);
    }

    #[test]
    fn what_a_pure_room_names_is_pure_too() {
        let sources = sources(&[
            ("proxy/plan.rs", "use super::Proxy;"),
            ("proxy/mod.rs", "pub mod plan; mod upload; use std::fs;"),
        ]);
        let words = ["src/proxy/mod.rs", "named by src/proxy/plan.rs", "std::fs"];
        assert_found(&impurities(&sources, &map()), &words);
    }
}
