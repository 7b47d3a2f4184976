//! The file itself.

use super::*;

#[test]
fn a_file_that_is_not_yaml_says_where() {
    let invalid = "DIR/dripline.yaml is not valid YAML";
    for (yaml, expected) in [
        ("s3: {bucket: a\ndrip: {}", format!("line 2 column 5: {invalid}: did not find expected ',' or '}}'")),
        ("drip:\n  wait: 1s\n  wait: 2s\n", format!("line 2 column 3: {invalid}: drip: duplicate entry with key \"wait\"")),
        ("drip:\n\twait: 1s\n", format!("line 2 column 1: {invalid}: this line is indented with a tab; YAML indents with spaces")),
        ("drip:\n  wait: 1s\n \tchunk_size: 64\n", format!("line 3 column 2: {invalid}: this line is indented with a tab; YAML indents with spaces")),
        ("- a\n", "DIR/dripline.yaml: must be a map of keys, such as `drip: {wait: 500ms}`, not a list".to_owned()),
        ("a: 1\n---\nb: 2\n", "DIR/dripline.yaml: not valid YAML: deserializing from YAML containing more than one document".to_owned()),
    ] {
        let errors = world().yaml(yaml).errors();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(&expected), "{errors:?}");
    }
    // Both sources are reported, and nothing that may be in the lost part counts as missing.
    let world = world().yaml("\t").env_file("what").var("DRIPLINE__DRIP__WAIT", "5");
    let errors = world.errors();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert_eq!(
        errors[2],
        "drip.wait: `5` has no unit; write 5ms or 5s (from DRIPLINE__DRIP__WAIT)"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let mut gone = classic();
    gone.sources.file = Some("/nonexistent/dripline.yaml".into());
    assert_eq!(
        gone.errors(),
        ["/nonexistent/dripline.yaml: cannot be read: No such file or directory (os error 2)"]
    );
    gone.sources.file = Some(gone.write("latin1", b"s3: {bucket: \xe9}"));
    assert_eq!(gone.errors(), ["DIR/latin1: cannot be read: it is not UTF-8 text"]);
}
