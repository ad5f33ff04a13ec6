//! `[pool.NAME.zones]`: how zones share the load, and when one of them is taken out.

use super::{Compiler, DAY, seconds};
use crate::config::file::{self, At, Field, Name, Named, OrShare, Place, Rate, Text as _};
use crate::config::units::Percent;
use crate::config::{GrayZone, MinHealthy, ZoneMode, ZoneName, Zones};

impl Compiler<'_> {
    pub(super) fn zones(&mut self, file: file::Zones, pool: &Place) -> Zones {
        let mode = file.mode.peek().map_or(ZoneMode::Even, |at| at.value);
        if mode != ZoneMode::Even && !self.has_zone {
            let place = file.mode.peek().map_or_else(|| pool.key("zones"), |at| at.place.clone());
            let hint = "write zone = \"az-a\" at the top of the file, or start the node with --zone";
            self.problems.add(&place, "needs to know where this node stands", hint);
        }
        Zones {
            mode,
            weights: self.zone_weights(file.weights),
            overprovisioning: self.within(file.overprovisioning, 1.4, 1.0..=100.0),
            panic: self.share(file.panic, 0.5),
            min_healthy: self.min_healthy(file.min_healthy),
            shift_capacity: self.share(file.shift_capacity, 0.5),
            evacuate: self.evacuation(file.evacuate),
            gray: self.gray_zone(file.gray.or_default()),
        }
    }

    fn zone_weights(&mut self, field: Field<Named<i64>>) -> Vec<(ZoneName, u32)> {
        let Named(entries) = field.or_default();
        let mut weights = Vec::new();
        for (zone, place, weight) in entries {
            match (Name::parse(&zone), weight) {
                (Ok(name), Some(weight)) => {
                    let weight = self.within(Field::Given(At { value: weight, place }), 1, 0..=1000);
                    weights.push((name.0, weight as u32));
                }
                (Err(wrong), _) => self.problems.add(&place, wrong.what, wrong.hint),
                (Ok(_), None) => {}
            }
        }
        weights
    }

    fn min_healthy(&mut self, field: Field<OrShare>) -> MinHealthy {
        match field.given() {
            None => MinHealthy::Share(0.0),
            Some(At { value: OrShare::Number(number), place }) => {
                let number = self.within(Field::Given(At { value: number, place }), 0, 0..=1_000_000);
                MinHealthy::Number(number as u32)
            }
            Some(At { value: OrShare::Share(share), place }) => {
                MinHealthy::Share(self.share(Field::Given(At { value: share, place }), 0.0))
            }
        }
    }

    fn evacuation(&mut self, field: Field<Rate>) -> f64 {
        let Some(At { value: Rate(rate), place }) = field.given() else { return f64::INFINITY };
        if rate.is_finite() && !(0.001..=1.0).contains(&rate) {
            let hint = "write \"0.1%/s\" to \"100%/s\", or \"at_once\"";
            self.problems.add(&place, "is out of range", hint);
        }
        rate
    }

    fn gray_zone(&mut self, file: file::GrayZone) -> GrayZone {
        GrayZone {
            enabled: file.enabled.or(true),
            window: self.within(file.window, seconds(5), seconds(1)..=seconds(600)),
            min_requests: self.within(file.min_requests, 50, 1..=1_000_000) as u32,
            failures: self.within(file.failures, Percent(0.1), Percent(0.01)..=Percent(1.0)).0,
            latency: self.factor_or_off(file.latency, 5.0),
            expiry: self.within(file.expiry, seconds(300), seconds(1)..=3 * DAY),
            trickle: self.within(file.trickle, Percent(0.02), Percent(0.001)..=Percent(0.5)).0,
        }
    }
}
