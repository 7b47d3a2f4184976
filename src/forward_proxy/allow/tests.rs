//! The whole table of names: what passes, and what is made to look like it.

use super::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

fn target(text: &str) -> Target {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn check(rules: &Rules, host: &str) -> Result<TargetKind, Denied> {
    rules.check(&target(&format!("{host}:443")))
}

/// Every form of a host that SHAPES holds, with a region of that partition.
const SHAPES: [&str; 20] = [
    "s3.R.D",
    "b.s3.R.D",
    "s3-fips.R.D",
    "b.s3-fips.R.D",
    "s3.dualstack.R.D",
    "b.s3.dualstack.R.D",
    "s3-fips.dualstack.R.D",
    "b.s3-fips.dualstack.R.D",
    "ap-1.s3-accesspoint.R.D",
    "ap-1.s3-accesspoint-fips.R.D",
    "ap-1.s3-accesspoint.dualstack.R.D",
    "ap-1.s3-accesspoint-fips.dualstack.R.D",
    "s3express-usw2-az1.R.D",
    "b--usw2-az1--x-s3.s3express-usw2-az1.R.D",
    "s3express-use1-az4.dualstack.R.D",
    "b--use1-az4--x-s3.s3express-use1-az4.dualstack.R.D",
    "my.dotted.bucket.s3.R.D",
    "s3.s3.R.D",
    "amazonaws.com.s3.R.D",
    "s3.us-east-1.s3.R.D",
];

fn shaped(shape: &str, region: &str, domain: &str) -> String {
    shape.replace('R', region).replace('D', domain)
}

#[test]
fn every_form_of_s3s_names_passes_in_every_partition() {
    let rules = Rules::default();
    for shape in SHAPES {
        for region in ["us-east-1", "ap-southeast-2", "us-gov-west-1", "us-iso-east-1"] {
            let host = shaped(shape, region, "amazonaws.com");
            assert_eq!(check(&rules, &host), Ok(TargetKind::S3), "{host}");
            let host = shaped(shape, region, "amazonaws.com.cn");
            assert_eq!(check(&rules, &host), Err(Denied::Host), "{host}");
        }
        let host = shaped(shape, "cn-north-1", "amazonaws.com.cn");
        assert_eq!(check(&rules, &host), Ok(TargetKind::S3), "{host}");
        let host = shaped(shape, "cn-north-1", "amazonaws.com");
        assert_eq!(check(&rules, &host), Err(Denied::Host), "{host}");
    }
    for host in [
        "s3.amazonaws.com",
        "b.s3.amazonaws.com",
        "my.dotted.bucket.s3.amazonaws.com",
        "b.s3-accelerate.amazonaws.com",
        "b.s3-accelerate.dualstack.amazonaws.com",
    ] {
        assert_eq!(check(&rules, host), Ok(TargetKind::S3), "{host}");
    }
}

#[test]
fn what_only_looks_like_s3_does_not() {
    let rules = Rules { credentials: false, ..Rules::default() };
    for host in [
        "example.com",
        "amazonaws.com",
        "www.amazonaws.com",
        // Anybody can have hosts like these.
        "ec2-192-0-2-1.compute-1.amazonaws.com",
        "ec2-192-0-2-1.us-west-2.compute.amazonaws.com",
        "s3.us-east-1.elb.amazonaws.com",
        "s3-1234.us-east-1.elb.amazonaws.com",
        "abc.execute-api.us-east-1.amazonaws.com",
        "db.rds.us-east-1.amazonaws.com",
        "s3.abc.cloudfront.net",
        // Other services.
        "sqs.us-east-1.amazonaws.com",
        "sts.us-east-1.amazonaws.com",
        "s3-control.us-east-1.amazonaws.com",
        "123.s3-control.us-east-1.amazonaws.com",
        "b.s3-website.us-east-1.amazonaws.com",
        "b.s3-website-us-east-1.amazonaws.com",
        "s3-object-lambda.us-east-1.amazonaws.com",
        "op.s3-outposts.us-east-1.amazonaws.com",
        "s3express-control.us-east-1.amazonaws.com",
        "ap.accesspoint.s3-global.amazonaws.com",
        "bucket.vpce-1a2b-3c.s3.us-east-1.vpce.amazonaws.com",
        // Parts that are missing or one too many.
        "s3-accelerate.amazonaws.com",
        "s3-accelerate.dualstack.amazonaws.com",
        "s3-accesspoint.us-east-1.amazonaws.com",
        "s3.dualstack.amazonaws.com",
        "s3.dualstack.dualstack.us-east-1.amazonaws.com",
        "dualstack.us-east-1.amazonaws.com",
        "us-east-1.amazonaws.com",
        "s3-fips.amazonaws.com",
        "s3.amazonaws.com.cn",
        "b.s3-accelerate.amazonaws.com.cn",
        "s3-us-west-2.amazonaws.com",
        "s3.us-east.amazonaws.com",
        "s3.us-east-1a.amazonaws.com",
        "s3.east-1.amazonaws.com",
        "s3.us--east-1.amazonaws.com",
        "s3express-.us-east-1.amazonaws.com",
        "s3express-az1.us-east-1.amazonaws.com",
        "s3express-use1-az.us-east-1.amazonaws.com",
        "xs3.us-east-1.amazonaws.com",
        "s3x.us-east-1.amazonaws.com",
        // Something around the whole.
        "s3.us-east-1.amazonaws.com.example.com",
        "s3.us-east-1.amazonaws.com.cn.example.com",
        "s3.us-east-1.notamazonaws.com",
        "s3.us-east-1.amazonaws.org",
        "s3.us-east-1.amazonaws.com.co",
    ] {
        assert_eq!(check(&rules, host), Err(Denied::Host), "{host}");
    }
    let long = format!("{}.{}.s3.us-east-1.amazonaws.com", "a".repeat(40), "b".repeat(40));
    assert_eq!(check(&rules, &long), Err(Denied::Host), "no bucket's name is as long");
}

#[test]
fn other_ports_are_told_apart_from_other_hosts() {
    let rules = Rules::default();
    for port in [80, 22, 8443, 65535] {
        let at = |host: &str| rules.check(&Target { host: host.into(), port });
        assert_eq!(at("b.s3.us-east-1.amazonaws.com"), Err(Denied::Port));
        assert_eq!(at("sts.us-east-1.amazonaws.com"), Err(Denied::Port));
        assert_eq!(at("example.com"), Err(Denied::Host));
    }
}

#[test]
fn hosts_of_credentials_pass_unless_switched_off() {
    let off = Rules { credentials: false, ..Rules::default() };
    for host in [
        "sts.amazonaws.com",
        "sts.ap-southeast-2.amazonaws.com",
        "sts-fips.us-east-1.amazonaws.com",
        "sts.us-east-1.api.aws",
        "sts.cn-north-1.amazonaws.com.cn",
        "portal.sso.eu-west-1.amazonaws.com",
        "portal.sso.eu-west-1.api.aws",
        "portal.sso.cn-north-1.amazonaws.com.cn",
        "oidc.eu-west-1.amazonaws.com",
        "oidc-fips.us-gov-west-1.amazonaws.com",
        "oidc.cn-north-1.api.amazonwebservices.com.cn",
        "signin.us-east-1.api.aws",
        "us-east-1.signin.aws.amazon.com",
        "us-east-1.oauth.signin.aws",
    ] {
        assert_eq!(check(&Rules::default(), host), Ok(TargetKind::Credentials), "{host}");
        assert_eq!(check(&off, host), Err(Denied::Host), "{host}");
    }
    for host in [
        "sts.us-east-1.elb.amazonaws.com",
        "x.sts.us-east-1.amazonaws.com",
        "sso.us-east-1.amazonaws.com",
        "portal.sso.amazonaws.com",
        "oidc.amazonaws.com",
        "sts.cn-north-1.amazonaws.com",
        "sts.us-east-1.amazonaws.com.cn",
        "evil.signin.aws.amazon.com",
        "signin.aws.amazon.com",
        "sts.us-east-1.api.aws.example.com",
        "s3.us-east-1.api.aws",
    ] {
        assert_eq!(check(&Rules::default(), host), Err(Denied::Host), "{host}");
    }
}

#[test]
fn a_list_of_buckets_sees_virtual_hosted_names_alone() {
    let buckets = Some(vec!["photos".to_owned(), "my.dotted".to_owned()]);
    let rules = Rules { buckets, ..Rules::default() };
    for host in ["photos.s3.us-east-1.amazonaws.com", "my.dotted.s3.amazonaws.com"] {
        assert_eq!(check(&rules, host), Ok(TargetKind::S3), "{host}");
    }
    for host in ["other.s3.us-east-1.amazonaws.com", "x.photos.s3.amazonaws.com"] {
        assert_eq!(check(&rules, host), Err(Denied::Bucket), "{host}");
    }
    assert_eq!(check(&rules, "s3.us-east-1.amazonaws.com"), Err(Denied::NoBucket));
    assert_eq!(check(&rules, "sts.us-east-1.amazonaws.com"), Ok(TargetKind::Credentials));
}

#[test]
fn further_endpoints_are_exact_or_below_a_suffix_port_included() {
    let endpoints = ["minio.example.net:9000", "*.r2.cloudflarestorage.com:443", "MinIO.lan.:443"];
    let endpoints = endpoints.map(|text| text.parse().unwrap()).to_vec();
    let rules = Rules { endpoints, ..Rules::default() };
    for (text, verdict) in [
        ("minio.example.net:9000", Ok(TargetKind::Named)),
        ("minio.example.net:443", Err(Denied::Host)),
        ("x.minio.example.net:9000", Err(Denied::Host)),
        ("MINIO.LAN:443", Ok(TargetKind::Named)),
        ("abc.r2.cloudflarestorage.com:443", Ok(TargetKind::Suffix)),
        ("b.abc.r2.cloudflarestorage.com:443", Ok(TargetKind::Suffix)),
        ("r2.cloudflarestorage.com:443", Err(Denied::Host)),
        ("evilr2.cloudflarestorage.com:443", Err(Denied::Host)),
        ("abc.r2.cloudflarestorage.com:8443", Err(Denied::Host)),
    ] {
        assert_eq!(rules.check(&target(text)), verdict, "{text}");
    }
}

#[test]
fn endpoints_that_admit_strangers_are_refused() {
    let parse = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string());
    for text in [
        "*.com:443",
        "*.amazonaws.com:443",
        "*.amazonaws.com.cn:443",
        "*.us-east-1.amazonaws.com:443",
        "*.com.cn:443",
        "*.api.aws:443",
    ] {
        assert_eq!(parse(text), Err(EndpointError::TooWide), "{text}");
    }
    for text in ["10.0.0.1:9000", "[::1]:9000", "*.0.0.1:9000"] {
        assert_eq!(parse(text), Err(EndpointError::IpLiteral), "{text}");
    }
    for text in ["", "*", "*:443", "minio", "minio:", "a b:1", "*.*.a.b:443", "a.*.b:443", "a:0"] {
        assert_eq!(parse(text), Err(EndpointError::Malformed), "{text}");
    }
    for text in ["*.s3.us-east-1.vpce.amazonaws.com:443", "*.b.s3.amazonaws.com:443", "minio:9000"]
    {
        assert_eq!(parse(text).as_deref(), Ok(text));
    }
}

