//! What the operator has chosen to see, and what each key does to it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    rates::{Board, PairRates, Rate},
    sample::{Pair, Refused},
};

/// Characters of a filter: as long as the longest host.
const FILTER_CHARS_MAX: usize = 253;
/// Rows that a page key moves by.
const PAGE: usize = 10;

/// By what the pairs are sorted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Sort {
    #[default]
    Down,
    Up,
    Requests,
    Flows,
    Age,
    Client,
    Target,
}

impl Sort {
    const fn next(self) -> Self {
        match self {
            Self::Down => Self::Up,
            Self::Up => Self::Requests,
            Self::Requests => Self::Flows,
            Self::Flows => Self::Age,
            Self::Age => Self::Client,
            Self::Client => Self::Target,
            Self::Target => Self::Down,
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Up => "up",
            Self::Requests => "requests",
            Self::Flows => "flows",
            Self::Age => "age",
            Self::Client => "client",
            Self::Target => "target",
        }
    }

    /// What comes first has the least of this.
    fn key(self, pair: &Pair, rates: PairRates) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "an order of what is shown with two digits")]
        let flows = pair.flows as f64;
        let most = |rate: Option<f64>| -rate.unwrap_or(0.0);
        match self {
            Self::Down => most(rates.down),
            Self::Up => most(rates.up),
            Self::Requests => most(rates.requests),
            Self::Flows => -flows,
            Self::Age => most(pair.oldest_seconds),
            Self::Client | Self::Target => 0.0,
        }
    }
}

/// What the keys mean at the moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Mode {
    #[default]
    Table,
    /// A filter is being written.
    Filter,
    /// Whether to end the flows of a pair is asked.
    Confirm(Chosen),
    Help,
}

/// A pair that was chosen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Chosen {
    pub(super) client: String,
    pub(super) target: String,
    /// Its open flows, as far as is known.
    pub(super) flows: u64,
}

/// What is to be done beyond the screen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Action {
    Nothing,
    Quit,
    Cut(Chosen),
}

/// What the operator has chosen to see.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) mode: Mode,
    pub(super) sort: Sort,
    /// Refusals by how often instead of by when.
    pub(super) is_most_first: bool,
    pub(super) filter: String,
    pub(super) is_paused: bool,
    /// What came of the last order.
    pub(super) message: Option<String>,
    /// The row that is selected, by its place while it is not on the screen.
    pub(super) selected: usize,
    pub(super) chosen: Option<(String, String)>,
}

