//! Reproducible gzip (RFC 1952): its output is named by digest, so it must be the same on every machine. One
//! implementation at one version, one level, and no time, name or system in the header.

use std::io::{self, Write};

use miniz_oxide::deflate::core::{CompressorOxide, create_comp_flags_from_zip_params};
use miniz_oxide::deflate::stream::deflate;
use miniz_oxide::{MZFlush, MZStatus};

/// How much is compressed at once, in bytes, so that the size of writes makes no difference.
const PIECE: usize = 64 << 10;
const LEVEL: i32 = 6;
/// Raw deflate, without the header of zlib.
const RAW_WINDOW_BITS: i32 = -15;
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Compresses what is written to it into `target`.
pub(super) struct Gzip<W> {
    target: W,
    compressor: Box<CompressorOxide>,
    piece: Vec<u8>,
    out: Vec<u8>,
    sum: crc32fast::Hasher,
    length: u32,
}

impl<W: Write> Gzip<W> {
    /// # Errors
    /// An error of `target`.
    pub fn new(mut target: W) -> io::Result<Self> {
        target.write_all(&HEADER)?;
        let flags = create_comp_flags_from_zip_params(LEVEL, RAW_WINDOW_BITS, 0);
        Ok(Self {
            target,
            compressor: Box::new(CompressorOxide::new(flags)),
            piece: Vec::with_capacity(PIECE),
            out: vec![0; PIECE],
            sum: crc32fast::Hasher::new(),
            length: 0,
        })
    }

    /// Ends the file.
    ///
    /// # Errors
    /// An error of `target`.
    pub fn finish(mut self) -> io::Result<()> {
        self.compress(MZFlush::Finish)?;
        let sum = self.sum.finalize();
        self.target.write_all(&sum.to_le_bytes())?;
        self.target.write_all(&self.length.to_le_bytes())
    }

    fn compress(&mut self, flush: MZFlush) -> io::Result<()> {
        self.sum.update(&self.piece);
        // RFC 1952 stores the length modulo 2^32.
        let more = u32::try_from(self.piece.len()).unwrap_or(u32::MAX);
        self.length = self.length.wrapping_add(more);
        let mut rest = &self.piece[..];
        loop {
            let done = deflate(&mut self.compressor, rest, &mut self.out, flush);
            self.target.write_all(&self.out[..done.bytes_written])?;
            rest = &rest[done.bytes_consumed..];
            let ended = match done.status {
                Ok(MZStatus::StreamEnd) => true,
                // Without more input there is no progress to make.
                Ok(_) | Err(miniz_oxide::MZError::Buf) if flush == MZFlush::None => rest.is_empty(),
                Ok(_) => false,
                Err(_) => return Err(io::Error::other("it cannot be compressed")),
            };
            if ended {
                self.piece.clear();
                return Ok(());
            }
        }
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.compress(MZFlush::None)?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;
    use oci::digest::{Algorithm, Digest};

    fn packed(bytes: &[u8], pieces: usize) -> Vec<u8> {
        let mut packed = Vec::new();
        let mut gzip = Gzip::new(&mut packed).expect("writable");
        for piece in bytes.chunks(pieces) {
            gzip.write_all(piece).expect("writable");
        }
        gzip.finish().expect("writable");
        packed
    }

    /// Text that compresses, and text that does not.
    fn sample(length: u32) -> Vec<u8> {
        let noise = (0..length).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3]);
        let words = (0..length).map(|at| b"roadstead "[(at % 10) as usize]);
        noise.chain(words).collect()
    }

    /// These digests name layers that are already converted, on every machine: they must never change.
    #[test]
    fn compressed_bytes_are_the_same_on_every_machine() {
        let digests = [0, 1, 300_000].map(|length| {
            let packed = packed(&sample(length), 8192);
            Digest::of(Algorithm::Sha256, &packed).to_string()
        });
        let expected = [
            "sha256:ac73670af3abed54ac6fb4695131f4099be9fbe39d6076c5d0264a6bbdae9d83",
            "sha256:5538b2845ac87ed0d91fab9f3cff34ea1e8d4219e6f991e292f6a5bd04c3b315",
            "sha256:5194021d9aa53352b2bc97f492b2158aafe61fd6e3425371b7dcd43c5e2daf57",
        ];
        assert_eq!(digests, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn output_does_not_depend_on_how_input_is_split(
            length in 0_u32..200_000,
            pieces in 1_usize..100_000,
        ) {
            let bytes = sample(length);
            let packed = packed(&bytes, pieces);
            prop_assert!(packed == self::packed(&bytes, PIECE));
            let mut unpacked = Vec::new();
            let mut reader = flate2::read::MultiGzDecoder::new(&packed[..]);
            reader.read_to_end(&mut unpacked).expect("gzip");
            prop_assert!(unpacked == bytes);
        }
    }
}
