//! CRC-64/XZ (ECMA-182, reflected), as dump archives use it; eight bytes at a time.

const POLYNOMIAL: u64 = 0xc96c_5795_d787_0f42;

const TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut n = 0;
    while n < 256 {
        let mut value = n as u64;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][n] = value;
        n += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut n = 0;
        while n < 256 {
            let before = tables[table - 1][n];
            tables[table][n] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            n += 1;
        }
        table += 1;
    }
    tables
}

/// A checksum that is being added up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crc64(u64);

impl Default for Crc64 {
    fn default() -> Self {
        Self(!0)
    }
}

impl Crc64 {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let value = self.0 ^ u64::from_le_bytes(*word);
            self.0 = (0..8).fold(0, |sum, n| sum ^ TABLES[7 - n][(value >> (8 * n)) as usize & 0xff]);
        }
        for byte in rest {
            self.0 = (self.0 >> 8) ^ TABLES[0][(self.0 as u8 ^ byte) as usize];
        }
    }

    pub(super) fn value(self) -> u64 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_crc_64_xz() {
        let of = |parts: &[&[u8]]| {
            let mut crc = Crc64::default();
            parts.iter().for_each(|part| crc.add(part));
            crc.value()
        };
        assert_eq!(of(&[b"123456789"]), 0x995d_c9bb_df19_39fa);
        assert_eq!(of(&[b"12", b"3456789"]), 0x995d_c9bb_df19_39fa);
        assert_eq!(of(&[]), 0);
        let long: Vec<u8> = (0..1000).map(|n| (n * 7) as u8).collect();
        assert_eq!(of(&[&long]), of(&[&long[..13], &long[13..]]));
    }
}
