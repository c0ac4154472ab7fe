//! Requests whose body is a whole configuration in TOML, and what comes back of them.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
};
use exeat_policy::Revision;
use exeat_store::CONFIGURATION_BYTES_MAX;
use http::{HeaderMap, StatusCode, header};
use tokio::sync::OwnedSemaphorePermit;

use crate::{admin::Admin, error::Failure};

/// Bytes of a document: as many as a configuration file may have.
#[expect(clippy::cast_possible_truncation, reason = "16 MiB fit every usize that this is built for")]
pub(crate) const DOCUMENT_BYTES_MAX: usize = CONFIGURATION_BYTES_MAX as usize;

/// Documents that are read and worked on at a time: what they take of memory is bounded, however many ask.
pub(crate) const DOCUMENTS_MAX: usize = 4;

/// A document from the body of a request, whatever its media type.
pub(crate) struct Document {
    pub(crate) text: String,
    /// One of [`DOCUMENTS_MAX`] places; for as long as the text is worked on.
    pub(crate) _place: OwnedSemaphorePermit,
}

impl FromRequest<Admin> for Document {
    type Rejection = Failure;

    async fn from_request(request: Request, admin: &Admin) -> Result<Self, Failure> {
        let place = place(admin).await?;
        let bytes = Bytes::from_request(request, admin).await.map_err(|rejection| {
            let mib = CONFIGURATION_BYTES_MAX / (1024 * 1024);
            Failure::new(rejection.status(), rejection.body_text())
                .help(format!("a configuration has at most {mib} MiB; long lists go to group files"))
        })?;
        if bytes.is_empty() {
            let help = "send the whole configuration: curl --data-binary @exeat.toml";
            return Err(Failure::request("there is no document in the body").help(help));
        }
        let text = String::from_utf8(bytes.into())
            .map_err(|_| Failure::request("the document is not UTF-8 text").help("save it as UTF-8"))?;
        Ok(Self { text, _place: place })
    }
}

/// Waits for one of the places for work on documents.
pub(crate) async fn place(admin: &Admin) -> Result<OwnedSemaphorePermit, Failure> {
    let place = Arc::clone(&admin.documents).acquire_owned().await;
    // It is never closed.
    place.map_err(|_| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the proxy is ending"))
}

/// What `ETag` says of a revision: its number, as an entity tag (RFC 9110 §8.8.3).
pub(crate) fn tag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// Reads `If-Match` (RFC 9110 §13.1.1): `None` if it is not there or `*`. The quotes may be missing; a weak tag or one
/// of another form matches nothing.
///
/// # Errors
/// If it is empty or not text.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<Vec<Revision>>, Failure> {
    let mut wanted = Vec::new();
    for value in headers.get_all(header::IF_MATCH) {
        let text = value.to_str().map_err(|_| malformed())?.trim();
        match text {
            "*" => return Ok(None),
            "" => return Err(malformed()),
            tags => wanted.extend(tags.split(',').map(revision)),
        }
    }
    let is_there = headers.contains_key(header::IF_MATCH);
    Ok(is_there.then(|| wanted.into_iter().flatten().collect()))
}

fn revision(tag: &str) -> Option<Revision> {
    let tag = tag.trim();
    let bare = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag);
    bare.parse().ok().map(Revision)
}

fn malformed() -> Failure {
    Failure::request("`If-Match` is not understood").help("write the number of a revision: If-Match: \"12\"")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tags_are_numbers_of_revisions() {
        let revisions = |numbers: &[u64]| Some(Some(numbers.iter().copied().map(Revision).collect()));
        for (case, value, want) in [
            ("not there", None, Some(None)),
            ("any", Some("*"), Some(None)),
            ("one", Some("\"12\""), revisions(&[12])),
            ("what ETag says", Some(&*tag(7)), revisions(&[7])),
            ("without quotes", Some("12"), revisions(&[12])),
            ("several", Some("\"1\", \"2\""), revisions(&[1, 2])),
            ("weak", Some("W/\"12\""), revisions(&[])),
            ("of another kind", Some("\"abc\""), revisions(&[])),
            ("negative", Some("-1"), revisions(&[])),
            ("empty", Some(""), None),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::IF_MATCH, HeaderValue::from_str(value).unwrap());
            }
            assert_eq!(if_match(&headers).ok(), want, "{case}");
        }
    }
}
