//! `[groups.NAME]`: entries in place, or in a file of their own.

use std::ops::Range;
use std::sync::Arc;

use exeat_policy::{Defaults, List, ListBuilder, Place};

use crate::document::{Cx, Named};
use crate::entry;
use crate::names;
use crate::policies;
use crate::problem::{Code, Finding};

/// A group as its table says.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) span: Range<usize>,
    pub(crate) place: Place,
    pub(crate) list: List,
}

/// Reads a group.
pub(crate) fn read(named: &Named<'_, '_>, cx: &mut Cx<'_, '_>) -> Group {
    if named.name == names::ANY_PUBLIC {
        let finding = Finding::error(Code::Conflict, "a group cannot be named `any-public`");
        cx.notes
            .push(named.span.clone(), finding.help("`@any-public` is everything that is globally reachable"));
    } else if let Err(finding) = names::check(named.name) {
        cx.notes.push(named.span.clone(), finding);
    }
    let defaults = entry::read_defaults(&named.fields, cx.notes);
    Group {
        name: named.name.to_owned(),
        span: named.span.clone(),
        place: cx.place(named.span.start),
        list: read_list(named, &defaults, cx),
    }
}

fn read_list(named: &Named<'_, '_>, defaults: &Defaults, cx: &mut Cx<'_, '_>) -> List {
    let fields = &named.fields;
    match (fields.get("entries"), fields.get("file")) {
        (Some(_), None) => policies::read_list(fields, "entries", None, defaults, cx),
        (None, Some(_)) => read_file(named, defaults, cx),
        (None, None) => {
            let finding =
                Finding::error(Code::MissingKey, format!("{} needs `entries` or `file`", named.title));
            cx.notes.push(named.span.clone(), finding.help("write entries = [\"api.example.com\"]"));
            ListBuilder::new(Arc::clone(cx.source.name()), defaults.clone()).finish()
        }
        (Some(_), Some(file)) => {
            let finding = Finding::error(Code::Conflict, "a group has `entries` or `file`, not both");
            cx.notes
                .push(file.span(), finding.help("make two groups, and a third that lists both as \"@name\""));
            policies::read_list(fields, "entries", None, defaults, cx)
        }
    }
}

fn read_file(named: &Named<'_, '_>, defaults: &Defaults, cx: &mut Cx<'_, '_>) -> List {
    let Some(file) = named.fields.string("file", cx.notes) else {
        return ListBuilder::new(Arc::clone(cx.source.name()), defaults.clone()).finish();
    };
    let path = cx.base_dir.join(file);
    let name: Arc<str> = path.to_string_lossy().into();
    let mut builder = ListBuilder::new(Arc::clone(&name), defaults.clone());
    if let Err(finding) = cx.files.read(&name, &path, &mut builder) {
        let span = named.fields.get("file").map_or(named.span.clone(), toml::Spanned::span);
        cx.notes.push(span, finding);
    }
    builder.finish()
}
