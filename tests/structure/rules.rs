//! The rules of the house, over [`Sources`] and a [`Map`]. Each returns what breaks it, in words.

use std::collections::{BTreeMap, BTreeSet};

use crate::map::Map;
use crate::sources::{Arrow, Path, Sources};

/// A ring between files of one room that may stay.
#[derive(Debug, Clone, Copy)]
pub struct RingInside {
    /// The module that the files are children of, such as `config`.
    pub room: &'static str,
    /// All files of the ring, sorted.
    pub files: &'static [&'static str],
    /// Why it may stay.
    pub reason: &'static str,
}

/// Whether `src/` has the rooms and pure modules of the map, all of them and no other.
pub fn map_differences(sources: &Sources, map: &Map) -> Vec<String> {
    let in_map: Vec<&String> = map.layers.iter().flatten().collect();
    let rooms = sources.modules.keys().filter(|path| path.len() == 1);
    let in_src: BTreeSet<&String> = rooms.map(|path| &path[0]).collect();
    let mut differences = Vec::new();
    for (at, room) in in_map.iter().enumerate() {
        if !in_src.contains(*room) {
            differences.push(format!("{room} is in the map, src/ lacks it"));
        }
        if in_map[..at].contains(room) {
            differences.push(format!("{room} is twice in the map"));
        }
    }
    for room in &in_src {
        if !in_map.contains(room) {
            differences.push(format!("{room} is in src/, the map lacks it"));
        }
    }
    for module in &map.pure {
        if !sources.modules.contains_key(&segments(module)) {
            differences.push(format!("{module} is in the list of pure rooms, src/ lacks it"));
        }
    }
    differences.extend(sources.orphans.iter().map(|file| format!("no module declares {file}")));
    differences
}

/// Arrows from a room to one of a layer above.
pub fn upward(sources: &Sources, map: &Map) -> Vec<String> {
    let mut found = BTreeSet::new();
    for arrow in sources.arrows() {
        let (Some(from), Some(to)) = (arrow.from.first(), arrow.to.first()) else { continue };
        let (Some(above), Some(below)) = (map.layer(to), map.layer(from)) else { continue };
        if above < below {
            found.insert(format!("{from} → {to}: {}", written(sources, &arrow)));
        }
    }
    found.into_iter().collect()
}

/// Rings of rooms: an entry for each set of rooms of which each reaches every other.
pub fn rings_of_rooms(sources: &Sources) -> Vec<String> {
    rings(&siblings(sources, &[])).iter().map(|ring| describe(sources, &[], ring)).collect()
}

/// Rings of sibling modules below the rooms, but for the excused; and excuses that nothing needs.
pub fn rings_inside(sources: &Sources, excused: &[RingInside]) -> Vec<String> {
    let mut needed = vec![false; excused.len()];
    let mut found = Vec::new();
    for parent in sources.modules.keys().filter(|path| !path.is_empty()) {
        for ring in rings(&siblings(sources, parent)) {
            let is_excused = |excuse: &RingInside| {
                excuse.room == parent.join("::") && ring.iter().eq(excuse.files.iter())
            };
            match excused.iter().position(is_excused) {
                Some(at) => needed[at] = true,
                None => {
                    let arrows = describe(sources, parent, &ring);
                    found.push(format!("{}: {arrows}", parent.join("::")));
                }
            }
        }
    }
    for (RingInside { room, files, reason }, needed) in excused.iter().zip(needed) {
        if !needed {
            found.push(format!("no such ring in {room}: {} ({reason})", files.join(", ")));
        }
    }
    found
}

/// What the modules of the list do that a pure one must not: they themselves, what is below them,
/// and every file that they name.
pub fn impurities(sources: &Sources, map: &Map) -> Vec<String> {
    let pure: Vec<Path> = map.pure.iter().map(|module| segments(module)).collect();
    let is_pure = |path: &&Path| pure.iter().any(|module| path.starts_with(module));
    let mut todo: Vec<Path> = sources.modules.keys().filter(is_pure).cloned().collect();
    let mut because: BTreeMap<Path, String> =
        todo.iter().map(|path| (path.clone(), "a pure room".to_owned())).collect();
    let mut found = Vec::new();
    while let Some(path) = todo.pop() {
        let module = &sources.modules[&path];
        let place = format!("src/{} ({})", module.file, because[&path]);
        for name in module.outer.iter().filter(|name| is_impure(name)) {
            found.push(format!("{place}: {}", name.join("::")));
        }
        if module.methods.contains("elapsed") {
            found.push(format!("{place}: .elapsed() reads a clock"));
        }
        for to in module.inner.iter().flat_map(|name| sources.resolve(name)) {
            because.entry(to).or_insert_with_key(|to| {
                todo.push(to.clone());
                format!("named by src/{}", module.file)
            });
        }
    }
    found.sort();
    found
}

