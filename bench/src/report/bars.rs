//! What the product must keep to, and whether it does.

use std::fmt::Write as _;

use crate::record::Record;
use crate::report::number;
use crate::report::series::Series;

/// One promise.
struct Bar {
    /// What it is about.
    work: &'static str,
    section: &'static str,
    target: &'static str,
    figure: &'static str,
    /// What it is compared with.
    base: Base,
    /// What follows the number.
    unit: &'static str,
    /// The most that it may be.
    most: f64,
    /// What it should be.
    aim: Option<f64>,
}

/// What a figure is compared with: itself, or another target's in the same round.
enum Base {
    /// Nothing.
    None,
    /// It is divided by this target's.
    Per(&'static str),
    /// This target's is taken away.
    Beyond(&'static str),
}

const fn ratio(
    work: &'static str,
    section: &'static str,
    target: &'static str,
    base: &'static str,
    most: f64,
    aim: f64,
) -> Bar {
    Bar { work, section, target, figure: "cpu_us", base: Base::Per(base), unit: "×", most, aim: Some(aim) }
}

const fn value(
    work: &'static str,
    section: &'static str,
    figure: &'static str,
    unit: &'static str,
    most: f64,
    aim: Option<f64>,
) -> Bar {
    Bar { work, section, target: "exeat", figure, base: Base::None, unit, most, aim }
}

const ALL: &[Bar] = &[
    ratio("CONNECT and a request, 10 rules, against the floor", "connect", "exeat", "floor", 1.25, 1.15),
    ratio("the same, 1,000,000 rules", "connect", "exeat-1m", "floor", 1.25, 1.15),
    ratio("refused CONNECT, 10 rules, against the floor", "refused", "exeat", "floor", 1.5, 1.1),
    ratio("the same, 1,000,000 rules", "refused", "exeat-1m", "floor", 1.5, 1.1),
    ratio("GET of 1 KiB, 10 rules, against Traffic Server", "forward", "exeat", "trafficserver", 1.0, 0.7),
    ratio("the same, 1,000,000 rules", "forward", "exeat-1m", "trafficserver", 1.0, 0.7),
    ratio("bulk down, 16 tunnels, against the floor's shared buffer", "download", "exeat", "floor", 0.7, 0.6),
    ratio("bulk up, 16 tunnels, against the floor's shared buffer", "upload", "exeat", "floor", 0.7, 0.6),
    ratio("ping-pong, 256 tunnels, against the floor", "ping", "exeat", "floor", 1.1, 1.05),
    ratio("CONNECT with a token, against a password", "tokens", "token", "password", 1.1, 1.05),
    value("memory of an idle tunnel", "idle", "idle_kib", " KiB", 4.0, Some(2.5)),
    value("memory of an idle tunnel that was used", "idle", "touched_kib", " KiB", 4.0, Some(2.5)),
    value("memory of the process after 9,000 tunnels", "idle", "kept_mib", " MiB", 25.0, None),
    value("memory with 1,000,000 rules", "rules", "memory_mib", " MiB", 100.0, Some(60.0)),
    value("ready with 1,000,000 rules", "rules", "ready_s", " s", 1.0, None),
    value("errors while 1,000,000 rules are swapped under load", "rules", "reload_errors", "", 0.0, None),
    Bar {
        target: "decide/1000000",
        ..value("one decision with 1,000,000 rules", "micro", "ns", " ns", 200.0, Some(100.0))
    },
    Bar {
        target: "redirected/a virtual address to its name, of 100 clients with 10,000 each",
        ..value("the name that a virtual address stands for", "micro", "ns", " ns", 1000.0, None)
    },
    Bar {
        target: "redirected/an address to what its client was told, of 16 with 10,000 each",
        ..value("the names that a client was told an address for", "micro", "ns", " ns", 1000.0, None)
    },
    value(
        "memory of virtual addresses, 100 clients with 100,000 names each",
        "virtual-names",
        "memory_mib",
        " MiB",
        300.0,
        None,
    ),
    // 1 / 0.95: a connection to a virtual address is to carry 0.95 of what a tunnel does.
    Bar {
        figure: "rate",
        aim: None,
        ..ratio(
            "bulk down by CONNECT, against the same to virtual addresses",
            "virtual-download",
            "explicit",
            "virtual",
            1.05,
            1.0,
        )
    },
    Bar {
        target: "exeat-new",
        base: Base::Beyond("servers"),
        ..value(
            "a name that is opened, beyond the servers' own time, p99",
            "kernel-lookups",
            "p99_us",
            " µs",
            1000.0,
            None,
        )
    },
    value(
        "CPU of a name that is opened: 5,000 a second of one core",
        "kernel-load",
        "cpu_us",
        " µs",
        200.0,
        None,
    ),
    value("first packets refused of 10,000", "kernel-connects", "refused", "", 0.0, None),
    Bar {
        target: "openings/1000",
        ..value("one opening in the kernel, p50, beside 1,000", "kernel", "p50_us", " µs", 20.0, Some(10.0))
    },
    Bar {
        target: "openings/1000000",
        ..value("the same beside 1,000,000", "kernel", "p50_us", " µs", 20.0, Some(10.0))
    },
    Bar {
        figure: "packet_ns",
        ..ratio(
            "a packet beside 1,000,000 openings, against 1,000",
            "kernel",
            "openings/1000000",
            "openings/1000",
            2.0,
            1.5,
        )
    },
    Bar {
        base: Base::Beyond("bare"),
        ..value(
            "a command under `exeat run`, ready after the bare one",
            "run",
            "ready_ms",
            " ms",
            30.0,
            Some(15.0),
        )
    },
    value("memory of the processes around it, after a request", "run", "own_mib", " MiB", 10.0, None),
    value("the same when it was quiet", "run", "quiet_mib", " MiB", 10.0, None),
    value("memory with 100,000 principals", "principals", "memory_mib", " MiB", 200.0, None),
    value("ready with 100,000 principals", "principals", "ready_s", " s", 2.0, None),
];

impl Bar {
    fn series(&self, records: &[Record]) -> Series {
        match self.base {
            Base::Per(base) => Series::ratio(records, self.section, self.target, base, self.figure),
            Base::Beyond(base) => Series::added(records, self.section, self.target, base, self.figure),
            Base::None => Series::of(records, self.section, self.target, self.figure),
        }
    }

    /// Errors make a figure worthless, whatever it says.
    fn verdict(&self, series: &Series) -> String {
        let Some(median) = series.median() else { return "not measured".to_owned() };
        if series.errors > 0 {
            return format!("**missed**: {} errors", series.errors);
        }
        match self.aim {
            _ if median > self.most => "**missed**".to_owned(),
            Some(aim) if median <= aim => "met, and the aim".to_owned(),
            Some(_) | None => "met".to_owned(),
        }
    }
}

/// The table of all bars.
pub(crate) fn table(records: &[Record]) -> String {
    let mut text = "\n## Bars\n\n| work | bar | aim | measured | |\n|---|--:|--:|--:|---|\n".to_owned();
    for bar in ALL {
        let series = bar.series(records);
        let limit = |limit: f64| format!("≤ {}{}", number(limit), bar.unit);
        let (most, aim) = (limit(bar.most), bar.aim.map(limit).unwrap_or_default());
        let verdict = bar.verdict(&series);
        // Writing to a string does not fail.
        let _ = writeln!(text, "| {} | {most} | {aim} | {} | {verdict} |", bar.work, series.show());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Figures;

    fn measured(cpu: f64, errors: u64) -> Vec<Record> {
        let record = |target: &str, cpu, errors| {
            let mut figures = Figures::default();
            figures.set("cpu_us", cpu);
            if errors > 0 {
                figures.errors.insert("refused".to_owned(), errors);
            }
            let (section, target) = ("connect".to_owned(), target.to_owned());
            Record { section, target, round: 1, commit: String::new(), time: String::new(), figures }
        };
        vec![record("floor", 100.0, 0), record("exeat", cpu, errors)]
    }

    #[test]
    fn a_bar_is_met_missed_or_not_measured() {
        for (records, want) in [
            (measured(114.0, 0), "met, and the aim"),
            (measured(125.0, 0), "met"),
            (measured(126.0, 0), "**missed**"),
            (measured(90.0, 3), "**missed**: 3 errors"),
            (Vec::new(), "not measured"),
        ] {
            let bar = &ALL[0];
            assert_eq!(bar.verdict(&bar.series(&records)), want);
            assert!(table(&records).contains(want));
        }
    }
}
