//! Compiles `proto/` without protoc.

use std::io::Result;
use std::path::PathBuf;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let files =
        ["access", "events", "grants", "locks", "requests"].map(|name| format!("daypass/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["proto"]).map_err(std::io::Error::other)?;
    // For gRPC reflection.
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or_else(|| std::io::Error::other("no OUT_DIR"))?);
    std::fs::write(out.join("daypass_descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().compile_fds(descriptors)
}
