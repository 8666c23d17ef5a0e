//! What both programs need around their own work: logs, signals, the HTTP endpoint for probes and metrics,
//! supervision of tasks, and watches of the API server that convert every object on arrival.

pub mod health;
pub mod http;
pub mod serve;
pub mod signal;
pub mod supervise;
pub mod telemetry;
pub mod watch;
