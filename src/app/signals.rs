//! The signals that a router obeys.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Streams of the signals that matter; registering them also keeps their default actions away.
pub(super) struct Signals {
    streams: Vec<(i32, Signal)>,
}

impl Signals {
    /// Must be called inside a runtime.
    ///
    /// # Errors
    ///
    /// The kernel refused a handler.
    pub(super) fn of(kinds: &[SignalKind]) -> std::io::Result<Self> {
        let streams = kinds.iter().map(|kind| Ok((kind.as_raw_value(), signal(*kind)?)));
        Ok(Self { streams: streams.collect::<std::io::Result<_>>()? })
    }

    /// The number of the next signal.
    pub(super) async fn next(&mut self) -> i32 {
        std::future::poll_fn(|context| {
            for (number, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
