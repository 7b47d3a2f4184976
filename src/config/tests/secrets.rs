//! No message and no debug output shows a key or a password.

use super::*;

#[test]
fn a_private_key_is_never_shown() {
    let (cert, key) = pem();
    let secret = text(&key).lines().nth(1).unwrap();
    let in_yaml = text(&key).replace('\n', "\\n");
    let misplaced = classic()
        .yaml(&format!(
            "listen: [{{addr: '0.0.0.0:1', tls: {{cert: \"{in_yaml}\", key: \"{in_yaml}\"}}}}]"
        ))
        .var("DRIPLINE_TLS_CERT_PEM", text(&cert))
        .var("DRIPLINE_TLS_KEY_PEM", text(&key))
        .var("DRIPLINE__DRIP__WAIT", text(&key))
        .var("DRIPLINE__S3__CA", text(&key))
        .var("CHUNK_SIZE", text(&key))
        .env_file(&format!("A={secret} {secret}\n"));
    let errors = misplaced.errors().join("\n");
    assert!(errors.contains("drip.chunk_size: `MASKED` is not a number of bytes"), "{errors}");
    assert_eq!(
        errors.matches("holds PEM text (MASKED); write the path of a file that holds it").count(),
        4
    );
    let debug = format!("{:?}", misplaced.sources);
    assert!(debug.contains("MASKED"), "{debug}");
    let loaded = classic()
        .var("DRIPLINE_TLS_CERT_PEM", text(&cert))
        .var("DRIPLINE_TLS_KEY_PEM", text(&key))
        .yaml("drip: {wait: 1s}")
        .load();
    let config = format!("{loaded:?}");
    assert!(config.contains("Listener { addr: 0.0.0.0:8443, tls: Some(\"MASKED\"), "), "{config}");
    for shown in [errors, debug, config] {
        assert!(!shown.contains(secret) && !shown.contains("BEGIN"), "{shown}");
    }
}

#[test]
fn a_password_is_never_shown() {
    let world = world().yaml(
        "forward_proxy: {addr: '127.0.0.1:1', users: [{name: 'a:b', password: 's3cret-1'}, \
         {name: x, password: [s3cret-2]}, {name: y, passwort: s3cret-3}]}",
    );
    let errors = world.errors().join("\n");
    assert!(errors.lines().count() >= 4 && !errors.contains("s3cret"), "{errors}");
    let config = classic().yaml(&format!("{TUNNELS}{TREE}")).load();
    assert!(!format!("{config:?}").contains("a: b"));
}
