//! `portreeve level --features`: what each level switches.

use serde_json::json;

use crate::cli::Json;
use crate::profile::{Engine, FEATURES, Level, features_table};

/// The table as text, or one JSON object a line.
#[must_use]
pub fn level_features(json: Json) -> String {
    if !json.json {
        return features_table();
    }
    let row = |feature: &crate::profile::Feature| {
        let levels: Vec<Level> = Level::ALL.into_iter().filter(|level| feature.is_on(*level)).collect();
        let engine = match feature.engine {
            Engine::Decision => "decision",
            Engine::Resolver => "resolver",
            Engine::ShippedProfiles => "shipped profiles",
            Engine::Missing => "not built yet",
        };
        format!("{}\n", json!({ "protection": feature.name, "levels": levels, "engine": engine }))
    };
    FEATURES.iter().map(row).collect()
}
