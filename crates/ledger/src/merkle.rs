//! The Merkle tree of RFC 6962 §2.1 (RFC 9162 §2.1): hashes, the incremental frontier, inclusion and consistency
//! proofs and their checks. Pure: where subtree hashes come from is the caller's ([`Subtrees`]; see `tiles`).

use aws_lc_rs::digest;

/// SHA-256.
pub type Hash = [u8; 32];

/// SHA-256 of nothing: the root of the empty tree.
pub const EMPTY_ROOT: Hash = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

pub fn sha256(bytes: &[u8]) -> Hash {
    to_hash(digest::digest(&digest::SHA256, bytes))
}

/// SHA-256 of the pieces, one after the other.
pub fn sha256_of(pieces: &[&[u8]]) -> Hash {
    let mut context = digest::Context::new(&digest::SHA256);
    for piece in pieces {
        context.update(piece);
    }
    to_hash(context.finish())
}

fn to_hash(digest: digest::Digest) -> Hash {
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

/// SHA-256(0x00 || data).
pub fn leaf_hash(data: &[u8]) -> Hash {
    // Nearly every leaf fits here, and one call without a context on the heap takes a fraction of the time.
    let mut buffer = [0; 128];
    let Some(leaf) = buffer.get_mut(1..=data.len()) else { return sha256_of(&[&[0], data]) };
    leaf.copy_from_slice(data);
    sha256(&buffer[..=data.len()])
}

/// SHA-256(0x01 || left || right).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut buffer = [1; 65];
    buffer[1..33].copy_from_slice(left);
    buffer[33..].copy_from_slice(right);
    sha256(&buffer)
}

/// The roots of the complete subtrees that make up a tree, largest (leftmost) first: all that is needed to append
/// and to know the root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    nodes: Vec<Hash>,
}

impl Frontier {
    /// `None` when the number of hashes does not fit the size.
    pub fn from_parts(size: u64, nodes: Vec<Hash>) -> Option<Frontier> {
        (nodes.len() == size.count_ones() as usize).then_some(Frontier { size, nodes })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        let mut rest = self.size;
        while rest & 1 == 1 {
            if let Some(left) = self.nodes.pop() {
                hash = node_hash(&left, &hash);
            }
            rest >>= 1;
        }
        self.nodes.push(hash);
        self.size += 1;
    }

    pub fn root(&self) -> Hash {
        let mut right_to_left = self.nodes.iter().rev();
        let Some(&last) = right_to_left.next() else { return EMPTY_ROOT };
        right_to_left.fold(last, |root, node| node_hash(node, &root))
    }
}

/// Gives the hash of the complete subtree over leaves `index << level .. (index + 1) << level`.
pub trait Subtrees {
    type Error;
    fn subtree(&mut self, level: u32, index: u64) -> Result<Hash, Self::Error>;
}

/// The largest power of two smaller than `n` (n ≥ 2).
fn split(n: u64) -> u64 {
    1 << (63 - (n - 1).leading_zeros())
}

/// MTH(D[from..to]), where the range is one that the tree's recursion meets.
fn range<S: Subtrees>(tree: &mut S, from: u64, to: u64) -> Result<Hash, S::Error> {
    let n = to - from;
    if n.is_power_of_two() {
        let level = n.trailing_zeros();
        return tree.subtree(level, from >> level);
    }
    let k = split(n);
    Ok(node_hash(&range(tree, from, from + k)?, &range(tree, from + k, to)?))
}

/// The root of the first `size` leaves.
pub fn root<S: Subtrees>(tree: &mut S, size: u64) -> Result<Hash, S::Error> {
    if size == 0 { Ok(EMPTY_ROOT) } else { range(tree, 0, size) }
}

