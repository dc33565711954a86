#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| soe_core_fuzz::bodies::datagram_to_endpoint(data));
