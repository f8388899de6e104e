//! DNS over TCP: two bytes of length, then the message, several at a time (RFC 1035 §4.2.2, RFC 7766).
//!
//! Keeps one rule: a stream costs a bounded number of questions at a time and a bounded time of silence.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long the next question, or the rest of one, may be waited for (RFC 7766 §6.2.3: "a few seconds").
const IDLE: Duration = Duration::from_secs(10);
/// How long the program may leave an answer unread.
const UNREAD: Duration = Duration::from_secs(10);
/// Questions of one stream that are worked on at a time; the rest waits in the program's socket.
const AT_A_TIME: usize = 16;

/// Serves one stream; `handle` turns a message into its answer, None where there is nothing to say.
pub(super) async fn serve<S, H, F>(stream: S, handle: H)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Vec<u8>) -> F,
    F: Future<Output = Option<Vec<u8>>>,
{
    serve_for(stream, handle, IDLE).await;
}

async fn serve_for<S, H, F>(stream: S, handle: H, idle: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Vec<u8>) -> F,
    F: Future<Output = Option<Vec<u8>>>,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let ended = converse(&mut reader, &mut writer, handle, idle).await;
    if let Err(error) = ended {
        tracing::debug!(%error, "a DNS stream ended early");
    }
    let _ = timeout(UNREAD, writer.shutdown()).await;
}

async fn converse<R, W, H, F>(reader: &mut R, writer: &mut W, handle: H, idle: Duration) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    H: Fn(Vec<u8>) -> F,
    F: Future<Output = Option<Vec<u8>>>,
{
    let mut working: FuturesUnordered<F> = FuturesUnordered::new();
    let mut next = Box::pin(frame(reader, idle));
    let mut open = true;
    while open || !working.is_empty() {
        tokio::select! {
            Some(answer) = working.next() => {
                if let Some(answer) = answer {
                    write(writer, &answer).await?;
                }
            }
            arrived = &mut next, if open && working.len() < AT_A_TIME => {
                let (reader, message) = arrived;
                match message {
                    Ok(Some(message)) => working.push(handle(message)),
                    // The program has asked all; what it asked is still answered.
                    Ok(None) => open = false,
                    Err(error) => {
                        tracing::debug!(%error, "no further question on a DNS stream");
                        open = false;
                    }
                }
                next = Box::pin(frame(reader, idle));
            }
        }
    }
    Ok(())
}

/// Reads one message and gives the reader back; None at the end of the stream.
async fn frame<R: AsyncRead + Unpin>(reader: &mut R, idle: Duration) -> (&mut R, io::Result<Option<Vec<u8>>>) {
    let message = match timeout(idle, read(reader)).await {
        Ok(message) => message,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    (reader, message)
}

async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Option<Vec<u8>>> {
    let length = match reader.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    reader.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Length and message in one write, so that they leave in one segment (RFC 7766 §8).
async fn write<W: AsyncWrite + Unpin>(writer: &mut W, answer: &[u8]) -> io::Result<()> {
    let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
    let mut framed = Vec::with_capacity(answer.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(answer);
    timeout(UNREAD, async {
        writer.write_all(&framed).await?;
        writer.flush().await
    })
    .await
    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    async fn echo(message: Vec<u8>) -> Option<Vec<u8>> {
        Some(message)
    }

    #[tokio::test]
    async fn a_stream_that_says_nothing_or_half_a_question_is_closed() {
        for said in [&b""[..], b"\0", b"\0\x28half"] {
            let (mut program, ours) = tokio::io::duplex(64);
            let served = tokio::spawn(serve_for(ours, echo, SOON));
            program.write_all(said).await.expect("written");
            assert_eq!(program.read(&mut [0; 1]).await.expect("the end"), 0);
            served.await.expect("the stream ends");
        }
    }

    #[tokio::test]
    async fn no_more_than_a_few_questions_are_worked_on_at_a_time() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let taken = AtomicUsize::new(0);
        let stuck = |_| {
            taken.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<Option<Vec<u8>>>()
        };
        let (mut program, ours) = tokio::io::duplex(4096);
        program.write_all(&[0, 1, 7].repeat(AT_A_TIME * 2)).await.expect("written");
        let _ = timeout(SOON, serve_for(ours, stuck, IDLE)).await;
        assert_eq!(taken.load(Ordering::Relaxed), AT_A_TIME);
    }
}
