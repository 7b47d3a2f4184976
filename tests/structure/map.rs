//! The map of `src/lib.rs`, read from its `//!` lines.
//!
//! Under the heading "The map" a numbered list has one item for each layer, the uppermost first. A
//! code span that is followed by a colon names a room of the layer; every other code span is prose.
//! Under the heading "Pure rooms" every code span of a list names a pure module.

/// Which rooms there are, and which modules do no I/O.
#[derive(Debug)]
pub struct Map {
    /// The rooms of each layer, from top to bottom.
    pub layers: Vec<Vec<String>>,
    /// Paths below the crate, such as `drip::schedule`.
    pub pure: Vec<String>,
}

impl Map {
    /// Reads the map of such a file.
    ///
    /// # Errors
    ///
    /// A part of it that is missing or empty.
    pub fn parse(lib: &str) -> Result<Self, String> {
        let mut layers = Vec::new();
        for item in items(lib, "# The map", |line| number(line).is_some()) {
            let rooms: Vec<String> =
                spans(&item).filter(|span| span.colon).map(|span| span.text).collect();
            if number(&item) != Some(layers.len() + 1) || rooms.is_empty() {
                return Err(format!("layer {}: {item}", layers.len() + 1));
            }
            layers.push(rooms);
        }
        if layers.is_empty() {
            return Err("\"# The map\" has no layers".to_owned());
        }
        let pure: Vec<String> = items(lib, "# Pure rooms", |line| line.starts_with("- "))
            .iter()
            .flat_map(|item| spans(item).map(|span| span.text).collect::<Vec<_>>())
            .collect();
        if pure.is_empty() {
            return Err("\"# Pure rooms\" names none".to_owned());
        }
        Ok(Self { layers, pure })
    }

    /// The number of a room's layer, the uppermost being 0.
    pub fn layer(&self, room: &str) -> Option<usize> {
        self.layers.iter().position(|rooms| rooms.iter().any(|other| other == room))
    }
}

/// The number of a numbered list's item.
fn number(line: &str) -> Option<usize> {
    line.split_once(". ")?.0.parse().ok()
}

/// The items of the lists below a heading, each with its continuation lines.
fn items(lib: &str, heading: &str, begins: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = lib.lines().filter_map(|line| line.trim_start().strip_prefix("//!"));
    let section = lines.skip_while(|line| line.trim() != heading).skip(1);
    let mut items: Vec<String> = Vec::new();
    let mut inside = false;
    for line in section.take_while(|line| !line.trim().starts_with("# ")) {
        // One space belongs to `//!`; an item's continuation lines have more.
        let line = line.strip_prefix(' ').unwrap_or(line);
        if begins(line) {
            items.push(line.to_owned());
            inside = true;
        } else if inside && line.starts_with("  ") {
            let item = items.last_mut().expect("an item that has begun");
            item.push(' ');
            item.push_str(line.trim());
        } else {
            inside = false;
        }
    }
    items
}

struct Span {
    text: String,
    /// Whether a colon follows it, behind the bracket of a link or not.
    colon: bool,
}

/// The code spans of a line of Markdown.
fn spans(line: &str) -> impl Iterator<Item = Span> {
    let mut pieces = line.split('`').skip(1);
    std::iter::from_fn(move || {
        let text = pieces.next()?.to_owned();
        let after = pieces.next()?;
        Some(Span { text, colon: after.strip_prefix(']').unwrap_or(after).starts_with(':') })
    })
}
