//! Which of the names that a client was told an address for it means by a redirected connection to that address. Its
//! names, and the bare address where a rule for networks covers it, are the candidates; each is decided on alone.
//!
//! | candidates | the connection is |
//! |---|---|
//! | one | the candidate's: judged, relayed or refused as that |
//! | none is allowed | refused, as the name that was told last |
//! | a name is refused, another may be opened by anything (`any`) | refused: nothing in it will tell which one is meant |
//! | one may be opened by anything | that one's, at once: the server may speak first |
//! | else | that of the candidate that the first bytes speak for: SNI, or `Host` |

use std::{net::IpAddr, sync::Arc, time::Instant};

use bytes::{BufMut, BytesMut};
use exeat_dns::{Answers, Asker};
use exeat_model::{Authority, Host};
use exeat_policy::{Denial, Expect, OpeningRule, Reason};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout_at,
};

use crate::{
    client_stream::ClientStream,
    guard::Scan,
    limits::Limits,
    opening::{self, Judgement, READ_BYTES},
    respond::Refusal,
    serve,
    shared::Shared,
    trail::Trail,
};

/// A candidate, with what must open it or why it is refused.
struct Candidate {
    target: Authority,
    verdict: Result<OpeningRule, Denial>,
}

impl Candidate {
    fn is_named(&self) -> bool {
        matches!(self.target.host, Host::Name(_))
    }
}

/// Returns what the client means by a connection to `literal`. What had to be read of it for that is in `early`. Whether it
/// is allowed is for the decision to say.
///
/// # Errors
/// The refusal, if it does not say in time what it means.
pub(crate) async fn meant(
    shared: &Shared,
    answers: &Answers,
    stream: &mut ClientStream,
    early: &mut BytesMut,
    trail: &mut Trail,
    literal: Authority,
) -> Result<Authority, Refusal> {
    let Host::Address(ip) = literal.host else { return Ok(literal) };
    let mut candidates = candidates(shared, answers, trail, &literal, ip.get());
    match choose(&candidates) {
        Choice::Is(at) => Ok(candidates.swap_remove(at).target),
        Choice::Address => Ok(literal),
        Choice::AsItSpeaks => match spoken_for(&candidates, stream, early, &shared.limits).await {
            Ok(at) => Ok(candidates.swap_remove(at).target),
            Err(reason) => Err(serve::refuse(trail, reason, Some(&literal))),
        },
    }
}

/// Has what the client was told of `address` not forgotten while it goes on using it.
pub(crate) fn hold(answers: &Answers, asker: (IpAddr, &Arc<str>), address: IpAddr) {
    let (client, principal) = asker;
    let _ = answers.names(Asker { address: client, principal }, address, Instant::now());
}

/// The names that the client was told, the last first, and then the address itself if a rule allows that.
fn candidates(
    shared: &Shared,
    answers: &Answers,
    trail: &mut Trail,
    literal: &Authority,
    ip: IpAddr,
) -> Vec<Candidate> {
    let current = shared.current();
    let snapshot = &current.snapshot;
    // Whoever nobody knows is refused for that, whatever it means.
    let Ok(principal) = snapshot.peer(&trail.client().shown()).alone(snapshot.anonymous.as_ref()) else {
        return Vec::new();
    };
    trail.note_principal(&principal, &snapshot.policy);
    let asker = Asker { address: trail.client().peer.ip().to_canonical(), principal: &principal.name };
    let names = answers.names(asker, ip, Instant::now());
    let named = names.into_iter().map(|name| Authority { host: Host::Name(name), port: literal.port });
    let of = |target: Authority| {
        let verdict = serve::opening_at(snapshot, &principal, &target, ip);
        Candidate { target, verdict }
    };
    let named = named.map(of);
    let literal = std::iter::once_with(|| of(literal.clone())).filter(|literal| literal.verdict.is_ok());
    named.chain(literal).collect()
}

/// What is known before anything was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Choice {
    /// This candidate.
    Is(usize),
    /// There is none: the address itself.
    Address,
    /// The first bytes have to tell.
    AsItSpeaks,
}

fn choose(candidates: &[Candidate]) -> Choice {
    if candidates.len() < 2 {
        return if candidates.is_empty() { Choice::Address } else { Choice::Is(0) };
    }
    let is_any = |candidate: &Candidate| {
        candidate.verdict.as_ref().is_ok_and(|opening| opening.expect() == Expect::Any)
    };
    if candidates.iter().all(|candidate| candidate.verdict.is_err()) {
        return Choice::Is(0);
    }
    let bare = candidates.iter().position(|candidate| !candidate.is_named() && is_any(candidate));
    let named = candidates.iter().position(|candidate| candidate.is_named() && is_any(candidate));
    let refused = candidates.iter().position(|candidate| candidate.verdict.is_err());
    match (named, refused, bare) {
        // A rule for the address allows it whatever the name.
        (None | Some(_), Some(_), Some(bare)) => Choice::Is(bare),
        (Some(_), Some(refused), None) => Choice::Is(refused),
        (Some(named), None, _) => Choice::Is(named),
        (None, None, Some(bare)) => Choice::Is(bare),
        (None, None | Some(_), None) => Choice::AsItSpeaks,
    }
}

/// Reads until the first bytes speak for a candidate, or for none: then for the first that is allowed, whose rule says what
/// is wrong with them.
///
/// # Errors
/// `head_timeout` if they do not come in time.
async fn spoken_for(
    candidates: &[Candidate],
    stream: &mut (impl AsyncRead + Unpin),
    early: &mut BytesMut,
    limits: &Limits,
) -> Result<usize, Reason> {
    let deadline = tokio::time::Instant::now() + limits.opening_timeout;
    let mut scans: Vec<Scan> = candidates.iter().map(|_| Scan::default()).collect();
    loop {
        let mut reads_more = false;
        for (at, (candidate, scan)) in candidates.iter().zip(&mut scans).enumerate() {
            let Ok(rule) = &candidate.verdict else { continue };
            match opening::judge(rule, &candidate.target, scan, early, limits) {
                Judgement::Agreed if candidate.is_named() => return Ok(at),
                // A rule for the address says nothing of names, but another does of this one.
                Judgement::Agreed => return Ok(refused_in(candidates, early, limits).unwrap_or(at)),
                Judgement::ReadMore => reads_more = true,
                Judgement::Refused(_) => {}
            }
        }
        let mut room = (&mut *early).limit(READ_BYTES);
        let is_over = !reads_more
            || match timeout_at(deadline, stream.read_buf(&mut room)).await {
                Err(_) => return Err(Reason::HeadTimeout),
                Ok(read) => read.unwrap_or(0) == 0,
            };
        if is_over {
            let allowed = || candidates.iter().position(|candidate| candidate.verdict.is_ok());
            return Ok(refused_in(candidates, early, limits).or_else(allowed).unwrap_or(0));
        }
    }
}

/// The refused candidate that the bytes speak for.
fn refused_in(candidates: &[Candidate], bytes: &[u8], limits: &Limits) -> Option<usize> {
    let speaks = |candidate: &Candidate| {
        let spoken = opening::spoken(bytes, &candidate.target, limits);
        candidate.verdict.is_err() && spoken.is_for(&candidate.target.host)
    };
    candidates.iter().position(speaks)
}

#[cfg(test)]
mod tests;
