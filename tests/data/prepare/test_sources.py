"""From each source the same examples: every image with its own caption, by content hash."""

import gzip

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.data.reader import open_dataset
from t2i_tpu.data.sources.folder import FolderSource
from t2i_tpu.errors import UserError
from t2i_tpu.text import make_encoder
from tests.data.prepare.conftest import add, digest, png, write_folder, write_npy

KINDS = ["folder", "webdataset", "parquet", "npy"]


def pairs(examples):
    return sorted((digest(one["image"]), one["caption"].decode()) for one in examples)


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_with_its_caption(emoji, prepared, write_source, tmp_path, kind):
    source = write_source[kind](tmp_path / "input", emoji)
    manifest, splits = prepared(source)
    assert pairs(splits["train"]) == sorted((digest(image), text) for _, image, text in emoji)
    assert manifest.preparation["outcomes"] == {"train": len(emoji)}


@pytest.mark.parametrize("table", ["metadata.jsonl", "captions.csv"])
def test_tables_of_captions(emoji, prepared, tmp_path, table):
    some = [(key, image, f'{text}, "quoted"\nü') for key, image, text in emoji[:40]]
    _, splits = prepared(write_folder(tmp_path / "input", some, table))
    wanted = sorted((digest(image), " ".join(text.split())) for _, image, text in some)
    assert pairs(splits["train"]) == wanted


def test_idx(emoji, prepared, tmp_path):
    """Grey emoji, by the format's definition."""
    grey = np.stack([image[:, :, 1] for _, image, _ in emoji])
    labels = (np.arange(len(grey)) % 7).astype(np.uint8)
    for prefix, part in (("train", slice(0, 1800)), ("t10k", slice(1800, 2000))):
        for stem, array in (("images-idx3", grey[part]), ("labels-idx1", labels[part])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            path = tmp_path / f"{prefix}-{stem}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes(), 1))
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg"))
    manifest, splits = prepared(f"idx:{tmp_path}", channels=1)
    assert manifest.label_names == tuple("abcdefg")
    for split, part in (("train", slice(0, 1800)), ("heldout", slice(1800, 2000))):
        found = sorted((digest(one["image"]), int(one["label"])) for one in splits[split])
        wanted = zip(map(digest, grey[part]), labels[part].tolist(), strict=True)
        assert found == sorted(wanted)


def test_tfds(emoji, prepared, tmp_path):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    images = np.stack([image for _, image, _ in emoji])
    labels = np.arange(len(images)) % 7
    features = {
        "image": tfds.features.Image(shape=(64, 64, 3)),
        "label": tfds.features.ClassLabel(names=list("abcdefg")),
    }
    parts = {"train": slice(0, 1800), "test": slice(1800, 2000)}
    tfds.dataset_builders.store_as_tfds_dataset(
        "squares",
        "1.0.0",
        data_dir=tmp_path / "tfds",
        split_datasets={
            name: tf.data.Dataset.from_tensor_slices({"image": images[part], "label": labels[part]})
            for name, part in parts.items()
        },
        features=tfds.features.FeaturesDict(features),
        disable_shuffling=False,
    )
    _, splits = prepared(f"tfds:squares@{tmp_path / 'tfds'}")
    for split, part in (("train", parts["train"]), ("heldout", parts["test"])):
        found = sorted((digest(one["image"]), int(one["label"])) for one in splits[split])
        assert found == sorted(zip(map(digest, images[part]), labels[part].tolist(), strict=True))
        assert all(one["caption"].decode() == "abcdefg"[one["label"]] for one in splits[split])


def test_given_embeddings_are_kept(emoji, prepared, tmp_path):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(50, 16)).astype(np.float32)
    embeddings[7, 3] = np.nan
    source = write_npy(tmp_path / "input", emoji[:50], embeddings)
    manifest, splits = prepared(source, encoder="none:ViT-L-14/openai")
    contract = manifest.embedding
    assert (contract.encoder, contract.dim) == ("ViT-L-14/openai", 16)
    assert (contract.normalized, contract.weights_sha256) == (False, "")
    by_image = {digest(image): row for (_, image, _), row in zip(emoji, embeddings, strict=False)}
    for one in splits["train"]:
        np.testing.assert_array_equal(one["embedding"], by_image[digest(one["image"])])
    assert manifest.preparation["outcomes"] == {"bad_embedding": 1, "train": 49}


