//! `profiles`.

use super::*;

#[test]
fn a_profile_has_the_class_of_all_unless_it_names_one() {
    let config = classic()
        .yaml(
            "shaping: {classes: [{name: all, max_limit: 8Mbit}, {name: few, max_limit: 8Mbit}]}\n\
             drip: {class: all}\nprofiles: [{name: a, match: {sni: a}}, {name: b, match: {sni: b}, class: few}, \
             {name: c, match: {sni: c}, class: off}]",
        )
        .load();
    let of = |at: usize| config.profiles.list[at].drip.class.as_deref();
    assert_eq!([of(0), of(1), of(2)], [Some("all"), Some("few"), None]);
    assert_eq!(config.profiles.default.drip.class.as_deref(), Some("all"));
}

#[test]
fn a_profile_has_what_it_says_and_the_rest_from_drip() {
    let config = classic()
        .yaml(
            "listen: [{addr: '0.0.0.0:1'}, {addr: '0.0.0.0:2'}]\n\
             drip: {chunk_size: 4096, wait: 100ms, trusted_header: {name: X-Drip, from: [10.0.0.0/8]}}\n\
             profiles:\n\
             - {name: a, match: {listener: '0.0.0.0:2', sni: A.example, client: 192.0.2.1}, chunk_size: 512}\n\
             - {name: b, match: {key_prefix: fw/, header: {User-Agent: 'x*'}, client: [10.0.0.0/8, '2001:db8::/32']},\n\
                wait: 1s, fill: true, response_headers: [x-amz-meta-*],\n\
                bounds: {chunk_size: [512, 8192], wait: [0, 2s]}}",
        )
        .load();
    assert_eq!(config.warnings, Vec::<String>::new());
    let [a, b] = &config.profiles.list[..] else { panic!("two profiles") };
    assert_eq!((a.drip.chunk_size.bytes(), a.drip.wait.as_millis(), a.fill), (512, 100, false));
    assert_eq!(a.criteria.server_name.as_deref(), Some("a.example"));
    assert_eq!(a.criteria.clients.to_string(), "192.0.2.1/32");
    assert_eq!((b.drip.chunk_size.bytes(), b.drip.wait.as_millis(), b.fill), (4096, 1000, true));
    assert_eq!((b.drip.response_headers.len(), b.criteria.headers.len()), (1, 1));
    let bounds = b.bounds.as_ref().unwrap();
    assert_eq!(bounds.chunk_size.end().bytes(), 8192);
    assert_eq!(*bounds.wait.end(), Duration::from_secs(2));
    assert_eq!(config.profiles.default.drip.chunk_size.bytes(), 4096);
}

#[test]
fn every_error_in_a_profile_is_named() {
    for (yaml, expected) in [
        ("profiles: {}", "profiles: must be a list, not a map"),
        (
            "profiles: [{name: a}]",
            "profiles[0].match: missing; write whom the profile is for, such as {key_prefix: firmware/nrf/}",
        ),
        (
            "profiles: [{match: {sni: a}}]",
            "profiles[0].name: missing; write a name for the log and the metrics",
        ),
        (
            "profiles: [{name: default, match: {sni: a}}]",
            "profiles[0].name: `default` is the name of another profile; choose one of its own",
        ),
        (
            "profiles: [{name: a, match: {}}]",
            "profiles[0].match: is empty; name at least one of listener, sni, key_prefix, header, client",
        ),
        (
            "profiles: [{name: a, match: {client: ten}}]",
            "profiles[0].match.client: is not a network; write one such as 10.0.0.0/8 or 2001:db8::/32",
        ),
        (
            "profiles: [{name: a, match: {header: {'a b': c}}}]",
            "profiles[0].match.header.a b: is not the name of a header",
        ),
        (
            "profiles: [{name: a, match: {sni: '*.example'}}]",
            "profiles[0].match.sni: must be one host name, such as nrf.example.com",
        ),
        (
            "profiles: [{name: a, match: {listener: '0.0.0.0:99'}}]",
            "profiles[0].match.listener: 0.0.0.0:99 is none of the listeners; write one as in listen[].addr",
        ),
        (
            "profiles: [{name: a, match: {key_prefix: 'a b'}}]",
            "profiles[0].match.key_prefix: must be how keys begin in a URL, without /file/ and percent-encoded, such as fw/nrf/",
        ),
        (
            "profiles: [{name: a, match: {sni: a}, bounds: {wait: [2s, 1s]}}]",
            "profiles[0].bounds.wait: must be a list of two: the least and the most",
        ),
        (
            "profiles: [{name: a, match: {sni: a}, chunk_size: 1}]",
            "profiles[0].chunk_size: 1 bytes is not a possible record size; write 64 to 16384",
        ),
        (
            "drip: {trusted_header: {from: [10.0.0.0/8]}}",
            "drip.trusted_header.name: missing; write a header's name, such as X-Drip",
        ),
        (
            "drip: {trusted_header: {name: X-Drip}}",
            "drip.trusted_header.from: missing; write the networks whose clients may send it",
        ),
        (
            "listen: [{addr: '0.0.0.0:1', tls: {certificates: []}}]",
            "listen[0].tls.certificates: is empty; write [{cert: …, key: …}], or remove the key",
        ),
        (
            "listen: [{addr: '0.0.0.0:1', tls: {certificates: [{}]}}]",
            "listen[0].tls.certificates[0].cert: missing; write the paths of a PEM certificate and its key",
        ),
        (
            "listen: [{addr: '0.0.0.0:1', tls: {tickets: 3}}]",
            "listen[0].tls.tickets: must be a number of session tickets, 0 to 2",
        ),
    ] {
        assert_eq!(errors(yaml), [expected], "{yaml}");
    }
}
