//! One encrypted stream: AES-256-GCM in pieces, under a key made from a passphrase.
//!
//! ```text
//! "VIGIE-BACKUP-1\n" · rounds (u32) · salt (32 bytes) · pieces of 64 KiB, the last one shorter or full, each with its tag
//! ```
//! The key is PBKDF2-HMAC-SHA-512 of the passphrase; the salt is fresh for each file, and so the key is. A piece's nonce is its
//! number and whether it is the last one: pieces that were swapped, left out or cut off do not open. The head is what every piece is
//! bound to.

use std::{
    io::{self, Read, Write},
    num::NonZeroU32,
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    error::Unspecified,
    pbkdf2,
};
use zeroize::{Zeroize as _, Zeroizing};

const MAGIC: &[u8; 15] = b"VIGIE-BACKUP-1\n";
const SALT: usize = 32;
const HEAD: usize = MAGIC.len() + 4 + SALT;
const PIECE: usize = 64 * 1024;
const TAG: usize = 16;

/// Guesses cost about half a second each: three times what OWASP asks of PBKDF2 with SHA-512 (210,000).
/// Tests of the form make many keys, and take the least that is taken.
const ROUNDS: u32 = if cfg!(test) { *ROUNDS_TAKEN.start() } else { 600_000 };

/// What a file may ask for: less is no file of ours, and more only keeps somebody waiting.
const ROUNDS_TAKEN: std::ops::RangeInclusive<u32> = 100_000..=10_000_000;

/// The shortest passphrase, in characters: the file holds the keys of the fleet's CAs.
const SHORTEST: usize = 12;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "the passphrase has fewer than {SHORTEST} characters; `openssl rand -base64 24` makes a good one"
    )]
    Short,
    #[error("the system gave no randomness")]
    Random(#[source] getrandom::Error),
    #[error("this is no backup of Vigie's, or one of a newer version")]
    Foreign,
    #[error("the passphrase is another one, or the beginning of the file is damaged")]
    Passphrase,
    #[error("the file is damaged at byte {at}")]
    Damaged { at: u64 },
    #[error("the file is cut off")]
    Cut,
    #[error("the cipher failed")]
    Cipher,
    #[error("the file cannot be read or written")]
    Io(#[from] io::Error),
}

impl From<SealError> for io::Error {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

impl SealError {
    /// An error that went through [`Read`] or [`Write`].
    pub fn of(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => Self::Io(error),
        }
    }
}

/// The key and the place in the stream.
struct Cipher {
    key: LessSafeKey,
    head: [u8; HEAD],
    pieces: u32,
}

impl Cipher {
    fn new(passphrase: &str, head: [u8; HEAD]) -> Result<Self, SealError> {
        let (rounds, salt) = (&head[MAGIC.len()..MAGIC.len() + 4], &head[MAGIC.len() + 4..]);
        let rounds = u32::from_be_bytes(rounds.try_into().map_err(|_| SealError::Foreign)?);
        let rounds = NonZeroU32::new(rounds).filter(|rounds| ROUNDS_TAKEN.contains(&rounds.get()));
        let mut key = Zeroizing::new([0; 32]);
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA512,
            rounds.ok_or(SealError::Foreign)?,
            salt,
            passphrase.as_bytes(),
            &mut *key,
        );
        let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| SealError::Cipher)?;
        Ok(Self { key: LessSafeKey::new(key), head, pieces: 0 })
    }

    /// Each is used once: a piece's number, and whether it is the last.
    fn nonce(&mut self, last: bool) -> Result<Nonce, SealError> {
        let mut nonce = [0; 12];
        nonce[7..11].copy_from_slice(&self.pieces.to_be_bytes());
        nonce[11] = u8::from(last);
        self.pieces = self.pieces.checked_add(1).ok_or(SealError::Cipher)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    fn seal(&mut self, piece: &mut Vec<u8>, last: bool) -> Result<(), SealError> {
        let nonce = self.nonce(last)?;
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(&self.head), piece)
            .map_err(|Unspecified| SealError::Cipher)
    }

    fn open(&mut self, piece: &mut Vec<u8>, last: bool) -> Result<(), SealError> {
        let at = HEAD as u64 + u64::from(self.pieces) * (PIECE + TAG) as u64;
        let (first, number) = (self.pieces == 0, self.pieces);
        let sealed = piece.clone();
        let nonce = self.nonce(last)?;
        if let Ok(opened) = self.key.open_in_place(nonce, Aad::from(&self.head), piece) {
            let length = opened.len();
            piece.truncate(length);
            return Ok(());
        }
        // One that opens as a piece in the middle was not the last one when it was written.
        if last {
            self.pieces = number;
            let nonce = self.nonce(false)?;
            let mut again = sealed;
            let cut = self.key.open_in_place(nonce, Aad::from(&self.head), &mut again).is_ok();
            again.zeroize();
            if cut {
                return Err(SealError::Cut);
            }
        }
        Err(if first { SealError::Passphrase } else { SealError::Damaged { at } })
    }
}

/// Encrypts what is written into it. Only [`finish`](Self::finish) makes it whole.
pub(super) struct Sealing<W> {
    cipher: Cipher,
    out: W,
    piece: Vec<u8>,
}

