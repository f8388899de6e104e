//! The real actor behind a program: frameworks are followed until a profile has none.
//!
//! Keeps one rule: who the actor is must be settled within ten rounds, or nothing is accepted for the program.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::Layer;
use super::view::Layers;
use crate::process::{Ancestor, Framework, Identity, Looked, Surroundings, rewrite};

/// Rewriting ends after so many rounds; a set of frameworks that goes on is a loop.
const MAX_ROUNDS: usize = 10;

/// The outcome of following frameworks.
pub(super) struct Actor {
    pub layers: Layers,
    /// May be a virtual name.
    pub path: Option<PathBuf>,
    /// The parent that flows are shown under.
    pub shown_as: Option<u32>,
    /// Why the actor could not be settled.
    pub gave_up: Option<Arc<str>>,
}

/// What one framework came to.
enum Round {
    /// The current profile stays in force.
    Stay,
    Rewritten,
    GaveUp(&'static str),
}

/// The program as far as it was followed.
struct Trail<'a> {
    identity: &'a Identity,
    exists: &'a dyn Fn(&Path) -> bool,
    cmdline: String,
    /// None: not rewritten yet.
    path: Option<PathBuf>,
    shown_as: Option<u32>,
    ancestors: &'a [Ancestor],
}

/// Follows the frameworks of the profiles that `layers_of` finds.
pub(super) fn find(identity: &Identity, exists: &dyn Fn(&Path) -> bool, layers_of: impl Fn(&Looked<'_>) -> Layers) -> Actor {
    let cmdline = identity.cmdline.join(" ");
    let mut trail = Trail { identity, exists, cmdline, path: None, shown_as: None, ancestors: &identity.ancestors };
    for _ in 0..=MAX_ROUNDS {
        let layers = layers_of(&trail.looked());
        let of = |layer: Layer| layers.of(layer).iter().find_map(|profile| profile.framework.as_ref());
        let round = match Layer::ALL.into_iter().find_map(of) {
            Some(framework) => trail.follow(&framework.value),
            None => Round::Stay,
        };
        match round {
            Round::Rewritten => {}
            Round::Stay => return trail.end(layers, None),
            Round::GaveUp(why) => return trail.end(layers, Some(why)),
        }
    }
    let layers = layers_of(&trail.looked());
    trail.end(layers, Some("frameworks rewrote this program more than 10 times"))
}

impl Trail<'_> {
    fn looked(&self) -> Looked<'_> {
        let first = Looked::first(self.identity, &self.cmdline);
        Looked { path: self.path.as_deref().or(first.path), ..first }
    }

    fn end(self, layers: Layers, gave_up: Option<&str>) -> Actor {
        let path = self.looked().path.map(Path::to_owned);
        Actor { layers, path, shown_as: self.shown_as, gave_up: gave_up.map(Arc::from) }
    }

    fn follow(&mut self, framework: &Framework) -> Round {
        match framework {
            Framework::Script { .. } if self.cmdline.is_empty() && self.identity.pid.is_some() => {
                Round::GaveUp("the command line of this program cannot be read")
            }
            Framework::Script { find, build, is_virtual } => {
                let around = Surroundings { cwd: self.identity.cwd.as_deref(), home: self.identity.home.as_deref() };
                match rewrite(find, build, *is_virtual, &self.cmdline, around, self.exists) {
                    Some(path) => self.go_on(path.display().to_string(), path),
                    None => Round::Stay,
                }
            }
            // PID 1 alone has no parent.
            Framework::Parent { .. } if self.ancestors.is_empty() && self.identity.pid.is_some_and(|pid| pid > 1) => {
                Round::GaveUp("the parents of this program cannot be read")
            }
            Framework::Parent { level, merge } => self.climb(*level, *merge),
        }
    }

    fn climb(&mut self, level: u32, merge: bool) -> Round {
        let above = usize::try_from(level).ok().and_then(|level| level.checked_sub(1));
        let rest = above.and_then(|above| self.ancestors.get(above..)).and_then(<[Ancestor]>::split_first);
        let Some((parent, further)) = rest else { return Round::Stay };
        self.ancestors = further;
        if merge {
            self.shown_as = Some(parent.pid);
        }
        self.go_on(parent.cmdline.join(" "), parent.path.clone())
    }

    fn go_on(&mut self, cmdline: String, path: PathBuf) -> Round {
        self.cmdline = cmdline;
        self.path = Some(path);
        Round::Rewritten
    }
}
