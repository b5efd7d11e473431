use std::io::Write as _;

use serde_json::json;

use super::*;
use crate::embedded::tests::monitor_program;
use crate::image::archive::{
    ImageContent, LayerFile, architecture, layer, write_files, write_oci_archive,
};
use crate::image::import::LAYERS_MAX;
use crate::image::source::{ARCHIVE_ENTRIES_MAX, DOCUMENT_BYTES_MAX};

fn content(reference: &str, bytes: &[u8]) -> ImageContent {
    let base = layer(&[LayerFile { path: "base", mode: 0o644, content: b"base" }]).unwrap();
    let top = layer(&[LayerFile { path: "bin/tool", mode: 0o755, content: bytes }]).unwrap();
    let config = json!({"Cmd": ["/bin/tool"], "User": "7", "Labels": {"a": "b"}});
    ImageContent { reference: reference.to_owned(), config, layers: vec![base, top] }
}

fn oci(image: &ImageContent) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_oci_archive(image, &mut bytes).unwrap();
    bytes
}

/// What `docker save` writes, as far as it matters.
fn docker(image: &ImageContent, diff_ids: &[Digest]) -> Vec<u8> {
    let diff_ids: Vec<_> = diff_ids.iter().map(ToString::to_string).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(), "os": "linux", "config": image.config,
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))
    .unwrap();
    let name = format!("{}.json", Digest::of(&config).hex());
    let mut files = vec![(name.clone(), config)];
    let mut layers = Vec::new();
    for (number, layer) in image.layers.iter().enumerate() {
        layers.push(format!("{number}/layer.tar"));
        files.push((format!("{number}/layer.tar"), layer.clone()));
    }
    let manifest = json!([{"Config": name, "RepoTags": [image.reference], "Layers": layers}]);
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&manifest).unwrap()));
    let mut bytes = Vec::new();
    write_files(&files, &mut bytes).unwrap();
    bytes
}

struct Bench {
    folder: tempfile::TempDir,
    store: ImageStore,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&folder.path().join("images"), &monitor_program()).unwrap();
        Self { folder, store }
    }

    fn import(&self, bytes: &[u8]) -> Result<ImageImported, EngineError> {
        let path = self.folder.path().join("archive.tar");
        fs::write(&path, bytes).unwrap();
        self.store.import(&ImageArchive { path, reference: None })
    }

    fn layers(&self) -> usize {
        children(&self.folder.path().join("images/layers")).unwrap().len()
    }
}

#[test]
fn an_oci_archive_arrives_whole_and_the_same_bytes_twice_change_nothing() {
    let bench = Bench::new();
    let image = content("thing:1", b"one");
    assert_eq!(oci(&image), oci(&image), "the writer is not reproducible");
    let first = bench.import(&oci(&image)).unwrap();
    assert!(first.bytes_new > 0);
    assert_eq!(bench.import(&oci(&image)).unwrap().bytes_new, 0);
    let stored = bench.store.find("docker.io/library/thing:1").unwrap();
    assert_eq!(stored.state, first.images[0]);
    assert_eq!(stored.state.labels["a"], "b");
    assert_eq!(stored.document.config.unwrap().user.as_deref(), Some("7"));
    assert_eq!(fs::read(stored.layers[1].join("bin/tool")).unwrap(), b"one");
    assert_eq!(bench.store.images().unwrap(), first.images);
}

#[test]
fn a_gzipped_archive_and_a_folder_are_read_too() {
    let bench = Bench::new();
    let bytes = oci(&content("thing:1", b"one"));
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&bytes).unwrap();
    bench.import(&gz.finish().unwrap()).unwrap();
    let folder = bench.folder.path().join("layout");
    tar::Archive::new(bytes.as_slice()).unpack(&folder).unwrap();
    let again = ImageArchive { path: folder, reference: Some("other:2".to_owned()) };
    assert_eq!(bench.store.import(&again).unwrap().bytes_new, 0);
    assert_eq!(bench.store.images().unwrap().len(), 2);
}

#[test]
fn docker_and_oci_archives_share_layers() {
    let bench = Bench::new();
    let image = content("saved:1", b"one");
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| Digest::of(layer)).collect();
    bench.import(&docker(&image, &diff_ids)).unwrap();
    assert_eq!(bench.import(&oci(&content("laid:1", b"one"))).unwrap().bytes_new, 0);
    assert_eq!(bench.layers(), 2);
    assert!(bench.store.find("saved:1").is_ok());
}

#[test]
fn a_layer_that_is_not_its_diff_id_leaves_nothing() {
    let bench = Bench::new();
    let image = content("saved:1", b"one");
    let diff_ids = [Digest::of(&image.layers[0]), Digest::of(b"other")];
    let error = bench.import(&docker(&image, &diff_ids)).unwrap_err();
    assert!(matches!(error, EngineError::DigestMismatch { .. }), "{error}");
    assert!(matches!(bench.store.find("saved:1"), Err(EngineError::ImageMissing { .. })));
    assert!(children(&bench.folder.path().join("images/scratch")).unwrap().is_empty());
    let swept = bench.store.sweep(&BTreeSet::new()).unwrap();
    assert_eq!((swept.layers, bench.layers()), (1, 0));
}

