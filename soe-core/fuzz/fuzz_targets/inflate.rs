#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| soe_core_fuzz::bodies::inflate(data));
