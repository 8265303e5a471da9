//! The only way out of the deployment for what a workflow asks for: an HTTP client that cannot be talked into the inside.
//!
//! Server-side request forgery is stopped at three places, because each alone has a way round it. A host that is an address
//! literal never reaches a resolver, so [`check`] looks at the URL before each request and at each redirect hop. A host that is a
//! name is resolved by [`Guard`], which drops forbidden addresses; the address that passed is the one that is dialled, so a name
//! that changes its answer between check and use gains nothing. And proxies of the environment are never used, because a proxy
//! would resolve by itself.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use url::{Host, Url};

pub use reach::{Reach, forbidden};

pub mod dial;
mod reach;

/// How many redirects are followed: enough for a canonical host and a login bounce, few enough to end a loop at once.
const MAX_REDIRECTS: usize = 5;

/// How long a connection may take to be made. A host that doesn't answer in this time is a transient failure.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a URL is not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// Not a URL, or one that can't name a host.
    #[error("the address is not a URL: {0}")]
    NotAUrl(String),
    /// Neither http nor https.
    #[error("the scheme {0} is not allowed, only http and https")]
    Scheme(String),
    /// User and password in the URL would be printed with it.
    #[error("the URL holds a user name or password; use a header with a secret")]
    Credentials,
    /// The host is, or resolves only to, an address that this deployment does not let workflows reach.
    #[error("the host {0} is not reachable from workflows in this deployment")]
    Forbidden(String),
    /// A redirect would take a secret to another server than the one it is for.
    #[error("the request holds a secret and is redirected to another server, {0}")]
    Redirected(String),
}

/// Where redirects are followed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirects {
    /// To every server that may be reached.
    Anywhere,
    /// Within the server that was asked first: what holds a secret is for it alone.
    SameOrigin,
}

/// Parses a URL and refuses what must not be asked, as far as the URL itself tells.
///
/// # Errors
/// [`OutboundError`]; all of its variants are permanent.
pub fn check(text: &str, reach: &Reach) -> Result<Url, OutboundError> {
    let url = Url::parse(text).map_err(|error| OutboundError::NotAUrl(error.to_string()))?;
    check_url(&url, reach)?;
    Ok(url)
}

fn check_url(url: &Url, reach: &Reach) -> Result<(), OutboundError> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(OutboundError::Scheme(url.scheme().to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(OutboundError::Credentials);
    }
    let port = url.port_or_known_default().unwrap_or(0);
    let literal = match url.host() {
        None => return Err(OutboundError::NotAUrl("it names no host".to_owned())),
        Some(Host::Domain(_)) => return Ok(()),
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
    };
    if reach.permits(SocketAddr::new(literal, port)) {
        Ok(())
    } else {
        Err(OutboundError::Forbidden(literal.to_string()))
    }
}

/// A resolver whose answers hold only addresses that may be dialled.
struct Guard {
    reach: Arc<Reach>,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = Arc::clone(&self.reach);
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let permitted = permitted(&host, found, &reach)?;
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

/// What may be dialled of one answer about a name. Each answer is looked at when it comes, and what passed is what is dialled: a name that
/// is asked for again and answered otherwise (DNS rebinding) is looked at again.
fn permitted(
    host: &str,
    found: impl Iterator<Item = SocketAddr>,
    reach: &Reach,
) -> Result<Vec<SocketAddr>, OutboundError> {
    let permitted: Vec<SocketAddr> =
        found.filter(|address| reach.permits_any_port(address.ip())).collect();
    if permitted.is_empty() {
        Err(OutboundError::Forbidden(host.to_owned()))
    } else {
        Ok(permitted)
    }
}

/// Makes the client that every outgoing request of a node goes through.
///
/// # Errors
/// When the TLS roots of the machine can't be read.
pub fn client(reach: Arc<Reach>, redirects: Redirects) -> Result<reqwest::Client, reqwest::Error> {
    let hops = Arc::clone(&reach);
    let policy = redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > MAX_REDIRECTS {
            return attempt.error("too many redirects");
        }
        let origin = attempt.previous().first().map(Url::origin);
        if redirects == Redirects::SameOrigin && origin != Some(attempt.url().origin()) {
            let host = attempt.url().host_str().unwrap_or_default().to_owned();
            return attempt.error(OutboundError::Redirected(host));
        }
        match check_url(attempt.url(), &hops) {
            Ok(()) => attempt.follow(),
            Err(error) => attempt.error(error),
        }
    });
    reqwest::Client::builder()
        .no_proxy()
        .redirect(policy)
        .dns_resolver(Guard { reach })
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .user_agent(concat!("Ledgerline/", env!("CARGO_PKG_VERSION")))
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> OutboundError {
        check(url, &Reach::public()).expect_err(url)
    }

    #[test]
    fn urls_that_reach_inside_are_refused() {
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f.0.0.1/",
            "http://2130706433/",
            "http://0/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:169.254.169.254]/latest/meta-data",
            "http://169.254.169.254/",
            "http://10.1.2.3/",
            "http://172.16.0.1/",
            "http://192.168.1.1/",
            "http://100.64.0.1/",
            "http://[fd00::1]/",
            "http://[fe80::1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
        ] {
            assert!(matches!(refused(url), OutboundError::Forbidden(_)), "{url}");
        }
    }

    #[test]
    fn urls_that_are_not_for_http_are_refused() {
        assert!(matches!(refused("file:///etc/passwd"), OutboundError::Scheme(_)));
        assert!(matches!(refused("gopher://example.com/"), OutboundError::Scheme(_)));
        assert_eq!(refused("http://user:pass@example.com/"), OutboundError::Credentials);
        assert!(matches!(refused("not a url"), OutboundError::NotAUrl(_)));
        assert!(check("https://example.com/a?b=c", &Reach::public()).is_ok());
    }

    #[test]
    fn of_each_answer_about_a_name_only_what_is_outside_is_dialled() {
        let reach = Reach::public();
        let answer = |addresses: &[&str]| {
            let found = addresses.iter().map(|ip| SocketAddr::new(ip.parse().expect("an ip"), 0));
            permitted("rebind.example", found.collect::<Vec<_>>().into_iter(), &reach)
                .map(|dialled| dialled.iter().map(|address| address.ip().to_string()).collect())
        };
        let forbidden = Err(OutboundError::Forbidden("rebind.example".to_owned()));
        let outside: Result<Vec<String>, _> = Ok(vec!["93.184.216.34".to_owned()]);
        // First the harmless address, then the inner one, then both at once.
        assert_eq!(answer(&["93.184.216.34"]), outside);
        for inner in [
            "127.0.0.1",
            "169.254.169.254",
            "10.0.0.1",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "fd00::1",
        ] {
            assert_eq!(answer(&[inner]), forbidden, "{inner}");
            assert_eq!(answer(&[inner, "93.184.216.34"]), outside, "{inner}");
        }
        assert_eq!(answer(&[]), forbidden);
    }

    #[tokio::test]
    async fn a_name_that_resolves_inside_is_not_dialled() {
        let client = client(Arc::new(Reach::public()), Redirects::Anywhere).expect("a client");
        let error =
            client.get("http://localhost:9/").send().await.expect_err("localhost is inside");
        let mut source: Option<&dyn std::error::Error> = Some(&error);
        let mut said = String::new();
        while let Some(cause) = source {
            said.push_str(&cause.to_string());
            source = cause.source();
        }
        assert!(said.contains("not reachable from workflows"), "{said}");
    }
}
