//! What every [`Disk`] keeps while the power is on; what survives a cut is `sim`'s and its users' tests' matter.

use std::io::ErrorKind;
use std::path::Path;

use crate::{Access, Disk, Kind};

fn names(disk: &dyn Disk, folder: &Path) -> Vec<(String, Kind)> {
    let mut names = disk.list(folder).unwrap();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    names
}

/// `root` is an empty folder of the disk.
pub fn disk(disk: &dyn Disk, root: &Path) {
    locks(disk, root);
    files(disk, root);
    names_and_folders(disk, root);
}

fn locks(disk: &dyn Disk, root: &Path) {
    let path = root.join("locked/a/lock");
    let guard = disk.lock(&path, "process 7").unwrap();
    let error = disk.lock(&path, "process 8").err().unwrap();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::WouldBlock, "process 7"));
    drop(guard);
    disk.lock(&path, "process 8").unwrap();
    disk.remove(&root.join("locked")).unwrap();
}

fn files(disk: &dyn Disk, root: &Path) {
    let path = root.join("f");
    assert_eq!(disk.open(&path).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(disk.read(&path).err().unwrap().kind(), ErrorKind::NotFound);
    let file = disk.create(&path, Access::Private).unwrap();
    assert_eq!(disk.create(&path, Access::Usual).err().unwrap().kind(), ErrorKind::AlreadyExists);
    file.write_at(b"abc", 1_000).unwrap();
    file.sync().unwrap();
    assert_eq!(file.bytes().unwrap(), 1_003);
    let mut out = [9; 4];
    file.read_at(&mut out, 999).unwrap();
    assert_eq!(&out, b"\0abc");
    assert_eq!(file.read_at(&mut out, 1_000).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    file.set_len(1_001).unwrap();
    file.set_len(1_003).unwrap();
    disk.open(&path).unwrap().read_at(&mut out, 999).unwrap();
    assert_eq!(&out, b"\0a\0\0", "what was cut off is gone");
    disk.remove(&path).unwrap();
    disk.remove(&path).unwrap();
    file.read_at(&mut out, 0).unwrap();
}

fn names_and_folders(disk: &dyn Disk, root: &Path) {
    let (a, b, deep) = (root.join("d0/f"), root.join("d1/f"), root.join("d2/e/f"));
    disk.publish(&[(a.clone(), vec![0; 9]), (b.clone(), vec![1; 9]), (deep.clone(), vec![2; 9])]).unwrap();
    disk.publish(&[(a.clone(), vec![3; 7])]).unwrap();
    assert_eq!((disk.read(&a).unwrap(), disk.read(&b).unwrap()), (vec![3; 7], vec![1; 9]));
    let many: Vec<_> = (0..40u8).map(|i| (root.join(format!("d3/{}/{i}", i % 3)), vec![i; 9])).collect();
    disk.publish(&many).unwrap();
    assert!(many.iter().all(|(path, bytes)| disk.read(path).unwrap() == *bytes));
    assert_eq!(disk.sync_many(&[], &[&root.join("none")]).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(names(disk, &root.join("d2")), [("e".to_owned(), Kind::Folder)]);
    assert_eq!(names(disk, &root.join("d0")), [("f".to_owned(), Kind::File)]);
    assert!(names(disk, &root.join("none")).is_empty());
    assert_eq!(disk.create(&root.join("none/f"), Access::Usual).err().unwrap().kind(), ErrorKind::NotFound);
    assert_eq!(disk.stat(&deep).map(|stat| (stat.kind, stat.bytes)).unwrap(), (Kind::File, 9));
    assert_eq!(disk.stat(&root.join("d2")).unwrap().kind, Kind::Folder);
    assert_eq!(disk.stat(&root.join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(disk.is_folder(root).unwrap() && !disk.is_folder(&a).unwrap());

    assert_eq!(disk.link(&a, &b).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let second = root.join("d1/second");
    disk.link(&a, &second).unwrap();
    assert_eq!(disk.stat(&a).unwrap().id, disk.stat(&second).unwrap().id);
    disk.rename(&second, &b).unwrap();
    assert_eq!((disk.read(&b).unwrap(), disk.read(&a).unwrap()), (vec![3; 7], vec![3; 7]));
    assert_eq!(disk.stat(&second).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(disk.rename(&second, &b).unwrap_err().kind(), ErrorKind::NotFound);
    // rename(2): two names of one file stay as they are.
    disk.rename(&a, &b).unwrap();
    assert!(disk.stat(&a).is_ok());

    disk.create_folder(&root.join("d0"), Access::Usual).unwrap();
    disk.sync_folder(&root.join("d0")).unwrap();
    assert_eq!(disk.sync_folder(&root.join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    for folder in ["d0", "d1", "d2", "d3", "none"] {
        disk.remove(&root.join(folder)).unwrap();
    }
    assert!(names(disk, root).is_empty());
}
