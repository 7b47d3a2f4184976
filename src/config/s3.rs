//! `s3`: the bucket and the host that serves it.

use std::fs;
use std::path::PathBuf;

use openssl::x509::X509;

use super::field::Field;
use super::section::Section;
use crate::s3::endpoint::{Addressing, BucketName, Endpoint, EndpointError, HostKind, Region};
use crate::s3::region_names::probably_meant;

/// The bucket, and how its host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3 {
    /// The bucket, and the host that serves it.
    pub endpoint: Endpoint,
    /// PEM certificates to trust for that host instead of the system's.
    pub ca: Option<PathBuf>,
    /// Whether a client's Authorization header is forwarded.
    pub authorization: bool,
}

/// Reads `s3`. None if it is wrong, or not there and not `needed`.
pub(super) fn s3(mut section: Section<'_>, needed: bool) -> Option<S3> {
    let reader = section.reader;
    let bucket = section.take("bucket");
    let needed = needed || bucket.is_some();
    if bucket.is_none() && needed {
        section.missing("bucket", "missing; write the bucket's name here or in S3_BUCKET");
    }
    let bucket = bucket.and_then(|field| field.parse_text::<BucketName>());
    let region_field = section.take("region");
    let region = region_field.as_ref().and_then(Field::parse_text::<Region>);
    let errors = reader.error_count();
    let host_field = section.take("host");
    let host = host_field.as_ref().and_then(Field::parse::<HostKind>).unwrap_or_default();
    let addressing = section.take("addressing").and_then(|field| field.parse::<Addressing>());
    let addressing = addressing.unwrap_or_default();
    let url_field = section.take("endpoint");
    let url = url_field.as_ref().and_then(Field::text);
    let parsed = reader.error_count() == errors;
    if let (Some(host), Some(_)) = (&host_field, &url_field) {
        host.fail("s3.endpoint names the host already; remove one of the two");
    }

    // Without a bucket or a region, or with a wrong one, another one shows whether the rest fits
    // together.
    let any_bucket = bucket.clone().or_else(|| "any-bucket".parse().ok());
    let endpoint = any_bucket.filter(|_| parsed).and_then(|any_bucket| {
        let build = |region: Option<&Region>| match &url {
            Some(url) => Endpoint::custom(url, &any_bucket, addressing),
            None => Endpoint::amazon(region, &any_bucket, host, addressing),
        };
        let mut endpoint = build(region.as_ref());
        if let Err(EndpointError::RegionNeeded(_)) = endpoint {
            if needed && region_field.is_none() {
                let missing = "missing; write the bucket's region here or in AWS_REGION";
                section.missing("region", missing);
            }
            endpoint = build("us-east-1".parse().ok().as_ref());
        }
        endpoint.map_err(|error| reader.fail(error.key(), error.to_string())).ok()
    });
    // An endpoint of another kind may have any name for its region.
    if let (Some(region), Some(endpoint), None) = (&region, &endpoint, &url)
        && let Some(meant) = probably_meant(region)
    {
        let host = endpoint.host();
        reader.warn(format!("s3.region: {region} gives the host {host}; did you mean {meant}?"));
    }
    let ca = section.take("ca").and_then(|field| ca_file(&field));
    let authorization = section.flag("authorization", false);
    section.finish(&[]);
    bucket.and(endpoint).map(|endpoint| S3 { endpoint, ca, authorization })
}

/// The path of a readable file that holds at least one PEM certificate.
fn ca_file(field: &Field<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(field.text()?);
    let pem = fs::read(&path)
        .map_err(|error| field.fail(format!("cannot read {}: {error}", path.display())))
        .ok()?;
    match X509::stack_from_pem(&pem) {
        Ok(certificates) if !certificates.is_empty() => Some(path),
        _ => {
            field.fail(format!("{} holds no PEM certificate", path.display()));
            None
        }
    }
}
