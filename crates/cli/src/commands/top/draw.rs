//! A board as lines of text: the same for a screen of any size and for a plain listing. Pure.

use super::{
    rates::{Board, PairRates, Rate},
    sample::{Pair, Refused, Sample},
    text::{Keep, age, count, fit, rate, safe, time_of_day},
    view::{Mode, View},
};

/// Columns from which on everything is shown.
const WIDE: usize = 100;
/// Columns below which only the most important is shown.
const NARROW: usize = 64;
/// Lines between header and footer from which on refusals have a table of their own.
const TALL: usize = 10;
/// Columns of a plain listing: nothing is cut.
const ENDLESS: usize = 10_000;

/// How a line looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Style {
    Plain,
    Bold,
    Reverse,
}

/// One line of the screen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) style: Style,
}

const HELP: [&str; 13] = [
    "keys",
    "  q, ctrl-c   quit",
    "  s           sort the table by the next column",
    "  r           refusals: the newest or the most frequent first",
    "  f, /        filter by client, target or reason; enter keeps it, esc drops it",
    "  p, space    pause, and go on",
    "  j, k, arrows, page up and down, home, end   select a row",
    "  c           cut the flows of the selected row, after a yes",
    "",
    "A row is one client and one target: what goes up and down and how many",
    "requests there are, for each second; the open flows and the age of the",
    "oldest. `allowed` has the tunnels that were opened and the requests that",
    "were answered, `failed` those that were allowed and came to nothing.",
];

/// Returns the screen: `height` lines of `width` columns.
pub(super) fn screen(board: &Board, view: &View, width: usize, height: usize) -> Vec<Line> {
    let mut lines = header(board, view.is_paused, width);
    let body = height.saturating_sub(lines.len() + 1);
    if view.mode == Mode::Help {
        lines.extend(HELP.iter().take(body).map(|text| plain_line(text)));
    } else if body < TALL {
        lines.extend(traffic(board, view, width, body.saturating_sub(1)));
        lines.extend([reasons(board, width)]);
    } else {
        let below = (body * 2 / 5).min(view.refusals(board).len() + 2).max(3);
        lines.extend(traffic(board, view, width, body - below));
        lines.extend(refused(board, view, width, below));
    }
    lines.resize(height.saturating_sub(1), plain_line(""));
    lines.push(footer(view, width));
    lines.truncate(height);
    for line in &mut lines {
        line.text = fit(&line.text, width, Keep::Start);
    }
    lines
}

/// Returns everything as text, without a cut.
pub(super) fn plain(board: &Board) -> String {
    let view = View::default();
    let mut lines = header(board, false, ENDLESS);
    lines.push(plain_line(""));
    let pairs = view.pairs(board);
    lines.extend(table(&pair_columns(), &pairs, ENDLESS));
    lines.push(plain_line(""));
    lines.push(reasons(board, ENDLESS));
    lines.extend(table(&refused_columns(), &view.refusals(board), ENDLESS));
    lines.iter().map(|line| format!("{}\n", line.text.trim_end())).collect()
}

fn plain_line(text: &str) -> Line {
    Line { text: text.to_owned(), style: Style::Plain }
}

fn header(board: &Board, is_paused: bool, width: usize) -> Vec<Line> {
    let now = &board.now;
    // First what an operator must not miss: a narrow screen cuts the end.
    let mut first = flags(now, is_paused);
    let things = |number: u64, one: &str| match number {
        1 => format!("1 {one}"),
        _ => format!("{} {one}s", count(number)),
    };
    let is_narrow = width < NARROW;
    first.push(format!("{} {}", if is_narrow { "rev" } else { "revision" }, now.revision));
    first.push(format!("up {}", age(now.uptime_seconds)));
    let rates = |names: [&str; 5]| {
        let [allowed, denied, failed, up, down] = names;
        let per_second = [
            (allowed, board.allowed, "/s"),
            (denied, board.denied, "/s"),
            (failed, board.failed, "/s"),
            (up, board.up, "B/s"),
            (down, board.down, "B/s"),
        ];
        per_second.map(|(name, number, unit)| match name {
            "" => String::new(),
            name => format!("{name} {}{unit}", rate(number)),
        })
    };
    let second = if is_narrow {
        first.push(things(now.connections, "conn"));
        first.push(things(now.tunnels + now.requests, "flow"));
        let [allowed, denied, _, up, down] = rates(["ok", "no", "", "up", "dn"]);
        vec![allowed, denied, up, down]
    } else {
        first.push(things(now.connections, "connection"));
        first.push(things(now.tunnels, "tunnel"));
        first.push(things(now.requests, "request"));
        rates(["allowed", "denied", "failed", "up", "down"]).to_vec()
    };
    let gap = if is_narrow { " " } else { "  " };
    let lines = [first.join("  "), second.join(gap)];
    lines.into_iter().map(|text| Line { text, style: Style::Bold }).collect()
}

