//! Percentiles of a few dozen samples.

use std::time::Duration;

/// Samples of one quantity.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// Adds a sample.
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The sample below which `percent` of all lie (nearest rank), in milliseconds; 100 is the greatest.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1e3)
    }

    /// `p50 / p90 / max` in milliseconds.
    pub(crate) fn line(&self) -> String {
        format!("{:8.1} {:8.1} {:8.1}", self.percentile(50), self.percentile(90), self.percentile(100))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut samples = Samples::default();
        for ms in (1..=20).rev() {
            samples.push(Duration::from_millis(ms));
        }
        for (percent, expected) in [(50, 10.0), (90, 18.0), (100, 20.0), (0, 1.0)] {
            assert!((samples.percentile(percent) - expected).abs() < 1e-9, "p{percent}");
        }
    }
}
