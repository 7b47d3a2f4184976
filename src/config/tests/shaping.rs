//! `shaping`.

use super::*;
use crate::config::class_uses::ClassUses;
use crate::config::shaping::shaping;

#[test]
fn every_key_of_a_class_reaches_the_tree() {
    let config = classic().yaml(TREE).load();
    let shaping = config.shaping.expect("a tree");
    assert_eq!((shaping.count, shaping.classes.len()), (shape::Count::Wire, 3));
    let bulk = &shaping.classes[2];
    assert_eq!((&*bulk.name, bulk.parent.as_deref()), ("s3-bulk", Some("upload")));
    assert_eq!((bulk.limit_at.bits(), bulk.max_limit.unwrap().bits()), (1_000_000, 20_000_000));
    assert_eq!((bulk.priority.number(), bulk.burst.unwrap().bytes()), (8, 64 << 10));
    assert_eq!(bulk.pcq.classifier, shape::Classifier::SrcAddress);
    assert_eq!((bulk.dscp.unwrap().tos(), bulk.pacing), (4, true));
    let links: Vec<_> = shaping.links.iter().map(|link| &*link.name).collect();
    assert_eq!((links, shaping.classes[0].link.as_deref()), (vec!["wan"], Some("wan")));
    assert_eq!(bulk.link, None);
    // 08:00 in Sydney's summer is 21:00 the day before in London's winter.
    let at = |time: &str| bulk.timetable.as_ref().unwrap().at(time.parse().unwrap());
    assert_eq!(at("2026-01-05T21:00:00Z").unwrap().to_string(), "2Mbit");
    assert_eq!(at("2026-01-05T12:00:00Z"), None);
    let unfed = |at, name| {
        format!(
            "shaping.classes[{at}]: nothing feeds {name}; name it in uploads.class, forward_proxy.class or profiles[].class"
        )
    };
    assert_eq!(config.warnings[2..], [unfed(1, "regular"), unfed(2, "s3-bulk")]);
    assert_eq!(classic().yaml("shaping: {classes: []}").load().shaping, None);
}

#[test]
fn every_error_of_the_classes_has_its_path() {
    let yaml = "shaping:\n  count: bytes\n  links: [{name: wan, scavenger: true, floor: 256kbit, target: 30ms}, {}]\n  classes:\n\
        \x20   - {name: up, link: lan, max_limit: 20M, prioriy: 3}\n\
        \x20   - {name: a, parent: up, limit_at: 5, max_limit: 0, priority: 9}\n\
        \x20   - {name: a, parent: down, dscp: low, burst: 1k, pcq: {classifier: port, rate: 1M}}\n\
        \x20   - {parent: up, timetable: '08:00,2Mbit 25:00,off', timezone: Mars/Olympus, pacing: maybe}\n\
        \x20   - {name: b, parent: c}\n    - {name: c, parent: b, limit_at: 2Mbit, max_limit: 1Mbit}\n";
    assert_eq!(
        errors(yaml),
        [
            "shaping.count: `bytes` is not what can be counted; write payload or wire",
            "shaping.links[0].scavenger: not available in this version of dripline; remove it",
            "shaping.links[0].floor: not available in this version of dripline; remove it",
            "shaping.links[0].target: not available in this version of dripline; remove it",
            "shaping.links[1].name: missing; write a name that classes can give as link",
            "shaping.classes[0].link: there is no link `lan`; describe it in shaping.links",
            "shaping.classes[0].max_limit: `20M` does not say bits or bytes; write 20Mbit, 20MB/s or 20MiB/s",
            "shaping.classes[0].prioriy: unknown key; did you mean shaping.classes[0].priority?",
            "shaping.classes[1].limit_at: `5` has no unit; write 5bit, 5kbit or 5Mbit, or 5kB/s in bytes",
            "shaping.classes[1].priority: `9` is not a number from 1 (first) to 8",
            "shaping.classes[2].pcq.classifier: `port` is not a classifier; write src-address, user or connection",
            "shaping.classes[2].pcq.rate: `1M` does not say bits or bytes; write 1Mbit, 1MB/s or 1MiB/s",
            "shaping.classes[2].dscp: `low` is not a DSCP; write le, cs0 to cs7, af11 to af43, ef or 0 to 63",
            "shaping.classes[2].burst: `1k` does not say which unit; write 1KiB or 1kB",
            "shaping.classes[3].name: missing; write a name for the log and the metrics",
            "shaping.classes[3].pacing: `maybe` is not a switch; write true or false",
            "shaping.classes[3].timezone: `Mars/Olympus` is not a time zone; write one such as Australia/Sydney or UTC",
            "shaping.classes[3].timetable: `25:00,off` has no time of the day; write 00:00 to 23:59",
            "shaping.classes[1].max_limit: 0bit is out of range; write 1kbit to 1000Gbit",
            "shaping.classes[2].name: `a` is the name of another class; choose one of its own",
            "shaping.classes[2].parent: there is no class `down`",
            "shaping.classes[4].parent: `c` leads back to this class: that is a loop",
            "shaping.classes[5].max_limit: 1Mbit is less than limit_at, 2Mbit; a guarantee cannot exceed the ceiling",
            "shaping.classes[5].parent: `b` leads back to this class: that is a loop",
        ]
    );
    let overcommitted = "shaping:\n  classes:\n    - {name: up, max_limit: 20Mbit}\n\
        \x20   - {name: a, parent: up, limit_at: 20Mbit}\n    - {name: b, parent: up, limit_at: 10Mbit}\n";
    assert_eq!(
        errors(overcommitted),
        [
            "shaping.classes[0].max_limit: the limit_at of its children are 30Mbit together, more than its max_limit of 20Mbit"
        ]
    );
}

#[test]
fn what_changes_nothing_in_a_tree_is_warned_of() {
    let yaml = "shaping:\n  classes:\n    - {name: up, priority: 1, dscp: le}\n\
        \x20   - {name: a, parent: up, timezone: UTC}\n";
    let config = classic().yaml(yaml).load();
    assert_eq!(
        config.warnings[2..],
        [
            "shaping.classes[1].timezone changes nothing without a timetable",
            "shaping.classes[0].priority changes nothing: up has children, and it is theirs that counts",
            "shaping.classes[0].dscp changes nothing: up has children, and it is theirs that counts",
            "shaping.classes[0]: up shares nothing out without a max_limit; write a little less than its link can carry",
            "shaping.classes[1]: nothing feeds a; name it in uploads.class, forward_proxy.class or profiles[].class",
        ]
    );
}

#[test]
fn a_class_that_is_named_must_be_one_that_can_be_fed() {
    let yaml = format!("{TREE}a: {{class: regular}}\nb: {{class: upload}}\nc: {{class: nobody}}\n");
    let reader = Reader::default();
    let Value::Mapping(tree) = serde_yaml::from_str(&yaml).unwrap() else { panic!("no map") };
    let mut root = reader.root(tree);
    let shaping = shaping(root.section("shaping"));
    let mut uses = ClassUses::default();
    for key in ["a", "b", "c"] {
        let mut section = root.section(key);
        assert!(uses.take(&mut section, "class").is_some());
        section.finish(&[]);
    }
    uses.check(&reader, &shaping);
    root.finish(&[]);
    let errors = reader.finish().unwrap_err().to_string();
    assert_eq!(
        errors.lines().collect::<Vec<_>>(),
        [
            "b.class: `upload` has children, and only a class without any can be fed; write one of regular, s3-bulk",
            "c.class: there is no class `nobody`; write one of regular, s3-bulk",
        ]
    );
}
