//! The Merkle tree of RFC 6962 §2.1, as the stack of its complete subtrees.

use sha2::{Digest, Sha256};

pub(crate) type Hash = [u8; 32];

pub(crate) fn leaf_hash(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

pub(crate) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut both = [1; 65];
    both[1..33].copy_from_slice(left);
    both[33..].copy_from_slice(right);
    Sha256::digest(both).into()
}

#[derive(Default)]
pub(crate) struct Tree {
    size: u64,
    /// Height and root of each complete subtree, the largest first.
    peaks: Vec<(u32, Hash)>,
}

impl Tree {
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn peaks(&self) -> impl Iterator<Item = &Hash> {
        self.peaks.iter().map(|(_, hash)| hash)
    }

    /// Adds a leaf; `complete` is told height and root of each subtree that this completes, the leaf first.
    pub fn push(&mut self, leaf: Hash, mut complete: impl FnMut(u32, &Hash)) {
        let (mut height, mut hash) = (0, leaf);
        complete(height, &hash);
        while let Some((_, left)) = self.peaks.pop_if(|(h, _)| *h == height) {
            hash = node_hash(&left, &hash);
            height += 1;
            complete(height, &hash);
        }
        self.peaks.push((height, hash));
        self.size += 1;
    }

    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev().map(|(_, hash)| *hash);
        let Some(last) = peaks.next() else { return Sha256::digest([]).into() };
        peaks.fold(last, |right, left| node_hash(&left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962 §2.1, word for word.
    fn naive(leaves: &[Hash]) -> Hash {
        match leaves.len() {
            0 => Sha256::digest([]).into(),
            1 => leaves[0],
            n => {
                let k = n.next_power_of_two() / 2;
                node_hash(&naive(&leaves[..k]), &naive(&leaves[k..]))
            }
        }
    }

    #[test]
    fn the_root_is_that_of_the_definition_at_every_size() {
        let leaves: Vec<Hash> = (0..130u8).map(|i| leaf_hash(&[i])).collect();
        let mut tree = Tree::default();
        for n in 0..leaves.len() {
            assert_eq!(tree.root(), naive(&leaves[..n]));
            tree.push(leaves[n], |height, hash| {
                let width = 1 << height;
                assert_eq!(*hash, naive(&leaves[n + 1 - width..=n]));
            });
        }
    }
}