/// PATH(index, D[size]) of RFC 9162 §2.1.3.1; `index < size`.
pub fn inclusion_proof<S: Subtrees>(tree: &mut S, index: u64, size: u64) -> Result<Vec<Hash>, S::Error> {
    let (mut from, mut to) = (0, size);
    let mut path = Vec::new();
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(range(tree, middle, to)?);
            to = middle;
        } else {
            path.push(range(tree, from, middle)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// PROOF(old, D[new]) of RFC 9162 §2.1.4.1; `old ≤ new`. Empty for equal sizes and for the empty tree.
pub fn consistency_proof<S: Subtrees>(tree: &mut S, old: u64, new: u64) -> Result<Vec<Hash>, S::Error> {
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let (mut from, mut to, mut whole) = (0, new, true);
    let mut path = Vec::new();
    while old < to {
        let middle = from + split(to - from);
        if old <= middle {
            path.push(range(tree, middle, to)?);
            to = middle;
        } else {
            path.push(range(tree, from, middle)?);
            from = middle;
            whole = false;
        }
    }
    if !whole {
        path.push(range(tree, from, to)?);
    }
    path.reverse();
    Ok(path)
}

/// RFC 9162 §2.1.3.2.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut fnode, mut snode, mut hash) = (index, size - 1, *leaf);
    for step in path {
        if snode == 0 {
            return false;
        }
        if fnode & 1 == 1 || fnode == snode {
            hash = node_hash(step, &hash);
            while fnode & 1 == 0 && fnode != 0 {
                fnode >>= 1;
                snode >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        fnode >>= 1;
        snode >>= 1;
    }
    snode == 0 && hash == *root
}

/// RFC 9162 §2.1.4.2.
pub fn verify_consistency(old: u64, old_root: &Hash, new: u64, new_root: &Hash, path: &[Hash]) -> bool {
    if old > new {
        return false;
    }
    if old == new {
        return path.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return path.is_empty() && *old_root == EMPTY_ROOT;
    }
    let (first, steps) = if old.is_power_of_two() {
        (*old_root, path)
    } else {
        let Some((first, steps)) = path.split_first() else { return false };
        (*first, steps)
    };
    let (mut fnode, mut snode) = (old - 1, new - 1);
    while fnode & 1 == 1 {
        fnode >>= 1;
        snode >>= 1;
    }
    let (mut old_hash, mut new_hash) = (first, first);
    for step in steps {
        if snode == 0 {
            return false;
        }
        if fnode & 1 == 1 || fnode == snode {
            old_hash = node_hash(step, &old_hash);
            new_hash = node_hash(step, &new_hash);
            while fnode & 1 == 0 && fnode != 0 {
                fnode >>= 1;
                snode >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, step);
        }
        fnode >>= 1;
        snode >>= 1;
    }
    snode == 0 && old_hash == *old_root && new_hash == *new_root
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of RFC 9162 §2.1.1, word for word and slow.
    fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => sha256(&[]),
            [one] => *one,
            _ => {
                let mut k = 1;
                while k * 2 < leaves.len() {
                    k *= 2;
                }
                node_hash(&naive_root(&leaves[..k]), &naive_root(&leaves[k..]))
            }
        }
    }

    struct Leaves<'a>(&'a [Hash]);

    impl Subtrees for Leaves<'_> {
        type Error = std::convert::Infallible;
        fn subtree(&mut self, level: u32, index: u64) -> Result<Hash, Self::Error> {
            let from = (index as usize) << level;
            Ok(naive_root(&self.0[from..from + (1 << level)]))
        }
    }

    fn leaves(n: usize) -> Vec<Hash> {
        (0..n).map(|i| leaf_hash(&(i as u64).to_be_bytes())).collect()
    }

    #[test]
    fn the_frontier_has_the_naive_root_at_every_size() {
        let all = leaves(300);
        let mut frontier = Frontier::default();
        assert_eq!(frontier.root(), EMPTY_ROOT);
        for (i, leaf) in all.iter().enumerate() {
            frontier.push(*leaf);
            assert_eq!(frontier.root(), naive_root(&all[..=i]));
            assert_eq!(root(&mut Leaves(&all), i as u64 + 1).unwrap(), frontier.root());
        }
        let copy = Frontier::from_parts(300, frontier.nodes().to_vec()).unwrap();
        assert_eq!(copy, frontier);
        assert!(Frontier::from_parts(301, frontier.nodes().to_vec()).is_none());
    }

    #[test]
    fn every_small_proof_verifies_and_no_wrong_one_does() {
        let all = leaves(40);
        for size in 1..=all.len() {
            let tree_root = naive_root(&all[..size]);
            for index in 0..size {
                let path = inclusion_proof(&mut Leaves(&all), index as u64, size as u64).unwrap();
                assert!(verify_inclusion(&all[index], index as u64, size as u64, &path, &tree_root));
                let other = (index + 1) % size;
                assert!(size == 1 || !verify_inclusion(&all[index], other as u64, size as u64, &path, &tree_root));
            }
            for old in 0..=size {
                let old_root = naive_root(&all[..old]);
                let path = consistency_proof(&mut Leaves(&all), old as u64, size as u64).unwrap();
                let check = |old_root: &Hash, path: &[Hash]| {
                    verify_consistency(old as u64, old_root, size as u64, &tree_root, path)
                };
                assert!(check(&old_root, &path), "{old} {size}");
                assert!(!check(&[7; 32], &path) || old == size && size == 0);
                if let Some((_, shorter)) = path.split_last() {
                    assert!(!check(&old_root, shorter));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn proofs_hold_in_larger_trees(size in 1u64..2_000, at in any::<u64>(), old in any::<u64>(), flip in any::<usize>()) {
            let all = leaves(size as usize);
            let (index, old) = (at % size, old % (size + 1));
            let tree_root = naive_root(&all);
            let mut path = inclusion_proof(&mut Leaves(&all), index, size).unwrap();
            prop_assert!(verify_inclusion(&all[index as usize], index, size, &path, &tree_root));
            if !path.is_empty() {
                let step = flip % path.len();
                path[step][flip % 32] ^= 1;
                prop_assert!(!verify_inclusion(&all[index as usize], index, size, &path, &tree_root));
            }
            let proof = consistency_proof(&mut Leaves(&all), old, size).unwrap();
            let old_root = naive_root(&all[..old as usize]);
            prop_assert!(verify_consistency(old, &old_root, size, &tree_root, &proof));
        }
    }
}
