//! What a token takes from the permission of its issuer's ceiling. Nothing here adds to it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use exeat_model::{DnsName, PortSet};

use crate::class::Class;
use crate::decide::{Candidates, Denial, EgressRequest, matching};
use crate::entry::Entry;
use crate::hop::Way;
use crate::hosts::HostList;
use crate::labels::Labels;
use crate::reason::Reason;
use crate::set::{Bound, PolicySet};

/// What a token says of what may be reached with it, and what its issuer does.
#[derive(Clone, Copy, Debug)]
pub struct TokenTerms<'a> {
    /// The policy that no token of the issuer exceeds. What is allowed is allowed by its rules.
    pub ceiling: &'a str,
    /// Policies of which one must allow the request too, besides those that bind to the token's labels; none of both:
    /// no further limit.
    pub policies: &'a [String],
    /// The policy that the token names, which must allow the request too.
    pub policy: Option<&'a str>,
    /// The hosts that the token lists.
    pub hosts: Option<&'a HostList>,
    /// The class of data: only rules for it are used, and TLS alone.
    pub class: Option<Class>,
    /// Whether everything has to leave through a next hop.
    pub via_next_hop: bool,
}

/// The part of a [`Bound`] that comes from a token.
#[derive(Debug)]
pub(crate) struct Narrowing {
    hosts: Option<HostList>,
    limits: Vec<Limit>,
    pub(crate) class: Option<Class>,
    via_next_hop: bool,
}

/// Policies of which one must allow the request.
#[derive(Debug)]
struct Limit {
    policies: Box<[u32]>,
    /// Whether the token named it, and not the operator.
    is_named_by_token: bool,
}

/// Two are the same if they are of one token: lists are not compared.
#[derive(Clone, Debug)]
pub(crate) struct Narrowed(Arc<Narrowing>);

impl PartialEq for Narrowed {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Narrowed {}

impl Hash for Narrowed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

impl std::ops::Deref for Narrowed {
    type Target = Narrowing;

    fn deref(&self) -> &Narrowing {
        &self.0
    }
}

impl PolicySet {
    /// Returns what holds for a token with these labels: the rules of its issuer's ceiling, below every limit that
    /// `terms` and the labels set. `None` if a policy that `terms` names does not exist.
    #[must_use]
    pub fn bind_token(&self, terms: &TokenTerms<'_>, labels: &Labels) -> Option<Bound> {
        let only = |name: &str| -> Option<Box<[u32]>> {
            let bound = self.bind(&[name], &Labels::default());
            (!bound.policies.is_empty()).then_some(bound.policies)
        };
        if !terms.policies.iter().all(|name| self.has_policy(name)) {
            return None;
        }
        let Bound { policies, ceilings, caps, .. } = self.bind(terms.policies, labels);
        let mut limits = Vec::new();
        if !policies.is_empty() {
            limits.push(Limit { policies, is_named_by_token: false });
        }
        if let Some(name) = terms.policy {
            limits.push(Limit { policies: only(name)?, is_named_by_token: true });
        }
        let narrowing = Narrowing {
            hosts: terms.hosts.cloned(),
            limits,
            class: terms.class,
            via_next_hop: terms.via_next_hop,
        };
        let narrowing = Some(Narrowed(Arc::new(narrowing)));
        Some(Bound { policies: only(terms.ceiling)?, ceilings, caps, narrowing })
    }
}

impl Narrowing {
    /// The policies of each limit.
    pub(crate) fn limits(&self) -> impl Iterator<Item = &[u32]> {
        self.limits.iter().map(|limit| &*limit.policies)
    }

    /// Checks that the token's list, if it has one, is for the target.
    ///
    /// # Errors
    /// The reason, if no item of it is.
    pub(crate) fn check_host(&self, request: &EgressRequest<'_>) -> Result<(), Denial> {
        self.hosts.as_ref().map_or(Ok(()), |hosts| hosts.item_for(request).map(drop))
    }

    /// The item of the token's list that is for the target, to show it; `None` without a list.
    ///
    /// # Errors
    /// As [`Self::check_host`].
    pub(crate) fn host(&self, request: &EgressRequest<'_>) -> Result<Option<Entry>, Denial> {
        self.hosts.as_ref().map_or(Ok(None), |hosts| Ok(hosts.item(hosts.item_for(request)?)))
    }

    /// Calls `found` with the ports of each item of the token's list that speaks of the name.
    pub(crate) fn each_ports(&self, name: &DnsName, found: impl FnMut(Option<&PortSet>)) {
        if let Some(hosts) = &self.hosts {
            hosts.each_ports(name, found);
        }
    }

    /// Takes from the rules of the ceiling those that are not for the token's class of data.
    ///
    /// # Errors
    /// `class_mismatch` if none is left.
    pub(crate) fn retain(&self, set: &PolicySet, rules: &mut Candidates) -> Result<(), Denial> {
        let first = rules.first().copied();
        if let Some(class) = self.class {
            rules.retain(|rule| set.terms(*rule).is_some_and(|terms| terms.class == Some(class)));
            if rules.is_empty() {
                return Err(Denial { reason: Reason::ClassMismatch, rule: first });
            }
        }
        Ok(())
    }

    /// The way out, given that of the ceiling's rule and that of each limit: the one that there is. A policy that the
    /// token names adds none: a way out is more than its issuer's tokens have, and beyond it nothing is resolved here.
    ///
    /// # Errors
    /// `egress_gateway_unavailable` if they are not all one, or if there is none and there has to be one.
    pub(crate) fn way(
        &self,
        own: Option<Way>,
        limits: impl Iterator<Item = Option<Way>>,
    ) -> Result<Option<Way>, Denial> {
        let none = Denial::of(Reason::EgressGatewayUnavailable);
        let mut way = own;
        for (limit, found) in self.limits.iter().zip(limits) {
            way = match (way, found) {
                (way, None) => way,
                (None, Some(_)) if limit.is_named_by_token => return Err(none),
                (None, found) => found,
                (Some(way), Some(found)) if way == found => Some(way),
                (Some(_), Some(_)) => return Err(none),
            };
        }
        if self.via_next_hop && way.is_none() { Err(none) } else { Ok(way) }
    }

    /// The rules of each limit that allow the target.
    ///
    /// # Errors
    /// The reason of the first limit without one.
    pub(crate) fn limit_rules(
        &self,
        set: &PolicySet,
        request: &EgressRequest<'_>,
    ) -> Result<Vec<Candidates>, Denial> {
        self.limits().map(|limit| matching(set, limit, request)).collect()
    }
}
