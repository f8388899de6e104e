//! The compiled profile set, and what of it holds for one program.
//!
//! Keeps one rule: a policy exists only if no file of its set has a fault.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entity::{Entity, EntityError, is_word};
use super::fault::Fault;
use super::geo::{Geo, NoGeo};
use super::label_file::read_labels;
use super::labels::Labels;
use super::level::{Level, PerLevel};
use super::list::World;
use super::read::read_profile;
use super::settings::Profile;
use super::source::Layer;
use super::view::{Layers, View};
use crate::process::{Framework, Identity, Looked, Surroundings, Tag, rewrite};

/// Rewriting ends after so many rounds; a set of frameworks that goes on is a loop.
const MAX_ROUNDS: usize = 10;

/// What a file of a profile set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Profile(Layer),
    Labels,
}

/// One file of a profile set, as read.
#[derive(Clone, Debug)]
pub struct File {
    pub kind: Kind,
    pub path: PathBuf,
    pub text: String,
}

/// Facts from the configuration that rules may speak of.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// None: no data, so that rules which need it deny.
    pub geo: Option<Arc<dyn Geo>>,
    /// `@name` → entities.
    pub groups: BTreeMap<Box<str>, Vec<Entity>>,
}

/// Why a named group cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    #[error("`{0}` is no name of a group; write letters, digits, `-`, `_` or `.`")]
    Name(String),
    #[error("`{0}` names a group, and groups hold no groups; write its entries")]
    Nested(String),
    #[error(transparent)]
    Entity(#[from] EntityError),
}

impl Setup {
    /// Adds a named group of the configuration; its entries are entities as in rules.
    ///
    /// # Errors
    ///
    /// The entry that is no entity.
    pub fn add_group<'t>(&mut self, name: &str, entries: impl IntoIterator<Item = &'t str>) -> Result<(), SetupError> {
        if !is_word(name) {
            return Err(SetupError::Name(name.to_owned()));
        }
        let mut entities = Vec::new();
        for entry in entries {
            match entry.trim().parse()? {
                Entity::Group(_) => return Err(SetupError::Nested(entry.to_owned())),
                entity => entities.push(entity),
            }
        }
        self.groups.entry(name.into()).or_default().extend(entities);
        Ok(())
    }
}

/// A compiled set of profiles. Immutable; a reload makes a new one.
#[derive(Debug)]
pub struct Policy {
    layers: Layers,
    world: World,
}

impl Default for Policy {
    /// The empty set, which refuses everything.
    fn default() -> Self {
        let world = World { geo: Arc::new(NoGeo), labels: Labels::default(), groups: BTreeMap::new() };
        Self { layers: Layers::default(), world }
    }
}

impl Policy {
    /// Compiles a set of files.
    ///
    /// # Errors
    ///
    /// All faults of all files.
    pub fn compile(files: &[File], setup: Setup) -> Result<Self, Vec<Fault>> {
        let Setup { geo, groups } = setup;
        let mut policy = Self::default();
        policy.world.groups = groups;
        if let Some(geo) = geo {
            policy.world.geo = geo;
        }
        let mut faults = Vec::new();
        for file in files {
            match file.kind {
                Kind::Profile(layer) => match read_profile(layer, &file.path, &file.text) {
                    Ok(profile) => policy.add(profile, &mut faults),
                    Err(found) => faults.extend(found),
                },
                Kind::Labels => faults.extend(read_labels(&mut policy.world.labels, &file.path, &file.text)),
            }
        }
        if faults.is_empty() { Ok(policy) } else { Err(faults) }
    }

    fn add(&mut self, profile: Option<Profile>, faults: &mut Vec<Fault>) {
        let Some(profile) = profile else { return };
        let own = self.layers.of(profile.layer);
        if let Some(other) = own.iter().find(|other| other.name == profile.name) {
            let what = format!("the name `{}` is taken by {}:{}", profile.name, other.file.display(), other.line);
            faults.push(Fault {
                line: profile.line,
                column: profile.column,
                ..Fault::of_file(&profile.file, what, "names are unique in a layer; choose another")
            });
            return;
        }
        match profile.layer {
            Layer::User => self.layers.user.push(Arc::new(profile)),
            Layer::Global => self.layers.global.push(Arc::new(profile)),
            Layer::Stamp => self.layers.stamp.push(Arc::new(profile)),
            Layer::Fallback => self.layers.fallback.push(Arc::new(profile)),
        }
    }