fn flags(now: &Sample, is_paused: bool) -> Vec<String> {
    let mut flags: Vec<String> = [
        (is_paused, "PAUSED"),
        (now.is_draining, "DRAINING"),
        (now.is_audit_failing, "AUDIT FAILS"),
        (!now.is_current, "RELOAD FAILED"),
    ]
    .into_iter()
    .filter(|(is_set, _)| *is_set)
    .map(|(_, word)| word.to_owned())
    .collect();
    if now.reporting > 0 {
        flags.push(format!("REPORT MODE {}", now.reporting));
    }
    if now.quarantined > 0 {
        flags.push(format!("QUARANTINE {}", now.quarantined));
    }
    flags
}

/// One column of a table of `T`.
struct Column<T> {
    title: &'static str,
    /// The width of a screen from which on it is shown.
    from: usize,
    kind: Kind,
    cell: fn(&T) -> String,
}

/// How a column takes its room.
#[derive(Clone, Copy)]
enum Kind {
    /// As wide as its widest cell, and to the right.
    Number,
    /// As wide as its widest cell, but no wider than this.
    Word(usize),
    /// A name of a client: a third of what is left.
    Client,
    /// What is left.
    Target,
}

type PairRow<'a> = (&'a Pair, PairRates);
type RefusedRow<'a> = (&'a Refused, Rate);

const fn pair_columns<'a>() -> [Column<PairRow<'a>>; 7] {
    [
        Column { title: "CLIENT", from: 0, kind: Kind::Client, cell: |(pair, _)| safe(&pair.client) },
        Column { title: "TARGET", from: 0, kind: Kind::Target, cell: |(pair, _)| safe(&pair.target) },
        Column { title: "UP/s", from: NARROW, kind: Kind::Number, cell: |(_, rates)| rate(rates.up) },
        Column { title: "DOWN/s", from: 0, kind: Kind::Number, cell: |(_, rates)| rate(rates.down) },
        Column { title: "REQ/s", from: NARROW, kind: Kind::Number, cell: |(_, rates)| rate(rates.requests) },
        Column { title: "FLOWS", from: NARROW, kind: Kind::Number, cell: |(pair, _)| count(pair.flows) },
        Column {
            title: "AGE",
            from: NARROW,
            kind: Kind::Number,
            cell: |(pair, _)| pair.oldest_seconds.map_or_else(|| "-".to_owned(), age),
        },
    ]
}

const fn refused_columns<'a>() -> [Column<RefusedRow<'a>>; 6] {
    [
        Column {
            title: "CLIENT",
            from: NARROW,
            kind: Kind::Client,
            cell: |(row, _)| row.client.as_deref().map_or_else(|| "-".to_owned(), safe),
        },
        Column { title: "REFUSED TARGET", from: 0, kind: Kind::Target, cell: |(row, _)| safe(&row.target) },
        Column { title: "REASON", from: 0, kind: Kind::Word(27), cell: |(row, _)| safe(&row.reason) },
        Column { title: "COUNT", from: NARROW, kind: Kind::Number, cell: |(row, _)| count(row.count) },
        Column { title: "REQ/s", from: WIDE, kind: Kind::Number, cell: |(_, number)| rate(*number) },
        Column { title: "LAST", from: NARROW, kind: Kind::Number, cell: |(row, _)| time_of_day(&row.last) },
    ]
}

/// Columns between two columns.
const GAP: &str = "  ";
/// What stands before the selected row, and before the others.
const MARK: &str = "> ";
const NO_MARK: &str = "  ";

/// The titles and a line for each row.
fn table<T>(columns: &[Column<T>], rows: &[T], width: usize) -> Vec<Line> {
    let columns: Vec<&Column<T>> = columns.iter().filter(|column| width >= column.from).collect();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|column| (column.cell)(row)).collect()).collect();
    let widths = widths(&columns, &cells, width);
    let line = |cells: &[String]| {
        let fitted =
            columns.iter().zip(cells).zip(&widths).map(|((column, cell), width)| match column.kind {
                Kind::Number => format!("{cell:>width$}"),
                Kind::Word(_) | Kind::Client => fit(cell, *width, Keep::Start),
                Kind::Target => fit(cell, *width, Keep::End),
            });
        fitted.collect::<Vec<_>>().join(GAP)
    };
    // A title is cut at its end, whatever its column.
    let titles = columns.iter().zip(&widths).map(|(column, width)| match column.kind {
        Kind::Number => format!("{:>width$}", column.title),
        Kind::Word(_) | Kind::Client | Kind::Target => fit(column.title, *width, Keep::Start),
    });
    let titles = Line { text: titles.collect::<Vec<_>>().join(GAP), style: Style::Reverse };
    std::iter::once(titles).chain(cells.iter().map(|cells| plain_line(&line(cells)))).collect()
}

