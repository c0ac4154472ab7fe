use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::SystemTime,
};

use serde_json::Value;

use super::*;
use crate::record::{Event, Record};

/// Far more than any of it takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn record(number: usize) -> Record {
    Record { request_id: Some(number.to_string().into()), ..Record::new(Event::Request, SystemTime::now()) }
}

/// Hands a record over, and does not wait for it.
fn taken(log: &AuditLog, number: usize) -> Result<(), AuditUnavailable> {
    log.record(&record(number)).map(drop)
}

/// Waits for a condition.
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::yield_now();
    }
}

/// Returns the request ids of a file's records, in order.
fn numbers(path: &Path) -> Vec<usize> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| number(&serde_json::from_str(line).unwrap()).unwrap()).collect()
}

fn number(record: &Value) -> Option<usize> {
    assert_eq!(record["v"], 1);
    record["request_id"].as_str()?.parse().ok()
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn records_are_written_in_order_and_shutdown_waits_for_the_last() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = AuditLog::start(Sink::File(path.clone()), true).unwrap();
    // Half of the queue: the writer may not have begun.
    for number in 0..4000 {
        taken(&log, number).unwrap();
    }
    assert!(writer.shutdown(PATIENCE));
    assert_eq!(numbers(&path), (0..4000).collect::<Vec<_>>());
    assert_eq!(log.lost(), 0);
    assert_eq!(taken(&log, 0), Err(AuditUnavailable), "after the shutdown");
    assert_eq!(log.lost(), 1);
}

#[test]
fn a_record_is_written_without_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (log, _writer) = AuditLog::start(Sink::File(path.clone()), false).unwrap();
    for number in 0..3 {
        taken(&log, number).unwrap();
        until("the record", || {
            fs::read(&path).unwrap().iter().filter(|byte| **byte == b'\n').count() == number + 1
        });
    }
}

#[test]
fn the_thread_ends_with_the_last_handle() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = AuditLog::start(Sink::File(path.clone()), false).unwrap();
    taken(&log, 0).unwrap();
    let AuditWriter { log: other, done } = writer;
    drop((log, other));
    assert_eq!(done.recv_timeout(PATIENCE), Ok(true));
    assert_eq!(numbers(&path), [0]);
}

#[test]
fn a_renamed_file_is_left_alone_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let (path, rotated) = (folder.path().join("audit.jsonl"), folder.path().join("audit.jsonl.1"));
    let (log, writer) = AuditLog::start(Sink::File(path.clone()), false).unwrap();
    taken(&log, 0).unwrap();
    until("the first record", || !fs::read(&path).unwrap().is_empty());
    fs::rename(&path, &rotated).unwrap();
    taken(&log, 1).unwrap();
    until("the second record", || numbers(&rotated).len() == 2);
    log.reopen();
    until("the new file", || path.exists());
    taken(&log, 2).unwrap();
    assert!(writer.shutdown(PATIENCE));
    assert_eq!((numbers(&rotated), numbers(&path)), (vec![0, 1], vec![2]));
}

#[test]
fn a_file_that_cannot_be_opened_again_leaves_the_old_one_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let (logs, moved) = (folder.path().join("logs"), folder.path().join("moved"));
    fs::create_dir(&logs).unwrap();
    let path = logs.join("audit.jsonl");
    let (log, writer) = AuditLog::start(Sink::File(path.clone()), true).unwrap();
    fs::rename(&logs, &moved).unwrap();
    log.reopen();
    taken(&log, 0).unwrap();
    until("the record in the old file", || numbers(&moved.join("audit.jsonl")) == [0]);
    fs::create_dir(&logs).unwrap();
    taken(&log, 1).unwrap();
    assert!(writer.shutdown(PATIENCE));
    assert_eq!(numbers(&path), [1], "it is tried again with the next record");
}

#[test]
fn a_full_queue_loses_records_and_says_how_many() {
    for required in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        fifo(&path);
        // Nobody reads: the pipe fills up, the writer blocks, and then the queue fills up.
        let (log, writer) = AuditLog::start_with(Sink::File(path.clone()), required, 4).unwrap();
        let mut handed = 0;
        while log.lost() < 3 {
            log.note(&record(handed));
            handed += 1;
        }
        assert_eq!(log.record(&record(handed)).is_err(), required);
        // What was not decided was not lost either.
        assert_eq!(log.lost(), if required { 3 } else { 4 });
        handed += usize::from(!required);

        let mut lines = BufReader::new(File::open(&path).unwrap()).lines();
        let (mut written, mut lost) = (BTreeSet::new(), 0);
        while written.len() + lost < handed {
            let record = serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
            match number(&record) {
                Some(number) => assert!(written.insert(number), "{number} twice"),
                None => {
                    assert_eq!(record["event"], "lost");
                    lost += usize::try_from(record["count"].as_u64().unwrap()).unwrap();
                }
            }
        }
        assert_eq!(u64::try_from(lost).unwrap(), log.lost());
        // With room in the queue again, records are taken again.
        log.note(&record(handed));
        let record = serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(number(&record), Some(handed));
        assert!(writer.shutdown(PATIENCE));
    }
}

