//! Proofs of inclusion and consistency: made from the nodes of a tree (RFC 6962 §2.1), checked by the algorithms of
//! RFC 9162 §2.1.3.2 and §2.1.4.2, and their texts (C2SP tlog-proof; the request of C2SP tlog-witness).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::Stop;
use crate::tree::{Hash, node_hash};

/// First line of a tlog-proof.
const TLOG_PROOF: &str = "c2sp.org/tlog-proof@v1";
/// No tree is higher.
const HASHES_MAX: usize = 64;

/// Gives the root of the complete subtree of a height (0: a leaf) with a number, counted from the left.
pub(crate) type Nodes<'n> = dyn FnMut(u32, u64) -> Result<Hash, Stop> + 'n;

/// The largest power of two below `n`, which is at least 2.
fn split(n: u64) -> u64 {
    n.next_power_of_two() / 2
}

/// MTH(D[start..start + n]); `start` is a multiple of the power of two that covers `n`.
fn range(start: u64, n: u64, nodes: &mut Nodes<'_>) -> Result<Hash, Stop> {
    if n.is_power_of_two() {
        return nodes(n.ilog2(), start / n);
    }
    let k = split(n);
    Ok(node_hash(&range(start, k, nodes)?, &range(start + k, n - k, nodes)?))
}

/// PATH(index, D[..size]), RFC 6962 §2.1.1. `index` is below `size`.
pub(crate) fn inclusion(index: u64, size: u64, nodes: &mut Nodes<'_>) -> Result<Vec<Hash>, Stop> {
    let (mut start, mut n, mut path) = (0, size, Vec::new());
    while n > 1 {
        let k = split(n);
        if index - start < k {
            path.push(range(start + k, n - k, nodes)?);
            n = k;
        } else {
            path.push(range(start, k, nodes)?);
            (start, n) = (start + k, n - k);
        }
    }
    path.reverse();
    Ok(path)
}

/// PROOF(old, D[..size]), RFC 6962 §2.1.2. `old` is at most `size`.
pub(crate) fn consistency(old: u64, size: u64, nodes: &mut Nodes<'_>) -> Result<Vec<Hash>, Stop> {
    if old == 0 || old == size {
        return Ok(Vec::new());
    }
    let (mut start, mut n, mut m, mut path) = (0, size, old, Vec::new());
    while m < n {
        let k = split(n);
        if m <= k {
            path.push(range(start + k, n - k, nodes)?);
            n = k;
        } else {
            path.push(range(start, k, nodes)?);
            (start, n, m) = (start + k, n - k, m - k);
        }
    }
    if start > 0 {
        path.push(range(start, n, nodes)?);
    }
    path.reverse();
    Ok(path)
}

/// RFC 9162 §2.1.3.2.
pub(crate) fn includes(leaf: &Hash, index: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut f, mut s, mut hash) = (index, size - 1, *leaf);
    for node in path {
        if s == 0 {
            return false;
        }
        if f & 1 == 1 || f == s {
            hash = node_hash(node, &hash);
            while f & 1 == 0 && f != 0 {
                (f, s) = (f >> 1, s >> 1);
            }
        } else {
            hash = node_hash(&hash, node);
        }
        (f, s) = (f >> 1, s >> 1);
    }
    s == 0 && hash == *root
}

/// RFC 9162 §2.1.4.2, and the trivial cases: the empty tree is the beginning of every tree.
pub(crate) fn extends(old: u64, old_root: &Hash, size: u64, root: &Hash, path: &[Hash]) -> bool {
    if old == 0 || old >= size {
        return path.is_empty() && (old == 0 || (old == size && old_root == root));
    }
    let with_root = old.is_power_of_two().then_some(old_root);
    let mut nodes = with_root.into_iter().chain(path);
    let Some(first) = nodes.next() else { return false };
    let (mut f, mut s) = (old - 1, size - 1);
    while f & 1 == 1 {
        (f, s) = (f >> 1, s >> 1);
    }
    let (mut from, mut to) = (*first, *first);
    for node in nodes {
        if s == 0 {
            return false;
        }
        if f & 1 == 1 || f == s {
            from = node_hash(node, &from);
            to = node_hash(node, &to);
            while f & 1 == 0 && f != 0 {
                (f, s) = (f >> 1, s >> 1);
            }
        } else {
            to = node_hash(&to, node);
        }
        (f, s) = (f >> 1, s >> 1);
    }
    s == 0 && from == *old_root && to == *root
}

/// A proof as its file says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// C2SP tlog-proof; `extra` is the leaf data, which the proof authenticates by its hash.
    Inclusion { extra: Option<Vec<u8>>, index: u64, path: Vec<Hash>, checkpoint: String },
    /// The body of a C2SP tlog-witness `add-checkpoint` request.
    Consistency { old: u64, path: Vec<Hash>, checkpoint: String },
}

impl Proof {
    pub fn text(&self) -> String {
        let (head, path, checkpoint) = match self {
            Proof::Inclusion { extra, index, path, checkpoint } => {
                let extra = extra.as_ref().map_or(String::new(), |extra| format!("extra {}\n", STANDARD.encode(extra)));
                (format!("{TLOG_PROOF}\n{extra}index {index}\n"), path, checkpoint)
            }
            Proof::Consistency { old, path, checkpoint } => (format!("old {old}\n"), path, checkpoint),
        };
        let path: String = path.iter().map(|hash| STANDARD.encode(hash) + "\n").collect();
        format!("{head}{path}\n{checkpoint}")
    }

