//! The configuration file: parses its text as YAML, or reports where it is none.

use std::fs;
use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::error::Origin;
use super::field::kind;
use super::reader::Reader;

/// The file's tree; empty if the file is empty, or cannot be read or parsed, which is reported.
pub(super) fn file(path: &Path, reader: &mut Reader) -> Mapping {
    let name = path.display().to_string();
    let (at, message) = match read_text(path) {
        Err(error) => (name, error),
        Ok(text) => match serde_yaml::from_str(&text) {
            Ok(Value::Mapping(map)) => return map,
            Ok(Value::Null) => return Mapping::new(),
            Ok(other) => (
                name,
                format!(
                    "must be a map of keys, such as `drip: {{wait: 500ms}}`, not {}",
                    kind(&other)
                ),
            ),
            Err(error) => syntax_error(&name, &text, &error),
        },
    };
    reader.incomplete = true;
    reader.fail_from(&at, Origin::File, message);
    Mapping::new()
}

/// The place of a syntax error, and the message about it.
fn syntax_error(name: &str, text: &str, error: &serde_yaml::Error) -> (String, String) {
    let Some(location) = error.location() else {
        return (name.to_owned(), format!("not valid YAML: {error}"));
    };
    // The parser stops at a tab or after it, and its own words do not name it.
    let at = location.line();
    let mut lines = text.lines().enumerate().take(at + 1).skip(at.saturating_sub(2));
    if let Some((index, line)) = lines.find(|(_, line)| is_indented_by_tab(line)) {
        let column = line.find('\t').unwrap_or(0) + 1;
        let place = format!("line {} column {column}", index + 1);
        let message = "this line is indented with a tab; YAML indents with spaces";
        return (place, format!("{name} is not valid YAML: {message} ({error})"));
    }
    let place = format!("line {at} column {}", location.column());
    let message = error.to_string().replacen(&format!(" at {place}"), "", 1);
    (place, format!("{name} is not valid YAML: {message}"))
}

fn is_indented_by_tab(line: &str) -> bool {
    let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
    line[..indent].contains('\t') && indent < line.len() && !line[indent..].starts_with('#')
}

/// A file's text, or why it cannot be read.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|_| "cannot be read: it is not UTF-8 text".to_owned())
}
