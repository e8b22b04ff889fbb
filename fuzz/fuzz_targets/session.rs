#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let empty = tempfile::tempdir().expect("a temporary directory");
    idshift::fuzz::run("session", input, empty.path());
});
