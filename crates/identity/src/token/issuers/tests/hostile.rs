//! Tokens made to be read in two ways, or to be believed for what they say of themselves.

use jsonwebtoken::{Algorithm, EncodingKey};

use super::*;

fn encode(part: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

/// A token of these very bytes, with the right signature.
fn signed(key: &SigningKey, header: &[u8], payload: &[u8]) -> String {
    let pem = key.to_pem();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let private = EncodingKey::from_ec_der(&STANDARD.decode(body).unwrap());
    let signed = format!("{}.{}", encode(header), encode(payload));
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &private, Algorithm::ES256).unwrap();
    format!("{signed}.{signature}")
}

const HEADER: &[u8] = br#"{"alg":"ES256","kid":"k1"}"#;

/// Claims of which one is written as this text.
fn claims_with(name: &str, text: &str) -> Vec<u8> {
    let mut claims = claims();
    claims[name] = "HERE".into();
    claims.to_string().replace("\"HERE\"", text).into_bytes()
}

#[test]
fn a_header_chooses_neither_the_key_nor_the_algorithm() {
    let (policy, key) = (policy(), key(SignatureAlgorithm::Es256, "k1"));
    let issuers = Issuers::new(vec![spec(&[&key])]);
    let payload = claims().to_string();
    let verify = |token: &str| reason(issuers.verify(&policy, token, at(NOW)));
    assert!(verify(&signed(&key, HEADER, payload.as_bytes())).is_ok(), "the nearest that counts");
    let jwk = key.to_jwk();
    let (not_json, no_key) =
        ("the header is not a JSON object with each member once", "the issuer has no key of this `kid`");
    let refused = |name: &str| format!("the header has `{name}`");
    let member = |name: &str| format!("`{name}` in the header is missing or not usable");
    for (name, header, want) in [
        (
            "kid that is a path",
            json!({"alg": "ES256", "kid": "../../../../dev/null"}).to_string(),
            no_key.into(),
        ),
        ("kid that is a query", json!({"alg": "ES256", "kid": "k1' OR '1'='1"}).to_string(), no_key.into()),
        ("kid with NUL", json!({"alg": "ES256", "kid": "k1\0"}).to_string(), no_key.into()),
        ("kid in another case", json!({"alg": "ES256", "kid": "K1"}).to_string(), no_key.into()),
        ("kid in a list", json!({"alg": "ES256", "kid": ["k1"]}).to_string(), member("kid")),
        ("kid that is endless", json!({"alg": "ES256", "kid": "k".repeat(257)}).to_string(), member("kid")),
        ("kid twice", r#"{"alg":"ES256","kid":"k1","kid":"k2"}"#.into(), not_json.into()),
        ("alg twice", r#"{"alg":"ES256","kid":"k1","alg":"none"}"#.into(), not_json.into()),
        (
            "alg twice, once escaped",
            r#"{"alg":"ES256","kid":"k1","\u0061lg":"none"}"#.into(),
            not_json.into(),
        ),
        ("alg in a list", json!({"alg": ["ES256"], "kid": "k1"}).to_string(), member("alg")),
        ("alg null", json!({"alg": null, "kid": "k1"}).to_string(), member("alg")),
        ("a key", json!({"alg": "ES256", "kid": "k1", "jwk": jwk}).to_string(), refused("jwk")),
        (
            "keys elsewhere",
            json!({"alg": "ES256", "jku": "http://169.254.169.254/"}).to_string(),
            refused("jku"),
        ),
        ("a certificate elsewhere", json!({"alg": "ES256", "x5u": "file:///"}).to_string(), refused("x5u")),
        ("a certificate", json!({"alg": "ES256", "x5c": ["AA=="]}).to_string(), refused("x5c")),
        ("critical and empty", json!({"alg": "ES256", "kid": "k1", "crit": []}).to_string(), refused("crit")),
        ("a token inside", json!({"alg": "ES256", "kid": "k1", "cty": "JWT"}).to_string(), refused("cty")),
        ("a byte order mark", format!("\u{feff}{}", String::from_utf8_lossy(HEADER)), not_json.into()),
        ("a comment", r#"{"alg":"ES256",/**/"kid":"k1"}"#.into(), not_json.into()),
        ("more after it", r#"{"alg":"ES256","kid":"k1"}{}"#.into(), not_json.into()),
    ] {
        assert_eq!(verify(&signed(&key, header.as_bytes(), payload.as_bytes())), Err(want), "{name}");
    }
    // What everybody knows of the key is no secret that a token could be signed with.
    let not_es256 = "the key is for ES256, not for the token's `alg`".to_owned();
    for secret in [jwk.to_string(), key.to_jwk()["x"].as_str().unwrap().to_owned()] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let header =
                jsonwebtoken::Header { kid: Some("k1".to_owned()), ..jsonwebtoken::Header::new(algorithm) };
            let secret = EncodingKey::from_secret(secret.as_bytes());
            let token = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
            assert_eq!(verify(&token), Err(not_es256.clone()), "{algorithm:?}");
        }
    }
}

#[test]
fn a_signature_is_one_text_and_is_made_with_the_key() {
    let (policy, key) = (policy(), key(SignatureAlgorithm::Es256, "k1"));
    let issuers = Issuers::new(vec![spec(&[&key])]);
    let right = key.sign(&claims()).unwrap();
    let (rest, signature) = right.rsplit_once('.').unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    // 64 bytes are 86 characters, of which the last one has four bits that say nothing.
    let last = signature.chars().last().unwrap();
    let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']).collect();
    let place = alphabet.iter().position(|&letter| letter == last).unwrap();
    let same_bytes = format!("{}{}", &signature[..signature.len() - 1], alphabet[place + 1]);
    let not_encoded = "a part is not base64url without padding";
    let (parts, wrong) = ("a signed token has three parts", "the signature is not the key's");
    for (name, token, want) in [
        ("another text for the same bytes", format!("{rest}.{same_bytes}"), not_encoded),
        ("padding", format!("{right}=="), not_encoded),
        ("a line end", format!("{right}\n"), not_encoded),
        ("a space in front", format!(" {right}"), not_encoded),
        ("the other alphabet", format!("{rest}.{}+", &signature[..signature.len() - 1]), not_encoded),
        ("NUL", format!("{right}\0"), not_encoded),
        ("letters of another script", format!("{rest}.\u{ff21}{signature}"), not_encoded),
        ("zeros", format!("{rest}.{}", encode([0; 64])), wrong),
        ("one byte less", format!("{rest}.{}", encode(&bytes[..63])), wrong),
        ("one byte more", format!("{rest}.{}", encode([&bytes[..], &[0]].concat())), wrong),
        ("half of it", format!("{rest}.{}", encode(&bytes[..32])), wrong),
        (
            "as DER",
            format!(
                "{rest}.{}",
                encode([&[0x30, 0x44, 2, 0x20], &bytes[..32], &[2, 0x20], &bytes[32..]].concat())
            ),
            wrong,
        ),
        ("none", format!("{rest}."), wrong),
        ("five parts", format!("{right}.e30.e30"), parts),
        ("JSON in place of three parts", json!({"payload": rest, "signature": signature}).to_string(), parts),
    ] {
        assert_eq!(reason(issuers.verify(&policy, &token, at(NOW))), Err(want.to_owned()), "{name}");
    }
    let long = format!("{right}{}", "A".repeat(crate::TOKEN_BYTES_MAX));
    let want = Err(TokenError::Header(HeaderError::TooLong).to_string());
    assert_eq!(reason(issuers.verify(&policy, &long, at(NOW))), want);
    assert!(issuers.verify(&policy, &right, at(NOW)).is_ok(), "the nearest that counts");
}

#[test]
fn claims_say_one_thing() {
    let (policy, key) = (policy(), key(SignatureAlgorithm::Es256, "k1"));
    let issuers = Issuers::new(vec![spec(&[&key])]);
    let (json, hosts) = (
        "the claims are not a JSON object with each member once".to_owned(),
        "`allowed_hosts` cannot be used".to_owned(),
    );
    let not_usable = |name: &str| format!("`{name}` is not usable");
    let deep = format!("{}{}", "[".repeat(3000), "]".repeat(3000));
    let huge = "9".repeat(400);
    let twice = format!("\"x\",\"exp\":{}", NOW + 60);
    let too_long =
        "the token's time is not acceptable: it lives longer than the issuer's tokens may".to_owned();
    let cases: Vec<(&str, &str, &str, Option<String>)> = vec![
        ("as usual", "sub", "\"user-1\"", None),
        ("exp with a fraction", "exp", "1900000060.5", Some(not_usable("exp"))),
        ("exp as a float", "exp", "1900000060.0", Some(not_usable("exp"))),
        ("exp with an exponent", "exp", "1.90000006e9", Some(not_usable("exp"))),
        ("exp without end", "exp", "1e400", Some(json.clone())),
        ("exp below zero", "exp", "-1", Some(not_usable("exp"))),
        ("exp as a text", "exp", "\"1900000060\"", Some(not_usable("exp"))),
        ("exp true", "exp", "true", Some(not_usable("exp"))),
        ("exp null", "exp", "null", Some(not_usable("exp"))),
        ("exp in a list", "exp", "[1900000060]", Some(not_usable("exp"))),
        ("exp beyond 64 bits", "exp", "18446744073709551616", Some(not_usable("exp"))),
        ("exp of 400 digits", "exp", &huge, Some(json.clone())),
        ("exp at the end of time", "exp", "18446744073709551615", Some(too_long)),
        ("exp NaN", "exp", "NaN", Some(json.clone())),
        ("exp in octal", "exp", "01900000060", Some(json.clone())),
        ("nbf as a text", "nbf", "\"0\"", Some(not_usable("nbf"))),
        ("iat without end", "iat", "-1e400", Some(json.clone())),
        ("exp twice", "sub", &twice, Some(json.clone())),
        ("deep", "x", &deep, Some(json.clone())),
        ("container with NUL", "container_id", r#""sbx-1\u0000""#, Some(not_usable("container_id"))),
        ("container with a line end", "container_id", r#""sbx-1\r\nx: y""#, Some(not_usable("container_id"))),
        (
            "container with a control of C1",
            "container_id",
            r#""sbx-1\u0085""#,
            Some(not_usable("container_id")),
        ),
        ("half a character", "container_id", r#""sbx-1\ud800""#, Some(json.clone())),
        ("issuer in a list", "iss", r#"["secure-egress-control"]"#, Some(not_usable("iss"))),
        ("audience in an object", "aud", r#"{"egress-proxy":1}"#, Some(not_usable("aud"))),
        ("a host with NUL", "allowed_hosts", r#""example.com\u0000.evil.test""#, Some(hosts.clone())),
        ("a host of another script", "allowed_hosts", r#""ex\u0430mple.com""#, Some(hosts.clone())),
        ("a host with a user", "allowed_hosts", r#""example.com@evil.test""#, Some(hosts.clone())),
        ("every host", "allowed_hosts", r#""*""#, Some(hosts.clone())),
        ("a list in a list", "allowed_hosts", r#"[["example.com"]]"#, Some(not_usable("allowed_hosts"))),
    ];
    for (name, claim, text, want) in cases {
        let token = signed(&key, HEADER, &claims_with(claim, text));
        assert_eq!(reason(issuers.verify(&policy, &token, at(NOW))).err(), want, "{name}");
    }
    for (name, payload) in [
        ("a list", &b"[]"[..]),
        ("nothing", b""),
        ("not UTF-8", b"{\"iss\":\"\xff\"}"),
        ("UTF-16", b"\xff\xfe{\0}\0"),
        ("a token", b"e30.e30.e30"),
    ] {
        let token = signed(&key, HEADER, payload);
        assert_eq!(reason(issuers.verify(&policy, &token, at(NOW))), Err(json.clone()), "{name}");
    }
}
