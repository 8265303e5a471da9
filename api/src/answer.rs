//! What every answer of the API carries beside its body: the position it reflects, the log that is of, its version.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use ledgerline_store::{Position, StreamVersion};
use serde::Serialize;

use crate::{
    extract::conventions::{POSITION, etag},
    ledger::LogName,
};

/// The log that the position of an answer is of: `<log>:<epoch>`.
pub const LOG: HeaderName = HeaderName::from_static("ledgerline-log");

/// An answer with its position.
#[derive(Debug)]
pub struct Answer<T> {
    status: StatusCode,
    body: T,
    position: Position,
    log: LogName,
    version: Option<StreamVersion>,
    location: Option<String>,
}

impl<T> Answer<T> {
    /// An answer that reflects a position of a log.
    pub const fn new(status: StatusCode, body: T, position: Position, log: LogName) -> Self {
        Self { status, body, position, log, version: None, location: None }
    }

    /// The same with the version of the resource as its `ETag`.
    #[must_use]
    pub fn versioned(self, version: StreamVersion) -> Self {
        Self { version: Some(version), ..self }
    }

    /// The same with the path of what was made or started.
    #[must_use]
    pub fn at(self, location: String) -> Self {
        Self { location: Some(location), ..self }
    }

    fn decorate(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        headers.insert(POSITION, HeaderValue::from(self.position.0));
        let log = HeaderValue::try_from(self.log.to_string());
        headers.insert(LOG, log.expect("a UUID and a number are a header value"));
        if let Some(version) = self.version {
            headers.insert(header::ETAG, etag(version));
        }
        if let Some(location) = &self.location {
            let location = HeaderValue::try_from(location.as_str());
            headers.insert(header::LOCATION, location.expect("a path of ids is a header value"));
        }
        response
    }
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let response = match self.status {
            StatusCode::NO_CONTENT => self.status.into_response(),
            status => (status, Json(&self.body)).into_response(),
        };
        self.decorate(response)
    }
}