fn widths<T>(columns: &[&Column<T>], cells: &[Vec<String>], width: usize) -> Vec<usize> {
    let natural: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let widest = cells.iter().filter_map(|row| row.get(at)).map(|cell| columns_of(cell));
            widest.max().unwrap_or(0).max(columns_of(column.title))
        })
        .collect();
    let fixed = |column: &Column<T>, natural: usize| match column.kind {
        Kind::Number => Some(natural),
        Kind::Word(most) => Some(natural.min(most)),
        Kind::Client | Kind::Target => None,
    };
    let taken: usize =
        columns.iter().zip(&natural).filter_map(|(column, natural)| fixed(column, *natural)).sum();
    let left = width.saturating_sub(taken + GAP.len() * columns.len().saturating_sub(1));
    let client = columns.iter().zip(&natural).find(|(column, _)| matches!(column.kind, Kind::Client));
    let client = client.map_or(0, |(_, natural)| (*natural).min(left / 3));
    let widths = columns.iter().zip(&natural).map(|(column, natural)| match column.kind {
        Kind::Number | Kind::Word(_) => fixed(column, *natural).unwrap_or(*natural),
        Kind::Client => client,
        // A listing without an end is as wide as what it lists.
        Kind::Target if width == ENDLESS => *natural,
        Kind::Target => left - client,
    });
    widths.collect()
}

fn columns_of(text: &str) -> usize {
    unicode_width::UnicodeWidthStr::width(text)
}

/// The table of pairs in `height` lines, with the selected row on the screen.
fn traffic(board: &Board, view: &View, width: usize, height: usize) -> Vec<Line> {
    let rows = view.pairs(board);
    let selected = view.selected(&rows);
    let room = height.saturating_sub(1);
    let first = selected.saturating_sub(room.saturating_sub(1));
    let shown = rows.get(first..).unwrap_or_default();
    let shown = shown.get(..room.min(shown.len())).unwrap_or_default();
    let mut lines = table(&pair_columns(), shown, width.saturating_sub(MARK.len()));
    for (at, line) in (0..).zip(&mut lines) {
        // To be seen without attributes, too.
        let is_selected = at == 1 + selected - first;
        line.text.insert_str(0, if is_selected { MARK } else { NO_MARK });
        if is_selected {
            line.style = Style::Bold;
        }
    }
    lines.resize(height, plain_line(""));
    lines
}

/// What is refused, in `height` lines.
fn refused(board: &Board, view: &View, width: usize, height: usize) -> Vec<Line> {
    let rows = view.refusals(board);
    let room = height.saturating_sub(2);
    let mut lines = vec![reasons(board, width)];
    lines.extend(table(&refused_columns(), rows.get(..room.min(rows.len())).unwrap_or_default(), width));
    lines.truncate(height);
    lines
}

/// The reasons of refusals, the most frequent first, as far as there is room.
fn reasons(board: &Board, width: usize) -> Line {
    let mut reasons: Vec<_> = board.now.decisions.reasons.iter().zip(&board.reasons).collect();
    reasons.sort_by_key(|(row, _)| std::cmp::Reverse(row.failed + row.denied));
    let mut text = if reasons.is_empty() { "nothing refused".to_owned() } else { "refused:".to_owned() };
    for (row, number) in reasons {
        let more =
            format!(" {} {} ({}/s) ", safe(&row.reason), count(row.failed + row.denied), rate(*number));
        if columns_of(&text) + columns_of(more.trim_end()) > width {
            text.push_str(" …");
            break;
        }
        text.push_str(&more);
    }
    Line { text: text.trim_end().to_owned(), style: Style::Bold }
}

fn footer(view: &View, width: usize) -> Line {
    let text = match (&view.mode, &view.message) {
        (Mode::Filter, _) => format!("filter: {}_", safe(&view.filter)),
        (Mode::Confirm(chosen), _) => {
            let flows =
                if chosen.flows == 1 { "1 flow".to_owned() } else { format!("{} flows", chosen.flows) };
            format!("end {flows} of {} to {}? y/N", safe(&chosen.client), safe(&chosen.target))
        }
        (Mode::Help, _) => "any key goes back".to_owned(),
        (Mode::Table, Some(message)) => safe(message),
        (Mode::Table, None) => {
            let order = if view.is_most_first { "most" } else { "newest" };
            let filter =
                if view.filter.is_empty() { String::new() } else { format!(" [{}]", safe(&view.filter)) };
            if width < NARROW {
                format!("q quit  ? help  s {}  f{filter}", view.sort.word())
            } else {
                format!(
                    "q quit  s sort: {}  r refusals: {order}  f filter{filter}  p pause  c cut  ? help",
                    view.sort.word()
                )
            }
        }
    };
    Line { text, style: Style::Reverse }
}

#[cfg(test)]
mod tests;
