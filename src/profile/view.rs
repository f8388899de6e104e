//! The settings that hold for one program at one level: the layers merged.
//!
//! Keeps one rule: for each key the first layer that sets it decides; where two profiles of a layer tie, the stricter value.

use std::sync::Arc;

use super::level::{Level, Levels};
use super::settings::{Flag, Mode, PerFlag, Profile, RunAs};
use super::source::{Held, Layer, Source};
use super::transport::Transport;
use crate::names::Pattern;

/// The profiles that count for a program, in order of precedence; a layer is one profile, or several that tie.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    pub user: Vec<Arc<Profile>>,
    pub global: Vec<Arc<Profile>>,
    pub stamp: Vec<Arc<Profile>>,
    pub fallback: Vec<Arc<Profile>>,
}

impl Layers {
    #[must_use]
    pub fn of(&self, layer: Layer) -> &[Arc<Profile>] {
        match layer {
            Layer::User => &self.user,
            Layer::Global => &self.global,
            Layer::Stamp => &self.stamp,
            Layer::Fallback => &self.fallback,
        }
    }

    /// The program's minimum level: Stamp has no say in it.
    #[must_use]
    pub fn minimum(&self) -> Option<&Held<Level>> {
        let levels = |layer| self.of(layer).iter().filter_map(|profile| profile.level.as_ref());
        [Layer::User, Layer::Global, Layer::Fallback].into_iter().find_map(|layer| levels(layer).max_by_key(|held| held.value))
    }

    /// The first layer that sets something, as the list of what its profiles set.
    fn first<'l, T>(&'l self, order: &[Layer], set: impl Fn(&'l Profile) -> Option<&'l Held<T>>) -> Vec<&'l Held<T>> {
        let found = |layer: &Layer| self.of(*layer).iter().filter_map(|profile| set(profile)).collect::<Vec<_>>();
        order.iter().map(found).find(|list| !list.is_empty()).unwrap_or_default()
    }
}

/// A flag at one level.
#[derive(Clone, Debug, Default)]
pub struct Switch {
    pub on: bool,
    /// None: no layer sets it, which is a no.
    pub source: Option<Source>,
}

/// A list setting and the line that sets it; several where profiles tie, and then all must be met.
pub type Restrictions<T> = Vec<Held<Vec<T>>>;

/// The merged settings of one level.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub flags: PerFlag<Switch>,
    /// The layers that count at this level.
    pub order: Vec<Layer>,
    pub mode: Option<Held<Mode>>,
    pub run_as: Vec<Held<RunAs>>,
    pub domain_whitelist: Restrictions<Pattern>,
    pub connect_ports: Restrictions<Transport>,
    pub listen_ports: Restrictions<Transport>,
    pub blocked_labels: Restrictions<Box<str>>,
}

impl View {
    /// Merges `layers` at `level`.
    #[must_use]
    pub fn merge(layers: &Layers, level: Level) -> Self {
        let independent = switch(layers, &Layer::ALL, Flag::Independent, level).on;
        let order: Vec<Layer> = Layer::ALL.into_iter().filter(|layer| !(independent && *layer == Layer::Stamp)).collect();
        let restrict = |set: fn(&Profile) -> Option<&Held<Vec<Transport>>>| unempty(layers.first(&order, set));
        Self {
            flags: PerFlag::from_fn(|flag| {
                // Judged with Stamp in, because Stamp is what it may take out.
                let order = if flag == Flag::Independent { &Layer::ALL[..] } else { &order };
                switch(layers, order, flag, level)
            }),
            mode: layers
                .first(&order, |profile| profile.mode.at(level).as_ref())
                .into_iter()
                .min_by_key(|held| held.value)
                .cloned(),
            run_as: layers.first(&order, |profile| profile.run_as.as_ref()).into_iter().cloned().collect(),
            domain_whitelist: unempty(layers.first(&order, |profile| profile.domain_whitelist.as_ref())),
            connect_ports: restrict(|profile| profile.connect_ports.as_ref()),
            listen_ports: restrict(|profile| profile.listen_ports.as_ref()),
            blocked_labels: unempty(layers.first(&order, |profile| profile.blocked_labels.as_ref())),
            order,
        }
    }
}

/// An empty list is set, so it ends the search in the layers, but restricts nothing.
fn unempty<T: Clone>(lists: Vec<&Held<Vec<T>>>) -> Restrictions<T> {
    lists.into_iter().filter(|held| !held.value.is_empty()).cloned().collect()
}

fn switch(layers: &Layers, order: &[Layer], flag: Flag, level: Level) -> Switch {
    let set: Vec<&Held<Levels>> = layers.first(order, |profile| profile.flags.of(flag).as_ref());
    let strictest = set.iter().find(|held| *held.value.at(level) == flag.stricter()).or(set.first());
    match strictest {
        Some(held) => Switch { on: *held.value.at(level), source: Some(held.source.clone()) },
        None => Switch::default(),
    }
}