def test_captions_are_encoded(emoji, prepared, tmp_path):
    """Each embedding is that of its own caption; training reads them."""
    some = [*emoji[:60], ("zz-long", np.zeros((64, 64, 3), np.uint8), "dog " * 60)]
    source = write_folder(tmp_path / "input", some)
    manifest, splits = prepared(source, encoder="embedded", heldout_share=0.3)
    encoder = make_encoder("embedded")
    assert manifest.embedding.weights_sha256 == encoder.weights_sha256
    assert manifest.preparation["captions_cut"] == 1
    examples = splits["train"] + splits["heldout"]
    assert len(examples) == 61 and 5 < len(splits["heldout"]) < 35
    for one in examples:
        caption = one["caption"].decode()
        (wanted,) = encoder.encode([caption], truncate=True)
        np.testing.assert_allclose(one["embedding"], wanted, atol=1e-5)
        (tokens,) = encoder.tokenize([caption], truncate=True)
        assert (
            one["tokens"][: len(tokens)].tolist() == tokens
            and not one["tokens"][len(tokens) :].any()
        )
    dataset = open_dataset(str(tmp_path / "out" / "data"), "embedding", 64)
    (batch,) = dataset.batches(0, 8, 8).take(1).as_numpy_iterator()
    assert batch["condition"].shape == (8, 128)


def test_brace_patterns_and_paths_that_are_not_there(emoji, prepared, write_source, tmp_path):
    write_source["webdataset"](tmp_path / "input", emoji[:90], per_shard=30)
    pattern = f"webdataset:{tmp_path}/input/{{0000..0001}}.tar"
    manifest, _ = prepared(pattern)
    assert manifest.num_examples("train") == 60
    for source, told in {
        f"webdataset:{tmp_path}/input/{{0000..0007}}.tar": "0003.tar' does not exist",
        f"webdataset:{tmp_path}/*.tgz": "no file has such a name",
        f"folder:{tmp_path}/nowhere": "no such folder",
        f"parquet:{tmp_path}/input/0000.tar": "not a parquet file",
        f"npy:{tmp_path}/input": "imgs.npy cannot be read",
        f"floder:{tmp_path}": "did you mean 'folder'",
        "folder:": "is none of folder:PATH",
    }.items():
        with pytest.raises(UserError, match=told) as error:
            prepared(source, tmp_path / "out" / told[:4])
        assert "\n" not in str(error.value)


def test_the_file_system_does_not_say_in_which_order_a_folder_is_read(tmp_path):
    folders = [f"{name}/{sub}" for name in "hgfedcba" for sub in "zyx"]
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").touch()
    assert listed(str(tmp_path)) == sorted(f"{folder}/1.png" for folder in folders)


def listed(folder):
    (unit,) = FolderSource(folder).units()
    return [name for name, *_ in unit["rows"]]


def test_a_folder_on_gs_is_read_in_the_same_order(gcs, bucket, tmp_path):
    for name in ("a", "a-b", "a/c", "a/c+"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    there = gcs.call(listed, gcs.put_folder(tmp_path, f"{bucket}/input"))
    assert there == listed(str(tmp_path)) and len(there) == 4


def problems(folder, names):
    unit = {"rows": [(name, "caption", {}) for name in names], "table": True}
    return [item.problem for item in FolderSource(folder).read(unit)]


def test_an_image_that_gs_refuses_is_not_counted_as_missing(gcs, bucket):
    gcs.put(f"{bucket}/input/a.png", b"")
    folder, names = f"{bucket}/input", ["a.png", "b.png", "a.png/"]
    assert gcs.call(problems, folder, names) == [None, "missing_image", "missing_image"]
    denied = gcs.denied(bucket.removeprefix("gs://"), "storage.objects.get")
    with denied, pytest.raises(tf.errors.PermissionDeniedError):
        gcs.call(problems, folder, names)


def test_npy_files_of_different_length(emoji, prepared, tmp_path):
    source = write_npy(tmp_path / "input", emoji[:50], np.zeros((49, 4), np.float32))
    with pytest.raises(UserError, match=r"imgs.npy 50, captions.csv 50, embeddings.npy 49"):
        prepared(source)


def test_img2datasets_json_and_multi_dot_names(emoji, prepared, tmp_path):
    import json
    import tarfile

    (_, first, _), (_, second, _) = emoji[:2]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "./000.jpg", png(first))  # endings lie; content counts
        add(tar, "./000.json", json.dumps({"caption": "one", "similarity": 0.4}).encode())
        add(tar, "b.c/001.seg.png", b"not the image")
        add(tar, "b.c/001.png", png(second))
        add(tar, "b.c/001.txt", b"two\n")
    settings = dict(num_streams=1)
    _, splits = prepared(f"webdataset:{tmp_path}/a.tar", **settings)
    assert pairs(splits["train"]) == sorted([(digest(first), "one"), (digest(second), "two")])
