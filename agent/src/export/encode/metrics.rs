//! Metrics into OTLP messages.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{
        AggregationTemporality, Histogram, HistogramDataPoint, Metric as OtlpMetric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
    },
};

use super::{
    ATTRIBUTE_OVERHEAD, SPAN_OVERHEAD, attributes_size, by_resource, key_value, otlp_resource, scope,
};
use crate::signal::{Metric, Points};

/// Makes one request of the metrics: one `ResourceMetrics` for each resource, one scope in each. Of one and the same stream
/// there may be several points.
pub fn request(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let groups = by_resource(metrics, |metric| &metric.resource);
    let resource_metrics = groups
        .into_iter()
        .map(|(resource, metrics)| ResourceMetrics {
            resource: Some(otlp_resource(&resource)),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics: metrics.into_iter().map(otlp_metric).collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        })
        .collect();
    ExportMetricsServiceRequest { resource_metrics }
}

/// About how many bytes the metric takes, in memory and on the wire. Never less than its encoded length without the resource.
pub fn approximate_size(metric: &Metric) -> usize {
    let points = match &metric.points {
        Points::Sum(points) => {
            points.iter().map(|(attributes, _)| SPAN_OVERHEAD + attributes_size(attributes)).sum::<usize>()
        }
        Points::Histogram { bounds, buckets, .. } => SPAN_OVERHEAD + (bounds.len() + buckets.len()) * 8,
    };
    SPAN_OVERHEAD
        + ATTRIBUTE_OVERHEAD
        + metric.name.len()
        + metric.unit.len()
        + metric.description.len()
        + points
}

fn otlp_metric(metric: Metric) -> OtlpMetric {
    let (start_time_unix_nano, time_unix_nano) = (metric.start, metric.time);
    let aggregation_temporality = AggregationTemporality::Cumulative as i32;
    let data = match metric.points {
        Points::Sum(points) => {
            let point = |(attributes, value): (Vec<_>, u64)| NumberDataPoint {
                attributes: attributes.into_iter().map(key_value).collect(),
                start_time_unix_nano,
                time_unix_nano,
                value: Some(number_data_point::Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX))),
                ..NumberDataPoint::default()
            };
            let data_points = points.into_iter().map(point).collect();
            metric::Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true })
        }
        Points::Histogram { bounds, buckets, sum } => {
            let point = HistogramDataPoint {
                start_time_unix_nano,
                time_unix_nano,
                count: buckets.iter().copied().fold(0, u64::saturating_add),
                sum: Some(sum),
                bucket_counts: buckets,
                explicit_bounds: bounds.to_vec(),
                ..HistogramDataPoint::default()
            };
            metric::Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality })
        }
    };
    OtlpMetric {
        name: metric.name.to_owned(),
        description: metric.description.to_owned(),
        unit: metric.unit.to_owned(),
        data: Some(data),
        ..OtlpMetric::default()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use std::sync::Arc;

    use super::*;
    use crate::signal::{Attribute, Resource};

    fn metric(points: Points) -> Metric {
        Metric {
            name: "adder.asyncio.loop.lag",
            unit: "s",
            description: "d",
            start: 1_700_000_000_000_000_000,
            time: 1_700_000_060_000_000_000,
            points,
            resource: Arc::new(Resource::default()),
        }
    }

    fn all() -> Vec<Metric> {
        let named = |name: &str, count| (vec![Attribute::new("code.function.name", name.to_owned())], count);
        vec![
            metric(Points::Sum(vec![named("f", u64::MAX), named(&"long".repeat(1000), 1), (Vec::new(), 2)])),
            metric(Points::Histogram { bounds: &[0.1, 1.0], buckets: vec![u64::MAX / 4; 3], sum: 1e300 }),
        ]
    }

    #[test]
    fn a_histogram_is_cumulative() {
        let points = Points::Histogram { bounds: &[0.1, 1.0], buckets: vec![5, 0, 2], sum: 3.5 };
        let request = request(vec![metric(points)]);
        let Some(metric::Data::Histogram(histogram)) =
            &request.resource_metrics[0].scope_metrics[0].metrics[0].data
        else {
            panic!("a histogram")
        };
        assert_eq!(histogram.aggregation_temporality(), AggregationTemporality::Cumulative);
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.sum), (7, Some(3.5)));
        assert_eq!((&point.explicit_bounds[..], &point.bucket_counts[..]), (&[0.1, 1.0][..], &[5, 0, 2][..]));
    }

    #[test]
    fn a_resource_is_told_once() {
        let request = request(all());
        assert_eq!(request.resource_metrics.len(), 1);
        assert_eq!(request.resource_metrics[0].scope_metrics[0].metrics.len(), 2);
    }

    #[test]
    fn a_metric_is_never_larger_than_its_estimate() {
        for metric in all() {
            let estimate = approximate_size(&metric);
            assert!(request(vec![metric]).encoded_len() <= estimate);
        }
    }
}
