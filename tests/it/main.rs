//! One integration binary: everything here drives the built `daypass` over real sockets.

mod support;

mod golden;
