//! One integration binary: everything here drives the built `daypass`, or its library, over real sockets.

mod support;

mod api_identity;
mod bundles;
mod checker;
mod cli;
mod cli_real;
mod compliance;
mod desk;
mod desk_soak;
mod documents;
mod embedded;
mod entitlements;
mod envoy;
mod golden;
mod grant_api;
mod hostile;
mod hostile_policy;
mod journal;
mod lock_model;
mod locks;
mod policy_cli;
mod policy_swap;
mod redis_faults;
mod redis_fuzz;
mod redis_history;
mod redis_store;
mod redis_topology;
mod redis_uses;
mod replica_model;
mod rest;
mod serving;
mod store_contract;
mod tidy;
mod tls;
mod webhooks;