impl<W: Write> Sealing<W> {
    /// Begins a stream.
    ///
    /// # Errors
    /// When the passphrase is too short, or the head cannot be written.
    pub(super) fn new(mut out: W, passphrase: &str) -> Result<Self, SealError> {
        if passphrase.chars().count() < SHORTEST {
            return Err(SealError::Short);
        }
        let mut head = [0; HEAD];
        head[..MAGIC.len()].copy_from_slice(MAGIC);
        head[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&ROUNDS.to_be_bytes());
        getrandom::fill(&mut head[MAGIC.len() + 4..]).map_err(SealError::Random)?;
        out.write_all(&head)?;
        let cipher = Cipher::new(passphrase, head)?;
        Ok(Self { cipher, out, piece: Vec::with_capacity(PIECE + TAG) })
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// When its last piece cannot be written.
    pub(super) fn finish(mut self) -> Result<W, SealError> {
        self.put(true)?;
        Ok(self.out)
    }

    fn put(&mut self, last: bool) -> Result<(), SealError> {
        self.cipher.seal(&mut self.piece, last)?;
        self.out.write_all(&self.piece)?;
        self.piece.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full piece waits for what comes after it: it may be the last.
        if self.piece.len() == PIECE {
            self.put(false)?;
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Decrypts what is read from it. An end is one only if the stream was ended so.
pub(super) struct Opening<R> {
    cipher: Cipher,
    from: R,
    /// Sealed, and read ahead: whether a piece is the last one shows only behind it.
    next: Vec<u8>,
    piece: Zeroizing<Vec<u8>>,
    read: usize,
    over: bool,
}

impl<R: Read> Opening<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn new(mut from: R, passphrase: &str) -> Result<Self, SealError> {
        let mut head = [0; HEAD];
        from.read_exact(&mut head).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => SealError::Foreign,
            _ => SealError::Io(error),
        })?;
        if !head.starts_with(MAGIC) {
            return Err(SealError::Foreign);
        }
        let cipher = Cipher::new(passphrase, head)?;
        let next = sealed(&mut from)?;
        Ok(Self { cipher, from, next, piece: Zeroizing::default(), read: 0, over: false })
    }

    fn turn(&mut self) -> Result<(), SealError> {
        if self.next.len() < TAG {
            return Err(SealError::Cut);
        }
        let after = if self.next.len() == PIECE + TAG { sealed(&mut self.from)? } else { Vec::new() };
        self.over = after.is_empty();
        let mut piece = std::mem::replace(&mut self.next, after);
        self.cipher.open(&mut piece, self.over)?;
        self.piece = Zeroizing::new(piece);
        self.read = 0;
        Ok(())
    }
}

impl<R: Read> Read for Opening<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.read == self.piece.len() && !self.over {
            self.turn()?;
        }
        let taken = into.len().min(self.piece.len() - self.read);
        into[..taken].copy_from_slice(&self.piece[self.read..self.read + taken]);
        self.read += taken;
        Ok(taken)
    }
}

/// The next sealed piece; empty at the end.
fn sealed(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut piece = Vec::with_capacity(PIECE + TAG);
    from.take((PIECE + TAG) as u64).read_to_end(&mut piece)?;
    Ok(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORD: &str = "correct horse battery";

    fn seal(text: &[u8]) -> Vec<u8> {
        let mut sealing = Sealing::new(Vec::new(), WORD).unwrap();
        sealing.write_all(text).unwrap();
        sealing.finish().unwrap()
    }

    fn open(sealed: &[u8], word: &str) -> Result<Vec<u8>, SealError> {
        let mut text = Vec::new();
        Opening::new(sealed, word)?.read_to_end(&mut text).map_err(SealError::of)?;
        Ok(text)
    }

    #[test]
    fn what_is_sealed_opens_again_at_every_length() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE] {
            let text = vec![7; length];
            let sealed = seal(&text);
            assert_eq!(open(&sealed, WORD).unwrap(), text);
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_apart() {
        let sealed = seal(&vec![7; 2 * PIECE + 100]);
        assert!(matches!(open(&sealed, "another passphrase"), Err(SealError::Passphrase)));
        let cut = &sealed[..HEAD + PIECE + TAG];
        assert!(matches!(open(cut, WORD), Err(SealError::Cut)), "at a piece's end");
        assert!(matches!(open(&sealed[..sealed.len() - 1], WORD), Err(SealError::Damaged { .. })));
        assert!(matches!(open(&sealed[..HEAD], WORD), Err(SealError::Cut)));
        assert!(matches!(open(&sealed[..10], WORD), Err(SealError::Foreign)));
        assert!(matches!(
            open(b"-- a dump of something else, long enough to have a head", WORD),
            Err(SealError::Foreign)
        ));
        let mut swapped = sealed.clone();
        swapped[HEAD + PIECE + TAG + 5] ^= 1;
        assert!(
            matches!(open(&swapped, WORD), Err(SealError::Damaged { at }) if at == (HEAD + PIECE + TAG) as u64)
        );
        let mut weaker = sealed;
        weaker[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&1_u32.to_be_bytes());
        assert!(matches!(open(&weaker, WORD), Err(SealError::Foreign)));
        assert!(matches!(Sealing::new(Vec::new(), "short"), Err(SealError::Short)));
    }
}
