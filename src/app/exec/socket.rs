//! Where the control socket of an `exec` is.
//!
//! Keeps one rule: a place that the user named is taken or the command does not run. Without the usual place it runs all the same and
//! is judged all the same, since another user could have made that place in /tmp; what cannot be asked then is said.

use std::path::Path;

use crate::config::paths::Places;
use crate::control::{Access, BindError, Listener};

/// Each `exec` inside an `exec` has a low PID, so that several may have the same one and the same folder.
const TWINS: u32 = 64;

/// Makes the control socket; `None` where the usual place cannot be used.
///
/// # Errors
///
/// The place that the user named cannot be used.
pub(super) fn bind(named: Option<&Path>, places: &Places) -> Result<Option<Listener>, BindError> {
    if let Some(named) = named {
        return Listener::bind(named, Access::Own).map(Some);
    }
    let pid = std::process::id();
    let mut refusal = None;
    for twin in 0..TWINS {
        match Listener::bind(&places.exec_socket(pid, twin), Access::Own) {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) => {
                let is_taken = matches!(error, BindError::Running { .. });
                refusal = Some(error);
                if !is_taken {
                    break;
                }
            }
        }
    }
    if let Some(error) = refusal {
        tracing::warn!(
            "`flows`, `prompt`, `level` and `reload` cannot reach this command: {error}; --socket PATH names another place"
        );
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        Places { xdg_runtime_dir: Some(dir.to_owned()), ..Places::default() }
    }

    #[test]
    fn the_same_number_in_another_pid_namespace_gets_a_place_beside() {
        let dir = tempfile::tempdir().expect("a directory");
        let [first, second] = [(); 2].map(|()| bind(None, &places(dir.path())).expect("usual").expect("made"));
        assert_ne!(first.path(), second.path());
        assert_eq!(first.path().parent(), second.path().parent());
    }

    #[test]
    fn a_usual_place_that_cannot_be_used_is_done_without_and_a_named_one_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("portreeve"), "").expect("written");
        assert!(bind(None, &places(dir.path())).expect("no refusal").is_none());
        let named = places(dir.path()).exec_socket(7, 0);
        assert!(matches!(bind(Some(&named), &places(dir.path())), Err(BindError::UnsafeDir { .. })));
    }
}
