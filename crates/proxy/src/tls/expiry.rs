//! Until when a certificate is valid, and a word about it in the log before that is a surprise.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use rustls::sign::CertifiedKey;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// How long before its end a certificate is remarked on. Whatever renews certificates by itself has failed for a
/// fortnight by then, and people still have a fortnight.
const REMARK_TIME: Duration = Duration::from_secs(14 * DAY_SECONDS);
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// How a certificate's end stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    /// Far away.
    Fine,
    /// In this many days, rounded down.
    Soon(u64),
    /// In the past.
    Over,
}

/// Returns when the first certificate of `pair` ends (RFC 5280 §4.1.2.5); `None` if it does not say so in a way that
/// can be read, or ended before 1970.
pub(super) fn not_after(pair: &CertifiedKey) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(pair.cert.first()?).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Says in the log if the certificate of `pair`, which came from the file `cert`, has ended at `now` or soon will have.
pub(super) fn remark(pair: &CertifiedKey, cert: &Path, now: SystemTime) {
    let Some(not_after) = not_after(pair) else { return };
    let cert = cert.display();
    match standing(not_after, now) {
        Standing::Fine => {}
        Standing::Soon(days) => tracing::warn!(%cert, days, "this certificate ends soon"),
        Standing::Over => tracing::error!(%cert, "this certificate has ended: clients refuse it"),
    }
}

fn standing(not_after: SystemTime, now: SystemTime) -> Standing {
    match not_after.duration_since(now) {
        Ok(left) if left > REMARK_TIME => Standing::Fine,
        Ok(left) => Standing::Soon(left.as_secs() / DAY_SECONDS),
        Err(_) => Standing::Over,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::crypto::aws_lc_rs;

    use super::*;

    #[test]
    fn standings() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for (left_seconds, want) in [
            (15 * 86_400, Standing::Fine),
            (14 * 86_400 + 1, Standing::Fine),
            (14 * 86_400, Standing::Soon(14)),
            (86_400 - 1, Standing::Soon(0)),
            (0, Standing::Soon(0)),
            (-1, Standing::Over),
        ] {
            let seconds = Duration::from_secs(1_800_000_000_u64.checked_add_signed(left_seconds).unwrap());
            assert_eq!(standing(SystemTime::UNIX_EPOCH + seconds, now), want, "{left_seconds}");
        }
    }

    #[test]
    fn the_end_is_that_of_the_first_certificate() {
        let provider = aws_lc_rs::default_provider();
        // UTCTime and GeneralizedTime (RFC 5280 §4.1.2.5).
        for (year, want) in [(2020, 1_577_923_200), (2049, 2_493_158_400), (2060, 2_840_227_200)] {
            let mut params = CertificateParams::new(["proxy.example.com".to_owned()]).unwrap();
            params.not_after = date_time_ymd(year, 1, 2);
            let key = KeyPair::generate().unwrap();
            let der = params.self_signed(&key).unwrap().der().clone();
            let secret = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
            let pair = CertifiedKey::from_der(vec![der], secret.into(), &provider).unwrap();
            assert_eq!(not_after(&pair), Some(SystemTime::UNIX_EPOCH + Duration::from_secs(want)), "{year}");
        }
    }
}
