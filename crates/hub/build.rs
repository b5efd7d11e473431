//! Has the hub built again when the console's files change.

use std::path::Path;

fn main() {
    // An absent folder would have the hub built at every call; see the page "not built".
    let watched = ["../../console/dist", "build.rs"];
    for path in watched.into_iter().filter(|path| Path::new(path).exists()) {
        println!("cargo::rerun-if-changed={path}");
    }
}
