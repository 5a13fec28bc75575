//! The manifest of the index: which runs there are, and up to which place of each target they go. Sealed, replaced as a
//! whole.
//!
//! `"AIM2" · generation of the index's key (16) · salt (16) · sealed body`

use std::io::{self, Write};
use std::path::Path;

use base::Timestamp;

use crate::audit::index::table::RunKey;
use crate::audit::record::{put_bytes, put_number, take_bytes, take_number};
use crate::audit::union::{Have, Place};

pub(crate) const FILE: &str = "manifest";
const MAGIC: &[u8; 4] = b"AIM2";
const BYTES_MAX: u64 = 64 << 20;

/// Names a run: the records it covers, counted in the order in which they were added, and its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunName {
    pub id: [u8; 16],
    pub level: u8,
    pub from: u64,
    pub to: u64,
    pub first: Timestamp,
    pub last: Timestamp,
    pub bytes: u64,
}

impl RunName {
    pub fn file(&self) -> String {
        format!("run-{:012x}-{:012x}-{}", self.from, self.to, base::hex::encode(&self.id[..4]))
    }
}

/// Where each target stood at the end of the newest run, encoded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stood(Vec<u8>);

fn put_have(out: &mut Vec<u8>, have: &mut Have) {
    let sets = have.encode();
    put_number(out, sets.len() as u64);
    for (generation, set) in sets {
        out.extend_from_slice(&generation);
        put_bytes(out, &set);
    }
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(taken)
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    take(bytes, N)?.try_into().ok()
}

fn take_have(bytes: &mut &[u8]) -> Option<Have> {
    let sets = take_number(bytes)?;
    let mut all = Vec::new();
    for _ in 0..sets {
        all.push((take_array(bytes)?, take_bytes(bytes, BYTES_MAX)?));
    }
    Have::decode(all)
}

impl Stood {
    pub fn encode(seen: &mut Have, places: Vec<Place>) -> Stood {
        let mut out = Vec::new();
        put_have(&mut out, seen);
        put_number(&mut out, places.len() as u64);
        for mut place in places {
            put_bytes(&mut out, place.origin.as_bytes());
            put_number(&mut out, place.size);
            out.extend_from_slice(&place.mark);
            put_have(&mut out, &mut place.have);
        }
        Stood(out)
    }

    pub fn decode(&self) -> io::Result<(Have, Vec<Place>)> {
        let mut bytes = self.0.as_slice();
        if bytes.is_empty() {
            return Ok((Have::default(), Vec::new()));
        }
        let mut decode = || {
            let seen = take_have(&mut bytes)?;
            let count = take_number(&mut bytes)?;
            let mut places = Vec::new();
            for _ in 0..count {
                let origin = String::from_utf8(take_bytes(&mut bytes, 4096)?.to_vec()).ok()?;
                let size = take_number(&mut bytes)?;
                let (mark, have) = (take_array(&mut bytes)?, take_have(&mut bytes)?);
                places.push(Place { origin, size, mark, have });
            }
            Some((seen, places))
        };
        decode().ok_or_else(damaged)
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the manifest of the audit index is damaged")
}

#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub runs: Vec<RunName>,
    pub stood: Stood,
}

impl Manifest {
    /// When this returns it survives a power cut. `salt` is new each time: the key of this manifest comes from it.
    pub fn save(&self, folder: &Path, generation: [u8; 16], key: &[u8; 32], salt: [u8; 16]) -> io::Result<()> {
        let mut body = Vec::new();
        put_number(&mut body, self.runs.len() as u64);
        for run in &self.runs {
            body.extend_from_slice(&run.id);
            body.push(run.level);
            for number in [run.from, run.to, run.bytes] {
                put_number(&mut body, number);
            }
            for time in [run.first, run.last] {
                body.extend_from_slice(&time.ms().to_le_bytes());
            }
        }
        body.extend_from_slice(&self.stood.0);
        let sealed = RunKey::derive(key, salt)?.seal(0, &body)?;
        let temp = folder.join("manifest.tmp");
        let mut file = std::fs::File::create(&temp)?;
        for part in [MAGIC.as_slice(), &generation, &salt, &sealed] {
            file.write_all(part)?;
        }
        file.sync_all()?;
        std::fs::rename(&temp, folder.join(FILE))?;
        std::fs::File::open(folder)?.sync_all()
    }
}

/// A manifest as it lies on disk.
pub(crate) struct SealedManifest {
    /// Names the key of the index.
    pub generation: [u8; 16],
    salt: [u8; 16],
    body: Vec<u8>,
}

/// `None` when there is none.
pub(crate) fn load(folder: &Path) -> io::Result<Option<SealedManifest>> {
    let path = folder.join(FILE);
    match std::fs::metadata(&path) {
        Ok(data) if data.len() > BYTES_MAX => return Err(damaged()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let all = std::fs::read(path)?;
    let mut bytes = all.as_slice();
    let mut read = || {
        let is_ours = take(&mut bytes, 4)? == MAGIC;
        let (generation, salt) = (take_array(&mut bytes)?, take_array(&mut bytes)?);
        is_ours.then(|| SealedManifest { generation, salt, body: bytes.to_vec() })
    };
    read().map(Some).ok_or_else(damaged)
}

impl SealedManifest {
    pub fn open(self, key: &[u8; 32]) -> io::Result<Manifest> {
        let body = RunKey::derive(key, self.salt)?.open(0, self.body)?;
        let mut bytes = body.as_slice();
        let mut read = || {
            let count = take_number(&mut bytes)?;
            let mut runs = Vec::new();
            for _ in 0..count {
                let (id, level) = (take_array(&mut bytes)?, take(&mut bytes, 1)?[0]);
                let (from, to, size) = (take_number(&mut bytes)?, take_number(&mut bytes)?, take_number(&mut bytes)?);
                let mut time = || Some(Timestamp(i64::from_le_bytes(take_array(&mut bytes)?)));
                let (first, last) = (time()?, time()?);
                runs.push(RunName { id, level, from, to, first, last, bytes: size });
            }
            Some(Manifest { runs, stood: Stood(bytes.to_vec()) })
        };
        read().ok_or_else(damaged)
    }
}
