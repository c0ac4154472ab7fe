//! A client that says exactly the bytes it is given.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use socket2::{Domain, SockRef, Socket, Type};

use crate::http::Reply;
use crate::origin::PATIENCE;

/// A connection with nothing between the test and the socket.
pub struct Raw {
    stream: BufReader<TcpStream>,
}

impl Raw {
    /// Connects to the proxy under test.
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn proxy() -> Result<Self> {
        Self::connect(crate::namespace::PROXY.parse()?)
    }

    /// Connects to `address`.
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        Self::over(TcpStream::connect(address).with_context(|| format!("connect to {address}"))?)
    }

    /// Connects to `address` from the address `source`.
    ///
    /// # Errors
    /// When nothing listens there, or `source` is not an address of this machine.
    pub fn from(source: SocketAddr, address: SocketAddr) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.bind(&source.into())?;
        socket.connect(&address.into()).with_context(|| format!("connect to {address} from {source}"))?;
        Self::over(socket.into())
    }

    /// Ends the connection with a reset when it is dropped, so that its port can be used again at once.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ends_with_reset(self) -> Result<Self> {
        SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO))?;
        Ok(self)
    }

    fn over(stream: TcpStream) -> Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes in one write.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref()).context("send to the proxy")
    }

    /// Reads the reply to a request of `method`; interim replies are skipped.
    ///
    /// # Errors
    /// When it does not come, or not whole.
    pub fn reply(&mut self, method: &str) -> Result<Reply> {
        Reply::read(&mut self.stream, method).with_context(|| format!("read the reply to {method}"))
    }

    /// Sends a request and reads its reply.
    ///
    /// # Errors
    /// When the reply does not come.
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Result<Reply> {
        let request = request.as_ref();
        let method = request.split(|b| *b == b' ').next().unwrap_or_default();
        let method = String::from_utf8_lossy(method).into_owned();
        // A refusal may come, and the connection close, before the whole of a long request is sent.
        drop(self.send(request));
        self.reply(&method)
    }

    /// A second handle on the connection, to write from another thread.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn writer(&self) -> Result<TcpStream> {
        Ok(self.stream.get_ref().try_clone()?)
    }

    /// Reads exactly `length` bytes.
    ///
    /// # Errors
    /// When they do not come.
    pub fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).with_context(|| format!("read {length} bytes"))?;
        Ok(bytes)
    }

    /// Reads until the other side closes, cleanly or by a reset, and returns what came before.
    ///
    /// # Errors
    /// When it stays open.
    pub fn rest(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                anyhow::bail!("the connection stayed open; it carried {:?}", String::from_utf8_lossy(&bytes))
            }
            _ => Ok(bytes),
        }
    }

    /// The other side closes and sends nothing more.
    ///
    /// # Errors
    /// When it stays open or sends something.
    pub fn closed(&mut self) -> Result<()> {
        let rest = self.rest()?;
        ensure!(rest.is_empty(), "more bytes before the close: {:?}", String::from_utf8_lossy(&rest));
        Ok(())
    }

    /// Whether the other side has said nothing so far, and not closed either.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        let stream = self.stream.get_ref();
        let peek = || {
            stream.set_nonblocking(true)?;
            let peeked = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            peeked
        };
        peek().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Closes the direction towards the proxy.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn finish(&mut self) -> Result<()> {
        Ok(self.stream.get_ref().shutdown(Shutdown::Write)?)
    }
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

impl Write for Raw {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.get_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.get_mut().flush()
    }
}

/// A `Proxy-Authorization` line with its line end.
#[must_use]
pub fn authorization(user: &str, password: &str) -> String {
    format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}
