"""Tests that every kind of source gives the same examples: each image with its own caption."""

import gzip
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from t2i_tpu.data.reader import open_dataset
from t2i_tpu.data.sources.folder.folder import FolderSource
from t2i_tpu.errors import UserError
from t2i_tpu.text import make_encoder
from tests.data.prepare.source_files import (
    WRITERS,
    add_member,
    compute_digest,
    encode_png,
    write_folder,
    write_npy,
    write_webdataset,
)


def list_pairs(examples):
    """Return the sorted pairs (digest of the image, caption)."""
    return sorted(
        (compute_digest(example["image"]), example["caption"].decode()) for example in examples
    )


@pytest.mark.parametrize("kind", WRITERS)
def test_every_image_has_its_caption(emoji, prepare_from, tmp_path, kind):
    source = WRITERS[kind](tmp_path / "input", emoji)
    manifest, splits = prepare_from(source)
    expected = sorted((compute_digest(image), caption) for _, image, caption in emoji)
    assert list_pairs(splits["train"]) == expected
    assert manifest.preparation["outcomes"] == {"train": len(emoji)}


@pytest.mark.parametrize("table", ["metadata.jsonl", "captions.csv"])
def test_captions_are_read_from_tables(emoji, prepare_from, tmp_path, table):
    images = [(key, image, f'{caption}, "quoted"\nü') for key, image, caption in emoji[:40]]
    _, splits = prepare_from(write_folder(tmp_path / "input", images, table))
    expected = sorted(
        (compute_digest(image), " ".join(caption.split())) for _, image, caption in images
    )
    assert list_pairs(splits["train"]) == expected


def test_idx_source_keeps_images_labels_and_splits(emoji, prepare_from, tmp_path):
    """The files are written by hand, following the definition of the format."""
    gray = np.stack([image[:, :, 1] for _, image, _ in emoji])
    labels = (np.arange(len(gray)) % 7).astype(np.uint8)
    for prefix, part in (("train", slice(0, 540)), ("t10k", slice(540, 600))):
        for stem, array in (("images-idx3", gray[part]), ("labels-idx1", labels[part])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            path = tmp_path / f"{prefix}-{stem}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes(), 1))
    (tmp_path / "labels.txt").write_text("\n".join("abcdefg"))
    manifest, splits = prepare_from(f"idx:{tmp_path}", channels=1)
    assert manifest.label_names == tuple("abcdefg")
    for split, part in (("train", slice(0, 540)), ("heldout", slice(540, 600))):
        assert list_labels(splits[split]) == sorted(
            zip(map(compute_digest, gray[part]), labels[part].tolist(), strict=True)
        )


def list_labels(examples):
    """Return the sorted pairs (digest of the image, label)."""
    return sorted((compute_digest(example["image"]), int(example["label"])) for example in examples)


def test_tfds_source_keeps_images_labels_and_splits(emoji, prepare_from, tmp_path):
    import tensorflow_datasets as tfds

    images = np.stack([image for _, image, _ in emoji])
    labels = np.arange(len(images)) % 7
    features = {
        "image": tfds.features.Image(shape=(64, 64, 3)),
        "label": tfds.features.ClassLabel(names=list("abcdefg")),
    }
    parts = {"train": slice(0, 540), "test": slice(540, 600)}
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
    _, splits = prepare_from(f"tfds:squares@{tmp_path / 'tfds'}")
    for split, part in (("train", parts["train"]), ("heldout", parts["test"])):
        examples = splits[split]
        assert list_labels(examples) == sorted(
            zip(map(compute_digest, images[part]), labels[part].tolist(), strict=True)
        )
        assert all(each["caption"].decode() == "abcdefg"[each["label"]] for each in examples)


def test_given_embeddings_are_kept(emoji, prepare_from, tmp_path):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(50, 16)).astype(np.float32)
    embeddings[7, 3] = np.nan
    source = write_npy(tmp_path / "input", emoji[:50], embeddings)
    manifest, splits = prepare_from(source, encoder="none:ViT-L-14/openai")
    contract = manifest.embedding
    assert (contract.encoder, contract.dim) == ("ViT-L-14/openai", 16)
    assert (contract.normalized, contract.weights_sha256) == (False, "")
    by_image = {
        compute_digest(image): row for (_, image, _), row in zip(emoji, embeddings, strict=False)
    }
    for example in splits["train"]:
        embedding = by_image[compute_digest(example["image"])]
        np.testing.assert_array_equal(example["embedding"], embedding)
    assert manifest.preparation["outcomes"] == {"bad_embedding": 1, "train": 49}


