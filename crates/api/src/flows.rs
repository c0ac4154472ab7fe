//! `/v1/flows`: what is open at present, and how to end it.

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

use axum::{
    Extension, Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use exeat_audit::{Action, Effect};
use exeat_model::{Authority, Host, Port};
use exeat_policy::{Label, Reason};
use exeat_proxy::{FlowFilter, FlowId, FlowView, Selector};
use http::StatusCode;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    admin::Admin,
    error::Failure,
    explain::Rule,
    recorded::{self, Told},
    server::Caller,
};

/// Flows in one answer, at about 500 bytes each, unless asked for fewer or more.
const FLOWS_DEFAULT: usize = 1000;
/// Flows in one answer at most: the default budget of connections.
const FLOWS_MAX: usize = 10_000;

/// Which flows are meant. All that is given must hold.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Which {
    /// Flows of this client; `anonymous` for those without credentials. Not together with `label` when flows are ended.
    client: Option<String>,
    /// Flows of this workload, whatever proved their client.
    workload: Option<String>,
    /// Flows of clients with this label, as KEY=VALUE.
    label: Option<String>,
    /// Flows to this host, whatever the port.
    target: Option<String>,
    /// Flows from this address.
    source: Option<String>,
    /// List at most so many, the oldest first.
    #[schemars(extend("maximum" = FLOWS_MAX, "default" = FLOWS_DEFAULT))]
    limit: Option<usize>,
    /// Without any other parameter: `true` ends every flow.
    all: Option<bool>,
}

/// The flows that were found.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Flows")]
pub(crate) struct Found {
    /// How many there are, listed or not.
    total: usize,
    /// The oldest first.
    flows: Vec<Flow>,
}

/// One flow.
#[derive(Debug, Serialize, JsonSchema)]
struct Flow {
    /// Its number, to end it by.
    id: u64,
    /// As in the audit log.
    request_id: String,
    /// A tunnel, or a request that is forwarded.
    #[schemars(extend("enum" = ["tunnel", "request"]))]
    kind: &'static str,
    /// The method of the request, or `SOCKS5`.
    method: String,
    /// The client's name, or `anonymous`.
    client: String,
    /// What proved it: `password`, `origin`, `anonymous`.
    proof: &'static str,
    /// The client's labels, without those that are not set.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<&'static str, String>,
    /// The client's address and port; not over a unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// The user id of a client on a unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<u32>,
    /// The workload that it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
    /// Host and port.
    target: String,
    /// The address and port that was dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The next hop that it leaves through; then `address` is the next hop's.
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<String>,
    /// The rule that allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Rule>,
    /// The policy that allowed it last.
    revision: u64,
    /// In report mode: the reason that enforcement would give.
    #[serde(skip_serializing_if = "Option::is_none")]
    would_deny: Option<&'static str>,
    /// RFC 3339.
    started: String,
    /// How long it has been open.
    age_seconds: f64,
    /// Bytes that went to the upstream.
    bytes_up: u64,
    /// Bytes that went to the client.
    bytes_down: u64,
}

/// How many flows were told to end.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Cut {
    /// How many flows end.
    pub(crate) cut: usize,
}

/// A filter that has been understood.
#[derive(Debug, Default)]
struct Filter {
    client: Option<String>,
    workload: Option<String>,
    label: Option<(Label, String)>,
    host: Option<Host>,
    source: Option<IpAddr>,
}

type Queried = Result<Query<Which>, QueryRejection>;

pub(crate) async fn list(State(admin): State<Admin>, query: Queried) -> Result<Json<Found>, Failure> {
    let which = which(query)?;
    let limit = which.limit.unwrap_or(FLOWS_DEFAULT).min(FLOWS_MAX);
    let filter = Filter::new(&which)?;
    let mut flows = admin.proxy.flows();
    flows.retain(|flow| filter.means(flow));
    let total = flows.len();
    Ok(Json(Found { total, flows: flows.into_iter().take(limit).map(Flow::from).collect() }))
}

pub(crate) async fn cut(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    query: Queried,
) -> Result<Json<Cut>, Failure> {
    let which = which(query)?;
    let filter = FlowFilter::try_from(Filter::new(&which)?)?;
    if filter == FlowFilter::default() && which.all != Some(true) {
        let help = "name a client, workload, label, target or source, or say all=true";
        return Err(Failure::request("this would end every flow").help(help));
    }
    Ok(Json(Cut { cut: cut_recorded(&admin, caller, &filter) }))
}

