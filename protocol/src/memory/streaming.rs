//! Copies that go past the cache: for a block that is too large to be read from it anyway.
//!
//! An ordinary store first brings its line in from memory. For a large block that is a third of all traffic, and it drives
//! out what readers would have found in the cache.

/// Copies `from` to `to` past the cache where the processor can, and makes the copy visible to later ordinary stores'
/// readers before it returns.
///
/// # Safety
/// `from.len()` bytes from `to` must be writable and must not overlap `from`.
pub(super) unsafe fn copy(from: &[u8], to: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    {
        let head = to.align_offset(LINE).min(from.len());
        let (start, rest) = from.split_at(head);
        let (lines, tail) = rest.split_at(rest.len() / LINE * LINE);
        let middle = to.wrapping_add(head);
        // SAFETY: a part of the range that the caller vouches for.
        unsafe { std::ptr::copy_nonoverlapping(start.as_ptr(), to, start.len()) };
        // SAFETY: as above; `middle` is aligned to a line and `lines` is whole lines.
        unsafe { stream(lines, middle) };
        // SAFETY: as the first.
        unsafe { std::ptr::copy_nonoverlapping(tail.as_ptr(), middle.wrapping_add(lines.len()), tail.len()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the contract of this function.
    unsafe {
        std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
    }
}

#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// # Safety
/// `from` is whole lines, `to` is aligned to a line, and the lines from there on are writable.
#[cfg(target_arch = "x86_64")]
unsafe fn stream(from: &[u8], to: *mut u8) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    const STEP: usize = size_of::<__m128i>();
    for at in (0..from.len()).step_by(STEP) {
        let source = from.as_ptr().wrapping_add(at).cast::<__m128i>();
        // SAFETY: `from` is a multiple of 16 bytes long, so the 16 bytes at `at` are inside it.
        let value = unsafe { _mm_loadu_si128(source) };
        let target = to.wrapping_add(at).cast::<__m128i>();
        // SAFETY: inside the lines that the caller vouches for, and aligned, since `to` and `at` are.
        unsafe { _mm_stream_si128(target, value) };
    }
    // Streaming stores are not ordered by a later Release store: this orders them.
    // SAFETY: the instruction is part of the baseline of x86-64.
    unsafe { _mm_sfence() };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_and_length_is_copied_exactly() {
        let from: Vec<u8> = (0..400_u32).map(|n| (n % 251) as u8).collect();
        for offset in [0, 1, 15, 16, 63, 64] {
            for len in [0, 1, 63, 64, 65, 128, 200, 300] {
                let mut to = vec![0xee; 512];
                // SAFETY: `offset + len` is at most 364 of 512 bytes.
                unsafe { copy(&from[..len], to[offset..].as_mut_ptr()) };
                assert_eq!(to[offset..offset + len], from[..len], "{len} bytes at {offset}");
                assert!(to[..offset].iter().chain(&to[offset + len..]).all(|byte| *byte == 0xee));
            }
        }
    }
}
