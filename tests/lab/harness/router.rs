//! Portreeve as a user meets it: the binary, in one of its two ways, or not there at all.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use portreeve::flow::Record;

use super::{Finished, Host, Lab, Profiles, Running, eventually};

/// How programs reach the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Without a router: the control.
    Direct,
    /// Each program in an enclosure of its own.
    Exec,
    /// Through the router of the whole laptop.
    Up,
}

/// Makes of each story, a function of a [`Way`], one test without a router and one through each way.
macro_rules! in_all_ways {
    ($($story:ident),+ $(,)?) => {
        $(mod $story {
            use $crate::harness::Way;

            #[test]
            fn without_a_router() {
                super::$story(Way::Direct);
            }

            #[test]
            fn through_exec() {
                super::$story(Way::Exec);
            }

            #[test]
            fn through_up() {
                super::$story(Way::Up);
            }
        })+
    };
}

/// Makes of each story one test through each way.
macro_rules! through_a_router {
    ($($story:ident),+ $(,)?) => {
        $(mod $story {
            use $crate::harness::Way;

            #[test]
            fn through_exec() {
                super::$story(Way::Exec);
            }

            #[test]
            fn through_up() {
                super::$story(Way::Up);
            }
        })+
    };
}

/// A laptop with a way out.
pub(crate) struct Router<'a> {
    laptop: Host,
    way: Way,
    profiles: &'a Profiles,
    dir: PathBuf,
    config: Option<PathBuf>,
    runs: Cell<u32>,
    daemon: Option<Running>,
}

impl<'a> Router<'a> {
    /// Starts the router; traffic flows when this returns.
    pub(crate) fn start(lab: &Lab, way: Way, profiles: &'a Profiles) -> Self {
        Self::start_with(lab, way, profiles, None)
    }

    /// The same, with the text of a configuration file.
    pub(crate) fn start_with(lab: &Lab, way: Way, profiles: &'a Profiles, config: Option<&str>) -> Self {
        let dir = tempfile::tempdir_in(lab.dir()).expect("the lab's folder is ours").keep();
        let config = config.map(|text| {
            let path = dir.join("portreeve.toml");
            std::fs::write(&path, text).expect("the folder is ours");
            path
        });
        let mut router = Self { laptop: lab.laptop(), way, profiles, dir, config, runs: Cell::new(0), daemon: None };
        if way == Way::Up {
            router.up(&[]);
        }
        router
    }

    /// Starts the daemon of [`Way::Up`] in the foreground, as a service would.
    pub(crate) fn up(&mut self, flags: &[&str]) {
        let mut words = self.binary_words(&["up", "--foreground", "--profiles"]);
        words.push(self.profiles.path().into());
        words.extend(flags.iter().map(OsString::from));
        let mut daemon = self.laptop.spawn(words);
        eventually("`portreeve up` is active", || {
            assert!(!daemon.has_ended(), "`portreeve up` ended at once");
            (self.verb(&["status"]).code() == 0).then_some(())
        });
        self.daemon = Some(daemon);
    }

    /// Runs a program on the laptop.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Finished {
        self.laptop.run(self.wrapped(words))
    }

    /// Starts a program on the laptop.
    pub(crate) fn spawn<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Running {
        self.laptop.spawn(self.wrapped(words))
    }

    /// Runs a verb of the binary.
    pub(crate) fn verb(&self, words: &[&str]) -> Finished {
        self.laptop.run(binary_words(words))
    }

    /// What was recorded of the flows and questions so far.
    pub(crate) fn records(&self) -> Vec<Record> {
        let text = match self.way {
            Way::Direct => String::new(),
            Way::Exec => (0..self.runs.get()).filter_map(|run| std::fs::read_to_string(self.record_file(run)).ok()).collect(),
            Way::Up => self.verb(&["flows", "--json"]).expect_success(),
        };
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// The record of a flow or question that fits. Records are written when a flow ends, which may be a moment after its program did.
    pub(crate) fn record(&self, what: &str, fits: impl Fn(&Record) -> bool) -> Record {
        eventually(&format!("a record: {what}; there are {:#?}", self.records()), || {
            self.records().into_iter().find(|record| fits(record))
        })
    }

    /// The process of the daemon, to be killed by a test.
    pub(crate) fn daemon(&mut self) -> &mut Option<Running> {
        &mut self.daemon
    }

    fn wrapped<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Vec<OsString> {
        let mut all = Vec::new();
        if self.way == Way::Exec {
            let run = self.runs.replace(self.runs.get() + 1);
            all = self.binary_words(&["exec", "--profiles"]);
            all.extend([self.profiles.path().into(), "--record".into(), self.record_file(run).into(), "--".into()]);
        }
        all.extend(words.into_iter().map(|word| word.as_ref().to_owned()));
        all
    }

    /// The binary with its configuration, where it has one.
    fn binary_words(&self, words: &[&str]) -> Vec<OsString> {
        let Some(config) = &self.config else { return binary_words(words) };
        let variable = format!("PORTREEVE_CONFIG={}", config.display());
        ["env".into(), variable.into()].into_iter().chain(binary_words(words)).collect()
    }

    fn record_file(&self, run: u32) -> PathBuf {
        self.dir.join(format!("record-{run}.jsonl"))
    }
}

impl Drop for Router<'_> {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            let _ = self.verb(&["down"]);
        }
    }
}

/// The binary under test: the one that cargo built, or what PORTREEVE_BINARY names.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("PORTREEVE_BINARY").map_or_else(|| Path::new(env!("CARGO_BIN_EXE_portreeve")).to_owned(), PathBuf::from)
}

fn binary_words(words: &[&str]) -> Vec<OsString> {
    let mut all = vec![binary().into_os_string()];
    all.extend(words.iter().map(OsString::from));
    all
}
