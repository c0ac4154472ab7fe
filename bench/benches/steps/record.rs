//! A line of the audit log.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use exeat_audit::{Event, Outcome, PrincipalRecord, Record, RuleRecord, Text};
use exeat_model::{DnsName, Port};
use exeat_policy::{Label, Labels, Mode, Revision};

use crate::world::listed;

pub(crate) fn lines(criterion: &mut crate::Criterion) {
    let record = end_of_tunnel();
    let mut line = Vec::with_capacity(1024);
    criterion.bench_function("audit/write a record", |bencher| {
        bencher.iter(|| {
            line.clear();
            black_box(&record).write_line(&mut line).expect("a line");
            line.len()
        });
    });
}

/// The longest record that an ordinary request leaves.
fn end_of_tunnel() -> Record {
    let name = listed(7);
    let mut labels = Labels::default();
    labels.set(Label::Organization, "acme");
    labels.set(Label::Space, "payments");
    Record {
        revision: Some(Revision(7)),
        request_id: Some("6b88fc27-1234".into()),
        principal: Some(PrincipalRecord { name: "bench".into(), proof: "password", labels, token: None }),
        source: "127.2.0.1:50000".parse().ok(),
        method: Some(Text::new("CONNECT")),
        target: Some(Text::new(format!("{name}:443"))),
        name: DnsName::parse(&name).ok(),
        port: Some(Port::HTTPS.get()),
        address: "127.1.0.1:443".parse().ok(),
        verdict: Some(Outcome::Allow),
        rule: Some(Arc::new(RuleRecord { policy: "bench".into(), place: "rules.txt:8".into(), text: name })),
        mode: Some(Mode::Enforce),
        status: Some(200),
        bytes_up: Some(517),
        bytes_down: Some(7000),
        duration: Some(Duration::from_millis(12)),
        end: Some("finished"),
        ..Record::new(Event::End, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))
    }
}