def test_embeddings_of_an_unusual_length_are_rejected(prepare_from, tmp_path):
    """The most frequent length counts, even if another one comes first."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for index, dim in enumerate([3, 2, 2, 2, 0, None]):
            add_member(tar, f"{index}.png", encode_png(np.full((8, 8, 3), index, np.uint8)))
            add_member(tar, f"{index}.txt", b"x")
            if dim is not None:
                embedding = np.eye(1, dim, dtype=np.float32)  # norm 1
                np.save(tmp_path / "one.npy", embedding if dim < 3 else 7 * embedding)
                add_member(tar, f"{index}.npy", (tmp_path / "one.npy").read_bytes())
    source = f"webdataset:{tmp_path}/a.tar"
    manifest, _ = prepare_from(source, encoder="none:x", num_streams=1)
    assert (manifest.embedding.dim, manifest.embedding.normalized) == (2, True)
    outcomes = manifest.preparation["outcomes"]
    assert outcomes == {"bad_embedding": 2, "no_embedding": 1, "train": 3}
    # An encoder makes the given embeddings superfluous, whatever they are.
    manifest, _ = prepare_from(source, tmp_path / "other", encoder="embedded", num_streams=1)
    assert manifest.preparation["outcomes"] == {"train": 6}


def test_captions_are_encoded(emoji, prepare_from, tmp_path):
    """Each example has the embedding of its own caption, and training can read the embeddings."""
    images = [*emoji[:60], ("zz-long", np.zeros((64, 64, 3), np.uint8), "dog " * 60)]
    source = write_folder(tmp_path / "input", images)
    manifest, splits = prepare_from(source, encoder="embedded", heldout_share=0.3)
    encoder = make_encoder("embedded")
    assert manifest.embedding.weights_sha256 == encoder.weights_sha256
    assert manifest.preparation["captions_cut"] == 1
    examples = splits["train"] + splits["heldout"]
    assert len(examples) == 61 and 5 < len(splits["heldout"]) < 35
    captions = [example["caption"].decode() for example in examples]
    embeddings = encoder.encode(captions, truncate=True)
    for example, caption, embedding in zip(examples, captions, embeddings, strict=True):
        np.testing.assert_allclose(example["embedding"], embedding, atol=1e-5)
        (tokens,) = encoder.tokenize([caption], truncate=True)
        assert example["tokens"][: len(tokens)].tolist() == tokens
        assert not example["tokens"][len(tokens) :].any()
    dataset = open_dataset(str(tmp_path / "out" / "data"), "embedding", 64)
    (batch,) = dataset.batches(0, 8, 8).take(1).as_numpy_iterator()
    assert batch["condition"]["embedding"].shape == (8, 128)


def test_brace_pattern_selects_shards(emoji, prepare_from, tmp_path):
    write_webdataset(tmp_path / "input", emoji[:90], per_shard=30)
    manifest, _ = prepare_from(f"webdataset:{tmp_path}/input/{{0000..0001}}.tar")
    assert manifest.num_examples("train") == 60


def test_unusable_sources_are_one_line_errors(emoji, prepare_from, tmp_path):
    write_webdataset(tmp_path / "input", emoji[:90], per_shard=30)
    for source, message in {
        f"webdataset:{tmp_path}/input/{{0000..0007}}.tar": "0003.tar' does not exist",
        f"webdataset:{tmp_path}/*.tgz": "no file matches",
        f"folder:{tmp_path}/nowhere": "no such folder",
        f"parquet:{tmp_path}/input/0000.tar": "not a parquet file",
        f"npy:{tmp_path}/input": "imgs.npy cannot be read",
        f"floder:{tmp_path}": "did you mean 'folder'",
        "folder:": "must be one of folder:PATH",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            prepare_from(source, tmp_path / "out" / message[:4])
        assert "\n" not in str(error.value)


def test_folder_is_read_in_sorted_order(tmp_path):
    folders = [f"{name}/{sub}" for name in "hgfedcba" for sub in "zyx"]
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").touch()
        (tmp_path / folder / "1.txt").touch()
    assert list_names(str(tmp_path)) == sorted(f"{folder}/1.png" for folder in folders)


def list_names(folder):
    (unit,) = FolderSource(folder).list_units()
    return [name for name, *_ in unit["rows"]]


def test_folder_on_gs_is_read_in_the_same_order(gcs, bucket, tmp_path):
    for name in ("a", "a-b", "a/c", "a/c+"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
        (tmp_path / name / "1.txt").touch()
    names = gcs.call(list_names, gcs.put_folder(tmp_path, f"{bucket}/input"))
    assert names == list_names(str(tmp_path))
    assert len(names) == 4


def list_problems(folder, names):
    unit = {"rows": [(name, "caption", {}) for name in names], "table": True}
    return [item.problem for item in FolderSource(folder).read(unit)]


def test_denied_access_on_gs_is_not_counted_as_missing_images(gcs, bucket):
    gcs.put(f"{bucket}/input/a.png", b"")
    folder, names = f"{bucket}/input", ["a.png", "b.png", "a.png/"]
    assert gcs.call(list_problems, folder, names) == [None, "missing_image", "missing_image"]
    denied = gcs.deny(bucket.removeprefix("gs://"), "storage.objects.get")
    with denied, pytest.raises(tf.errors.PermissionDeniedError):
        gcs.call(list_problems, folder, names)


def test_npy_files_with_different_numbers_of_rows_are_an_error(emoji, prepare_from, tmp_path):
    source = write_npy(tmp_path / "input", emoji[:50], np.zeros((49, 4), np.float32))
    with pytest.raises(UserError, match=r"imgs.npy 50, captions.csv 50, embeddings.npy 49"):
        prepare_from(source)
