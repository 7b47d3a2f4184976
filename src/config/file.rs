//! The configuration file: its text becomes a tree of YAML, or an error that says where.

use std::fs;
use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::error::Where;
use super::field::kind;
use super::reader::Reader;

/// The file's tree; an empty one if the file is empty or wrong, which is reported.
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
            Err(error) => {
                let place =
                    error.location().map(|l| format!("line {} column {}", l.line(), l.column()));
                let mut message = error.to_string();
                if let Some(place) = &place {
                    message = message.replacen(&format!(" at {place}"), "", 1);
                }
                match place {
                    Some(place) => (place, format!("{name} is not valid YAML: {message}")),
                    None => (name, format!("not valid YAML: {message}")),
                }
            }
        },
    };
    reader.incomplete = true;
    reader.fail_from(&at, Where::File, message);
    Mapping::new()
}

/// A file's text, or why it cannot be read.
pub(super) fn read_text(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    String::from_utf8(bytes).map_err(|_| "cannot be read: it is not UTF-8 text".to_owned())
}
