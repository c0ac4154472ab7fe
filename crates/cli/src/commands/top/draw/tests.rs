use unicode_width::UnicodeWidthStr;

use super::*;
use crate::commands::top::{
    sample::{Decisions, ReasonCount},
    view::{Chosen, Sort},
};

fn pair(client: &str, target: &str, flows: u64, age: f64, requests: u64, up: u64, down: u64) -> Pair {
    Pair {
        client: client.to_owned(),
        target: target.to_owned(),
        flows,
        oldest_seconds: (flows > 0).then_some(age),
        requests,
        bytes_up: up,
        bytes_down: down,
    }
}

fn refusal(client: Option<&str>, target: &str, reason: &str, count: u64, last: &str) -> Refused {
    Refused {
        client: client.map(str::to_owned),
        target: target.to_owned(),
        reason: reason.to_owned(),
        count,
        count_error: 0,
        last: format!("2026-01-02T{last}.000Z"),
    }
}

/// Two seconds in the life of a proxy.
fn board() -> Board {
    let reason = |reason: &str, failed, denied| ReasonCount { reason: reason.to_owned(), failed, denied };
    let before = Sample { uptime_seconds: 7260.0, watch: 1, ..Sample::default() };
    let now = Sample {
        uptime_seconds: 7262.0,
        revision: 12,
        is_current: true,
        connections: 5,
        tunnels: 3,
        requests: 1,
        decisions: Decisions {
            allowed: 40,
            failed: 1,
            denied: 17,
            reasons: vec![reason("connect_failed", 1, 0), reason("host_not_allowed", 0, 17)],
        },
        bytes_up: 5_000,
        bytes_down: 70_000_000,
        watch: 1,
        pairs: vec![
            pair("payments", "api.example.com:443", 2, 3700.0, 0, 4_000, 100_000),
            pair(
                "builds",
                "a-very-long-name-of-a-mirror.packages.example.org:443",
                1,
                12.0,
                1,
                900,
                69_000_000,
            ),
            pair("crawler\u{1b}[2J", "xn--bcher-kva.example:80", 0, 0.0, 37, 100, 900_000),
        ],
        refusals: vec![
            refusal(Some("builds"), "telemetry.example.net:443", "host_not_allowed", 16, "03:04:05"),
            refusal(None, "a\\x1b[2J\u{9b}evil:443", "request_malformed", 1, "03:04:01"),
        ],
        ..Sample::default()
    };
    Board::new(Some(&before), now)
}

fn shown(board: &Board, view: &View, width: usize, height: usize) -> String {
    let lines = screen(board, view, width, height);
    assert_eq!(lines.len(), height);
    for line in &lines {
        assert_eq!(line.text.width(), width, "{:?}", line.text);
        assert!(!line.text.chars().any(char::is_control), "{:?}", line.text);
    }
    lines.iter().map(|line| format!("{}\n", line.text.trim_end())).collect()
}

#[test]
fn an_ordinary_screen() {
    assert_eq!(shown(&board(), &View::default(), 80, 24), include_str!("tests/80x24.txt"));
}

#[test]
fn a_small_screen() {
    assert_eq!(shown(&board(), &View::default(), 40, 10), include_str!("tests/40x10.txt"));
}

#[test]
fn a_wide_screen() {
    assert_eq!(shown(&board(), &View::default(), 132, 20), include_str!("tests/132x20.txt"));
}

#[test]
fn a_listing() {
    assert_eq!(plain(&board()), include_str!("tests/plain.txt"));
}

#[test]
fn help_and_flags() {
    let now = Sample { is_draining: true, is_audit_failing: true, quarantined: 2, ..board().now };
    let board = Board::new(None, Sample { is_current: false, ..now });
    let view = View { mode: Mode::Help, is_paused: true, ..View::default() };
    assert_eq!(shown(&board, &view, 80, 24), include_str!("tests/help.txt"));
}

#[test]
fn no_size_is_too_small() {
    for width in 0..100 {
        for height in 0..30 {
            for mode in [Mode::Table, Mode::Help, Mode::Filter] {
                let view = View { mode, ..View::default() };
                shown(&board(), &view, width, height);
            }
        }
    }
    shown(&Board::default(), &View::default(), 80, 24);
}

#[test]
fn the_footer_says_what_the_keys_do() {
    let chosen = Chosen { client: "app\u{7}".to_owned(), target: "x.test:443".to_owned(), flows: 2 };
    let foot = |view: &View, width| footer(view, width).text;
    for (view, width, want) in [
        (
            View { mode: Mode::Filter, filter: "a\u{1b}".to_owned(), ..View::default() },
            80,
            "filter: a\\u{1b}_",
        ),
        (
            View { mode: Mode::Confirm(chosen), ..View::default() },
            80,
            "end 2 flows of app\\u{7} to x.test:443? y/N",
        ),
        (View { message: Some("1 flow ends".to_owned()), ..View::default() }, 80, "1 flow ends"),
        (
            View { sort: Sort::Age, is_most_first: true, filter: "mail".to_owned(), ..View::default() },
            80,
            "q quit  s sort: age  r refusals: most  f filter [mail]  p pause  c cut  ? help",
        ),
        (View::default(), 40, "q quit  ? help  s down  f"),
    ] {
        assert_eq!(foot(&view, width), want);
    }
}

#[test]
fn the_selected_row_is_always_on_the_screen() {
    let pairs = (0..50).map(|n| pair("app", &format!("h{n:02}.test:443"), 1, 1.0, 0, 0, 0)).collect();
    let board = Board::new(None, Sample { pairs, is_current: true, ..Sample::default() });
    let mut view = View::default();
    let key = |code| crossterm::event::KeyEvent::new(code, crossterm::event::KeyModifiers::NONE);
    for (code, want) in [
        (crossterm::event::KeyCode::Home, "h00.test"),
        (crossterm::event::KeyCode::PageDown, "h10.test"),
        (crossterm::event::KeyCode::End, "h49.test"),
        (crossterm::event::KeyCode::Up, "h48.test"),
    ] {
        view.press(key(code), &board);
        let lines = screen(&board, &view, 80, 12);
        let selected: Vec<&Line> = lines.iter().filter(|line| line.text.contains(".test")).collect();
        let bold: Vec<_> = selected.iter().filter(|line| line.style == Style::Bold).collect();
        assert!(bold.len() == 1 && bold[0].text.contains(want), "{want}: {lines:#?}");
    }
}
