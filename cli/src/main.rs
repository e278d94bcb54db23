//! The command `larder`: everything that one node can be asked, from a shell.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod demo;
mod exit;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.global.json, cli.global.quiet);
    match commands::run(cli.command, &cli.global, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
