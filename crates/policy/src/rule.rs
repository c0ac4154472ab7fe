//! Which rule decided, and how to show it.

use exeat_model::{IpBlock, PortSet};

use crate::announce::Announce;
use crate::caps::Caps;
use crate::class::Class;
use crate::entry::{Answers, Defaults, Expect, Side};
use crate::list::Settings;
use crate::place::Place;
use crate::transports::Transports;

/// One rule of a snapshot. Only meaningful together with the [`crate::PolicySet`] it came from.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleId {
    /// The policy or ceiling, by position in the snapshot.
    pub(crate) owner: u32,
    pub(crate) at: At,
}

/// Where in its owner a rule stands.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum At {
    /// An entry of an allow or deny list.
    Entry { side: ListSide, list: u32, entry: u32 },
    /// An address that the owner's `metadata` opens.
    Metadata(u32),
    /// The policy is in report mode and nothing else allows the request.
    Report,
}

/// [`Side`] with an order, so that rules have one too.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum ListSide {
    Allow,
    Deny,
}

impl From<Side> for ListSide {
    fn from(side: Side) -> Self {
        match side {
            Side::Allow => Self::Allow,
            Side::Deny => Self::Deny,
        }
    }
}

/// A rule as an operator wrote it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RuleView {
    /// The policy's name, or `ceiling NAME`.
    pub policy: String,
    /// Where it stands.
    pub place: Place,
    /// The entry in its configuration form.
    pub text: String,
}

/// What a rule says once its own settings, its group's and its policy's are put together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms<'a> {
    /// `None`: the side's default.
    pub(crate) ports: Option<&'a PortSet>,
    /// `None`: the side's default.
    pub(crate) transport: Option<Transports>,
    pub(crate) addresses: Option<&'a [IpBlock]>,
    pub(crate) expect: Option<Expect>,
    pub(crate) answers: Answers,
    pub(crate) announce: Announce,
    pub(crate) verify: Option<bool>,
    pub(crate) class: Option<Class>,
    pub(crate) caps: Caps,
    pub(crate) settings: Option<&'a Settings>,
}

impl<'a> Terms<'a> {
    /// The entry's own settings win over what the list passes down.
    // Most of whoever asks looks at one or two of them.
    #[inline]
    pub(crate) fn new(settings: Option<&'a Settings>, outer: &'a Defaults) -> Self {
        let own = settings.map(|s| &s.own);
        Self {
            ports: own.and_then(|o| o.ports.as_ref()).or(outer.ports.as_ref()),
            transport: own.and_then(|o| o.transport).or(outer.transport),
            addresses: own.and_then(|o| o.addresses.as_deref()).or(outer.addresses.as_deref()),
            expect: own.and_then(|o| o.expect).or(outer.expect),
            answers: own.and_then(|o| o.answers).or(outer.answers).unwrap_or_default(),
            announce: own.and_then(|o| o.announce).or(outer.announce).unwrap_or_default(),
            verify: own.and_then(|o| o.verify).or(outer.verify),
            class: own.and_then(|o| o.class).or(outer.class),
            caps: own.map_or(outer.caps, |o| o.caps.or(outer.caps)),
            settings,
        }
    }
}
