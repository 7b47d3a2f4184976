//! Who may touch the spool, case by case; and that no two objects ever share a name.

use proptest::prelude::*;

use super::*;

const V4: &str = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20250101%2Fus-east-1%2Fs3%2Faws4_request\
                  &X-Amz-Date=20250101T000000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host&X-Amz-Signature=c0ffee";
const V2: &str = "AWSAccessKeyId=AKIA&Signature=a%2Fb%3D&Expires=1735689600";

fn key(bytes: &str) -> ObjectKey<'_> {
    ObjectKey::new(bytes.as_bytes()).expect("a key")
}

fn headers(names: &[&'static str]) -> HeaderMap {
    names
        .iter()
        .map(|name| (HeaderName::from_static(name), "secret".parse().expect("a value")))
        .collect()
}

fn get(query: &str) -> Result<ObjectName, Bypass> {
    admit(&Method::GET, &key("a"), Some(query.as_bytes()), &HeaderMap::new())
}

fn name(key_bytes: &str, query: &str) -> ObjectName {
    let query = (!query.is_empty()).then_some(query.as_bytes());
    admit(&Method::GET, &key(key_bytes), query, &HeaderMap::new()).expect("admitted")
}

#[test]
fn what_may_touch_the_spool() {
    let plain = name("a", "");
    assert_eq!(admit(&Method::HEAD, &key("a"), None, &HeaderMap::new()), Ok(plain.clone()));
    for query in [
        V4,
        V2,
        "x-id=GetObject",
        "%78-id=GetObject",
        // S3 refuses these; that is its part.
        "X-Amz-SignedHeaders=host",
        "Signature=a",
        "AWSAccessKeyId=&Expires=&Signature=",
        &format!("{V4}&X-Amz-Security-Token=a%2Bb&x-id=GetObject"),
        &format!("{V4}&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD"),
        &format!("x-amz-security-token=a+b/c=&{V2}"),
        &V4.replace("SignedHeaders=host", "SignedHeaders=%68ost"),
        &V4.replace("X-Amz-", "X%2DAmz%2d"),
    ] {
        assert_eq!(get(query), Ok(plain.clone()), "{query}");
    }
    for query in [
        "versionId=null",
        "version%49d=",
        "response-cache-control=no-cache",
        "response-content-disposition=attachment%3B%20filename=%22a?b%22",
        "response-content-encoding=gzip",
        "response-content-language=en,de",
        "response-content-type=text/plain",
        "response-expires=Thu,%2001%20Dec%202033%2016:00:00%20GMT",
    ] {
        assert_ne!(get(query).expect(query), plain, "{query}");
        assert_eq!(get(&format!("{V4}&{query}")), get(query), "{query}");
        assert_eq!(get(&format!("{query}&{V2}")), get(query), "{query}");
    }
}

#[test]
fn other_methods_go_direct() {
    for method in [Method::PUT, Method::POST, Method::DELETE, Method::OPTIONS] {
        let refused = admit(&method, &key("a"), None, &HeaderMap::new());
        assert_eq!(refused, Err(Bypass::Method));
    }
}

#[test]
fn other_parameters_go_direct() {
    for other in [
        "acl",
        "attributes",
        "tagging",
        "torrent",
        "legal-hold",
        "partNumber",
        "uploadId",
        "list-type",
        "X-Amz-Region-Set",
        "x-amz-checksum-mode",
        // S3 tells these from the ones in KNOWN, or might not.
        "versionid",
        "VersionId",
        "x-amz-signature",
        "X-Amz-Signedheaders",
        "X-AMZ-SECURITY-TOKEN",
        "signature",
        "Response-Content-Type",
        "response-content-length",
        "X-Id",
    ] {
        let unknown = Bypass::Parameter(Some(other.into()));
        assert_eq!(unknown.as_str(), "query");
        for query in [other.to_owned(), format!("{other}=1"), format!("{V4}&{other}=1&{V4}")] {
            assert_eq!(get(&query), Err(unknown.clone()), "{query}");
        }
    }
    for hidden in ["+x-id=GetObject", "versionId%00=1", "versionId+=1", "a%20b=1", "\u{e9}=1"] {
        assert_eq!(get(hidden), Err(Bypass::Parameter(None)), "{hidden}");
    }
    let customer = "x-amz-server-side-encryption-customer-key=c0ffee";
    assert_eq!(get(customer), Err(Bypass::Parameter(None)));
}

#[test]
fn parameters_without_a_proper_value_go_direct() {
    for (known, _) in KNOWN {
        for query in [known.to_owned(), format!("{known}=%"), format!("{known}=%4&x-id=GetObject")]
        {
            assert_eq!(get(&query), Err(Bypass::Value(known)), "{query}");
        }
    }
    for id in ["", "HeadObject", "getobject", "GetObject%20", "Get%4Fbject", "GetObjectTagging"] {
        assert_eq!(get(&format!("x-id={id}")), Err(Bypass::Value("x-id")), "{id}");
    }
    let signed = get("X-Amz-Content-Sha256=e3b0c442");
    assert_eq!(signed, Err(Bypass::Value("X-Amz-Content-Sha256")));
    assert_eq!(Bypass::Value("x-id").as_str(), "query");
}

#[test]
fn a_query_with_two_readings_goes_direct() {
    for query in [
        "",
        "&",
        "=",
        "=1",
        "&versionId=1",
        "versionId=1&",
        "versionId=1&&x-id=GetObject",
        "versionId=1&=2",
        "version%4=1",
        "version%=1",
        "%zz=1",
        "%%41=1",
        "versionId=1;response-content-type=a",
        "X-Amz-Signature=0;versionId=1",
        "versionId=1#",
        "versionId=1 2",
        "versionId=1\r\n",
    ] {
        assert_eq!(get(query), Err(Bypass::Malformed), "{query}");
    }
    assert_eq!(Bypass::Malformed.as_str(), "query");
    for query in [format!("{V4}&Expires=1"), format!("{V2}&X-Amz-Date=20250101T000000Z")] {
        assert_eq!(get(&query), Err(Bypass::MixedSignatures), "{query}");
    }
    assert_eq!(Bypass::MixedSignatures.as_str(), "query");
}

#[test]
fn no_parameter_may_come_twice() {
    for (known, _) in KNOWN {
        let value = match known {
            "x-id" => "GetObject",
            "X-Amz-Content-Sha256" => "UNSIGNED-PAYLOAD",
            _ => "host",
        };
        let escaped = format!("%{:02x}{}", known.as_bytes()[0], &known[1..]);
        for again in [known, &escaped] {
            let query = format!("{known}={value}&{again}={value}");
            assert_eq!(get(&query), Err(Bypass::Repeated(known)), "{query}");
        }
    }
    assert_eq!(Bypass::Repeated("x-id").as_str(), "repeated");
}

#[test]
fn a_signature_over_more_than_the_host_goes_direct() {
    for names in [
        "",
        "HOST",
        "host%3B",
        "host%3Brange",
        "range",
        "host%3Bx-amz-server-side-encryption-customer-key",
        "host%2C",
        "%20host",
        "host+",
        "%2568ost",
    ] {
        let query = V4.replace("SignedHeaders=host", &format!("SignedHeaders={names}"));
        assert_eq!(get(&query), Err(Bypass::SignedHeaders), "{names}");
    }
    let silent = V4.replace("&X-Amz-SignedHeaders=host", "");
    assert_eq!(get(&silent), Err(Bypass::SignedHeaders));
    assert_eq!(Bypass::SignedHeaders.as_str(), "signed_headers");
}

#[test]
fn headers_that_keep_a_request_out() {
    let with = |query: Option<&str>, names: &[&'static str]| {
        admit(&Method::GET, &key("a"), query.map(str::as_bytes), &headers(names))
    };
    let harmless = [
        "host",
        "range",
        "if-range",
        "if-match",
        "if-none-match",
        "if-modified-since",
        "if-unmodified-since",
        "user-agent",
        "accept",
        "cookie",
        "date",
        "x-amz",
        "x-amzn-trace-id",
        "content-type",
    ];
    for query in [None, Some(V4)] {
        assert_eq!(with(query, &harmless), Ok(name("a", "")));
        assert_eq!(with(query, &["range", "authorization"]), Err(Bypass::Authorization));
        for sse_c in [
            "x-amz-server-side-encryption-customer-algorithm",
            "x-amz-server-side-encryption-customer-key",
            "x-amz-server-side-encryption-customer-key-md5",
        ] {
            let refused = Bypass::SseC(HeaderName::from_static(sse_c));
            assert_eq!(refused.as_str(), "sse_c");
            assert_eq!(with(query, &["x-amz-date", sse_c]), Err(refused));
        }
        for other in [
            "x-amz-date",
            "x-amz-request-payer",
            "x-amz-expected-bucket-owner",
            "x-amz-checksum-mode",
            "x-amz-security-token",
            "x-amz-server-side-encryption",
            "x-amz-meta-a",
        ] {
            let refused = Bypass::Header(HeaderName::from_static(other));
            assert_eq!(refused.as_str(), "header");
            assert_eq!(with(query, &["range", other]), Err(refused));
        }
    }
    assert_eq!(Bypass::Authorization.as_str(), "authorization");
    // What version 2 signs without naming it.
    for covered in ["content-type", "content-md5"] {
        let refused = Bypass::Header(HeaderName::from_static(covered));
        assert_eq!(with(Some(V2), &["range", covered]), Err(refused));
    }
    assert_eq!(with(Some(V2), &["host", "range"]), Ok(name("a", "")));
}

#[test]
fn a_bypass_says_what_and_no_value() {
    for (bypass, message) in [
        (get("partNumber=c0ffee"), "the query parameter partNumber is not spooled"),
        (get("c0ffee~=1"), "the query parameter (not shown) is not spooled"),
        (get("c0ffeec0ffeec0ffeec0ffeec0ffee"), "the query parameter (not shown) is not spooled"),
        (get("x-id=c0ffee"), "the query parameter x-id has no value that is spooled"),
        (get("versionId=c0ffee&versionId=1"), "the query parameter versionId is repeated"),
        (get("X-Amz-SignedHeaders=c0ffee"), "X-Amz-SignedHeaders is not host alone"),
    ] {
        assert_eq!(bypass.expect_err("a bypass").to_string(), message);
    }
    let refused = admit(&Method::GET, &key("a"), None, &headers(&["x-amz-date"]));
    assert_eq!(refused.expect_err("a bypass").to_string(), "the request has the header x-amz-date");
}

#[test]
fn names_stay_apart_where_bytes_move_between_parts() {
    let names = [
        name("a", ""),
        name("a", "versionId="),
        name("a", "versionId=5"),
        name("aversionId5", ""),
        name("aversionId", "versionId=5"),
        name("a&versionId=5", ""),
        name("a5", "versionId="),
        name("%61", ""),
        name("a", "versionId=%35"),
        name("a", "versionId=5&response-expires="),
        name("a", "versionId=&response-expires=5"),
        name("a", "versionId=response-expires5"),
        name("a", "response-expires=versionId5"),
        name("a", "response-expires=5versionId"),
        name("a", "response-expires=a=b"),
        name("a", "response-cache-control=a&response-content-type=b"),
        name("a", "response-cache-control=b&response-content-type=a"),
        name("a", "response-cache-control=a%26response-content-type=b"),
    ];
    for (at, one) in names.iter().enumerate() {
        for other in &names[..at] {
            assert_ne!(one, other);
            assert_ne!(one.as_bytes(), other.as_bytes());
        }
    }
}

#[test]
fn a_name_is_shown_by_its_parts() {
    let shown = format!(
        "{:?}",
        name("dir/\u{e9}\u{85}", &format!("versionId=5&{V4}&response-expires=%0A"))
    );
    assert_eq!(shown, r#"ObjectName["dir/é\u{85}", "response-expires", "%0A", "versionId", "5"]"#);
}

#[test]
fn known_parameters_are_sorted_and_single() {
    assert!(KNOWN.is_sorted_by(|(one, _), (next, _)| one < next));
}

/// Seconds since 1970.
fn ends(query: &str) -> Option<u64> {
    let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    expires(Some(query.as_bytes())).map(|at| since(at).as_secs())
}

#[test]
fn a_presigned_query_ends() {
    assert_eq!(ends(V4), Some(1_735_689_600 + 3600));
    assert_eq!(ends(&format!("versionId=1&{V4}&x-id=GetObject")), Some(1_735_693_200));
    assert_eq!(ends(V2), Some(1_735_689_600));
    assert_eq!(ends(&V4.replace("Expires=3600", "Expires=%31")), Some(1_735_689_601));
    for (date, seconds) in [
        ("19700101T000000Z", 1),
        ("20000229T235959Z", 951_868_800),
        ("20240229T120000Z", 1_709_208_001),
        ("20241231T235959Z", 1_735_689_600),
        ("99991229T000000Z", 253_402_041_601),
    ] {
        let query = format!("X-Amz-Date={date}&X-Amz-Expires=1&X-Amz-Signature=0");
        assert_eq!(ends(&query), Some(seconds), "{date}");
    }
}

#[test]
fn what_cannot_be_read_has_no_end() {
    assert_eq!(expires(None), None);
    for date in [
        "",
        "2025",
        "20250101",
        "20250101T000000",
        "20250101T000000z",
        "20250101t000000Z",
        "20250101T000000+",
        "2025-01-01T00:00:00Z",
        "20250101T000000ZZ",
        "20250001T000000Z",
        "20251301T000000Z",
        "20250229T000000Z",
        "20250101T240000Z",
        "20250101T006000Z",
        "20250101T000061Z",
        "-2500101T000000Z",
        "%2B250101T000000Z",
        "2025010%D9%A1T000000Z",
        "99991231T235959Z9",
        "20250101T0000.0Z",
    ] {
        assert_eq!(ends(&V4.replace("20250101T000000Z", date)), None, "{date}");
    }
    for lasts in
        ["", "0", "604801", "-1", "%2B1", "+1", "1.5", "0x1", "18446744073709551616", "%201"]
    {
        assert_eq!(ends(&V4.replace("3600", lasts)), None, "{lasts}");
    }
    assert_eq!(ends(&V4.replace("3600", "604800")), Some(1_736_294_400));
    for epoch in [
        "",
        "-1",
        "+1",
        "1e9",
        "18446744073709551615",
        "9223372036854775808",
        "99999999999999999999",
    ] {
        assert_eq!(ends(&V2.replace("1735689600", epoch)), None, "{epoch}");
    }
    for query in [
        "",
        "versionId=1",
        "Expires=1",
        "Expires=1&Signature=0",
        "Expires=1&AWSAccessKeyId=a",
        "X-Amz-Date=20250101T000000Z&X-Amz-Expires=1",
        "X-Amz-Date=20250101T000000Z&X-Amz-Signature=0",
        "X-Amz-Expires=1&X-Amz-Signature=0",
        &format!("{V4}&X-Amz-Expires=1"),
        &format!("{V4}&partNumber=1"),
        &format!("{V4}&{V2}"),
    ] {
        assert_eq!(ends(query), None, "{query}");
    }
}

/// An object's key with the values of its parameters, by place in [`NAMED`].
type Parts = (String, [Option<String>; 7]);

const NAMED: [&str; 7] = [
    "versionId",
    "response-expires",
    "response-content-type",
    "response-content-language",
    "response-content-encoding",
    "response-content-disposition",
    "response-cache-control",
];

/// Few bytes and pieces of other parts, so that two of them often look alike.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab=/5]{0,2}",
        Just("versionId".into()),
        Just("response-expires=a".into()),
        Just("%61".into())
    ]
}

