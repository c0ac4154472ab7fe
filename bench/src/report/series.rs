//! One figure of one target over the rounds.

use crate::record::Record;
use crate::report::number;

/// The values of a figure, and how many errors there were while it was measured.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Series {
    values: Vec<f64>,
    pub(crate) errors: u64,
}

impl Series {
    /// The figure as it is.
    pub(crate) fn of(records: &[Record], section: &str, target: &str, figure: &str) -> Self {
        let mut series = Self::default();
        for record in records.iter().filter(|r| r.section == section && r.target == target) {
            series.errors += record.figures.error_count();
            series.values.extend(record.figures.values.get(figure));
        }
        series.sorted()
    }

    /// The figure divided by that of `base` in the same round; rounds in which one of them is missing do not count.
    pub(crate) fn ratio(records: &[Record], section: &str, target: &str, base: &str, figure: &str) -> Self {
        Self::against(records, section, target, base, figure, |value, base| value / base)
    }

    /// What the figure has more than that of `base` in the same round; rounds in which one of them is missing do not count.
    pub(crate) fn added(records: &[Record], section: &str, target: &str, base: &str, figure: &str) -> Self {
        Self::against(records, section, target, base, figure, |value, base| value - base)
    }

    fn against(
        records: &[Record],
        section: &str,
        target: &str,
        base: &str,
        figure: &str,
        compare: fn(f64, f64) -> f64,
    ) -> Self {
        let mut series = Self::default();
        for record in records.iter().filter(|r| r.section == section && r.target == target) {
            series.errors += record.figures.error_count();
            let is_base = |other: &&Record| {
                other.section == section && other.target == base && other.round == record.round
            };
            let base = records.iter().find(is_base).and_then(|other| other.figures.values.get(figure));
            let compared =
                record.figures.values.get(figure).zip(base).map(|(value, base)| compare(*value, *base));
            series.values.extend(compared.filter(|compared| compared.is_finite()));
        }
        series.sorted()
    }

    fn sorted(mut self) -> Self {
        self.values.sort_by(f64::total_cmp);
        self
    }

    /// The median; `None` if nothing was measured.
    pub(crate) fn median(&self) -> Option<f64> {
        let middle = self.values.len() / 2;
        let upper = self.values.get(middle)?;
        if self.values.len() % 2 == 1 {
            return Some(*upper);
        }
        self.values.get(middle.checked_sub(1)?).map(|lower| (lower + upper) / 2.0)
    }

    /// The median, with the range if there is one; empty if nothing was measured.
    pub(crate) fn show(&self) -> String {
        let Some(median) = self.median() else { return String::new() };
        match self.values.as_slice() {
            [lowest, .., highest] => format!("{} ({}–{})", number(median), number(*lowest), number(*highest)),
            _ => number(median),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Figures;

    fn record(target: &str, round: u32, value: f64, errors: u64) -> Record {
        let mut figures = Figures::default();
        figures.set("cpu_us", value);
        if errors > 0 {
            figures.errors.insert("refused".to_owned(), errors);
        }
        let (section, target) = ("connect".to_owned(), target.to_owned());
        Record { section, target, round, commit: String::new(), time: String::new(), figures }
    }

    #[test]
    fn ratios_are_made_within_a_round() {
        let records = [
            record("floor", 1, 100.0, 0),
            record("exeat", 1, 120.0, 0),
            record("exeat", 2, 150.0, 2),
            record("floor", 2, 100.0, 0),
            record("exeat", 3, 130.0, 0),
            record("floor", 3, 100.0, 0),
            // No floor in this round.
            record("exeat", 4, 900.0, 0),
        ];
        let ratio = Series::ratio(&records, "connect", "exeat", "floor", "cpu_us");
        assert_eq!(ratio, Series { values: vec![1.2, 1.3, 1.5], errors: 2 });
        assert_eq!(ratio.show(), "1.30 (1.20–1.50)");
        let value = Series::of(&records, "connect", "exeat", "cpu_us");
        assert_eq!(value.median(), Some(140.0));
        assert_eq!(Series::of(&records, "connect", "squid", "cpu_us").median(), None);
    }
}
