//! From a question to its answer: who asks, what they may ask for, what that is, and the way to it opened.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use exeat_audit::Seldom;
use exeat_identity::Principal;
use exeat_model::DnsName;
use exeat_policy::{Denial, PolicySet, Reach, Reason, allows_below, may_resolve, reach, reach_relayed};
use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record, RecordType, rdata::PTR},
};

use super::{
    Client, Inner, arpa,
    config::DeniedAnswer,
    question::Question,
    reply::{Reply, Why},
    service,
    trail::Trail,
};
use crate::{
    chain::Family,
    gate::{GateError, LIFETIME_MIN, Opening},
    resolve::{ResolveError, absolute},
    surroundings::{Deciding, Happening},
};

/// The longest that a client is told to keep an answer: how long one goes on using an address after its name has got
/// others, or is not allowed any more and the address is.
const TOLD_MAX: Duration = Duration::from_secs(60);

/// The longest that the way to an address is opened for one answer, whatever time it has to live.
pub(super) const LIFETIME_MAX: Duration = Duration::from_secs(60 * 60);

/// How often a question is decided on if the policy changes while it is. More changes than this within one lookup are
/// none that somebody makes.
pub(super) const ROUNDS_MAX: usize = 4;

/// Lines that a client can cause by every question.
static ALL_TAKEN: Seldom = Seldom::new();
static HELD_BACK: Seldom = Seldom::new();

/// Whether it is the lack of a rule that refuses a name.
fn is_uncovered(denial: Denial) -> bool {
    denial.reason == Reason::HostNotAllowed && denial.rule.is_none()
}

/// Why a question gets no answer yet.
enum Stop {
    /// It gets this one, without any of what was asked for.
    Reply(Reply),
    /// Something else decides by now.
    Again,
}

/// An answer that may be given once the way is open.
struct Ready {
    reply: Reply,
    opening: Option<Opening>,
}

/// A question that the policy allows.
struct Admitted {
    principal: Arc<Principal>,
    wanted: Wanted,
}

/// What is wanted to know.
enum Wanted {
    Addresses(Family, DnsName),
    /// An address that stands for the name; and whether the servers are asked if there is such a name.
    Virtual(Family, DnsName, bool),
    Records(RecordType, DnsName),
    /// The name that the client was told an address for.
    Pointer(DnsName),
}

impl Inner {
    /// Returns the answer to a question, once it is on record and the way is open to what it tells.
    pub(super) async fn answer(&self, question: &Question, client: &Client, trail: &mut Trail<'_>) -> Reply {
        if !self.budget.may_ask(client.source(), trail.started) {
            return self.flooded(client, trail);
        }
        for _ in 0..ROUNDS_MAX {
            match self.round(question, client, trail).await {
                Ok(reply) | Err(Stop::Reply(reply)) => return reply,
                Err(Stop::Again) => {}
            }
        }
        self.fail(trail, Reason::PolicyUnavailable)
    }

    async fn round(
        &self,
        question: &Question,
        client: &Client,
        trail: &mut Trail<'_>,
    ) -> Result<Reply, Stop> {
        let now = self.around.now();
        let admitted = self.admit(&*now, question, client, trail)?;
        let ready = match admitted.wanted {
            Wanted::Addresses(family, name) => {
                self.addresses(&now, question, client, (&admitted.principal, name, family), trail).await?
            }
            Wanted::Virtual(family, name, is_asked) => {
                self.stand_in(question, client, (&admitted.principal, &name, family, is_asked), trail).await?
            }
            Wanted::Records(kind, name) => self.records(question, kind, &name, trail).await?,
            Wanted::Pointer(name) => self.pointer(question, &name, trail)?,
        };
        self.give(ready, trail).await
    }

