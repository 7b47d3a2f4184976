//! `s3` and `upstream`.

use super::*;

#[test]
fn s3_needs_what_its_host_needs() {
    let missing_region = "s3.region: missing; write the bucket's region here or in AWS_REGION";
    let bucket = |rest: &str| world().yaml(&format!("s3: {{bucket: firmware{rest}}}"));
    for rest in ["", ", host: dualstack", ", host: fips"] {
        assert_eq!(bucket(rest).errors(), [missing_region]);
    }
    assert_eq!(s3(&bucket(", host: global").load()).endpoint.host(), "firmware.s3.amazonaws.com");
    bucket(", host: accelerate").load();
    bucket(", endpoint: 'https://minio.example.net'").load();
    bucket(", region: eu-west-1, endpoint: 'https://minio.example.net'").load();
    assert_eq!(
        bucket(", host: regional, endpoint: 'https://minio.example.net'").errors(),
        ["s3.host: s3.endpoint names the host already; remove one of the two"]
    );
    assert_eq!(
        world().errors(),
        ["s3.bucket: missing; write the bucket's name here or in S3_BUCKET", missing_region]
    );
}

#[test]
fn what_s3s_own_types_refuse_is_reported_at_its_key() {
    let at = |yaml: &str| {
        let world = classic().yaml(yaml);
        let errors = Config::load(&world.sources).unwrap_err();
        assert_eq!(errors.as_slice().len(), 1, "{errors}");
        errors.as_slice()[0].at.clone()
    };
    assert_eq!(at("s3: {endpoint: 'ftp://x'}"), "s3.endpoint");
    assert_eq!(at("s3: {endpoint: 'http://[::1]:9000', addressing: virtual}"), "s3.addressing");
    assert_eq!(at("s3: {host: accelerate, addressing: path}"), "s3.addressing");
    assert_eq!(at("s3: {addressing: 5}"), "s3.addressing");
    let world = world().yaml("s3: {bucket: My_Bucket}");
    assert_eq!(
        world.errors(),
        [
            "s3.region: missing; write the bucket's region here or in AWS_REGION",
            "s3.bucket: \"My_Bucket\" cannot be a bucket at Amazon S3 or in virtual-hosted addressing: only lower-case \
             letters, digits, dots and hyphens may be in it",
        ]
    );
    let wrong = self::world().yaml("s3: {bucket: My_Bucket, region: Sydney}").errors();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].starts_with("s3.region: \"Sydney\" is not a region"), "{wrong:?}");
    assert!(wrong[1].starts_with("s3.bucket: \"My_Bucket\" cannot be"), "{wrong:?}");
    let world = self::world().yaml("s3: {region: cn-north-1, host: global}");
    assert_eq!(
        world.errors(),
        [
            "s3.bucket: missing; write the bucket's name here or in S3_BUCKET",
            "s3.host: cn-north-1 has no global host, as no China region has: write regional or dualstack",
        ]
    );
    assert_eq!(at("drip: {response_headers: [etag, 'not a header']}"), "drip.response_headers[1]");
    let world = self::world().var("S3_BUCKET", "Not a bucket").var("AWS_REGION", "not a region");
    let errors = Config::load(&world.sources).unwrap_err();
    let places: Vec<_> =
        errors.as_slice().iter().map(|e| (e.at.as_str(), e.source.clone())).collect();
    let variable = |name: &str| Origin::Variable(name.to_owned());
    assert_eq!(
        places,
        [("s3.bucket", variable("S3_BUCKET")), ("s3.region", variable("AWS_REGION"))]
    );
}

#[test]
fn the_ca_file_must_be_there_and_hold_certificates() {
    let world = classic();
    let none = world.write("none.pem", b"nothing").display().to_string();
    assert_eq!(
        world.yaml(&format!("s3: {{ca: {none}}}")).errors(),
        ["s3.ca: DIR/none.pem holds no PEM certificate"]
    );
    assert_eq!(
        errors("s3: {ca: /nonexistent/ca}"),
        ["s3.ca: cannot read /nonexistent/ca: No such file or directory (os error 2)"]
    );
}

#[test]
fn a_region_that_looks_mistyped_is_warned_of_with_the_host_that_it_gives() {
    let warnings = |s3: &str| {
        let yaml =
            format!("admin: off\nlisten: [{{addr: '0.0.0.0:1'}}]\ns3: {{bucket: firmware, {s3}}}");
        world().yaml(&yaml).load().warnings
    };
    assert_eq!(
        warnings("region: eu-wset-1"),
        [
            "s3.region: eu-wset-1 gives the host firmware.s3.eu-wset-1.amazonaws.com; did you mean eu-west-1?"
        ]
    );
    assert_eq!(warnings("region: eu-west-1a").len(), 1);
    assert_eq!(warnings("region: eu-west-1"), Vec::<String>::new());
    assert_eq!(warnings("region: eu-wset-1, endpoint: 'https://a.example'"), Vec::<String>::new());
}
