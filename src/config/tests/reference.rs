//! conf/: every shipped file loads, and the reference file shows every key and its default.

use super::*;

#[test]
fn every_shipped_file_loads() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut found = 0;
    for entry in fs::read_dir(shipped).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let sources = Sources { file: Some(path.clone()), ..Sources::default() };
            let loaded = Config::load(&sources);
            assert!(loaded.is_ok(), "{}:\n{}", path.display(), loaded.unwrap_err());
            found += 1;
        }
    }
    assert!(found > 0, "there is no shipped file");
}

#[test]
fn the_reference_file_shows_every_key_and_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/dripline.yaml");
    let reference = fs::read_to_string(&path).unwrap();
    let everything = "listen: [{addr: x, tls: {}}, {addr: x, tls: {certificates: [{}]}}]\n\
         health: {addr: x}\nadmin: {addr: x}\ndrip: {trusted_header: {}}\n\
         profiles: [{match: {}, bounds: {}}]\nforward_proxy: {users: [{}], classes: [{}]}\n\
         shaping: {links: [{}], classes: [{pcq: {}}]}";
    let reader = Reader::default();
    let Value::Mapping(tree) = serde_yaml::from_str(everything).unwrap() else { panic!("no map") };
    let env = Environment::gather(&Sources::default(), &mut Reader::default());
    let _ = assemble::config(reader.root(tree), &env);
    let known = reader.known();
    assert!(
        known.contains("listen[].tls.cert") && known.contains("upstream.recv_buffer"),
        "{known:?}"
    );
    for path in known {
        let key = format!("{}:", path.rsplit('.').next().unwrap());
        let shown = |line: &str| line.trim_start_matches([' ', '#', '-']).starts_with(&key);
        assert!(reference.lines().any(shown), "conf/dripline.yaml does not show {path}");
    }

    let sources = Sources { file: Some(path), ..Sources::default() };
    let (reference, default) = (Config::load(&sources).unwrap(), classic().load());
    let addresses = |config: &Config| {
        config.listen.iter().map(|l| (l.addr, l.tls.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&reference), addresses(&default));
    assert_eq!(format!("{:?}", reference.drip), format!("{:?}", default.drip));
    assert_eq!(
        (reference.upstream, reference.threads, reference.drain, reference.upgrade),
        (default.upstream, default.threads, default.drain, default.upgrade)
    );
    assert_eq!(
        (reference.admin, reference.health, reference.log),
        (default.admin, default.health, default.log)
    );
    let (reference, default) = (reference.s3.unwrap(), default.s3.unwrap());
    assert_eq!((reference.ca, reference.authorization), (default.ca, default.authorization));
}