    /// All profiles in order of precedence.
    pub fn profiles(&self) -> impl Iterator<Item = &Arc<Profile>> {
        Layer::ALL.into_iter().flat_map(|layer| self.layers.of(layer))
    }

    /// What rules may look at besides the case.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Finds the profiles of `identity`: fingerprints, framework rewriting, merging. `exists` answers whether a rewritten path
    /// exists as seen by the program.
    #[must_use]
    pub fn subject(&self, identity: Arc<Identity>, exists: &dyn Fn(&Path) -> bool) -> Subject {
        let actor = self.actor(&identity, exists);
        let views = PerLevel::from_fn(|level| View::merge(&actor.layers, level));
        let minimum = actor.layers.minimum().map_or(Level::Dynamic, |held| held.value);
        let has_own_profile = |tag: &Tag| {
            let own = actor.layers.user.iter().chain(&actor.layers.stamp);
            own.into_iter().any(|profile| profile.matching.tags.contains(tag))
        };
        let is_nobody = |tag: &&Tag| tag.0.starts_with("portreeve:") && !has_own_profile(tag);
        let nobody = identity.tags.iter().find(is_nobody).cloned();
        let nameless = identity.exe.is_none() && identity.tags.is_empty();
        let known = match (actor.gave_up.clone(), nobody) {
            (Some(why), _) => Err(why),
            (None, Some(tag)) => Err(Arc::from(format!("no profile has the tag {}", tag.0))),
            (None, None) if nameless => Err(Arc::from("nobody was found behind this flow")),
            (None, None) => Ok(()),
        };
        let related_to = related_words(&actor);
        let Actor { layers, path, shown_as, gave_up: _ } = actor;
        Subject { identity, resolved: Arc::new(Resolved { layers, views, minimum, known, path, shown_as, related_to }) }
    }

    /// The strongest profiles of each layer for a program.
    fn layers_of(&self, looked: &Looked<'_>) -> Layers {
        let strongest = |all: &[Arc<Profile>]| {
            let fits: Vec<_> = all.iter().filter_map(|p| Some((p.matching.strength(looked)?, p))).collect();
            let best = fits.iter().map(|(strength, _)| *strength).max();
            fits.into_iter().filter(|(strength, _)| Some(*strength) == best).map(|(_, p)| Arc::clone(p)).collect()
        };
        Layers {
            user: strongest(&self.layers.user),
            global: self.layers.global.clone(),
            stamp: strongest(&self.layers.stamp),
            fallback: self.layers.fallback.clone(),
        }
    }

    /// Follows frameworks until the real actor is found.
    fn actor(&self, identity: &Identity, exists: &dyn Fn(&Path) -> bool) -> Actor {
        let mut cmdline = identity.cmdline.join(" ");
        let mut path = None;
        let mut shown_as = None;
        let mut ancestors = identity.ancestors.as_slice();
        for _ in 0..=MAX_ROUNDS {
            let first = Looked::first(identity, &cmdline);
            let looked = Looked { path: path.as_deref().or(first.path), ..first };
            let layers = self.layers_of(&looked);
            let found = |layer: Layer| layers.of(layer).iter().find_map(|profile| profile.framework.as_ref());
            let stay = |gave_up: Option<&str>| (gave_up.map(Arc::from), looked.path.map(Path::to_owned));
            let next = match Layer::ALL.into_iter().find_map(found).map(|held| &held.value) {
                None => None,
                Some(Framework::Script { .. }) if cmdline.is_empty() && identity.pid.is_some() => {
                    let (gave_up, path) = stay(Some("the command line of this program cannot be read"));
                    return Actor { layers, path, shown_as, gave_up };
                }
                Some(Framework::Script { find, build, is_virtual }) => {
                    let around = Surroundings { cwd: identity.cwd.as_deref(), home: identity.home.as_deref() };
                    rewrite(find, build, *is_virtual, &cmdline, around, exists).map(|path| (path.display().to_string(), path))
                }
                Some(Framework::Parent { .. }) if ancestors.is_empty() && identity.pid.is_some_and(|pid| pid > 1) => {
                    let (gave_up, path) = stay(Some("the parents of this program cannot be read"));
                    return Actor { layers, path, shown_as, gave_up };
                }
                Some(Framework::Parent { level, merge }) => {
                    let level = usize::try_from(*level).unwrap_or(usize::MAX);
                    level.checked_sub(1).and_then(|above| ancestors.split_at_checked(above)).and_then(|(_, rest)| {
                        let (parent, further) = rest.split_first()?;
                        ancestors = further;
                        if *merge {
                            shown_as = Some(parent.pid);
                        }
                        Some((parent.cmdline.join(" "), parent.path.clone()))
                    })
                }
            };
            let Some((next_cmdline, next_path)) = next else {
                let (gave_up, path) = stay(None);
                return Actor { layers, path, shown_as, gave_up };
            };
            cmdline = next_cmdline;
            path = Some(next_path);
        }
        let looked = Looked { path: path.as_deref(), ..Looked::first(identity, &cmdline) };
        let gave_up = Some(Arc::from("frameworks rewrote this program more than 10 times"));
        Actor { layers: self.layers_of(&looked), path, shown_as, gave_up }
    }
}

