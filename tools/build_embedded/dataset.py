"""Writes the shards, and reference values of open_clip for tests on machines without it."""

import posixpath
import random
from collections.abc import Iterator

import numpy as np
from PIL import Image

from t2i_tpu.data.manifest import EmbeddingContract, Manifest, TokenContract, read_manifest
from t2i_tpu.data.reader import open_dataset
from t2i_tpu.data.records import Record
from t2i_tpu.data.writer import write_dataset
from t2i_tpu.text import EmbeddedEncoder
from tools.build_embedded.captions import Emoji, read_image

UNUSUAL_PROMPTS = (
    "", " ", "   a   red \t heart\n", "A RED HEART", "Puppy!", "puppy???", "...", "!", "a.b,c;d:e",
    "it's the dog's bone", "it’s “quoted”", "rock & roll", "rock &amp; roll", "&lt;b&gt;", "100%",
    "3.14159", "12 o'clock", "piñata", "PIÑATA", "são tomé", "Straße", "ἀρχή", "дом",
    "日本語", "안녕", "مرحبا", "नमस्ते", "🐶", "a 🐶 and a ❤️", "👩🏽‍🚒",
    "ﬁre ﬂag", "ＡＢＣ　１２３", "e\u0301clair", "\u200b", "zero\u200bwidth", "\ufeffbom",
    "tab\tand\x00null", "C:\\path\\file", "snake_case",
    "kebab-case", "<start_of_text>", "a <end_of_text> b", "#hashtag @user", "x" * 200, "dog " * 60,
    "a very long prompt about " + "a small dog with a red hat, " * 12, "supercalifragilistic",
)  # fmt: skip


# Half of the emoji are people and hands in five skin tones, and 258 are flags. Each of these
# resembles many others and is learned together with them. So the other 40% of the images get ten of
# the sixteen streams, and training sees each of them 2.5 times as often as a person or a flag.
_PEOPLE = {"man", "woman", "person", "men", "women", "people", "skin", "flag"}


def get_streams(split: str, record: Record) -> range:
    """Return the range of streams that a record may go to; see `write_dataset`."""
    if split == "heldout":
        return range(16)
    return range(10, 16) if _PEOPLE & set(record.caption.split()) else range(10)


def write_shards(
    output: str, clip_folder: str, emoji_package: str, train: list[Emoji], heldout: list[Emoji]
) -> Manifest:
    """Write both splits as a data set with embeddings and tokens, in 16 streams per split.

    Args:
      output: folder of the data set.
      clip_folder: folder of the trained CLIP with its exported text tower.
      emoji_package: folder of emoji-datasource-google, which contains the images.
      train, heldout: the emoji of each split.
    """
    encoder = EmbeddedEncoder(clip_folder)

    def make_records(emoji: list[Emoji], seed: int) -> Iterator[Record]:
        # Shuffle the emoji, because neighbors in emoji.json resemble each other.
        emoji = random.Random(seed).sample(emoji, len(emoji))
        captions = [item.caption for item in emoji]
        embeddings, tokens = encoder.encode(captions), encoder.tokenize(captions)
        for item, embedding, ids in zip(emoji, embeddings, tokens, strict=True):
            image = read_image(emoji_package, item)
            yield Record(item.key, image, item.caption, None, embedding, ids)

    return write_dataset(
        output,
        {"train": make_records(train, 0), "heldout": make_records(heldout, 1)},
        name=posixpath.basename(output.rstrip("/")),
        num_streams=16,
        shard_size=4096,
        image_format="png",
        streams_of=get_streams,
        embedding=EmbeddingContract(encoder.encoder_id, encoder.weights_sha256, encoder.dim, True),
        tokens=TokenContract(
            encoder.encoder_id,
            encoder.vocab_size,
            encoder.context_length,
            encoder.tokenizer_sha256,
        ),
    )


def write_reference(path: str, clip_folder: str, emoji: list[Emoji]) -> None:
    """Write N prompts, and the tokens and embeddings that open_clip computes, to an .npz file.

    The arrays are prompts [N], tokens int16 [N, context_length] and embeddings float32 [N, dim].
    """
    import torch

    from tools.build_embedded import clip_training, texts

    rng = random.Random(0)
    prompts = [item.caption for item in rng.sample(emoji, 80)]
    prompts += [texts.draw_text(item, rng) for item in rng.sample(emoji, 80)]
    prompts += UNUSUAL_PROMPTS
    model, tokenizer = clip_training.load(clip_folder)
    tokens = tokenizer(prompts)
    with torch.inference_mode():
        embeddings = model.eval().encode_text(tokens, normalize=True).numpy()
    tokens = tokens.numpy().astype("int16")
    np.savez_compressed(path, prompts=np.array(prompts), tokens=tokens, embeddings=embeddings)


def write_image_reference(path: str, emoji_folder: str, clip_folder: str, count: int = 32) -> None:
    """Write the features that open_clip computes of the first held-out images to an .npz file.

    Its arrays are keys [count] and features float32 [count, dim].
    """
    import open_clip
    import torch

    manifest = read_manifest(emoji_folder)
    dataset = open_dataset(emoji_folder, "embedding", manifest.image_size)
    examples = dataset.examples("heldout", count)
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    pixels = torch.stack([transform(Image.fromarray(example["image"])) for example in examples])
    with torch.inference_mode():
        features = model.eval().encode_image(pixels, normalize=True).numpy()
    keys = np.array([example["key"] for example in examples])
    np.savez_compressed(path, keys=keys, features=features)