    /// Finds out who asks, and whether they may ask for this.
    fn admit(
        &self,
        now: &dyn Deciding,
        question: &Question,
        client: &Client,
        trail: &mut Trail<'_>,
    ) -> Result<Admitted, Stop> {
        trail.workload = now.workload(&client.place);
        let principal = now.asker(&client.place).map_err(|reason| self.refuse(trail, reason))?;
        let policy = now.policy();
        trail.note_principal(&principal, policy);
        let kind = question.kind;
        let (name, pointer) = if kind == RecordType::PTR {
            (self.told_name(question, client, trail)?, true)
        } else if self.passes_on(kind) {
            let name = DnsName::parse(&question.name.to_ascii());
            (name.map_err(|_| self.refuse(trail, Reason::HostInvalid))?, false)
        } else {
            return Err(self.refuse(trail, Reason::MethodNotAllowed));
        };
        trail.name = Some(name.clone());
        let (rule, is_asked) = match may_resolve(policy, &principal.bound, &name) {
            Ok((rule, would_deny)) => {
                trail.note_allow(policy, rule, would_deny);
                // What only report mode lets through is decided on when somebody connects; nobody has to be told of it.
                (rule, self.names.is_none() || would_deny.is_none())
            }
            // A redirected connection can leave through the next hop, which resolves for itself.
            Err(denial) if self.names.is_some() && denial.reason == Reason::EgressGatewayUnavailable => {
                trail.note_allow(policy, denial.rule, None);
                (denial.rule, false)
            }
            // A connection to it is asked about, and decided on then.
            Err(denial) if self.names.is_some() && self.around.asks() && is_uncovered(denial) => {
                trail.note_allow(policy, denial.rule, Some(denial));
                (denial.rule, false)
            }
            Err(denial) => return Err(self.deny(policy, &principal, question, denial, trail)),
        };
        if pointer {
            return Ok(Admitted { principal, wanted: Wanted::Pointer(name) });
        }
        let rule = (policy.revision(), rule);
        if !self.budget.may_name(client.source(), rule, name.as_str(), trail.started) {
            self.around.count(Happening::TooManyNames);
            return Err(self.refuse(trail, Reason::RateLimited));
        }
        let family = [Family::V4, Family::V6].into_iter().find(|family| family.record_type() == kind);
        let wanted = match family {
            Some(family) if self.names.is_some() => Wanted::Virtual(family, name, is_asked),
            Some(family) => Wanted::Addresses(family, name),
            None if is_asked => Wanted::Records(kind, name),
            None => return Err(self.said_no(Reply::code(ResponseCode::NoError), trail)),
        };
        Ok(Admitted { principal, wanted })
    }

    /// Whether records of this type are looked for at all.
    fn passes_on(&self, kind: RecordType) -> bool {
        let always = [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB];
        always.contains(&kind) || self.config.types.iter().any(|extra| extra.record_type() == kind)
    }

    /// Returns the name that the client was told the address for whose name it asks for. Others are asked of nobody.
    fn told_name(
        &self,
        question: &Question,
        client: &Client,
        trail: &mut Trail<'_>,
    ) -> Result<DnsName, Stop> {
        let (asked, place) = (arpa::address(&question.name), client.place.address);
        let told = asked.zip(place).and_then(|(address, client)| self.told.name(client, address));
        told.ok_or_else(|| {
            let reason = Reason::HostNotAllowed;
            trail.note_refusal(reason);
            // A cache that learns that a name does not exist answers so for all below it (RFC 8020), and for other types.
            let code = if asked.is_some() { ResponseCode::NXDomain } else { ResponseCode::NoError };
            self.said_no(Reply { why: Some(why(reason)), ..Reply::code(code) }, trail)
        })
    }

    /// Looks for the addresses of both families: what may be reached of one name is one decision, and the client's next
    /// question is for the other family.
    async fn addresses(
        &self,
        now: &Arc<dyn Deciding>,
        question: &Question,
        client: &Client,
        (principal, name, family): (&Arc<Principal>, DnsName, Family),
        trail: &mut Trail<'_>,
    ) -> Result<Ready, Stop> {
        let asked = Instant::now();
        let resolved = self.resolver.resolve(&name).await;
        self.around.resolved(&resolved, asked.elapsed());
        let answer = resolved.map_err(|error| self.unresolved(&error, trail))?;
        if !Arc::ptr_eq(now, &self.around.now()) {
            return Err(Stop::Again);
        }
        let policy = now.policy();
        // Nothing redirects what processes of this host connect to.
        let has_relay = self.gate.relays() && client.place.cgroup.known().is_none();
        let reach = if has_relay { reach_relayed } else { reach };
        let reach = reach(policy, &principal.bound, &name, &answer.addrs)
            .map_err(|denial| self.deny(policy, principal, question, denial, trail))?;
        let may_tell = |address: &&IpAddr| is_reached(&reach, **address);
        let told = answer.addrs.iter().filter(may_tell).copied().filter(|address| family.has(*address));
        let told = told.collect::<Arc<[IpAddr]>>();
        let ttl = seconds(answer.ttl);
        let answers = told.iter().map(|address| self.record(question, ttl, RData::from(*address))).collect();
        trail.answers = (!told.is_empty()).then_some(told);
        let reply = Reply { answers, ..Reply::code(ResponseCode::NoError) };
        let opening = (!reach.is_empty()).then(|| Opening {
            client: client.from.ip().to_canonical(),
            principal: Arc::clone(principal),
            place: client.place.clone(),
            name,
            reach,
            lifetime: answer.ttl.clamp(LIFETIME_MIN, LIFETIME_MAX),
            revision: policy.revision(),
        });
        Ok(Ready { reply, opening })
    }

