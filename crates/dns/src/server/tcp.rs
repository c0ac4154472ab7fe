//! Questions by TCP (RFC 7766): one after the other on each connection, each with its length before it.

use std::{io, time::Duration};

use exeat_audit::Seldom;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::{Carrier, Client, Entrance, Server, question::QUESTION_BYTES_MAX};
use crate::surroundings::Happening;

/// How long a connection may be without a question: long enough for the second of two that a resolver asks, and short enough
/// that connections which are left open make room (RFC 7766 §6.2.3 has "a few seconds").
const IDLE_MAX: Duration = Duration::from_secs(10);

/// How long the rest of a question may take once its first octet is there, and how long an answer to be taken.
const MESSAGE_MAX: Duration = Duration::from_secs(5);

/// A line that clients can cause by holding all connections.
static UNACCEPTED: Seldom = Seldom::new();

/// How long to wait when the system gives no more connections, for those that are open to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Server {
    /// Answers the questions of the connections to `listener`, until the future is dropped. `entrance` says
    /// something of who asks.
    pub async fn serve_tcp(&self, listener: TcpListener, entrance: Entrance) {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(left_out) = UNACCEPTED.turn() {
                        tracing::warn!(%error, left_out, "a connection for questions cannot be accepted");
                    }
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let client = Client::new(from, stream.local_addr().ok(), &entrance);
            let Some(place) = self.0.connections.take(client.source()) else {
                self.0.around.count(Happening::TooManyConnections);
                continue;
            };
            let server = self.clone();
            // Lives until the client leaves or is silent for too long.
            drop(tokio::spawn(async move {
                let _place = place;
                if let Err(error) = server.converse(stream, &client).await {
                    tracing::debug!(%error, "a connection for questions has ended");
                }
            }));
        }
    }

    /// Answers one question after the other: a client that sends several at once gets its answers in their order.
    async fn converse(&self, mut stream: TcpStream, client: &Client) -> io::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let Some(message) = read_message(&mut stream).await? else { return Ok(()) };
            let Some(answer) = self.handle(&message, client, Carrier::Tcp).await else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes(), &*answer].concat();
            timeout(MESSAGE_MAX, stream.write_all(&framed)).await??;
        }
    }
}

/// Returns the next message; `None` if there is none, or one that no question is as long as.
async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut first = [0; 1];
    match timeout(IDLE_MAX, stream.read(&mut first)).await {
        Ok(Ok(1)) => {}
        Ok(Ok(_)) | Err(_) => return Ok(None),
        Ok(Err(error)) => return Err(error),
    }
    timeout(MESSAGE_MAX, async {
        let [high] = first;
        let length = usize::from(u16::from_be_bytes([high, stream.read_u8().await?]));
        if length > QUESTION_BYTES_MAX {
            return Ok(None);
        }
        let mut message = vec![0; length];
        stream.read_exact(&mut message).await?;
        Ok(Some(message))
    })
    .await?
}
