#![no_main]
use std::path::Path;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    idshift::fuzz::run("mountinfo", input, Path::new(""));
});
