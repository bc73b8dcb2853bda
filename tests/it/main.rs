//! One integration binary: everything here drives the built `daypass`, or its library, over real sockets.

mod support;

mod checker;
mod documents;
mod embedded;
mod envoy;
mod golden;
mod grant_api;
mod hostile;
mod redis_store;
mod replica_model;
mod serving;
mod tidy;
mod tls;
