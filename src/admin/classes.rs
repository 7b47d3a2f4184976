//! /api/classes: reads the class tree as JSON, and changes it.
//!
//! A rate is text as in the configuration (`5Mbit`), so a value that was read can be sent back.

use std::fmt;

use http::{Method, StatusCode};
use log::info;
use percent_encoding::percent_decode_str;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};

use super::AdminResponse;
use crate::shape::{Change, ClassReport, Priority, Shaper};
use crate::units::Rate;

/// The path of the list; a class is at `/api/classes/<name>`.
const PATH: &str = "/api/classes";

/// Answers a request for `/api/classes` or a path below it; None for any other path.
pub(super) fn answer(
    shaper: Option<&Shaper>,
    method: &Method,
    path: &str,
    body: &[u8],
) -> Option<AdminResponse> {
    let rest = path.strip_prefix(PATH)?;
    let Some(name) = rest.strip_prefix('/').filter(|name| !name.is_empty()) else {
        return matches!(rest, "" | "/").then(|| list(shaper, method));
    };
    let name = percent_decode_str(name).decode_utf8().ok();
    let unknown = || AdminResponse::error(StatusCode::NOT_FOUND, "there is no such class");
    let known = |name: &str| shaper?.report().into_iter().find(|class| *class.name == *name);
    let Some((shaper, name)) = shaper.zip(name).filter(|(_, name)| known(name).is_some()) else {
        return Some(unknown());
    };
    if *method == Method::PATCH {
        let changed = change(body).and_then(|change| {
            let done = shaper.change(&name, &change).map_err(|e| e.to_string());
            done.inspect(|()| info!("admin: class {name} is changed: {}", describe(&change)))
        });
        if let Err(message) = changed {
            return Some(AdminResponse::error(StatusCode::BAD_REQUEST, &message));
        }
    } else if !super::is_read(method) {
        return Some(AdminResponse::not_allowed("GET, HEAD, PATCH"));
    }
    Some(
        known(&name)
            .map_or_else(unknown, |class| AdminResponse::json(StatusCode::OK, &to_json(&class))),
    )
}

fn list(shaper: Option<&Shaper>, method: &Method) -> AdminResponse {
    if !super::is_read(method) {
        return AdminResponse::not_allowed("GET, HEAD");
    }
    let classes: Vec<_> =
        shaper.map(Shaper::report).unwrap_or_default().iter().map(to_json).collect();
    AdminResponse::json(StatusCode::OK, &json!({ "classes": classes }))
}

fn to_json(class: &ClassReport) -> Value {
    let text = |rate: Option<Rate>| rate.map(|rate| rate.to_string());
    json!({
        "name": &*class.name,
        "parent": class.parent.as_deref(),
        "limit_at": class.limit_at.to_string(),
        "max_limit": text(class.max_limit),
        "configured_max_limit": text(class.configured_max_limit),
        "priority": class.priority.number(),
        "timetable": class.timetable,
        "next_change": class.next_change.map(|at| at.to_string()),
        "rate_bits_per_second": class.rate.saturating_mul(8),
        "bytes": class.bytes,
        "flows": class.flows,
        "queued": class.queued,
        "queue_seconds": class.waited.as_secs_f64(),
        "starved_seconds": class.starved.as_secs_f64(),
    })
}

/// Parses the body of a PATCH: a JSON object with at least one known key and no key twice.
fn change(body: &[u8]) -> Result<Change, String> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let entries = json.deserialize_map(Entries).and_then(|entries| json.end().map(|()| entries));
    let entries = entries.map_err(|e| format!("not a JSON object of keys and values: {e}"))?;
    let mut change = Change::default();
    for (at, (key, value)) in entries.iter().enumerate() {
        if entries[..at].iter().any(|(other, _)| other == key) {
            return Err(format!("{}: is there twice", key.escape_debug()));
        }
        let error = |e: &dyn fmt::Display| format!("{key}: {e}");
        let rate = || match value {
            Value::String(text) => text.parse::<Rate>().map_err(|e| error(&e)),
            _ => Err(error(&"must be text, such as \"5Mbit\"")),
        };
        match key.as_str() {
            "limit_at" => change.limit_at = Some(rate()?),
            "max_limit" if *value == Value::Null || *value == "off" => {
                change.max_limit = Some(None)
            }
            "max_limit" => change.max_limit = Some(Some(rate()?)),
            "priority" => {
                let number = value.as_u64().and_then(|number| u8::try_from(number).ok());
                let priority = number.and_then(Priority::new);
                let wrong = || error(&"must be a number from 1 (first) to 8");
                change.priority = Some(priority.ok_or_else(wrong)?);
            }
            _ => {
                let key = key.escape_debug();
                return Err(format!(
                    "{key}: cannot be changed; write limit_at, max_limit or priority"
                ));
            }
        }
    }
    if change == Change::default() {
        return Err("nothing to change; write limit_at, max_limit or priority".to_owned());
    }
    Ok(change)
}

/// The change for the log: `max_limit 5Mbit, priority 3`.
fn describe(change: &Change) -> String {
    let limit_at = change.limit_at.map(|rate| format!("limit_at {rate}"));
    let max_limit = change.max_limit.map(|max| match max {
        Some(rate) => format!("max_limit {rate}"),
        None => "no max_limit".to_owned(),
    });
    let priority = change.priority.map(|priority| format!("priority {priority}"));
    let all: Vec<_> = [limit_at, max_limit, priority].into_iter().flatten().collect();
    all.join(", ")
}

