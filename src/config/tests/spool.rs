//! `spool` and `uploads`.

use super::*;

#[test]
fn the_spool_is_on_unless_it_has_no_bytes() {
    let spool = |yaml: &str| classic().yaml(yaml).load().spool;
    let default = spool("").unwrap();
    assert_eq!(default.dir, std::path::Path::new("/var/cache/dripline"));
    assert_eq!((default.max_bytes, default.max_object), (1 << 30, 512 << 20));
    assert_eq!((default.max_objects, default.max_fills), (4096, 16));
    assert_eq!(default.trust, Duration::ZERO);
    assert_eq!(spool("spool: {max_bytes: 0}"), None);
    let set = spool(
        "spool: {dir: /a, max_bytes: 2GiB, max_object: 1MiB, max_objects: 7, max_fills: 3, trust: 5m}",
    );
    let set = set.unwrap();
    assert_eq!(set.dir, std::path::Path::new("/a"));
    assert_eq!((set.max_bytes, set.max_object), (2 << 30, 1 << 20));
    assert_eq!((set.max_objects, set.max_fills), (7, 3));
    assert_eq!(set.trust, Duration::from_secs(300));
    for (yaml, expected) in [
        ("spool: {dir: cache}", "spool.dir: cache is not an absolute path"),
        ("spool: {max_fills: 0}", "spool.max_fills: `0` is not a number from 1 to 1024"),
        (
            "spool: {max_objects: many}",
            "spool.max_objects: `many` is not a number from 1 to 1048576",
        ),
        ("spool: {trust: 8d}", "spool.trust: `8d` is out of range; write 0s to 7days"),
    ] {
        assert_eq!(errors(yaml), [expected]);
    }
}

#[test]
fn uploads_are_off_unless_enabled() {
    let uploads = |yaml: &str| classic().yaml(yaml).load().uploads;
    assert_eq!(uploads(""), None);
    let tree = "shaping: {classes: [{name: a, max_limit: 8Mbit}]}\n";
    assert_eq!(uploads(&format!("{tree}uploads: {{class: a}}")), None);
    let under = Some(Uploads { class: Some("a".into()) });
    assert_eq!(uploads(&format!("{tree}uploads: {{enabled: true, class: a}}")), under);
    assert_eq!(uploads("uploads: {enabled: true}"), Some(Uploads { class: None }));
    assert_eq!(
        errors("uploads: {enabled: yes, clas: a}"),
        [
            "uploads.enabled: `yes` is not a switch; write true or false",
            "uploads.clas: unknown key; did you mean uploads.class?"
        ]
    );
}