fn parts() -> impl Strategy<Value = Parts> {
    let key = (piece(), piece()).prop_map(|(one, two)| format!("k{one}{two}"));
    (key, proptest::array::uniform7(proptest::option::weighted(0.3, piece())))
}

/// Parameters of an admitted query: those of `parts`, and a signature whose values are `salt`.
fn pairs((_, values): &Parts, version_4: bool, salt: &str) -> Vec<String> {
    let named = NAMED.iter().zip(values);
    let mut pairs: Vec<_> =
        named.filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?))).collect();
    let signature = if version_4 { Part::Version4 } else { Part::Version2 };
    for (name, _) in KNOWN.iter().filter(|(_, part)| *part == signature) {
        let value = if *name == "X-Amz-SignedHeaders" { "host" } else { salt };
        pairs.push(format!("{name}={value}"));
    }
    pairs
}

fn arbitrary_query() -> impl Strategy<Value = Vec<u8>> {
    let known = (0..KNOWN.len()).prop_map(|at| KNOWN[at].0.as_bytes().to_vec());
    let bytes = proptest::collection::vec(any::<u8>(), 0..6);
    let piece = prop_oneof![
        4 => known,
        2 => bytes,
        4 => proptest::sample::select(vec![&b"="[..], b"&", b"%4", b"GetObject", b"host"]).prop_map(<[u8]>::to_vec),
        1 => "[0-9]{8}T[0-9]{6}Z".prop_map(String::into_bytes),
    ];
    proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn nothing_panics(
        query in proptest::option::of(arbitrary_query()),
        key in proptest::collection::vec(any::<u8>(), 0..40),
        header in "[a-z-]{1,20}",
    ) {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_bytes(header.as_bytes()).expect("a name"), "1".parse().expect("a value"));
        let _ = expires(query.as_deref());
        if let Some(key) = ObjectKey::new(&key) {
            match admit(&Method::GET, &key, query.as_deref(), &headers) {
                Ok(name) => drop(format!("{name:?}")),
                Err(bypass) => drop(bypass.to_string()),
            }
        }
    }

    #[test]
    fn dates_and_numbers_never_panic(
        date in "[0-9]{8}T[0-9]{6}Z",
        lasts in any::<u64>(),
        short in 1..=604_800u64,
    ) {
        let _ = ends_of(&date, lasts);
        let _ = expires(Some(V2.replace("1735689600", &lasts.to_string()).as_bytes()));
        // Whatever the date, a later end is a later end.
        if let (Some(one), Some(two)) = (ends_of(&date, 1), ends_of(&date, short)) {
            prop_assert_eq!(two.duration_since(one).expect("later").as_secs(), short - 1);
        }
    }

    #[test]
    fn neither_order_nor_signature_changes_a_name(
        parts in parts(),
        order in Just((0..14usize).collect::<Vec<_>>()).prop_shuffle(),
        salts in ("([0-9a-zA-Z/+=]|%2F){0,8}", "[0-9a-f]{0,8}"),
        version_4 in any::<bool>(),
    ) {
        let straight = name(&parts.0, &pairs(&parts, true, &salts.1).join("&"));
        let pairs = pairs(&parts, version_4, &salts.0);
        let shuffled: Vec<&str> = order.iter().filter_map(|at| Some(pairs.get(*at)?.as_str())).collect();
        prop_assert_eq!(shuffled.len(), pairs.len());
        prop_assert_eq!(&straight, &name(&parts.0, &shuffled.join("&")));

        let unsigned = |pair: &&&str| NAMED.iter().any(|name| pair.starts_with(name));
        let unsigned: Vec<&str> = shuffled.iter().filter(unsigned).copied().collect();
        prop_assert_eq!(&straight, &name(&parts.0, &unsigned.join("&")));
    }

    #[test]
    fn names_are_equal_only_if_all_parts_are(one in parts(), two in parts(), at in 0..8usize, value in piece()) {
        let named = |parts: &Parts| name(&parts.0, &pairs(parts, true, "0").join("&"));
        prop_assert_eq!(named(&one) == named(&two), one == two);

        // One part alone changed.
        let mut near = one.clone();
        match near.1.get_mut(at) {
            Some(part) if part.as_ref() == Some(&value) => *part = None,
            Some(part) => *part = Some(value),
            None => near.0.push('a'),
        }
        prop_assert_ne!(named(&one), named(&near));

        // All that went in can be read back.
        let name = named(&one);
        let mut expected = vec![one.0.clone()];
        for (name, value) in NAMED.iter().zip(&one.1).rev() {
            if let Some(value) = value
                && *name != "versionId"
            {
                expected.extend([(*name).to_owned(), value.clone()]);
            }
        }
        if let Some(version) = &one.1[0] {
            expected.extend(["versionId".to_owned(), version.clone()]);
        }
        let read: Vec<_> = name.parts().map(|part| String::from_utf8_lossy(part).into_owned()).collect();
        prop_assert_eq!(read, expected);
    }
}

fn ends_of(date: &str, lasts: u64) -> Option<SystemTime> {
    let query = format!("X-Amz-Date={date}&X-Amz-Expires={lasts}&X-Amz-Signature=0");
    expires(Some(query.as_bytes()))
}
