//! Damage to bytes, the same for the same number: what a run without `cargo fuzz` does it with.

/// A source of numbers, always the same ones (xorshift64*).
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// The numbers that begin with this one.
    #[must_use]
    pub const fn from(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`; 0 if there is none.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        usize::try_from((self.next() >> 16) % limit).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[2]
    }
}

/// Inputs longer than this are cut: nothing is found in longer ones that is not in shorter ones.
const LONGEST: usize = 8 << 10;
/// Lengths and counts that tend to be wrong.
const EDGES: [u32; 12] = [0, 1, 3, 4, 5, 15, 16, 20, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff];

/// One of the seeds, damaged in a few places.
#[must_use]
pub fn mutate(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seeds.get(numbers.below(seeds.len())).cloned().unwrap_or_default();
    for _ in 0..=numbers.below(6) {
        damage(&mut bytes, seeds, numbers);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn damage(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], numbers: &mut Numbers) {
    let at = numbers.below(bytes.len());
    let len = numbers.below(32);
    let end = (at + len).min(bytes.len());
    match numbers.below(8) {
        0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << numbers.below(8)),
        1 => overwrite(bytes, at, &[numbers.byte()]),
        // Lengths stand at multiples of four, in two bytes or in four.
        2 => overwrite(bytes, at / 4 * 4, &edge(numbers).to_ne_bytes()),
        3 => overwrite(bytes, at / 4 * 4, &edge(numbers).to_le_bytes()[..2]),
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..end)),
        6 => {
            let again: Vec<u8> = bytes.get(at..end).unwrap_or_default().to_vec();
            bytes.splice(at..at, again);
        }
        _ => {
            let other = seeds.get(numbers.below(seeds.len())).map(Vec::as_slice).unwrap_or_default();
            let from = numbers.below(other.len()) / 4 * 4;
            let part = other.get(from..).unwrap_or_default();
            bytes.truncate(at / 4 * 4);
            bytes.extend_from_slice(part);
        }
    }
}

fn edge(numbers: &mut Numbers) -> u32 {
    EDGES.get(numbers.below(EDGES.len())).copied().unwrap_or(0)
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (place, byte) in bytes.iter_mut().skip(at).zip(with) {
        *place = *byte;
    }
}