#[test]
fn a_changed_byte_in_any_blob_is_found() {
    let bytes = oci(&content("thing:1", b"one"));
    let mut archive = tar::Archive::new(bytes.as_slice());
    let places: Vec<(String, u64)> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().unwrap().starts_with("blobs"))
        .map(|entry| {
            (
                entry.path().unwrap().display().to_string(),
                entry.raw_file_position() + entry.size() / 2,
            )
        })
        .collect();
    assert_eq!(places.len(), 4);
    for (name, place) in places {
        let mut changed = bytes.clone();
        changed[usize::try_from(place).unwrap()] ^= 1;
        let bench = Bench::new();
        assert!(bench.import(&changed).is_err(), "{name}");
        assert_eq!(bench.store.images().unwrap(), []);
    }
}

#[test]
fn a_pinned_digest_must_be_the_images_own() {
    let bench = Bench::new();
    let imported = bench.import(&oci(&content("thing:1", b"one"))).unwrap();
    let digest = &imported.images[0].digest;
    assert!(bench.store.find(&format!("thing:1@{digest}")).is_ok());
    let other = Digest::of(b"other");
    let error = bench.store.find(&format!("thing:1@{other}")).unwrap_err();
    assert!(matches!(error, EngineError::DigestMismatch { .. }), "{error}");
    assert_eq!(
        bench.store.find("absent:1").unwrap_err().to_string(),
        "image absent:1 is not on this device; import it with `selvedge-edge image import`"
    );
}

#[test]
fn a_sweep_keeps_what_references_and_containers_need() {
    let bench = Bench::new();
    bench.import(&oci(&content("one:1", b"one"))).unwrap();
    bench.import(&oci(&content("two:1", b"two"))).unwrap();
    assert_eq!(bench.layers(), 3);
    let in_use: BTreeSet<_> = bench.store.find("two:1").unwrap().layers.into_iter().collect();
    bench.store.forget("two:1").unwrap();
    assert_eq!(bench.store.sweep(&in_use).unwrap(), Swept { layers: 0, blobs: 1 });
    assert_eq!(bench.store.sweep(&BTreeSet::new()).unwrap(), Swept { layers: 1, blobs: 0 });
    assert!(bench.store.find("one:1").unwrap().layers.iter().all(|layer| layer.exists()));
}

#[test]
fn archives_of_no_kind_are_refused_in_words() {
    let check = |bytes: &[u8], words: &str| {
        let message = Bench::new().import(bytes).unwrap_err().to_string();
        assert!(message.contains(words), "{words}: {message}");
    };
    let archive = |files: &[(&str, &str)]| {
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
            .collect();
        let mut bytes = Vec::new();
        write_files(&files, &mut bytes).unwrap();
        bytes
    };
    check(b"not a tar archive at all, but long enough to be looked at", "tar archive");
    check(&archive(&[("a", "b")]), "neither index.json nor manifest.json");
    check(&archive(&[("index.json", "{")]), "index.json cannot be read");
    check(&archive(&[("index.json", r#"{"manifests":[]}"#)]), "holds no image");
    check(
        &archive(&[("index.json", r#"{"manifests":[{"digest":"sha256:..","mediaType":""}]}"#)]),
        "malformed",
    );
    check(
        &archive(&[("manifest.json", r#"[{"Config":"x","Layers":[],"RepoTags":["a:1"]}]"#)]),
        "not in the archive",
    );
    let hex = "0".repeat(64);
    let index = format!(
        r#"{{"manifests":[{{"digest":"sha256:{hex}","annotations":{{"org.opencontainers.image.ref.name":"a:1"}}}}]}}"#
    );
    check(&archive(&[("index.json", &index)]), "is not in the archive");
    check(&archive(&[("index.json", r#"{"manifests":[]}"#), ("index.json", "")]), "twice");
    let names: Vec<String> = (0..=ARCHIVE_ENTRIES_MAX).map(|at| format!("f{at}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    check(&archive(&files), &format!("more than {ARCHIVE_ENTRIES_MAX} files"));
    let large = " ".repeat(usize::try_from(DOCUMENT_BYTES_MAX).unwrap() + 1);
    check(&archive(&[("index.json", &large)]), &format!("larger than {DOCUMENT_BYTES_MAX} bytes"));
}

#[test]
fn an_image_may_have_so_many_layers_and_no_more() {
    let bench = Bench::new();
    let of = |count: usize| {
        let mut image = content("many:1", b"x");
        let one = image.layers.last().unwrap().clone();
        image.layers = vec![one; count];
        oci(&image)
    };
    let said = bench.import(&of(LAYERS_MAX + 1)).unwrap_err().to_string();
    assert!(said.contains(&format!("more than {LAYERS_MAX} layers")), "{said}");
    bench.import(&of(LAYERS_MAX)).unwrap();
}
