//! A mapping of names to lists of strings, from YAML events: no tree is built, and no alias is ever followed.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScanError, Span, StrInput};

use super::{HostList, Placed};
use crate::notes::Notes;
use crate::problem::{Code, Finding, shown};

/// Collections within collections that are read over before the file is given up: two mean something.
const DEPTH_MAX: usize = 16;

const LIST_HELP: &str = "write a list of hosts:\n  name:\n    - \"api.example.com\"";

/// Reads the lists of a file, each name once. `None` if the rest of the file cannot be understood.
pub(super) fn read(text: &str, notes: &mut Notes) -> Option<Vec<HostList>> {
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut reader = Reader { parser: Parser::new_from_str_with_options(text, options), text, notes };
    let lists = reader.document();
    lists.map_err(|stopped| stopped.tell(text, notes)).ok()
}

/// Why the rest cannot be read.
enum Stopped {
    Broken(ScanError),
    Document(Range<usize>),
    /// For a reason that has been told.
    Told,
}

impl Stopped {
    fn tell(self, text: &str, notes: &mut Notes) {
        match self {
            Self::Told => {}
            Self::Document(span) => {
                let finding = Finding::error(Code::Syntax, "the file has more than one document");
                notes.push(span, finding.help("import each from a file of its own"));
            }
            Self::Broken(error) => {
                let start = error.marker().byte_offset().unwrap_or(text.len());
                let rest = text.get(start..).unwrap_or_default();
                let end = start + rest.chars().next().map_or(0, char::len_utf8);
                let finding = Finding::error(Code::Syntax, error.info());
                notes
                    .push(start..end, if rest.starts_with('*') { finding.help(quote("*")) } else { finding });
            }
        }
    }
}

fn quote(text: &str) -> String {
    format!("`*` at the beginning means something else in YAML: write \"{}\"", shown(text))
}

/// One value of the file.
enum Node {
    Text(Placed),
    /// The beginning of a list.
    List,
    /// Anything else, which has been told and read over.
    Other,
}

struct Reader<'t, 'n> {
    parser: Parser<'t, StrInput<'t>>,
    text: &'t str,
    notes: &'n mut Notes,
}

impl<'t> Reader<'t, '_> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that may grow")]
    fn document(&mut self) -> Result<Vec<HostList>, Stopped> {
        let mut lists = Vec::new();
        let mut documents = 0;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::DocumentStart(..) if documents > 0 => return Err(Stopped::Document(span)),
                Event::DocumentStart(..) => documents += 1,
                Event::MappingStart(..) => lists = self.mapping()?,
                Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                _ => {
                    self.refuse(span, "the file is no mapping of names to lists", LIST_HELP);
                    return Err(Stopped::Told);
                }
            }
        }
        if lists.is_empty() {
            self.notes.push_whole(Finding::error(Code::MissingKey, "there is no list").help(LIST_HELP));
            return Err(Stopped::Told);
        }
        Ok(lists)
    }

    fn mapping(&mut self) -> Result<Vec<HostList>, Stopped> {
        let mut lists: Vec<HostList> = Vec::new();
        // A file may have a list for each line.
        let mut places: HashMap<String, usize> = HashMap::new();
        while let Some((event, span)) = self.next()? {
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let Node::Text(name) = self.node(event, span.clone())? else {
                self.refuse(span, "this is no name of a list", LIST_HELP);
                return Err(Stopped::Told);
            };
            let Some((event, value_span)) = self.next()? else { break };
            let mut list = HostList { name, hosts: Vec::new(), is_whole: false };
            match self.node(event, value_span.clone())? {
                Node::List => self.hosts(&mut list)?,
                Node::Text(_) => self.refuse(value_span, "a group is a list of hosts", LIST_HELP),
                Node::Other => {}
            }
            if let Some(other) = places.get(&list.name.text).and_then(|place| lists.get_mut(*place)) {
                let message = format!("`{}` is there twice", shown(&list.name.text));
                let finding = Finding::error(Code::Duplicate, message).help("put both lists together");
                self.notes.push(span, finding);
                other.is_whole = false;
            } else {
                places.insert(list.name.text.clone(), lists.len());
                lists.push(list);
            }
        }
        Ok(lists)
    }

    /// Reads the strings of a list that has begun.
    fn hosts(&mut self, list: &mut HostList) -> Result<(), Stopped> {
        list.is_whole = true;
        while let Some((event, span)) = self.next()? {
            if matches!(event, Event::SequenceEnd) {
                break;
            }
            match self.node(event, span.clone())? {
                Node::Text(host) => {
                    list.hosts.push(host);
                    continue;
                }
                Node::List => {
                    self.over()?;
                    self.refuse(span, "a list of hosts holds no other list", LIST_HELP);
                }
                Node::Other => {}
            }
            list.is_whole = false;
        }
        Ok(())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that may grow")]
    fn node(&mut self, event: Event<'_>, span: Range<usize>) -> Result<Node, Stopped> {
        match event {
            Event::Scalar(text, _, _, None) => {
                return Ok(Node::Text(Placed { text: text.into_owned(), span }));
            }
            Event::Scalar(..) => {
                self.refuse(span, "a tag says that this is no plain text", "write the host without a tag");
            }
            Event::SequenceStart(..) => return Ok(Node::List),
            Event::MappingStart(..) => {
                self.over()?;
                self.refuse(span, "a mapping is no list of hosts", LIST_HELP);
            }
            Event::Alias(_) => {
                let help = "write the hosts out: references are not followed";
                self.refuse(span, "this refers to another part of the file", help);
            }
            Event::UnresolvedAlias(name) => {
                self.refuse(
                    span,
                    "this refers to a part of the file that is not there",
                    &quote(&format!("*{name}")),
                );
            }
            _ => {}
        }
        Ok(Node::Other)
    }

    fn refuse(&mut self, span: Range<usize>, message: &str, help: &str) {
        self.notes.push(span, Finding::error(Code::WrongType, message).help(help));
    }

    /// Reads over the rest of a collection that has begun.
    fn over(&mut self) -> Result<(), Stopped> {
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Some((Event::MappingStart(..) | Event::SequenceStart(..), _)) => depth += 1,
                Some((Event::MappingEnd | Event::SequenceEnd, _)) => depth -= 1,
                Some(_) => {}
                None => break,
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, Range<usize>)>, Stopped> {
        let Some(event) = self.parser.next_event() else { return Ok(None) };
        let (event, span) = event.map_err(Stopped::Broken)?;
        Ok(Some((event, self.range(&span))))
    }

    fn range(&self, span: &Span) -> Range<usize> {
        span.byte_range().unwrap_or(self.text.len()..self.text.len())
    }
}
