//! The one integration binary: real Postgres and NATS, one file for each arrow of the data flow.

mod gateway;
mod projections;
mod relay;
mod store;
mod work;
mod support {
    pub(crate) mod services;
    pub(crate) mod streams;
}
