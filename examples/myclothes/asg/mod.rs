//! The Auto Scaling group: keeps as many instances as are wanted, in all zones alike, as real processes.
//!
//! ```text
//! group.rs      who starts, who leaves, who is killed (pure)      fleet.rs     the loop: processes, DNS, the balancers' word
//! placement.rs  how many in which zone (pure)                     balancer.rs  what the nodes of Selvedge say
//! tracking.rs   how many the load needs (pure)                    life.rs      one process
//!                                                                 command.rs   `myclothes asg …`, and its answers
//! ```
//!
//! It does not talk to the instances. Whether one is well is for the balancers to say, whether one lives is what its process tells.

pub(crate) mod balancer;
pub(crate) mod command;
pub(crate) mod fleet;
mod group;
mod life;
mod placement;
mod tracking;

use std::time::Duration;

use group::Spec;
use tracking::Policy;

/// Most instances of one zone: there must be room for numbers while instances are replaced.
pub(crate) const MOST: u8 = 100;

/// How many instances, and when more or fewer. Without any, two in each zone, always.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Sizes {
    /// Shop instances in each of the three zones, at the start
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) instances_per_zone: u8,
    /// Fewest instances of a zone [default: --instances-per-zone]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_per_zone: Option<u8>,
    /// Most instances of a zone [default: --instances-per-zone]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    max_per_zone: Option<u8>,
    /// Requests a second that each instance should get: with more there will be more instances, with less fewer [default: their
    /// number does not follow the load]
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    target_requests: Option<f64>,
    /// The mean of so many seconds counts
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(2..=3600))]
    scaling_window: u32,
    /// Seconds after a change before more instances are started
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    scale_out_cooldown: u32,
    /// Seconds for which fewer must have been enough before instances are stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    scale_in_cooldown: u32,
    /// Seconds for which an instance may fail its checks before it is killed and replaced
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    unhealthy_after: u32,
    /// Seconds that the sessions of an instance have when it is to leave
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(..=604_800))]
    pub(crate) drain: u32,
}

impl Sizes {
    /// What is wanted of a group in so many zones.
    fn spec(&self, zones: usize) -> Result<Spec, String> {
        let each = self.instances_per_zone;
        let (min, max) = (self.min_per_zone.unwrap_or(each.min(self.most())), self.most());
        if !(min..=max).contains(&each) {
            return Err(format!(
                "--instances-per-zone {each} is not between --min-per-zone {min} and --max-per-zone {max}"
            ));
        }
        if self.target_requests.is_some() && min == max {
            return Err(format!(
                "--target-requests needs room: with {min} instances in each zone at least and at most, nothing can be \
                 scaled; add --max-per-zone"
            ));
        }
        let [patience, drain] = [self.unhealthy_after, self.drain].map(|s| Duration::from_secs(s.into()));
        Ok(Spec { min: min.into(), max: max.into(), desired: usize::from(each) * zones, patience, drain })
    }

    /// Most instances of a zone.
    pub(crate) fn most(&self) -> u8 {
        self.max_per_zone.unwrap_or(self.instances_per_zone)
    }

    fn policy(&self) -> Option<Policy> {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Some(Policy {
            target: self.target_requests?,
            window: seconds(self.scaling_window),
            out_cooldown: seconds(self.scale_out_cooldown),
            in_cooldown: seconds(self.scale_in_cooldown),
        })
    }
}

/// A number of requests a second.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err("write a number of requests a second, such as 50 or 0.5".to_owned()),
    }
}