/// The entries of a JSON object in order. serde_json's own map would drop the first of two entries with
/// one key.
struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::shape::{ClassSettings, Settings};
    use std::sync::Arc;

    fn shaper() -> Arc<Shaper> {
        let mbit = |mbit: u64| Rate::from_bits(mbit * 1_000_000);
        let up = ClassSettings { max_limit: Some(mbit(20)), ..ClassSettings::new("up") };
        let parent = Some("up".into());
        let bulk = ClassSettings { parent, limit_at: mbit(1), ..ClassSettings::new("s3 bulk/ü") };
        let settings = Settings { classes: vec![up, bulk], ..Settings::default() };
        Shaper::new(&settings, Metrics::new().shape).unwrap()
    }

    fn ask(shaper: &Shaper, method: Method, path: &str, body: &str) -> (u16, Value) {
        let answer = answer(Some(shaper), &method, path, body.as_bytes()).expect("an answer");
        let body = serde_json::from_slice(&answer.body).unwrap();
        (answer.status.as_u16(), body)
    }

    const BULK: &str = "/api/classes/s3%20bulk%2F%C3%BC";

    #[test]
    fn classes_are_listed_and_shown() {
        let shaper = shaper();
        let (status, body) = ask(&shaper, Method::GET, "/api/classes", "");
        assert_eq!((status, body["classes"].as_array().unwrap().len()), (200, 2));
        let expected = json!({
            "name": "s3 bulk/ü", "parent": "up", "limit_at": "1Mbit", "max_limit": null,
            "configured_max_limit": null, "priority": 8, "timetable": null, "next_change": null,
            "rate_bits_per_second": 0, "bytes": 0, "flows": 0, "queued": 0, "queue_seconds": 0.0,
            "starved_seconds": 0.0,
        });
        assert_eq!(body["classes"][1], expected);
        assert_eq!(ask(&shaper, Method::GET, BULK, ""), (200, expected));
        assert_eq!(ask(&shaper, Method::GET, "/api/classes/nobody", "").0, 404);
        assert_eq!(ask(&shaper, Method::GET, "/api/classes/%ff", "").0, 404);
        assert!(answer(Some(&shaper), &Method::GET, "/api/classesx", b"").is_none());
        let none = answer(None, &Method::GET, "/api/classes", b"").unwrap();
        assert_eq!(none.body, b"{\"classes\":[]}\n");
    }

    #[test]
    fn a_change_takes_effect_and_is_shown() {
        let shaper = shaper();
        let body = r#"{"max_limit": "5MiB/s", "limit_at": "2Mbit", "priority": 3}"#;
        let (status, class) = ask(&shaper, Method::PATCH, BULK, body);
        assert_eq!(status, 200);
        assert_eq!(
            (&class["max_limit"], &class["limit_at"]),
            (&json!("41943040bit"), &json!("2Mbit"))
        );
        assert_eq!(class["priority"], 3);
        let (_, class) = ask(&shaper, Method::PATCH, BULK, r#"{"max_limit": null}"#);
        assert_eq!((&class["max_limit"], &class["limit_at"]), (&Value::Null, &json!("2Mbit")));
        let (_, class) = ask(&shaper, Method::PATCH, BULK, r#"{"limit_at": "0"}"#);
        assert_eq!(class["limit_at"], "0bit");
    }

    #[test]
    fn an_invalid_change_changes_nothing_and_says_why() {
        let shaper = shaper();
        for (body, message) in [
            (
                "",
                "not a JSON object of keys and values: EOF while parsing a value at line 1 column 0",
            ),
            (
                "[]",
                "not a JSON object of keys and values: invalid type: sequence, expected an object at line 1 column 0",
            ),
            (
                "{} {}",
                "not a JSON object of keys and values: trailing characters at line 1 column 4",
            ),
            ("{}", "nothing to change; write limit_at, max_limit or priority"),
            (r#"{"max_limit": 5}"#, "max_limit: must be text, such as \"5Mbit\""),
            (
                r#"{"max_limit": "20M"}"#,
                "max_limit: `20M` does not say bits or bytes; write 20Mbit, 20MB/s or 20MiB/s",
            ),
            (r#"{"max_limit": "5Mbit", "max_limit": "6Mbit"}"#, "max_limit: is there twice"),
            (
                r#"{"rate": "5Mbit"}"#,
                "rate: cannot be changed; write limit_at, max_limit or priority",
            ),
            (r#"{"priority": 9}"#, "priority: must be a number from 1 (first) to 8"),
            (r#"{"priority": "1"}"#, "priority: must be a number from 1 (first) to 8"),
            (r#"{"max_limit": "0"}"#, "max_limit: 0bit is out of range; write 1kbit to 1000Gbit"),
            (
                r#"{"limit_at": "30Mbit"}"#,
                "max_limit: class up: the limit_at of its children are 30Mbit together, more than its max_limit of 20Mbit",
            ),
        ] {
            let (status, answer) = ask(&shaper, Method::PATCH, BULK, body);
            let told = answer["error"].as_str().unwrap();
            assert_eq!(status, 400, "{body}: {told}");
            assert_eq!(told, message, "{body}");
        }
        let (_, class) = ask(&shaper, Method::GET, BULK, "");
        assert_eq!((&class["max_limit"], &class["limit_at"]), (&Value::Null, &json!("1Mbit")));
    }

    #[test]
    fn other_methods_get_a_405_with_allow() {
        let shaper = shaper();
        for (method, path, allow) in [
            (Method::DELETE, BULK, "GET, HEAD, PATCH"),
            (Method::PUT, BULK, "GET, HEAD, PATCH"),
            (Method::PATCH, "/api/classes", "GET, HEAD"),
        ] {
            let answer = answer(Some(&shaper), &method, path, b"{}").unwrap();
            assert_eq!((answer.status.as_u16(), answer.allow), (405, Some(allow)));
        }
    }
}