    pub fn parse(text: &str) -> Result<Proof, &'static str> {
        let (head, checkpoint) = text.split_once("\n\n").ok_or("it has no empty line before its checkpoint")?;
        let mut lines = head.split('\n').peekable();
        let checkpoint = checkpoint.to_owned();
        if lines.next_if_eq(&TLOG_PROOF).is_none() {
            let old = lines.next().and_then(|line| line.strip_prefix("old ")).and_then(number);
            let old = old.ok_or("it begins neither as a tlog-proof nor as a consistency proof (`old SIZE`)")?;
            return Ok(Proof::Consistency { old, path: hashes(lines)?, checkpoint });
        }
        let extra = lines.next_if(|line| line.starts_with("extra "));
        let extra = extra.map(|line| STANDARD.decode(&line["extra ".len()..]).map_err(|_| "its extra is not base64"));
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(number);
        let index = index.ok_or("it has no index where one must be")?;
        Ok(Proof::Inclusion { extra: extra.transpose()?, index, path: hashes(lines)?, checkpoint })
    }
}

fn number(digits: &str) -> Option<u64> {
    digits.parse::<u64>().ok().filter(|number| number.to_string() == digits)
}

fn hashes<'t>(lines: impl Iterator<Item = &'t str>) -> Result<Vec<Hash>, &'static str> {
    let decode = |line: &str| STANDARD.decode(line).ok()?.try_into().ok();
    let hashes: Option<Vec<Hash>> = lines.take(HASHES_MAX + 1).map(decode).collect();
    hashes.filter(|hashes| hashes.len() <= HASHES_MAX).ok_or("a line of its path is no hash, or there are too many")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Tree, leaf_hash};

    /// Leaves, and the root at every size.
    fn forest(n: u64) -> (Vec<Hash>, Vec<Hash>) {
        let leaves: Vec<Hash> = (0..n).map(|i| leaf_hash(&i.to_be_bytes())).collect();
        let mut tree = Tree::default();
        let mut roots = vec![tree.root()];
        for leaf in &leaves {
            tree.push(*leaf, |_, _| {});
            roots.push(tree.root());
        }
        (leaves, roots)
    }

    fn node(leaves: &[Hash], height: u32, number: u64) -> Hash {
        if height == 0 {
            return leaves[number as usize];
        }
        node_hash(&node(leaves, height - 1, number * 2), &node(leaves, height - 1, number * 2 + 1))
    }

    #[test]
    fn every_proof_holds_at_every_size_and_no_changed_one_does() {
        let (leaves, roots) = forest(70);
        let mut nodes = |height, number| Ok(node(&leaves, height, number));
        let nodes: &mut Nodes<'_> = &mut nodes;
        for size in 1..=70_u64 {
            let root = &roots[size as usize];
            for index in 0..size {
                let path = inclusion(index, size, nodes).ok().unwrap();
                let leaf = &leaves[index as usize];
                assert!(includes(leaf, index, size, &path, root), "{index} of {size}");
                assert!(!includes(leaf, index, size, &path, &roots[size as usize - 1]));
                assert!(!includes(&leaf_hash(b"other"), index, size, &path, root));
                assert!(!includes(leaf, index + 1, size, &path, root), "{index} of {size}");
                assert!(!includes(leaf, index, size, &[&path[..], &[*leaf]].concat(), root));
                assert!(path.is_empty() || !includes(leaf, index, size, &path[1..], root));
            }
            for old in 0..=size {
                let path = consistency(old, size, nodes).ok().unwrap();
                let old_root = &roots[old as usize];
                assert!(extends(old, old_root, size, root, &path), "{old} to {size}");
                if old > 0 {
                    assert!(!extends(old, &roots[old as usize - 1], size, root, &path), "{old} to {size}");
                    assert!(!extends(old, old_root, size, &roots[size as usize - 1], &path), "{old} to {size}");
                }
                assert!(!extends(old, old_root, size, root, &[&path[..], &[*root]].concat()));
                assert!(path.is_empty() || !extends(old, old_root, size, root, &path[1..]));
            }
            assert!(!extends(size + 1, root, size, root, &[]));
        }
    }

    #[test]
    fn proofs_are_read_as_they_are_written() {
        let checkpoint = "log\n1\nroot\n\n\u{2014} log sig\n".to_owned();
        for path in [vec![], vec![[1; 32], [2; 32]]] {
            for proof in [
                Proof::Inclusion { extra: None, index: 0, path: path.clone(), checkpoint: checkpoint.clone() },
                Proof::Inclusion {
                    extra: Some(b"x".to_vec()),
                    index: 7,
                    path: path.clone(),
                    checkpoint: checkpoint.clone(),
                },
                Proof::Consistency { old: 12, path: path.clone(), checkpoint: checkpoint.clone() },
            ] {
                assert_eq!(Proof::parse(&proof.text()), Ok(proof));
            }
        }
        for bad in
            ["", "index 0\n\nx", "c2sp.org/tlog-proof@v1\nindex 00\n\nx", "c2sp.org/tlog-proof@v1\nindex 0\nAA==\n\nx"]
        {
            assert!(Proof::parse(bad).is_err(), "{bad}");
        }
    }
}
