//! All the problems of one load, as text for people and as JSON lines for editors.

use std::borrow::Cow;
use std::fmt;

use miette::{
    GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteSpanContents, SourceSpan, SpanContents,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::problem::{Excerpt, Location, Problem, Severity};

/// Whether rendered text carries terminal colours.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Colour {
    /// Text only.
    #[default]
    Plain,
    /// ANSI escape sequences.
    Ansi,
}

/// Every problem found in one load, in the order of the files and of the lines in them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    problems: Vec<Problem>,
}

impl Report {
    /// Makes a report of problems that are already in order.
    pub(crate) fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// Returns the problems in order.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Returns whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// Returns whether any problem is an error, so that the configuration is refused.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// Returns the number of problems of one severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.problems.iter().filter(|problem| problem.severity() == severity).count()
    }

    /// Returns the report for a terminal: each problem with its place, source line, underline and correction,
    /// and a last line that counts them. Empty if nothing was found.
    #[must_use]
    pub fn render(&self, colour: Colour) -> String {
        let theme = match colour {
            Colour::Plain => GraphicalTheme::unicode_nocolor(),
            Colour::Ansi => GraphicalTheme::unicode(),
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_wrap_lines(false)
            .with_urls(false)
            .with_context_lines(0)
            .without_syntax_highlighting();
        let mut out = String::new();
        for problem in &self.problems {
            // Writing to a string fails only if the handler cannot read the excerpt, which is in memory.
            if handler.render_report(&mut out, &Shown(problem)).is_err() {
                out.push_str(problem.message());
                out.push('\n');
            }
            out.push('\n');
        }
        out.push_str(&self.summary());
        out
    }

    /// Returns one JSON object a line: `file`, `line`, `column`, `end_column`, `severity`, `code`, `message`,
    /// `help`. A problem of a whole file has no line and columns; one without a correction has no help.
    #[must_use]
    pub fn to_json_lines(&self) -> String {
        let lines = self.problems.iter().filter_map(|problem| serde_json::to_string(&Line::of(problem)).ok());
        lines.map(|line| line + "\n").collect()
    }

    /// "2 errors, 1 warning", and a line end.
    fn summary(&self) -> String {
        let count = |severity: Severity| match self.count(severity) {
            0 => None,
            1 => Some(format!("1 {}", severity.name())),
            count => Some(format!("{count} {}s", severity.name())),
        };
        let counts: Vec<String> =
            [Severity::Error, Severity::Warning].into_iter().filter_map(count).collect();
        if counts.is_empty() { String::new() } else { counts.join(", ") + "\n" }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Colour::Plain))
    }
}

impl std::error::Error for Report {}

/// A list of problems, each as in [`Report::to_json_lines`].
impl Serialize for Report {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.problems.iter().map(Line::of))
    }
}

impl JsonSchema for Report {
    fn schema_name() -> Cow<'static, str> {
        "Report".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        <Vec<Line<'_>>>::json_schema(generator)
    }
}

/// A problem of a configuration, with its place.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Problem")]
struct Line<'p> {
    /// The file, or how the text is called that was sent.
    file: &'p str,
    /// From 1; missing if the problem is the file as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    /// From 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u32>,
    /// One past the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    end_column: Option<u32>,
    /// An error keeps the configuration from loading, a warning does not.
    #[schemars(extend("enum" = ["error", "warning"]))]
    severity: &'static str,
    /// A stable token.
    code: &'static str,
    /// What is wrong.
    message: &'p str,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<&'p str>,
}

impl<'p> Line<'p> {
    fn of(problem: &'p Problem) -> Self {
        let place = problem.location();
        Self {
            file: problem.file(),
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            end_column: place.map(|place| place.end_column),
            severity: problem.severity().name(),
            code: problem.code().name(),
            message: problem.message(),
            help: problem.help(),
        }
    }
}

/// A problem as miette sees it.
#[derive(Debug)]
struct Shown<'p>(&'p Problem);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.location.is_none() {
            write!(f, "{}: ", self.0.file())?;
        }
        f.write_str(self.0.message())
    }
}

impl std::error::Error for Shown<'_> {}

impl miette::Diagnostic for Shown<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.0.severity() {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.help().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.0.excerpt.as_ref()?;
        Some(self)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let excerpt = self.0.excerpt.as_ref()?;
        let label = LabeledSpan::new(self.0.finding.label.clone(), excerpt.start, excerpt.len);
        Some(Box::new(std::iter::once(label)))
    }
}

impl miette::SourceCode for Shown<'_> {
    /// Returns the excerpt whatever is asked for: it is all there is, and it starts on the problem's line.
    fn read_span<'a>(
        &'a self,
        _span: &SourceSpan,
        _lines_before: usize,
        _lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, miette::MietteError> {
        let (Some(Excerpt { text, .. }), Some(Location { line, column, .. })) =
            (&self.0.excerpt, self.0.location)
        else {
            return Err(miette::MietteError::OutOfBounds);
        };
        let index = |count: u32| usize::try_from(count.saturating_sub(1)).unwrap_or(usize::MAX);
        let whole = SourceSpan::from((0, text.len()));
        let name = self.0.file().to_owned();
        Ok(Box::new(MietteSpanContents::new_named(
            name,
            text.as_bytes(),
            whole,
            index(line),
            index(column),
            1,
        )))
    }
}
