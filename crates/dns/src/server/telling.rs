//! What a collector is told of one question, if there is one.

use std::{net::SocketAddr, time::SystemTime};

use super::{Carrier, Client, Inner};
use crate::{
    dnstap::{Decided, Exchange, TapOut},
    surroundings::{Happening, Surroundings},
};

/// A question, and where it is told of.
pub(super) struct Telling<'a> {
    out: &'a TapOut,
    around: &'a dyn Surroundings,
    exchange: Exchange<'a>,
}

impl<'a> Telling<'a> {
    /// Begins, if somebody is told at all.
    pub(super) fn new(
        inner: &'a Inner,
        message: &'a [u8],
        client: &Client,
        carrier: Carrier,
    ) -> Option<Self> {
        let out = inner.tap_out.as_ref()?;
        let server = client.at.map(|at| SocketAddr::new(at.ip().to_canonical(), at.port()));
        let exchange =
            Exchange { client: client.shown(), server, carrier, query: message, at: SystemTime::now() };
        Some(Self { out, around: &*inner.around, exchange })
    }

    /// Tells that it was asked.
    pub(super) fn question(&self) {
        self.count(self.out.leave(|teller| self.exchange.question(teller)));
    }

    /// Tells what it is answered with, now.
    pub(super) fn answer(&self, response: &[u8], decided: Option<Decided>) {
        let at = SystemTime::now();
        self.count(self.out.leave(|teller| self.exchange.answer(teller, response, at, decided)));
    }

    fn count(&self, is_left: bool) {
        if !is_left {
            self.around.count(Happening::TapOutLost(1));
        }
    }
}