impl View {
    /// The pairs to be shown, in order.
    pub(super) fn pairs<'a>(&self, board: &'a Board) -> Vec<(&'a Pair, PairRates)> {
        let mut rows: Vec<_> =
            board.rows().filter(|(pair, _)| self.shows([&pair.client, &pair.target])).collect();
        rows.sort_by(|(a, a_rates), (b, b_rates)| {
            let by_number = self.sort.key(a, *a_rates).total_cmp(&self.sort.key(b, *b_rates));
            by_number.then_with(|| match self.sort {
                Sort::Target => (&a.target, &a.client).cmp(&(&b.target, &b.client)),
                Sort::Down | Sort::Up | Sort::Requests | Sort::Flows | Sort::Age | Sort::Client => {
                    (&a.client, &a.target).cmp(&(&b.client, &b.target))
                }
            })
        });
        rows
    }

    /// The refusals to be shown, in order.
    pub(super) fn refusals<'a>(&self, board: &'a Board) -> Vec<(&'a Refused, Rate)> {
        let client = |row: &'a Refused| row.client.as_deref().unwrap_or_default();
        let mut rows: Vec<_> =
            board.refused().filter(|(row, _)| self.shows([client(row), &row.target, &row.reason])).collect();
        if self.is_most_first {
            // Those that are as frequent stay in order of time.
            rows.sort_by_key(|(row, _)| std::cmp::Reverse(row.count));
        }
        rows
    }

    fn shows<const N: usize>(&self, texts: [&str; N]) -> bool {
        let filter = self.filter.to_lowercase();
        filter.is_empty() || texts.iter().any(|text| text.to_lowercase().contains(&filter))
    }

    /// The place of the selected row among `rows`.
    pub(super) fn selected(&self, rows: &[(&Pair, PairRates)]) -> usize {
        let is_chosen =
            |pair: &Pair| self.chosen.as_ref().is_some_and(|(c, t)| *c == pair.client && *t == pair.target);
        let found = rows.iter().position(|(pair, _)| is_chosen(pair));
        found.unwrap_or(self.selected).min(rows.len().saturating_sub(1))
    }

    /// Does what a key stands for.
    pub(super) fn press(&mut self, key: KeyEvent, board: &Board) -> Action {
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Action::Quit;
        }
        self.message = None;
        match std::mem::take(&mut self.mode) {
            Mode::Table => self.press_in_table(key.code, board),
            Mode::Filter => {
                self.press_in_filter(key.code);
                Action::Nothing
            }
            Mode::Confirm(chosen) if matches!(key.code, KeyCode::Char('y' | 'Y')) => Action::Cut(chosen),
            // Any other key is a no, and ends the help.
            Mode::Confirm(_) | Mode::Help => Action::Nothing,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "terminals have keys without end; the others mean nothing"
    )]
    fn press_in_table(&mut self, key: KeyCode, board: &Board) -> Action {
        match key {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.is_most_first = !self.is_most_first,
            KeyCode::Char('f' | '/') => self.mode = Mode::Filter,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('c') => self.ask_to_cut(board),
            KeyCode::Down | KeyCode::Char('j') => self.select(board, |at| at + 1),
            KeyCode::Up | KeyCode::Char('k') => self.select(board, |at| at.saturating_sub(1)),
            KeyCode::PageDown => self.select(board, |at| at + PAGE),
            KeyCode::PageUp => self.select(board, |at| at.saturating_sub(PAGE)),
            KeyCode::Home => self.select(board, |_| 0),
            KeyCode::End => self.select(board, |_| usize::MAX),
            KeyCode::Esc => self.filter.clear(),
            _ => {}
        }
        Action::Nothing
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "terminals have keys without end; the others mean nothing"
    )]
    fn press_in_filter(&mut self, key: KeyCode) {
        self.mode = Mode::Filter;
        match key {
            KeyCode::Enter => self.mode = Mode::Table,
            KeyCode::Esc => (self.mode, self.filter) = (Mode::Table, String::new()),
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(c) if self.filter.chars().count() < FILTER_CHARS_MAX => self.filter.push(c),
            _ => {}
        }
    }

    fn select(&mut self, board: &Board, step: impl FnOnce(usize) -> usize) {
        let rows = self.pairs(board);
        self.selected = step(self.selected(&rows)).min(rows.len().saturating_sub(1));
        self.chosen = rows.get(self.selected).map(|(pair, _)| (pair.client.clone(), pair.target.clone()));
    }

    fn ask_to_cut(&mut self, board: &Board) {
        // From now on the row is the one that was looked at, wherever it moves to.
        self.select(board, |at| at);
        let rows = self.pairs(board);
        match rows.get(self.selected) {
            Some((pair, _)) if pair.flows > 0 => {
                let (client, target) = (pair.client.clone(), pair.target.clone());
                self.mode = Mode::Confirm(Chosen { client, target, flows: pair.flows });
            }
            Some(_) => self.message = Some("nothing is open there".to_owned()),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::top::sample::Sample;

    fn board() -> Board {
        let pair = |client: &str, target: &str, flows, bytes_down| Pair {
            client: client.to_owned(),
            target: target.to_owned(),
            flows,
            bytes_down,
            ..Pair::default()
        };
        let refused = |target: &str, count, last: &str| Refused {
            target: target.to_owned(),
            reason: "host_not_allowed".to_owned(),
            count,
            last: last.to_owned(),
            ..Refused::default()
        };
        let before = Sample { uptime_seconds: 1.0, ..Sample::default() };
        let now = Sample {
            uptime_seconds: 2.0,
            pairs: vec![
                pair("a", "mail.example.org:25", 1, 10),
                pair("b", "api.example.com:443", 3, 500),
                pair("b", "mail.example.org:25", 0, 20),
            ],
            refusals: vec![refused("new.test:443", 1, "2"), refused("often.test:443", 9, "1")],
            ..Sample::default()
        };
        Board::new(Some(&before), now)
    }

    fn press(view: &mut View, keys: &str) -> Vec<Action> {
        let code = |c| match c {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            c => KeyCode::Char(c),
        };
        keys.chars().map(|c| view.press(KeyEvent::new(code(c), KeyModifiers::NONE), &board())).collect()
    }

    fn shown(view: &View) -> Vec<String> {
        view.pairs(&board()).iter().map(|(pair, _)| format!("{} {}", pair.client, pair.target)).collect()
    }

    fn cut(client: &str, target: &str, flows: u64) -> Action {
        Action::Cut(Chosen { client: client.to_owned(), target: target.to_owned(), flows })
    }

    #[test]
    fn rows_are_sorted_by_what_s_has_chosen() {
        let mut view = View::default();
        for (want, first) in [
            (Sort::Down, "b api.example.com:443"),
            (Sort::Up, "a mail.example.org:25"),
            (Sort::Requests, "a mail.example.org:25"),
            (Sort::Flows, "b api.example.com:443"),
            (Sort::Age, "a mail.example.org:25"),
            (Sort::Client, "a mail.example.org:25"),
            (Sort::Target, "b api.example.com:443"),
            (Sort::Down, "b api.example.com:443"),
        ] {
            assert_eq!((view.sort, shown(&view)[0].as_str()), (want, first));
            press(&mut view, "s");
        }
    }

    #[test]
    fn refusals_are_the_newest_or_the_most_frequent_first() {
        let first = |view: &View| view.refusals(&board())[0].0.target.clone();
        let mut view = View::default();
        assert_eq!(first(&view), "new.test:443");
        press(&mut view, "r");
        assert_eq!(first(&view), "often.test:443");
    }

    #[test]
    fn a_filter_is_written_kept_and_dropped() {
        let mut view = View::default();
        press(&mut view, "fMAILx\u{8}");
        assert_eq!((view.mode.clone(), view.filter.as_str()), (Mode::Filter, "MAIL"));
        assert_eq!(shown(&view), ["b mail.example.org:25", "a mail.example.org:25"]);
        // A q is a letter while a filter is written, and ends the program afterwards.
        assert_eq!(press(&mut view, "q\nq"), [Action::Nothing, Action::Nothing, Action::Quit]);
        assert!(shown(&view).is_empty(), "{}", view.filter);
        press(&mut view, "\u{1b}");
        assert_eq!(shown(&view).len(), 3);
        press(&mut view, &format!("f{}", "a".repeat(1000)));
        assert_eq!(view.filter.len(), FILTER_CHARS_MAX);
    }

    #[test]
    fn the_selection_stays_with_its_row_and_on_the_screen() {
        let mut view = View::default();
        let selected = |view: &View| view.selected(&view.pairs(&board()));
        press(&mut view, "j");
        assert_eq!((selected(&view), shown(&view)[1].as_str()), (1, "b mail.example.org:25"));
        press(&mut view, "sss");
        assert_eq!((selected(&view), shown(&view)[2].as_str()), (2, "b mail.example.org:25"));
        press(&mut view, "jjj");
        assert_eq!(selected(&view), 2);
        press(&mut view, "kkkkk");
        assert_eq!(selected(&view), 0);
        view.filter = "nothing has this".to_owned();
        assert_eq!((selected(&view), press(&mut view, "c")), (0, vec![Action::Nothing]));
    }

    #[test]
    fn flows_are_cut_after_a_yes_only() {
        let mut view = View::default();
        assert_eq!(press(&mut view, "cn"), [Action::Nothing, Action::Nothing]);
        assert_eq!(press(&mut view, "cq"), [Action::Nothing, Action::Nothing], "not even that quits");
        assert_eq!(press(&mut view, "y"), [Action::Nothing], "nothing is asked");
        assert_eq!(press(&mut view, "cy"), [Action::Nothing, cut("b", "api.example.com:443", 3)]);
        assert_eq!(press(&mut view, "jcy"), [Action::Nothing, Action::Nothing, Action::Nothing]);
        press(&mut view, "c");
        assert_eq!(view.message.as_deref(), Some("nothing is open there"));
    }

    #[test]
    fn control_c_quits_whatever_the_keys_mean() {
        let key = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        for before in ["", "f", "c", "?"] {
            let mut view = View::default();
            press(&mut view, before);
            assert_eq!(view.press(key, &board()), Action::Quit, "after {before:?}");
        }
    }
}