pub(crate) async fn cut_one(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<u64>, PathRejection>,
) -> Result<Json<Cut>, Failure> {
    let Path(id) = id.map_err(|_| {
        Failure::request("the id of a flow is a number").help("which there are: exeat flows, GET /v1/flows")
    })?;
    match cut_recorded(&admin, caller, &FlowFilter::from(FlowId(id))) {
        0 => {
            Err(Failure::new(StatusCode::NOT_FOUND, format!("there is no flow {id}"))
                .help("it may have ended"))
        }
        cut => Ok(Json(Cut { cut })),
    }
}

/// Ends flows and makes a record of it. Returns how many they are.
fn cut_recorded(admin: &Admin, caller: Caller, filter: &FlowFilter) -> usize {
    let cut = admin.proxy.cut(filter, Reason::PolicyChanged);
    let effect = if cut > 0 { Effect::Done } else { Effect::Unchanged };
    recorded::note(admin, caller, Action::Cut, effect, &named(filter), Told::ended(cut));
    cut
}

/// What a filter means, for a record.
fn named(FlowFilter { id, selector, host, source }: &FlowFilter) -> String {
    let parts = [
        id.map(|id| format!("flow {}", id.0)),
        selector.as_ref().map(ToString::to_string),
        host.as_ref().map(|host| format!("to {host}")),
        source.map(|source| format!("from {source}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "every flow".to_owned() } else { parts.join(", ") }
}

fn which(query: Queried) -> Result<Which, Failure> {
    query.map(|Query(which)| which).map_err(|error| Failure::request(error.body_text()))
}

/// Reads a label as `KEY=VALUE`.
pub(crate) fn label(text: &str) -> Result<(Label, String), Failure> {
    let known = Label::ALL.map(Label::key).join(", ");
    let parsed = text.split_once('=').and_then(|(key, value)| Some((Label::parse(key)?, value.to_owned())));
    parsed.ok_or_else(|| {
        Failure::request(format!("`{text}` is not a label"))
            .help(format!("write KEY=VALUE, where KEY is one of {known}"))
    })
}

/// Returns who is meant by the name of a client or a workload, or by a label.
pub(crate) fn selector(
    client: Option<&str>,
    workload: Option<&str>,
    label_text: Option<&str>,
) -> Result<Option<Selector>, Failure> {
    let made = match (client, workload, label_text) {
        (None, None, None) => return Ok(None),
        (Some(client), None, None) => Selector::client(client),
        (None, Some(workload), None) => Selector::workload(workload),
        (None, None, Some(text)) => {
            let (key, value) = label(text)?;
            Selector::label(key, &value)
        }
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) | (_, Some(_), Some(_)) => {
            let error = "client, workload and label exclude each other";
            return Err(Failure::request(error).help("name one"));
        }
    };
    made.map(Some).map_err(|error| Failure::request(error.to_string()))
}

impl Filter {
    fn new(which: &Which) -> Result<Self, Failure> {
        let host = which.target.as_deref().map(|text| {
            let bare = |host: Authority| Some(host.host).filter(|_| !has_port(text));
            Authority::parse(text, Some(Port::HTTPS)).ok().and_then(bare).ok_or_else(|| {
                Failure::request(format!("`{text}` is not a host"))
                    .help("name the host alone, without a port")
            })
        });
        let source = which
            .source
            .as_deref()
            .map(|text| text.parse().map_err(|_| Failure::request(format!("`{text}` is not an address"))));
        Ok(Self {
            client: which.client.clone(),
            workload: which.workload.clone(),
            label: which.label.as_deref().map(label).transpose()?,
            host: host.transpose()?,
            source: source.transpose()?,
        })
    }

    fn means(&self, flow: &FlowView) -> bool {
        self.client.as_deref().is_none_or(|client| *client == *flow.principal)
            && (self.workload.is_none() || self.workload.as_deref() == flow.workload.as_deref())
            && self.label.as_ref().is_none_or(|(key, value)| flow.labels.get(*key) == Some(value))
            && self.host.as_ref().is_none_or(|host| *host == flow.target.host)
            && self.source.is_none_or(|source| {
                flow.source.is_some_and(|from| from.ip().to_canonical() == source.to_canonical())
            })
    }
}

impl TryFrom<Filter> for FlowFilter {
    type Error = Failure;

    fn try_from(filter: Filter) -> Result<Self, Failure> {
        let label = filter.label.map(|(key, value)| format!("{}={value}", key.key()));
        Ok(Self {
            id: None,
            selector: selector(filter.client.as_deref(), filter.workload.as_deref(), label.as_deref())?,
            host: filter.host,
            source: filter.source,
        })
    }
}

/// Whether an authority that parses ends with a port.
fn has_port(text: &str) -> bool {
    Authority::parse(text, None).is_ok()
}

impl From<FlowView> for Flow {
    fn from(flow: FlowView) -> Self {
        Self {
            id: flow.id.0,
            request_id: flow.request_id.to_string(),
            kind: flow.kind.word(),
            method: flow.method.to_string(),
            client: flow.principal.to_string(),
            proof: flow.proof.name(),
            labels: flow.labels.iter().map(|(key, value)| (key.key(), value.to_owned())).collect(),
            source: flow.source.map(|source| source.to_string()),
            user: flow.user,
            workload: flow.workload.map(|workload| workload.to_string()),
            target: flow.target.to_string(),
            address: flow.address.map(|address| address.to_string()),
            via: flow.via.map(|via| via.to_string()),
            rule: flow.rule.map(Rule::from),
            revision: flow.revision.0,
            would_deny: flow.would_deny.map(Reason::token),
            started: time_text(flow.started),
            age_seconds: flow.age.as_secs_f64(),
            bytes_up: flow.bytes_up,
            bytes_down: flow.bytes_down,
        }
    }
}

/// A time in RFC 3339, UTC, with milliseconds, as in the audit log.
pub(crate) fn time_text(time: SystemTime) -> String {
    // A clock that is beyond the year 9999 is shown as the epoch.
    Timestamp::try_from(time)
        .map(|time| format!("{time:.3}"))
        .unwrap_or_else(|_| "1970-01-01T00:00:00.000Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(client: Option<&str>, label: Option<&str>, target: Option<&str>) -> Which {
        let text = |text: &str| text.to_owned();
        Which {
            client: client.map(text),
            label: label.map(text),
            target: target.map(text),
            ..Which::default()
        }
    }

    #[test]
    fn filters_mean_what_they_say_or_nothing() {
        let ok = |which: &Which| Filter::new(which).and_then(FlowFilter::try_from).is_ok();
        for (name, which, want) in [
            ("nothing", Which::default(), true),
            ("client", which(Some("app"), None, None), true),
            ("label", which(None, Some("space=a"), None), true),
            ("unknown label", which(None, Some("spice=a"), None), false),
            ("label without value", which(None, Some("space"), None), false),
            ("both", which(Some("app"), Some("space=a"), None), false),
            ("workload", Which { workload: Some("batch".to_owned()), ..Which::default() }, true),
            (
                "workload and client",
                Which { workload: Some("batch".to_owned()), ..which(Some("app"), None, None) },
                false,
            ),
            ("name", which(None, None, Some("EXAMPLE.com")), true),
            ("address", which(None, None, Some("192.0.2.1")), true),
            ("address of six", which(None, None, Some("[2001:db8::1]")), true),
            ("with port", which(None, None, Some("example.com:443")), false),
            ("no host", which(None, None, Some("a b")), false),
        ] {
            assert_eq!(ok(&which), want, "{name}");
        }
    }

    #[test]
    fn a_record_names_what_was_meant() {
        let filter = |which: Which| FlowFilter::try_from(Filter::new(&which).unwrap()).unwrap();
        let source = Some("192.0.2.1".to_owned());
        for (filter, want) in [
            (FlowFilter::default(), "every flow"),
            (FlowFilter::from(FlowId(7)), "flow 7"),
            (filter(which(Some("app"), None, None)), "client app"),
            (filter(which(None, Some("space=a"), Some("EXAMPLE.com"))), "label space=a, to example.com"),
            (filter(Which { source, ..Which::default() }), "from 192.0.2.1"),
        ] {
            assert_eq!(named(&filter), want);
        }
    }
}
