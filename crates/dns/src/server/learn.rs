//! From an answer that another name server has given to the way that it opens: the same decision as on a question to this
//! one, once it is too late to hold anything back.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Instant, SystemTime},
};

use exeat_audit::Seldom;
use exeat_identity::{Part, Place};
use exeat_policy::{Reason, may_resolve, reach};

use super::{Client, Inner, Server, lookup::LIFETIME_MAX, lookup::ROUNDS_MAX, trail::Trail};
use crate::{
    dnstap::Heard,
    gate::{GateError, LIFETIME_MIN, Opening},
    surroundings::{Happening, Tapped},
};

/// A line that a client can cause by every question.
static NOT_OPENED: Seldom = Seldom::new();

/// The policy has changed since it was asked.
struct Again;

impl Client {
    /// A client that another name server knows by its address alone.
    fn of_another(from: SocketAddr) -> Self {
        let ip = from.ip().to_canonical();
        // That server does not tell by which device a question came: a workload that is known by one is not known here.
        let user = if ip.is_loopback() { Part::Unknown } else { Part::Nothing };
        let place = Place { address: Some(ip), interface: Part::Unknown, user, ..Place::default() };
        Self { from, at: None, place }
    }
}

impl Server {
    /// Decides on an answer that another name server has given, as if the question had come here, and opens the way to what
    /// is allowed of it. Nobody has waited for that.
    pub async fn learn(&self, heard: &Heard) -> Tapped {
        let inner = &self.0;
        if let Some(late) = heard.at.and_then(|at| SystemTime::now().duration_since(at).ok()) {
            inner.around.count(Happening::TappedAfter(late));
        }
        let client = Client::of_another(heard.client);
        let mut trail = Trail::new(Some(&heard.question), &client, inner.around.next_request_id());
        if !inner.budget.may_ask(client.source(), trail.started) {
            inner.around.count(Happening::TooManyQueries);
            trail.note_refusal(Reason::RateLimited);
            if inner.budget.is_recorded(client.source(), trail.started) {
                inner.note_heard(heard, &trail);
            }
            return Tapped::Denied;
        }
        for _ in 0..ROUNDS_MAX {
            if let Ok(tapped) = inner.learn(heard, &client, &mut trail).await {
                return tapped;
            }
        }
        trail.note_failure(Reason::PolicyUnavailable);
        inner.note_heard(heard, &trail);
        Tapped::Unopened
    }

    /// Counts something that no record tells.
    pub(crate) fn count(&self, happening: Happening) {
        self.0.around.count(happening);
    }
}

impl Inner {
    async fn learn(&self, heard: &Heard, client: &Client, trail: &mut Trail<'_>) -> Result<Tapped, Again> {
        let now = self.around.now();
        trail.workload = now.workload(&client.place);
        let principal = match now.asker(&client.place) {
            Ok(principal) => principal,
            // Its own questions are no client's.
            Err(_) if heard.is_for_a_server => return Ok(Tapped::PassedOver),
            Err(reason) => return Ok(self.refuse_heard(reason, heard, trail)),
        };
        let policy = now.policy();
        trail.note_principal(&principal, policy);
        let Some(name) = heard.name() else {
            return Ok(self.refuse_heard(Reason::HostInvalid, heard, trail));
        };
        trail.name = Some(name.clone());
        match may_resolve(policy, &principal.bound, &name) {
            Ok((rule, would_deny)) => trail.note_allow(policy, rule, would_deny),
            Err(denial) => {
                trail.note_deny(policy, denial);
                self.note_heard(heard, trail);
                return Ok(Tapped::Denied);
            }
        }
        let Ok(told) = heard.addresses() else {
            trail.note_failure(Reason::DnsFailed);
            self.note_heard(heard, trail);
            return Ok(Tapped::Nothing);
        };
        if told.addrs.is_empty() {
            self.note_heard(heard, trail);
            return Ok(Tapped::Nothing);
        }
        trail.answers = Some(told.addrs.as_slice().into());
        let reach = match reach(policy, &principal.bound, &name, &told.addrs) {
            Ok(reach) => reach,
            Err(denial) => {
                trail.note_deny(policy, denial);
                self.note_heard(heard, trail);
                return Ok(Tapped::Denied);
            }
        };
        // As on a question to this server, an IPv4 address in the form of IPv6 is decided on and opens nothing.
        let plain: Vec<IpAddr> = told.addrs.iter().copied().filter(|at| at.to_canonical() == *at).collect();
        let reach = if plain.len() == told.addrs.len() {
            reach
        } else {
            self::reach(policy, &principal.bound, &name, &plain).unwrap_or_default()
        };
        if reach.is_empty() {
            self.note_heard(heard, trail);
            return Ok(Tapped::Nothing);
        }
        let opening = Opening {
            client: client.from.ip().to_canonical(),
            principal: Arc::clone(&principal),
            place: client.place.clone(),
            name,
            reach,
            lifetime: told.ttl.clamp(LIFETIME_MIN, LIFETIME_MAX),
            revision: policy.revision(),
        };
        self.open_heard(opening, heard, trail).await
    }

    /// Opens the way, once that is on record.
    async fn open_heard(
        &self,
        opening: Opening,
        heard: &Heard,
        trail: &mut Trail<'_>,
    ) -> Result<Tapped, Again> {
        let record = trail.record_heard(heard.code);
        if self.around.record(record).await.is_err() {
            return Ok(Tapped::Unopened);
        }
        let began = Instant::now();
        match self.gate.open(opening).await {
            Ok(()) => {
                self.around.count(Happening::Opened(began.elapsed()));
                Ok(Tapped::Opened)
            }
            Err(GateError::Outdated) => Err(Again),
            Err(error @ (GateError::Full | GateError::Kernel(_))) => {
                if let Some(left_out) = NOT_OPENED.turn() {
                    tracing::warn!(
                        %error,
                        left_out,
                        "the way to an answer of another name server is not opened"
                    );
                }
                self.around.count(Happening::NotOpened);
                trail.note_failure(Reason::PolicyUnavailable);
                self.note_heard(heard, trail);
                Ok(Tapped::Unopened)
            }
        }
    }

    fn refuse_heard(&self, reason: Reason, heard: &Heard, trail: &mut Trail<'_>) -> Tapped {
        trail.note_refusal(reason);
        self.note_heard(heard, trail);
        Tapped::Denied
    }

    fn note_heard(&self, heard: &Heard, trail: &Trail<'_>) {
        self.around.note(trail.record_heard(heard.code));
    }
}
