//! Roadstead: a TLS gateway and pull-through cache for container registries.
//!
//! # The map of the house
//!
//! A room may use rooms on lower floors, never anything above (a test enforces it):
//!
//! | floor | rooms |
//! |---|---|
//! | 4 | [`gateway`]: connections, routing, answers; the only place that names pingora · [`admin`]: metrics, health, the operator's API |
//! | 2 | [`mirror`]: cached reads, fills, freshness |
//! | 1 | [`store`]: disk · [`upstream`]: network · [`access`]: who may do what |
//! | 0 | [`spec`]: what the protocols say, pure · [`flight`]: one question for many · [`generation`]: which answers still count · [`reload`]: files that change · [`share`]: what one client may have open · [`metrics`]: what is counted |
//!
//! [`config`] knows every floor's settings and no floor knows it; [`serve`] puts the house together;
//! [`cli`] holds the commands; [`telemetry`] is how all of it speaks.
//!
//! # The life of a request
//!
//! `gateway::front` reads the head under its limits and hands it to pingora, which calls
//! `Gateway::request_filter`: `route` gives one parsed `Endpoint` and one registry, `Policy::decide` a
//! `Permit`, `Mirror::blob` or `Mirror::manifest` the bytes from the store or from a fill, and
//! `respond` sends them.

pub mod access;
pub mod admin;
pub mod cli;
pub mod config;
pub mod flight;
pub mod gateway;
pub mod generation;
pub mod metrics;
pub mod mirror;
pub mod reload;
pub mod serve;
pub mod share;
pub mod socket_file;
pub mod spec;
pub mod store;
pub mod telemetry;
pub mod upstream;
