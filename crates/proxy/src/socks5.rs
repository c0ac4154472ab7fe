//! SOCKS5 (RFC 1928) with passwords (RFC 1929), on the port of the HTTP proxy. Only CONNECT is served.
//!
//! The client says how it can prove who it is, proves it, and asks. From there on [`tunnel`] does what it does for
//! an HTTP CONNECT. All of what comes before has the time and the buffer of a request head.

use std::sync::Arc;

use exeat_policy::Reason;

use crate::{
    client::Client,
    client_stream::ClientStream,
    head::{HeadReader, More},
    linger,
    respond::{Refusal, SocksStep},
    serve::{self, Ask, Credentials},
    shared::Shared,
    socks5_wire::{self as wire, Address, Login, Method, Request, VERSION_4, WireError},
    trail::{Target, Trail},
    tunnel::{self, Asked, Form, Relaying},
};

/// The reply to an unknown address type (RFC 1928 §6), which has no reason of its own.
const ADDRESS_TYPE_NOT_SUPPORTED: u8 = 8;
/// The reply to a user and password that are right (RFC 1929 §2).
const LOGGED_IN: [u8; 2] = [1, 0];

/// Whether a connection that begins with `byte` is one of a SOCKS client. No HTTP method begins with it.
pub(crate) const fn begins_with(byte: u8) -> bool {
    matches!(byte, wire::VERSION | VERSION_4)
}

/// Serves a `client` whose first byte, still in `reader`, is the version of SOCKS that it speaks, until its tunnel is
/// open.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    client: Client,
    stream: ClientStream,
    mut reader: HeadReader,
) -> Option<Relaying> {
    reader.start();
    let is_version_4 = reader.buffered().first() == Some(&VERSION_4);
    let method = if is_version_4 { "SOCKS4" } else { "SOCKS5" };
    let trail = Trail::new(shared.next_request_id(), &client, method, Target::Bytes(b""));
    let mut session = Session { shared, stream, reader, trail };
    let asked = if is_version_4 {
        Err(session.refuse(SocksStep::Version4, Reason::RequestMalformed))
    } else {
        session.negotiate().await
    };
    match asked {
        Ok((login, request)) => session.open(login, &request).await,
        Err(Stop::Gone) => None,
        Err(Stop::Refused(step, refusal)) => {
            session.say(step, &refusal).await;
            None
        }
    }
}

/// Why there is no tunnel.
enum Stop {
    /// The client closed, or cannot be written to.
    Gone,
    /// It is told so in the form that fits the step it is at.
    Refused(SocksStep, Refusal),
}

/// The connection of one client until its tunnel begins.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    stream: ClientStream,
    reader: HeadReader,
    trail: Trail,
}