    /// Tells an address that stands for the name, which a connection to it is decided on, and resolved, by. Whether there is
    /// such a name is learned now: clients expect to be told, and the answer is kept for the connection.
    async fn stand_in(
        &self,
        question: &Question,
        client: &Client,
        (principal, name, family, is_asked): (&Principal, &DnsName, Family, bool),
        trail: &mut Trail<'_>,
    ) -> Result<Ready, Stop> {
        if is_asked {
            let asked = Instant::now();
            let resolved = self.resolver.resolve(name).await;
            self.around.resolved(&resolved, asked.elapsed());
            resolved.map_err(|error| self.unresolved(&error, trail))?;
        }
        let assigned = self.names.as_ref().map(|names| names.assign(&principal.name, name, Instant::now()));
        let Some(Ok(addresses)) = assigned else {
            if let Some(left_out) = ALL_TAKEN.turn() {
                tracing::warn!(left_out, "an answer is held back: the addresses of `virtual` are all taken");
            }
            self.around.count(Happening::NoVirtualAddress);
            return Err(Stop::Reply(self.fail(trail, Reason::DnsFailed)));
        };
        let address = match family {
            Family::V4 => IpAddr::V4(addresses.v4),
            Family::V6 => IpAddr::V6(addresses.v6),
        };
        if let Some(client) = client.place.address {
            self.told.remember(client, address, name);
        }
        trail.answers = Some(Arc::new([address]));
        trail.is_own = true;
        let answers = vec![self.record(question, seconds(TOLD_MAX), RData::from(address))];
        Ok(Ready { reply: Reply { answers, ..Reply::code(ResponseCode::NoError) }, opening: None })
    }

    async fn records(
        &self,
        question: &Question,
        kind: RecordType,
        name: &DnsName,
        trail: &mut Trail<'_>,
    ) -> Result<Ready, Stop> {
        let found = self.resolver.records(name, kind).await;
        let found = found.map_err(|error| self.unresolved(&error, trail))?;
        let kept = found.data.iter().filter_map(|data| service::filtered(data, &question.name));
        let ttl = seconds(found.ttl);
        let answers = kept.map(|data| self.record(question, ttl, data)).collect();
        Ok(Ready { reply: Reply { answers, ..Reply::code(ResponseCode::NoError) }, opening: None })
    }

    fn pointer(&self, question: &Question, name: &DnsName, trail: &mut Trail<'_>) -> Result<Ready, Stop> {
        let target = absolute(name).map_err(|error| self.unresolved(&error, trail))?;
        trail.is_own = true;
        let answers = vec![self.record(question, seconds(TOLD_MAX), RData::PTR(PTR(target)))];
        Ok(Ready { reply: Reply { answers, ..Reply::code(ResponseCode::NoError) }, opening: None })
    }

    /// Returns a record of the asked name, in the asked spelling: clients that chose the case of its letters to tell
    /// forged answers look for it. What the name is an alias of is not told; the records are its own.
    fn record(&self, question: &Question, ttl: u32, data: RData) -> Record {
        Record::from_rdata(question.name.clone(), ttl, data)
    }

    /// Gives an answer: it is on record before the way is opened, and the way is open before it is told.
    async fn give(&self, ready: Ready, trail: &mut Trail<'_>) -> Result<Reply, Stop> {
        let Ready { reply, opening } = ready;
        let record = trail.record(reply.code);
        if self.around.record(record).await.is_err() {
            return Err(self.said_no(servfail(Reason::AuditUnavailable), trail));
        }
        let Some(opening) = opening else { return Ok(reply) };
        let (client, name) = (opening.client, opening.name.clone());
        let began = Instant::now();
        match self.gate.open(opening).await {
            Ok(()) => self.around.count(Happening::Opened(began.elapsed())),
            Err(GateError::Outdated) => return Err(Stop::Again),
            Err(error @ (GateError::Full | GateError::Kernel(_))) => {
                if let Some(left_out) = HELD_BACK.turn() {
                    tracing::warn!(%error, left_out, "an answer is held back");
                }
                self.around.count(Happening::NotOpened);
                trail.answers = None;
                return Err(Stop::Reply(self.fail(trail, Reason::PolicyUnavailable)));
            }
        }
        for address in trail.answers.iter().flat_map(|answers| answers.iter()) {
            self.told.remember(client, address.to_canonical(), &name);
        }
        Ok(reply)
    }

