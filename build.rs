//! Compiles `proto/` without protoc.

use std::io::Result;
use std::path::PathBuf;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let files =
        ["access", "events", "grants", "locks", "requests"].map(|name| format!("daypass/v1/{name}.proto"));
    let mut compiler = protox::Compiler::new(["proto"]).map_err(std::io::Error::other)?;
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(files).map_err(std::io::Error::other)?;
    // For gRPC reflection, and for HTTP and JSON. Encoded by the compiler: prost's own types drop the HTTP options.
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or_else(|| std::io::Error::other("no OUT_DIR"))?);
    std::fs::write(out.join("daypass_descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())
}
