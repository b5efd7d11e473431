//! Module images of test programs.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use engine::image::archive::{ImageContent, LayerFile, layer, write_oci_archive};
use serde_json::json;

/// Packs the static `program` as the image `name:1`; the archive's path.
pub fn pack(program: &Path, name: &str, folder: &Path) -> Result<PathBuf> {
    let content = std::fs::read(program).with_context(|| program.display().to_string())?;
    let files = [
        LayerFile { path: "bin/", mode: 0o755, content: &[] },
        LayerFile { path: "bin/main", mode: 0o755, content: &content },
        LayerFile { path: "tmp/", mode: 0o1777, content: &[] },
    ];
    let image = ImageContent {
        reference: format!("{name}:1"),
        config: json!({ "User": "10001:10001", "Entrypoint": ["/bin/main"] }),
        layers: vec![layer(&files)?],
    };
    let path = folder.join(format!("{name}.tar"));
    write_oci_archive(&image, File::create(&path)?)?;
    Ok(path)
}
