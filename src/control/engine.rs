//! The router as this room sees it.

use tokio::sync::broadcast;

use super::{Event, Fault, Prompt, Reloaded, Status};
use crate::flow::Record;
use crate::profile::Level;
use crate::verdict::Answer;

/// What a running Portreeve can be asked. Whoever calls it has been permitted already.
///
/// The plain methods answer from memory and do not block; the others may take their time.
#[async_trait::async_trait]
pub trait Engine: Send + Sync + 'static {
    fn status(&self) -> Status;

    /// Open flows and the latest that ended, oldest first.
    fn flows(&self) -> Vec<Record>;

    /// Every event from now on. The channel is bounded: a slow reader loses the oldest and is told how many.
    fn subscribe(&self) -> broadcast::Receiver<Event>;

    async fn set_level(&self, level: Level) -> Result<(), Fault>;

    /// Reads the profiles again. A set with faults changes nothing.
    async fn reload(&self) -> Result<Reloaded, Vec<Fault>>;

    /// Open prompts, oldest first.
    fn prompts(&self) -> Vec<Prompt>;

    async fn answer(&self, id: u64, answer: Answer) -> Result<(), Fault>;

    /// Undoes everything and returns when that is done; the process ends soon after.
    async fn down(&self) -> Result<(), Fault>;
}