    /// Refuses a question that no policy was asked about, or of which there are too many.
    fn refuse(&self, trail: &mut Trail<'_>, reason: Reason) -> Stop {
        trail.note_refusal(reason);
        let code = ResponseCode::from(0, reason.dns().rcode);
        self.said_no(Reply { why: Some(why(reason)), ..Reply::code(code) }, trail)
    }

    /// Refuses what the policy denies, as the configuration says.
    fn deny(
        &self,
        policy: &PolicySet,
        principal: &Principal,
        question: &Question,
        denial: Denial,
        trail: &mut Trail<'_>,
    ) -> Stop {
        trail.note_deny(policy, denial);
        let plain = ResponseCode::from(0, denial.reason.dns().rcode);
        let mut reply = Reply { why: Some(why(denial.reason)), ..Reply::code(plain) };
        if plain == ResponseCode::NXDomain {
            match self.config.denied {
                DeniedAnswer::NxDomain => {
                    // A cache that learns that a name does not exist answers so for all below it (RFC 8020).
                    let is_above = |name: &DnsName| allows_below(policy, &principal.bound, name);
                    if trail.name.as_ref().is_some_and(is_above) {
                        reply.code = ResponseCode::NoError;
                    }
                }
                DeniedAnswer::Refused => reply.code = ResponseCode::Refused,
                DeniedAnswer::Sinkhole => {
                    reply.code = ResponseCode::NoError;
                    let hole = sinkhole(question.kind);
                    reply.answers.extend(hole.map(|data| self.record(question, seconds(TOLD_MAX), data)));
                }
            }
        }
        self.said_no(reply, trail)
    }

    /// Says what came of asking the servers, where that is no record.
    fn unresolved(&self, error: &ResolveError, trail: &mut Trail<'_>) -> Stop {
        match error {
            ResolveError::NoSuchName => self.said_no(Reply::code(ResponseCode::NXDomain), trail),
            ResolveError::NoAddress | ResolveError::NoRecord => {
                self.said_no(Reply::code(ResponseCode::NoError), trail)
            }
            ResolveError::TooManyAddresses { .. }
            | ResolveError::TooManyRecords
            | ResolveError::ChainTooLong { .. }
            | ResolveError::ChainLoop
            | ResolveError::Timeout
            | ResolveError::Server { .. }
            | ResolveError::Failed(_) => {
                tracing::debug!(%error, "an allowed name could not be resolved");
                Stop::Reply(self.fail(trail, Reason::DnsFailed))
            }
        }
    }

    /// Answers that something went wrong with what is allowed.
    fn fail(&self, trail: &mut Trail<'_>, reason: Reason) -> Reply {
        trail.note_failure(reason);
        let reply = servfail(reason);
        self.around.note(trail.record(reply.code));
        reply
    }

    /// Answers one of too many questions of a source. Not each of them is on record.
    pub(super) fn flooded(&self, client: &Client, trail: &mut Trail<'_>) -> Reply {
        let reason = Reason::RateLimited;
        self.around.count(Happening::TooManyQueries);
        trail.note_refusal(reason);
        let code = ResponseCode::from(0, reason.dns().rcode);
        let reply = Reply { why: Some(why(reason)), ..Reply::code(code) };
        if self.budget.is_recorded(client.source(), trail.started) {
            self.around.note(trail.record(reply.code));
        }
        reply
    }

    /// Notes an answer with nothing of what was asked for.
    fn said_no(&self, reply: Reply, trail: &Trail<'_>) -> Stop {
        self.around.note(trail.record(reply.code));
        Stop::Reply(reply)
    }
}

/// Whether the policy lets some port of `address` be reached. IPv4 in the form of IPv6 is never told: packets to it are of
/// the other family.
fn is_reached(reach: &[Reach], address: IpAddr) -> bool {
    address == address.to_canonical() && reach.iter().any(|reach| reach.addrs.contains(&address))
}

fn servfail(reason: Reason) -> Reply {
    Reply { why: Some(why(reason)), ..Reply::code(ResponseCode::ServFail) }
}

pub(super) fn why(reason: Reason) -> Why {
    Why { code: reason.dns().ede, text: reason.token() }
}

/// How long a client is told to keep what remains good for `ttl`: in whole seconds, and not for ever.
fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.min(TOLD_MAX).as_secs()).unwrap_or(0)
}

fn sinkhole(kind: RecordType) -> Option<RData> {
    if kind == RecordType::A {
        Some(RData::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
    } else if kind == RecordType::AAAA {
        Some(RData::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)))
    } else {
        None
    }
}
