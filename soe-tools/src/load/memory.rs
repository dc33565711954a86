//! What this process takes.

/// Bytes of memory that are resident; `None` where the system does not tell in the way of Linux.
pub(super) fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_written_to_is_resident() {
        let before = resident().unwrap();
        let bytes = vec![1_u8; 64 << 20];
        let after = resident().unwrap();
        assert!(after > before + (48 << 20), "{before} to {after}");
        drop(bytes);
    }
}
