//! What goes with a request from its first layer to the events it leads to.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{Extensions, HeaderMap, HeaderName, header, request::Parts},
};
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use ledgerline_domain::id::{CorrelationId, derived};
use uuid::Uuid;

use crate::{identity::session::Client, problem::Problem};

/// Names everything that one request led to. Accepted from the caller or made, and on every answer.
pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The longest correlation id that is accepted.
const MAX_CORRELATION_CHARS: usize = 255;

/// Correlation id, trace, network address, user agent and time of a request. Made once, by the outermost layer.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// Names everything that this request leads to.
    pub correlation_id: CorrelationId,
    /// The same as the caller named it, which need not be a UUID: what the answer, its problems and the process's own log say.
    pub correlation: String,
    /// W3C `traceparent`, as it came in.
    pub trace: Option<String>,
    /// The network address of whoever asks, seen through the proxies that are trusted.
    pub ip: Option<IpAddr>,
    /// What the client calls itself.
    pub user_agent: Option<String>,
    /// The time of this request: every decision in it is made at this time.
    pub now: DateTime<Utc>,
}

impl RequestContext {
    /// Reads a request's context.
    #[must_use]
    pub fn of(
        headers: &HeaderMap,
        extensions: &Extensions,
        trusted_proxies: &[IpNet],
        now: DateTime<Utc>,
    ) -> Self {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let (correlation_id, correlation) = correlation_id(text(CORRELATION_ID));
        let peer = extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        Self {
            correlation_id,
            correlation,
            trace: text(TRACEPARENT).filter(|text| is_traceparent(text)).map(str::to_owned),
            ip: peer.map(|peer| behind_proxies(peer, headers, trusted_proxies)),
            user_agent: text(header::USER_AGENT).map(str::to_owned),
            now,
        }
    }

    /// From where somebody signs in.
    #[must_use]
    pub fn client(&self) -> Client {
        Client { ip: self.ip, user_agent: self.user_agent.clone() }
    }
}

/// A UUID is taken as it is; another text leads to an id of its own, the same every time; nothing leads to a new one. With it goes
/// the text that the caller knows it by.
fn correlation_id(given: Option<&str>) -> (CorrelationId, String) {
    match given.filter(|text| !text.is_empty() && text.len() <= MAX_CORRELATION_CHARS) {
        None => {
            let id = Uuid::now_v7();
            (CorrelationId(id), id.to_string())
        }
        Some(text) => {
            let id = Uuid::try_parse(text).unwrap_or_else(|_| derived(&["correlation", text]));
            (CorrelationId(id), text.to_owned())
        }
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`.
fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut is_hex = |length: usize| {
        parts.next().is_some_and(|part| {
            part.len() == length
                && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    };
    is_hex(2) && is_hex(32) && is_hex(16) && is_hex(2) && parts.next().is_none()
}

/// The nearest address that is not a trusted proxy, read from right to left: what is further left anybody can write.
fn behind_proxies(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |ip: IpAddr| trusted.iter().any(|net| net.contains(&ip.to_canonical()));
    let mut nearest = peer.to_canonical();
    let hops = headers
        .get_all(FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect::<Vec<_>>();
    for hop in hops.into_iter().rev() {
        if !is_trusted(nearest) {
            break;
        }
        match hop.parse::<IpAddr>() {
            Ok(ip) => nearest = ip.to_canonical(),
            Err(_) => break,
        }
    }
    nearest
}

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!("a route was served without the layer that makes its context");
            Problem::broken()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(forwarded: &str) -> HeaderMap {
        HeaderMap::from_iter([(FORWARDED_FOR, forwarded.parse().unwrap())])
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let seen = |peer, forwarded| behind_proxies(ip(peer), &headers(forwarded), &trusted);
        assert_eq!(seen("203.0.113.9", "198.51.100.1"), ip("203.0.113.9"));
        assert_eq!(seen("10.0.0.1", "198.51.100.1"), ip("198.51.100.1"));
        assert_eq!(seen("10.0.0.1", "6.6.6.6, 198.51.100.1, 10.0.0.2"), ip("198.51.100.1"));
        assert_eq!(seen("10.0.0.1", "nonsense"), ip("10.0.0.1"));
    }

    #[test]
    fn a_correlation_id_is_taken_or_made() {
        let id = Uuid::now_v7();
        assert_eq!(correlation_id(Some(&id.to_string())), (CorrelationId(id), id.to_string()));
        assert_eq!(correlation_id(Some("order 7")).1, "order 7");
        assert_eq!(correlation_id(Some("")).1.len(), 36, "nothing is no name");
        assert_eq!(correlation_id(Some("order 7")), correlation_id(Some("order 7")));
        assert_ne!(correlation_id(None), correlation_id(None));
    }

    #[test]
    fn only_a_well_formed_traceparent_is_kept() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for bad in [
            "",
            "00-x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