impl Session<'_> {
    /// Returns what the client asks for, and the login that it has proven, if it needed one.
    async fn negotiate(&mut self) -> Result<(Option<Login>, Request), Stop> {
        let greeting = self.read(SocksStep::Method, wire::greeting).await?;
        let current = self.shared.current();
        let snapshot = &current.snapshot;
        let peer = snapshot.peer(&self.trail.client().shown());
        if peer.is_uncertain() {
            return Err(self.refuse(SocksStep::Method, Reason::ContainerMismatch));
        }
        let Some(method) = greeting.choose(peer.may_be_silent(snapshot.anonymous.is_some())) else {
            return Err(self.refuse(SocksStep::Method, Reason::AuthRequired));
        };
        self.answer(&[wire::VERSION, method as u8]).await?;
        let login = match method {
            Method::None => None,
            Method::Password => Some(self.log_in().await?),
        };
        let request = self.read(SocksStep::Request, wire::request).await?;
        Ok((login, request))
    }

    /// Checks the password at once, because a client waits for the outcome before it asks. The request is
    /// authenticated again with the same login, so that it is decided for whoever the client is by then.
    async fn log_in(&mut self) -> Result<Login, Stop> {
        let login = self.read(SocksStep::Password, wire::login).await?;
        let refused = |refusal| Stop::Refused(SocksStep::Password, refusal);
        serve::count_source(self.shared, &mut self.trail, None).map_err(refused)?;
        serve::authenticate(self.shared, &mut self.trail, credentials(Some(&login)))
            .await
            .map_err(refused)?;
        self.answer(&LOGGED_IN).await?;
        Ok(login)
    }

    async fn open(mut self, login: Option<Login>, request: &Request) -> Option<Relaying> {
        let authority = request.authority();
        match &authority {
            Some(authority) => self.trail.note_target(Target::Authority(authority, "")),
            None => self.trail.note_target(Target::Host(&as_asked(request))),
        }
        let target = match authority {
            _ if !request.is_connect => Err(Reason::MethodNotAllowed),
            None => Err(Reason::HostInvalid),
            Some(authority) => Ok(authority),
        };
        match target {
            Ok(target) => {
                let Self { shared, stream, mut reader, trail } = self;
                let ask = Ask {
                    target: &target,
                    address: None,
                    credentials: credentials(login.as_ref()),
                    via: &[],
                };
                // A SOCKS connection carries one request.
                match tunnel::serve(shared, stream, reader.buffered(), trail, ask, Form::Socks5).await {
                    Asked::Open(relaying) => Some(relaying),
                    Asked::Again(_) | Asked::Over => None,
                }
            }
            Err(reason) => {
                let refusal = serve::refuse(&mut self.trail, reason, None);
                self.say(SocksStep::Request, &refusal).await;
                None
            }
        }
    }

    /// Reads one message. What follows it stays in the buffer.
    async fn read<T>(&mut self, step: SocksStep, read: fn(&[u8]) -> wire::Read<T>) -> Result<T, Stop> {
        loop {
            match read(self.reader.buffered()) {
                Ok(Some((message, length))) => {
                    let _ = self.reader.buffered().split_to(length);
                    return Ok(message);
                }
                Ok(None) => {}
                Err(error) => return Err(self.malformed(step, error)),
            }
            match self.reader.more(&mut self.stream).await {
                More::Bytes => {}
                More::Late => return Err(self.refuse(step, Reason::HeadTimeout)),
                More::Closed => return Err(Stop::Gone),
            }
        }
    }

    async fn answer(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if linger::say(&mut self.stream, bytes, &self.shared.limits).await { Ok(()) } else { Err(Stop::Gone) }
    }

    fn refuse(&mut self, step: SocksStep, reason: Reason) -> Stop {
        Stop::Refused(step, serve::refuse(&mut self.trail, reason, None))
    }

    fn malformed(&mut self, step: SocksStep, error: WireError) -> Stop {
        let refusal = serve::refuse(&mut self.trail, Reason::RequestMalformed, None);
        Stop::Refused(
            step,
            match error {
                WireError::AddressType => Refusal { socks_reply: ADDRESS_TYPE_NOT_SUPPORTED, ..refusal },
                WireError::Version | WireError::NoMethod | WireError::Reserved => refusal,
            },
        )
    }

    /// Records the refusal, says it and closes.
    async fn say(self, step: SocksStep, refusal: &Refusal) {
        tunnel::refuse_socks(self.shared, self.stream, &self.trail, refusal, step).await;
    }
}

fn credentials(login: Option<&Login>) -> Credentials<'_> {
    match login {
        Some(Login { user, password }) => Credentials::Password { user, password },
        None => Credentials::Fields(&[]),
    }
}

/// The target of a request that names none which could be reached.
fn as_asked(request: &Request) -> Vec<u8> {
    let host = match &request.address {
        Address::Ip(ip) => ip.to_string().into_bytes(),
        Address::Domain(bytes) => bytes.clone(),
    };
    [host, format!(":{}", request.port).into_bytes()].concat()
}
