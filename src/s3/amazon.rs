//! The names of Amazon's S3 hosts: how they are made, and how one is recognised.
//!
//! Invariant: [`recognise`] gives back what [`host`] was made of. This file must not know buckets'
//! rules, ports or keys.

use super::settings::{EndpointError, HostKind, Region};

/// The name of Amazon's service host. The China regions are a partition of their own: another domain,
/// and neither a global nor an accelerated nor a FIPS host.
pub(super) fn host(region: Option<&Region>, kind: HostKind) -> Result<String, EndpointError> {
    let china = region.filter(|region| region.as_str().starts_with("cn-"));
    let lacking = matches!(kind, HostKind::Global | HostKind::Accelerate | HostKind::Fips);
    if let (Some(region), true) = (china, lacking) {
        return Err(EndpointError::China { kind, region: region.clone() });
    }
    let domain = if china.is_some() { "amazonaws.com.cn" } else { "amazonaws.com" };
    let region = || region.ok_or(EndpointError::RegionNeeded(kind));
    Ok(match kind {
        HostKind::Regional => format!("s3.{}.{domain}", region()?),
        HostKind::Global => format!("s3.{domain}"),
        HostKind::DualStack => format!("s3.dualstack.{}.{domain}", region()?),
        HostKind::Fips => format!("s3-fips.{}.{domain}", region()?),
        HostKind::Accelerate => format!("s3-accelerate.{domain}"),
    })
}

/// What s3.host and s3.region call a host of Amazon's; `None` for one that they cannot name.
pub(super) type Named = Option<(HostKind, Option<Region>)>;

/// The part of a host that is Amazon's S3 service, and what the settings call it; `None` if the host is
/// not Amazon's S3. Read from the right, since a bucket's name may hold anything, `s3` included.
pub(super) fn recognise(host: &str) -> Option<(&str, Named)> {
    let (stem, china) = match host.strip_suffix(".amazonaws.com.cn") {
        Some(stem) => (stem, true),
        None => (host.strip_suffix(".amazonaws.com")?, false),
    };
    let region = |code: &str| code.parse::<Region>().ok().filter(|_| looks_like_region(code));
    let labels: Vec<&str> = stem.split('.').collect();
    let (length, named) = match labels[..] {
        [.., "s3"] if !china => (1, Some((HostKind::Global, None))),
        [.., "s3-accelerate"] if !china => (1, Some((HostKind::Accelerate, None))),
        [.., "s3-accelerate", "dualstack"] if !china => (2, None),
        [.., "s3", "dualstack", code] => (3, Some((HostKind::DualStack, Some(region(code)?)))),
        [.., "s3-fips", "dualstack", code] => region(code).map(|_| (3, None))?,
        [.., "s3", code] => (2, Some((HostKind::Regional, Some(region(code)?)))),
        [.., "s3-fips", code] => (2, Some((HostKind::Fips, Some(region(code)?)))),
        // s3-us-west-2 and s3-external-1: older spellings that are still signed for.
        [.., legacy] => legacy.strip_prefix("s3-").and_then(region).map(|_| (1, None))?,
        [] => return None,
    };
    let service = labels[labels.len() - length..].join(".").len() + host.len() - stem.len();
    Some((&host[host.len() - service..], named))
}

/// `ap-southeast-2`, but not `website-us-east-1`, which serves no signed requests.
fn looks_like_region(code: &str) -> bool {
    code.contains('-')
        && code.ends_with(|c: char| c.is_ascii_digit())
        && !code.starts_with("website-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_recognised_as_what_it_was_made_of() {
        use HostKind::{Accelerate, DualStack, Fips, Global, Regional};
        let mut made = 0;
        for code in ["ap-southeast-2", "us-east-1", "us-gov-west-1", "cn-north-1", "mx-central-1"] {
            let region: Region = code.parse().expect("a region");
            for kind in [Regional, Global, DualStack, Fips, Accelerate] {
                let Ok(service) = host(Some(&region), kind) else {
                    continue;
                };
                made += 1;
                let region = (!matches!(kind, Global | Accelerate)).then(|| region.clone());
                let named = Some((kind, region));
                assert_eq!(recognise(&service), Some((&*service, named.clone())));
                for bucket in ["my-bucket", "my.bucket", "s3", "s3.us-east-1", "amazonaws.com"] {
                    let whole = format!("{bucket}.{service}");
                    assert_eq!(recognise(&whole), Some((&*service, named.clone())), "{whole}");
                }
            }
        }
        assert_eq!(made, 4 * 5 + 2);
    }

    #[test]
    fn hosts_that_no_setting_names_are_recognised_all_the_same() {
        for service in [
            "s3-us-west-2.amazonaws.com",
            "s3-external-1.amazonaws.com",
            "s3-accelerate.dualstack.amazonaws.com",
            "s3-fips.dualstack.us-east-1.amazonaws.com",
        ] {
            assert_eq!(recognise(service), Some((service, None)));
            assert_eq!(recognise(&format!("my.bucket.{service}")), Some((service, None)));
        }
    }

    #[test]
    fn other_hosts_are_not() {
        for other in [
            "amazonaws.com",
            "sqs.us-east-1.amazonaws.com",
            "b.s3-website-us-east-1.amazonaws.com",
            "s3.amazonaws.com.cn",
            "b.s3-accelerate.amazonaws.com.cn",
            "b.s3.nowhere.amazonaws.com",
            "s3.us-east-1.amazonaws.com.example",
            "s3.us-east-1.notamazonaws.com",
            "minio.example",
            "",
        ] {
            assert_eq!(recognise(other), None, "{other}");
        }
    }
}
