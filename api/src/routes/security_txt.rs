//! Whom to tell of a security problem of the deployment (RFC 9116).

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, TimeDelta, Utc};
use url::Url;

use crate::{app::AppState, problem::Problem};

/// How long what is said may be relied on. Half of the year that the standard asks not to exceed.
const GOOD_FOR: TimeDelta = TimeDelta::days(180);

/// Whom to tell of a security problem (RFC 9116). 404 where the deployment names nobody.
#[utoipa::path(get, path = "/.well-known/security.txt", tag = "operations", security(()),
    responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn security_txt(State(state): State<AppState>) -> Result<Response, Problem> {
    let http = &state.config.http;
    if http.security_contacts.is_empty() {
        return Err(Problem::not_found("security contact"));
    }
    let text = render(&http.security_contacts, &http.public_url, state.clock.now());
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn render(contacts: &[Url], public_url: &Url, now: DateTime<Utc>) -> String {
    let mut lines: Vec<String> = contacts.iter().map(|uri| format!("Contact: {uri}")).collect();
    // To the day, so that it does not differ from one look to the next.
    lines.push(format!("Expires: {}", (now + GOOD_FOR).format("%Y-%m-%dT00:00:00Z")));
    lines.push("Preferred-Languages: en".to_owned());
    if let Ok(own) = public_url.join("/.well-known/security.txt") {
        lines.push(format!("Canonical: {own}"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_whom_until_when_and_where() {
        let url = |text: &str| Url::parse(text).unwrap();
        let contacts = [url("mailto:security@example.com"), url("https://example.com/report")];
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let text = render(&contacts, &url("https://flows.example.com"), now);
        assert_eq!(
            text,
            "Contact: mailto:security@example.com\n\
             Contact: https://example.com/report\n\
             Expires: 2026-07-01T00:00:00Z\n\
             Preferred-Languages: en\n\
             Canonical: https://flows.example.com/.well-known/security.txt\n"
        );
    }
}
