//! What each flow of a rule or of a client may come to: `idle_timeout`, `max_age`, `max_bytes_up`, `max_bytes_down`.

use std::ops::Range;

use exeat_policy::{Cap, Caps};

use crate::document::Document;
use crate::limits::{FLOW_BYTES, LIFE};
use crate::notes::Notes;
use crate::problem::{Code, Finding};
use crate::reader::Fields;
use crate::references::Places;

/// The keys.
pub(crate) const KEYS: [&str; 4] = ["idle_timeout", "max_age", "max_bytes_up", "max_bytes_down"];

/// Reads the keys of one table.
pub(crate) fn read(fields: &Fields<'_, '_>, notes: &mut Notes) -> Caps {
    Caps {
        idle_timeout: fields.duration("idle_timeout", &LIFE, notes),
        max_age: fields.duration("max_age", &LIFE, notes),
        max_bytes_up: fields.integer("max_bytes_up", &FLOW_BYTES, notes),
        max_bytes_down: fields.integer("max_bytes_down", &FLOW_BYTES, notes),
    }
}

/// Warns of bounds that have no effect because `[limits]` is stricter: their author expects more.
pub(crate) fn check(document: &Document, places: &mut Places<'_, '_>) {
    let limits = document.limits.caps();
    let owners = document.policies.iter().chain(&document.ceilings);
    let owners = owners.map(|owner| (&owner.span, owner.defaults.caps, &owner.allow));
    let groups = document.groups.iter().map(|group| (&group.span, group.list.defaults().caps, &group.list));
    for (span, caps, list) in owners.chain(groups) {
        note(span, caps, limits, places);
        if !list.has_settings() {
            continue;
        }
        for (entry, place) in list.entries() {
            for finding in idle(entry.settings.caps, limits) {
                places.push(&place, finding);
            }
        }
    }
    for client in &document.clients {
        note(&client.span, client.caps, limits, places);
    }
}

fn note(span: &Range<usize>, caps: Caps, limits: Caps, places: &mut Places<'_, '_>) {
    for finding in idle(caps, limits) {
        places.notes.push(span.clone(), finding);
    }
}

/// The bounds that are never reached.
fn idle(caps: Caps, limits: Caps) -> impl Iterator<Item = Finding> {
    let is_beyond = move |cap: &Cap| limits.iter().any(|limit| limit.key() == cap.key() && limit < *cap);
    caps.iter().filter(is_beyond).map(|cap| {
        let finding = Finding::warning(Code::Suspicious, format!("`{cap}` has no effect"));
        let key = limit_key(cap);
        finding.help(format!("the strictest bound holds, and `limits.{key}` is lower: raise that one"))
    })
}

/// The key of `[limits]` that bounds the same for every flow.
const fn limit_key(cap: Cap) -> &'static str {
    match cap {
        Cap::IdleTimeout(_) => "idle_timeout",
        Cap::MaxAge(_) => "flow_age",
        Cap::MaxBytesUp(_) => "flow_bytes_up",
        Cap::MaxBytesDown(_) => "flow_bytes_down",
    }
}
