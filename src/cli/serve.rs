//! `daypass serve`.

use std::process::ExitCode;

use super::output::say;
use super::{BAD_CONFIG, report};
use crate::config::{Config, ServeArgs};
use crate::{server, telemetry};

pub fn run(args: &ServeArgs) -> ExitCode {
    let config = match Config::load(args) {
        Ok(config) => config,
        Err(problems) => {
            eprintln!("daypass: the configuration cannot be used:\n{problems}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if args.validate {
        return match server::load_policy(&config.policy, 0) {
            Ok(_) => {
                say!("configuration and policy are good");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("daypass: the policy cannot be used:\n{error}");
                ExitCode::from(BAD_CONFIG)
            }
        };
    }
    telemetry::init(&config.log);
    match server::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error.into()),
    }
}