/// Whether a path outside the crate leads to I/O, a runtime or a clock.
fn is_impure(path: &[String]) -> bool {
    /// Crates that are for I/O, processes or time.
    const CRATES: [&str; 9] =
        ["tokio", "pingora", "libc", "rustix", "socket2", "hyper", "rlimit", "tempfile", "log"];
    const STD: [&str; 5] = ["env", "fs", "os", "process", "thread"];
    /// What of `std::net` is only a name for a place.
    const ADDRESSES: [&str; 7] = [
        "AddrParseError",
        "IpAddr",
        "Ipv4Addr",
        "Ipv6Addr",
        "SocketAddr",
        "SocketAddrV4",
        "SocketAddrV6",
    ];
    const CLOCKS: [&str; 4] = ["Instant", "SystemTime", "Timestamp", "Zoned"];
    const FILES: [&str; 6] = ["stdin", "stdout", "stderr", "Stdin", "Stdout", "Stderr"];

    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    let is_clock = names.windows(2).any(|pair| CLOCKS.contains(&pair[0]) && pair[1] == "now");
    let is_shell = match names.as_slice() {
        ["std", "net"] => true,
        ["std", "net", name, ..] => !ADDRESSES.contains(name),
        ["std", "io", name, ..] => FILES.contains(name),
        ["std", name, ..] => STD.contains(name),
        ["clippy", "disallowed_methods"] => true,
        [name, ..] => CRATES.iter().any(|of| {
            name.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        }),
        [] => false,
    };
    is_clock || is_shell
}

fn segments(module: &str) -> Path {
    module.split("::").map(str::to_owned).collect()
}

/// Which children of a module name which others.
fn siblings(sources: &Sources, parent: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Arrow { from, to, .. } in sources.arrows() {
        if let Some((from, to)) = between_children(parent, &from, &to) {
            graph.entry(from.to_owned()).or_default().insert(to.to_owned());
        }
    }
    graph
}

/// The two children of `parent` that an arrow leads from and to.
fn between_children<'a>(
    parent: &[String],
    from: &'a Path,
    to: &'a Path,
) -> Option<(&'a str, &'a str)> {
    let child = |path: &'a Path| path.strip_prefix(parent)?.first().map(String::as_str);
    let (from, to) = (child(from)?, child(to)?);
    (from != to).then_some((from, to))
}

/// The rings of a graph: sets of nodes of which each reaches every other, sorted.
fn rings(graph: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reach: BTreeMap<&String, BTreeSet<&String>> =
        graph.keys().map(|node| (node, reachable(graph, node))).collect();
    let mut rings = BTreeSet::new();
    for (node, reached) in &reach {
        let back = |other: &&&String| reach.get(**other).is_some_and(|reach| reach.contains(node));
        let ring: Vec<String> = reached.iter().filter(back).map(|&node| node.clone()).collect();
        if !ring.is_empty() {
            rings.insert(ring);
        }
    }
    rings.into_iter().collect()
}

/// Every node that one or more arrows lead to from this.
fn reachable<'a>(
    graph: &'a BTreeMap<String, BTreeSet<String>>,
    node: &String,
) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut todo: Vec<&String> = graph[node].iter().collect();
    while let Some(next) = todo.pop() {
        if reached.insert(next) {
            todo.extend(graph.get(next).into_iter().flatten());
        }
    }
    reached
}

/// The arrows of a ring of a module's children, with a path that makes each.
fn describe(sources: &Sources, parent: &[String], ring: &[String]) -> String {
    let inside = |name: &str| ring.iter().any(|node| node == name);
    let mut arrows: BTreeMap<String, String> = BTreeMap::new();
    for arrow in sources.arrows() {
        match between_children(parent, &arrow.from, &arrow.to) {
            Some((from, to)) if inside(from) && inside(to) => {
                let text = written(sources, &arrow);
                arrows.entry(format!("{from} → {to}")).or_insert(text);
            }
            _ => {}
        }
    }
    let arrows: Vec<String> = arrows.iter().map(|(arrow, by)| format!("{arrow} ({by})")).collect();
    arrows.join(", ")
}

/// Where an arrow stands.
fn written(sources: &Sources, arrow: &Arrow) -> String {
    format!("src/{} names crate::{}", sources.modules[&arrow.from].file, arrow.by.join("::"))
}