#[test]
fn targets_are_a_name_and_a_port() {
    for (text, host, port) in [
        ("b.s3.amazonaws.com:443", "b.s3.amazonaws.com", 443),
        ("B.S3.AmazonAWS.com.:443", "b.s3.amazonaws.com", 443),
        ("a_b:1", "a_b", 1),
    ] {
        assert_eq!(target(text), Target { host: host.into(), port });
    }
    for text in [
        "127.0.0.1:443",
        "127.1:443",
        "0x7f.1:443",
        "0x7f000001:443",
        "2130706433:443",
        "169.254.169.254:80",
        "0177.0.0.1:443",
        "127.0.0.1.:443",
        "[::1]:443",
        "[::ffff:127.0.0.1]:443",
        "::1:443",
        "[fe80::1%25eth0]:443",
    ] {
        assert_eq!(text.parse::<Target>(), Err(TargetError::IpLiteral), "{text}");
    }
    let long = format!("{}a:443", "a.".repeat(127));
    for text in [
        "",
        ":",
        ":443",
        "a",
        "a:",
        "a:+1",
        "a:-1",
        "a:65536",
        "a:0",
        "a:1x",
        "a..b:443",
        ".a:443",
        "a b:443",
        "a@b:443",
        "a/b:443",
        "é.s3.amazonaws.com:443",
        "a..:443",
        "*.a:443",
        "a%2e:443",
        "a\0:443",
        "https://s3.amazonaws.com/:443",
        &long,
    ] {
        assert_eq!(text.parse::<Target>(), Err(TargetError::Malformed), "{text}");
    }
}

