//! Any ClientHello: what the RFCs demand of a server that gets it, case by case, and whether
//! dripline does that. `hello.py` is the client.

use std::fmt::Write;

use dripline::demo::origin::OriginOptions;
use serde_json::{Value, json};

use super::programs::{built, filter, source};
use super::{body, dripline, origin};

/// Bytes of the object: a few records at the cap, many at 64.
const OBJECT: usize = 20_000;

/// dripline's cap in these cases.
const CAP: usize = 4096;

const MFL: u16 = 1;
const RSL: u16 = 28;

/// illegal_parameter (RFC 8446 §6.2).
const ILLEGAL: u8 = 47;

/// decode_error.
const DECODE: u8 = 50;

const TLS12: &str = "1.2";
const TLS13: &str = "1.3";
const EITHER: &str = "both";

/// One ClientHello and what has to come of it.
pub struct Case {
    offer: &'static str,
    /// What it offers: 1.2, 1.3 or both.
    tls: &'static str,
    extensions: Vec<(u16, &'static str)>,
    retry: bool,
    fragment: usize,
    /// The RFC's words, shortened, and what dripline does otherwise if it does.
    demand: &'static str,
    expect: Expect,
}

enum Expect {
    /// The handshake fails with one of these alerts.
    Alert(&'static [u8]),
    /// The body comes whole, in this version, in records of at most so many bytes, the handshake's
    /// included.
    Records { version: &'static str, at_most: usize, mfl: Echo, rsl: bool },
}

/// The answer to max_fragment_length.
enum Echo {
    None,
    Exact(&'static str),
    /// Allowed by RFC 8446 §4.2, and some clients do not bear it.
    Perhaps(&'static str),
}

impl Case {
    fn new(
        offer: &'static str,
        tls: &'static str,
        extensions: &[(u16, &'static str)],
        demand: &'static str,
        expect: Expect,
    ) -> Self {
        let extensions = extensions.to_vec();
        Self { offer, tls, extensions, retry: false, fragment: 0, demand, expect }
    }

    fn retried(self) -> Self {
        Self { retry: true, ..self }
    }

    fn fragmented(self, fragment: usize) -> Self {
        Self { fragment, ..self }
    }

    fn name(&self) -> String {
        let values: Vec<_> = self.extensions.iter().map(|(_, data)| *data).collect();
        let mut name = format!("{} {:?} in TLS {}", self.offer, values, self.tls);
        if self.retry {
            name += ", after a HelloRetryRequest";
        }
        if self.fragment > 0 {
            write!(name, ", in records of {}", self.fragment).unwrap();
        }
        name
    }

    fn line(&self) -> Value {
        json!({
            "case": self.name(),
            "tls": self.tls,
            "extensions": self.extensions,
            "retry": self.retry,
            "fragment": self.fragment,
        })
    }

    /// What is wrong with the answer, if anything.
    fn judge(&self, answer: &Value) -> Result<(), String> {
        let extension = |kind: u16| answer["extensions"][kind.to_string()].as_str();
        match &self.expect {
            Expect::Alert(alerts) => match answer["alert"].as_u64() {
                Some(alert) if alerts.iter().any(|wanted| u64::from(*wanted) == alert) => Ok(()),
                _ => Err(format!("no alert {alerts:?}")),
            },
            Expect::Records { version, at_most, mfl, rsl } => {
                let largest = |what: &str| answer["largest"][what].as_u64().unwrap() as usize;
                let largest = largest("handshake").max(largest("application"));
                let echoed = match mfl {
                    Echo::None => extension(MFL).is_none(),
                    Echo::Exact(wanted) => extension(MFL) == Some(*wanted),
                    Echo::Perhaps(wanted) => extension(MFL).is_none_or(|got| got == *wanted),
                };
                if answer["body"] != OBJECT {
                    Err("no body".into())
                } else if answer["version"] != *version {
                    Err(format!("not in TLS {version}"))
                } else if largest > *at_most {
                    Err(format!("a record of {largest} bytes, not {at_most} at most"))
                } else if !echoed {
                    Err("max_fragment_length is answered wrongly".into())
                } else if !self.limit_is_answered(extension(RSL), *rsl) {
                    Err("record_size_limit is answered wrongly".into())
                } else if answer["retried"] != self.retry {
                    Err("HelloRetryRequest".into())
                } else {
                    Ok(())
                }
            }
        }
    }

    /// Not unasked, and within 64 and the version's largest (RFC 8449 §4).
    fn limit_is_answered(&self, answer: Option<&str>, wanted: bool) -> bool {
        let limit = answer.map(|hex| u32::from_str_radix(hex, 16).unwrap());
        let largest = if self.tls == TLS12 { 16_384 } else { 16_385 };
        match limit {
            Some(limit) => wanted && (64..=largest).contains(&limit),
            None => !wanted,
        }
    }
}

/// Runs all cases against one dripline and fails with the list of those that went wrong.
pub async fn assert_all(cases: Vec<Case>) {
    let origin = origin(OriginOptions::default(), &body(OBJECT)).await;
    let dripline = dripline(&origin, CAP).start().await;
    let (script, port) = (source("hello.py"), dripline.https.port().to_string());
    let input: String = cases.iter().map(|case| format!("{}\n", case.line())).collect();
    let args = [script.to_str().unwrap(), "localhost", &port, "/file/fw.bin"];
    let outcome = filter(built("python/bin/python"), &args, input).await;
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let text = String::from_utf8(outcome.stdout).unwrap();
    let answers: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), cases.len(), "{}", outcome.stderr);
    let mut wrong = String::new();
    for (case, answer) in cases.iter().zip(&answers) {
        if let Err(reason) = case.judge(answer) {
            let (name, demand) = (case.name(), case.demand);
            writeln!(wrong, "{name}: {reason}\n  demanded: {demand}\n  got: {answer}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "of {} cases:\n{wrong}", cases.len());
}

/// Nothing offered, and ClientHellos in pieces.
fn plain() -> Vec<Case> {
    let none = |tls, version| {
        let expect = Expect::Records { version, at_most: CAP, mfl: Echo::None, rsl: false };
        Case::new("nothing", tls, &[], "RFC 8446 4.2: no answer to what was not offered", expect)
    };
    let pieces = |tls, version| {
        let expect = Expect::Records { version, at_most: CAP, mfl: Echo::None, rsl: false };
        let demand = "RFC 8446 5.1, RFC 5246 6.2.1: a message may be cut into several records";
        Case::new("nothing", tls, &[], demand, expect)
    };
    vec![
        none(TLS12, TLS12),
        none(TLS13, TLS13),
        none(EITHER, TLS13),
        none(TLS13, TLS13).retried(),
        pieces(TLS12, TLS12).fragmented(1),
        pieces(TLS13, TLS13).fragmented(40),
        pieces(TLS13, TLS13).fragmented(40).retried(),
    ]
}

/// max_fragment_length (RFC 6066 §4).
fn max_fragment_length() -> Vec<Case> {
    let mut cases = Vec::new();
    for (code, bytes) in [("01", 512), ("02", 1024), ("03", 2048), ("04", 4096)] {
        let demand = "RFC 6066 4: the same value back, and at once no larger fragment, the \
                      handshake's included";
        let mfl = Echo::Exact(code);
        let expect = Expect::Records { version: TLS12, at_most: bytes, mfl, rsl: false };
        cases.push(Case::new("max_fragment_length", TLS12, &[(MFL, code)], demand, expect));
        let demand = "RFC 6066 4 and RFC 8446 4.2: the same, and an answer goes into \
                      EncryptedExtensions";
        let mfl = Echo::Perhaps(code);
        let expect = Expect::Records { version: TLS13, at_most: bytes, mfl, rsl: false };
        cases.push(Case::new("max_fragment_length", TLS13, &[(MFL, code)], demand, expect));
    }
    for tls in [TLS12, TLS13] {
        for code in ["00", "05", "ff"] {
            let demand = "RFC 6066 4: any other value is answered with illegal_parameter";
            let expect = Expect::Alert(&[ILLEGAL]);
            cases.push(Case::new("max_fragment_length", tls, &[(MFL, code)], demand, expect));
        }
        for code in ["", "0101"] {
            let demand = "RFC 8446 6.2, RFC 5246 7.2.2: decode_error for a wrong length";
            let expect = Expect::Alert(&[DECODE]);
            cases.push(Case::new("max_fragment_length", tls, &[(MFL, code)], demand, expect));
        }
        let twice = [(MFL, "01"), (MFL, "01")];
        let demand = "RFC 8446 4.2, RFC 5246 7.4.1.4: not more than one of the same type";
        let expect = Expect::Alert(&[ILLEGAL, DECODE]);
        cases.push(Case::new("max_fragment_length twice", tls, &twice, demand, expect));
    }
    cases
}

/// A client with both versions that offers max_fragment_length.
fn steering() -> Vec<Case> {
    let demand = "none; mbedTLS 3.6 does not bear the answer in TLS 1.3, so TLS 1.2 is chosen";
    [("01", 512), ("04", 4096)]
        .map(|(code, at_most)| {
            let mfl = Echo::Exact(code);
            let expect = Expect::Records { version: TLS12, at_most, mfl, rsl: false };
            Case::new("max_fragment_length", EITHER, &[(MFL, code)], demand, expect)
        })
        .into()
}

/// record_size_limit (RFC 8449).
fn record_size_limit() -> Vec<Case> {
    let mut cases = Vec::new();
    for tls in [TLS12, TLS13] {
        for value in ["0000", "003f"] {
            let demand = "RFC 8449 4: below 64 is a fatal error, illegal_parameter";
            let expect = Expect::Alert(&[ILLEGAL]);
            cases.push(Case::new("record_size_limit", tls, &[(RSL, value)], demand, expect));
        }
        for (value, bytes) in [("0040", 64), ("01ff", 511), ("0200", 512)] {
            let demand = "RFC 8449 4: no larger record; in TLS 1.3 the content type counts";
            let at_most = if tls == TLS13 { bytes - 1 } else { bytes };
            let expect = Expect::Records { version: tls, at_most, mfl: Echo::None, rsl: true };
            cases.push(Case::new("record_size_limit", tls, &[(RSL, value)], demand, expect));
        }
        for value in ["4001", "ffff"] {
            let demand = "RFC 8449 4: a server must not mind a value above the protocol's maximum";
            let expect = Expect::Records { version: tls, at_most: CAP, mfl: Echo::None, rsl: true };
            cases.push(Case::new("record_size_limit", tls, &[(RSL, value)], demand, expect));
        }
        for value in ["", "40", "004000"] {
            let demand = "RFC 8446 6.2, RFC 5246 7.2.2: decode_error for a wrong length";
            let expect = Expect::Alert(&[DECODE]);
            cases.push(Case::new("record_size_limit", tls, &[(RSL, value)], demand, expect));
        }
        let twice = [(RSL, "0200"), (RSL, "0200")];
        let demand = "RFC 8446 4.2, RFC 5246 7.4.1.4: not more than one of the same type";
        let expect = Expect::Alert(&[ILLEGAL, DECODE]);
        cases.push(Case::new("record_size_limit twice", tls, &twice, demand, expect));
    }
    let expect = Expect::Records { version: TLS13, at_most: 511, mfl: Echo::None, rsl: true };
    let demand = "RFC 8449 4: as without";
    cases.push(Case::new("record_size_limit", EITHER, &[(RSL, "0200")], demand, expect));
    let retried = |value, expect| {
        Case::new("record_size_limit", TLS13, &[(RSL, value)], "RFC 8449 4: as without", expect)
            .retried()
    };
    let expect = Expect::Records { version: TLS13, at_most: 599, mfl: Echo::None, rsl: true };
    cases.push(retried("0258", expect));
    cases.push(retried("003f", Expect::Alert(&[ILLEGAL])));
    cases
}

/// Both extensions.
fn both() -> Vec<Case> {
    let demand = "RFC 8449 5: max_fragment_length is to be ignored; deviation: the smaller is \
                  obeyed and max_fragment_length answered, alone";
    let mut cases = Vec::new();
    for (code, mfl, value, rsl) in [("01", 512, "0400", 1024), ("03", 2048, "0258", 600)] {
        let offer = [(MFL, code), (RSL, value)];
        let expect = |version, at_most, mfl| Expect::Records { version, at_most, mfl, rsl: false };
        let name = "both extensions";
        let (echo, may) = (Echo::Exact(code), Echo::Perhaps(code));
        cases.push(Case::new(name, TLS12, &offer, demand, expect(TLS12, mfl.min(rsl), echo)));
        cases.push(Case::new(name, TLS13, &offer, demand, expect(TLS13, mfl.min(rsl - 1), may)));
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hello_without_a_wish_and_one_in_pieces() {
    assert_all(plain()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_fragment_length_of_any_value() {
    assert_all(max_fragment_length()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_fragment_length_is_served_in_tls_1_2() {
    assert_all(steering()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn record_size_limit_of_any_value() {
    assert_all(record_size_limit()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_extensions_at_once() {
    assert_all(both()).await;
}
