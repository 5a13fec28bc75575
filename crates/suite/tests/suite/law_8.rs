//! Law 8: a domain stands alone. Cut off from whoever governs, the node serves under the policies it has, and
//! break-glass opens.

use crate::harness::Mesh;
use crate::law_12::Care;

/// Policies, principals, agreements and products are out of reach while the node runs.
#[tokio::test(flavor = "multi_thread")]
async fn law_8_break_glass_needs_nobody_but_the_node() {
    let mesh = Mesh::start().await;
    let care = Care(&mesh);
    let patient = care.patient("ZQXONE").await;
    mesh.settle().await;
    for governed in ["policies", "agreements", "domains"] {
        std::fs::remove_dir_all(mesh.path().join(governed)).expect("a folder of the mesh");
    }
    std::fs::remove_file(mesh.path().join("principals.toml")).expect("a file of the mesh");
    assert_eq!(care.read("dr-lee", &patient, None).await, 404, "policy holds as before");
    let session = care.session(&patient).await;
    assert_eq!(care.read("dr-lee", &patient, Some(&session)).await, 200);
    mesh.stop().await;
}