/// Labels that hosts of Amazon are made of, and some that they are not.
const LABELS: [&str; 14] = [
    "s3",
    "sts",
    "bucket",
    "dualstack",
    "s3-accelerate",
    "us-east-1",
    "cn-north-1",
    "amazonaws",
    "xamazonaws",
    "api",
    "aws",
    "com",
    "cn",
    "example",
];

/// Hosts made of [`LABELS`], every second one below a domain of Amazon's, so that many pass.
fn hosts() -> impl Strategy<Value = String> {
    let labels = proptest::collection::vec(proptest::sample::select(&LABELS[..]), 1..6);
    let domain = proptest::sample::select(&["", ".amazonaws.com", "", ".amazonaws.com.cn"][..]);
    (labels, domain).prop_map(|(labels, domain)| labels.join(".") + domain)
}

#[test]
fn nothing_outside_amazons_domains_is_s3() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (rules, mut passed) = (Rules::default(), 0);
    for _ in 0..5000 {
        let host = hosts().new_tree(&mut runner).unwrap().current();
        if check(&rules, &host).is_ok() {
            let domains = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"];
            assert!(domains.iter().any(|domain| host.ends_with(domain)), "{host}");
            passed += 1;
        }
    }
    assert!(passed > 20, "only {passed} of the hosts passed");
}

proptest! {
    #[test]
    fn no_target_panics(text in ".{0,80}") {
        if let Ok(target) = text.parse::<Target>() {
            prop_assert_eq!(target.to_string().parse(), Ok(target.clone()));
            let _ = Rules::default().check(&target);
        }
        let _ = text.parse::<Endpoint>();
    }
}
