//! The allocator's free memory.

/// Returns free memory at the top of the heap and within it to the system (malloc_trim(3)).
pub fn give_back() {
    // SAFETY: malloc_trim only touches memory that the allocator knows to be free.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