/// Decisions stop while there is room left for the ends of those that were made.
#[test]
fn half_of_the_queue_is_for_what_was_decided() {
    for required in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        fifo(&path);
        let (log, writer) = AuditLog::start_with(Sink::File(path.clone()), required, 8).unwrap();
        // More than a pipe holds, so that the writer takes nothing more.
        log.note(&Record { end: Some("x".repeat(1 << 20).leak()), ..record(0) });
        until("the writer to take it", || log.shared().queued() == 0);
        let decided = (1..=8).filter(|number| log.check().and(taken(&log, *number)).is_ok()).count();
        assert_eq!(decided, if required { 4 } else { 8 });
        (decided..8).for_each(|number| log.note(&record(number)));
        assert_eq!(log.lost(), 0);
        drop((log, writer));
    }
}

#[test]
fn shutdown_gives_up_on_a_sink_that_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    fifo(&path);
    let (log, writer) = AuditLog::start(Sink::File(path), false).unwrap();
    // More than a pipe holds.
    drop(log.record(&Record { end: Some("x".repeat(1 << 20).leak()), ..record(0) }).unwrap());
    assert!(!writer.shutdown(Duration::from_millis(10)));
}

/// Starts a log whose disk is full.
fn full_disk(folder: &Path, required: bool) -> (AuditLog, AuditWriter) {
    let path = folder.join("audit.jsonl");
    symlink("/dev/full", &path).unwrap();
    let (log, writer) = AuditLog::start(Sink::File(path), required).unwrap();
    taken(&log, 0).unwrap();
    until("the failure", || log.is_failing());
    (log, writer)
}

#[test]
fn a_full_disk_refuses_only_if_the_log_is_required_and_only_while_it_is_full() {
    for required in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = full_disk(folder.path(), required);
        let want = if required { Err(AuditUnavailable) } else { Ok(()) };
        assert_eq!(taken(&log, 1), want);
        log.note(&record(2));

        fs::remove_file(&path).unwrap();
        log.reopen();
        until("the recovery", || !log.is_failing());
        assert_eq!(taken(&log, 3), Ok(()));
        assert!(writer.shutdown(PATIENCE));
        let text = fs::read_to_string(&path).unwrap();
        let records = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
        let numbers = records.iter().filter_map(number).collect::<Vec<_>>();
        let lost = records.iter().filter_map(|record| record["count"].as_u64()).collect::<Vec<_>>();
        if required {
            assert_eq!((numbers, lost), (vec![0, 2, 3], vec![]), "{text}");
        } else {
            assert_eq!((numbers, lost), (vec![0, 1, 2, 3], vec![]), "{text}");
        }
    }
}

#[test]
fn shutdown_tries_a_full_disk_until_its_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let (_log, writer) = full_disk(folder.path(), false);
    assert!(!writer.shutdown(Duration::from_millis(10)));
}

#[test]
fn a_sink_that_cannot_be_opened_is_an_error_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    assert!(AuditLog::start(Sink::File(folder.path().join("missing/audit.jsonl")), false).is_err());
    assert!(AuditLog::start(Sink::File(folder.path().to_owned()), false).is_err());
}

/// What a client is told has happened is in the file, however the program ends.
#[tokio::test]
async fn a_required_record_is_kept_once_it_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (log, _writer) = AuditLog::start(Sink::File(path.clone()), true).unwrap();
    for number in 0..100 {
        log.note(&record(2 * number));
        log.record(&record(2 * number + 1)).unwrap().kept().await.unwrap();
        assert_eq!(numbers(&path), (0..2 * number + 2).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_required_record_that_cannot_be_written_is_not_kept() {
    for required in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        symlink("/dev/full", &path).unwrap();
        let (log, writer) = AuditLog::start(Sink::File(path.clone()), required).unwrap();
        let receipt = log.record(&record(0)).unwrap();
        let want = if required { Err(AuditUnavailable) } else { Ok(()) };
        assert_eq!(receipt.kept().await, want);
        until("the failure", || log.is_failing());

        fs::remove_file(&path).unwrap();
        log.reopen();
        until("the recovery", || !log.is_failing());
        log.record(&record(1)).unwrap().kept().await.unwrap();
        assert!(writer.shutdown(PATIENCE));
        assert_eq!(numbers(&path), [0, 1], "what had to wait is written, too");
    }
}

#[tokio::test(start_paused = true)]
async fn a_required_record_is_not_waited_for_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo");
    fifo(&path);
    let (log, writer) = AuditLog::start(Sink::File(path), true).unwrap();
    // More than a pipe holds.
    let receipt = log.record(&Record { end: Some("x".repeat(1 << 20).leak()), ..record(0) }).unwrap();
    assert_eq!(receipt.kept().await, Err(AuditUnavailable));
    drop((log, writer));
}
