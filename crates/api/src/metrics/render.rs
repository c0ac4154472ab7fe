//! The numbers in the OpenMetrics text format, read anew for each scrape.

use std::fmt;

use exeat_proxy::{Proxy, metrics::Distribution};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{FAMILIES, Family, Kind, Labels, Numbers, PREFIX, View};
use crate::status::Status;

/// The media type of [`render`]: Prometheus asks for it first.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Returns every metric in the OpenMetrics text format.
///
/// # Errors
/// Never, in fact: a string takes all that is written to it.
pub fn render(proxy: &Proxy, status: &Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    let view = View { proxy, metrics: proxy.metrics(), status };
    let read = FAMILIES.iter().map(|family| (*family, (family.read)(&view))).collect();
    registry.register_collector(Box::new(Scrape(read)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

/// The numbers of one scrape.
struct Scrape(Vec<(Family, Numbers)>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scrape").field(&self.0.len()).finish()
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (family, numbers) in &self.0 {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
                Kind::Info => MetricType::Info,
            };
            numbers.encode(encoder.encode_descriptor(family.name, family.help, None, kind)?)?;
        }
        Ok(())
    }
}

impl Numbers {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counts(counts) => {
                for (labels, count) in counts {
                    each(&mut encoder, labels, |e| e.encode_counter::<NoLabelSet, _, u64>(count, None))?;
                }
            }
            Self::Gauge(values) => {
                for (labels, value) in values {
                    each(&mut encoder, labels, |e| e.encode_gauge(value))?;
                }
            }
            Self::Histogram(Distribution { sum, count, classes }) => {
                encoder.encode_histogram::<NoLabelSet>(*sum, *count, classes, None)?;
            }
            Self::Info(labels) => encoder.encode_info(labels)?,
        }
        Ok(())
    }
}

fn each(
    encoder: &mut MetricEncoder<'_>,
    labels: &Labels,
    encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() { encode(encoder) } else { encode(&mut encoder.encode_family(labels)?) }
}