/// The outcome of following frameworks.
struct Actor {
    layers: Layers,
    path: Option<PathBuf>,
    shown_as: Option<u32>,
    gave_up: Option<Arc<str>>,
}

/// The words that a related domain resembles: the last two path segments (the file name is one) and the profiles' names.
fn related_words(actor: &Actor) -> Vec<Box<str>> {
    let segments = actor.path.iter().flat_map(|path| path.iter().rev().take(2)).filter_map(|segment| segment.to_str());
    let names = actor.layers.user.iter().chain(&actor.layers.stamp).map(|profile| &*profile.name);
    let mut words: Vec<Box<str>> =
        segments.filter(|segment| *segment != "/").chain(names).map(|word| word.to_lowercase().into()).collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// A program together with the layers that hold for it under one policy. Made once per identity and policy, not per flow.
#[derive(Clone, Debug)]
pub struct Subject {
    pub identity: Arc<Identity>,
    resolved: Arc<Resolved>,
}

#[derive(Debug)]
struct Resolved {
    layers: Layers,
    views: PerLevel<View>,
    minimum: Level,
    known: Result<(), Arc<str>>,
    path: Option<PathBuf>,
    shown_as: Option<u32>,
    related_to: Vec<Box<str>>,
}

impl Subject {
    /// The profile to show beside a flow: the User profile's name, else the strongest that matched.
    #[must_use]
    pub fn profile_name(&self) -> Option<&str> {
        let order = [Layer::User, Layer::Stamp, Layer::Fallback, Layer::Global];
        order.into_iter().find_map(|layer| self.layers().of(layer).first()).map(|profile| &*profile.name)
    }

    #[must_use]
    pub fn layers(&self) -> &Layers {
        &self.resolved.layers
    }

    /// The level in force: the higher of the system's and the program's minimum.
    #[must_use]
    pub fn level(&self, system: Level) -> Level {
        system.max(self.resolved.minimum)
    }

    /// The merged settings at a level in force.
    #[must_use]
    pub fn view(&self, in_force: Level) -> &View {
        self.resolved.views.at(in_force)
    }

    /// Whether it is known whose flow this is.
    ///
    /// # Errors
    ///
    /// Why it is not, so that nothing may be accepted.
    pub fn known(&self) -> Result<(), &Arc<str>> {
        self.resolved.known.as_ref().copied()
    }

    /// The path of the real actor, after frameworks; may be a virtual name.
    #[must_use]
    pub fn actor_path(&self) -> Option<&Path> {
        self.resolved.path.as_deref()
    }

    /// The process under which flows are shown, where a framework merges them with a parent.
    #[must_use]
    pub fn shown_as(&self) -> Option<u32> {
        self.resolved.shown_as
    }

    /// The words that a related domain resembles.
    #[must_use]
    pub fn related_to(&self) -> &[Box<str>] {
        &self.resolved.related_to
    }
}
