"""The shards, and the values that open_clip computes, for tests on machines without it."""

import posixpath
import random
from collections.abc import Iterator

import numpy as np

from t2i_tpu.data.manifest import EmbeddingContract, Manifest, TokenContract
from t2i_tpu.data.records import Record
from t2i_tpu.data.writer import write_dataset
from t2i_tpu.text import EmbeddedEncoder
from tools.build_embedded.captions import Emoji, read_image

ODD_PROMPTS = (
    "", " ", "   a   red \t heart\n", "A RED HEART", "Puppy!", "puppy???", "...", "!", "a.b,c;d:e",
    "it's the dog's bone", "it’s “quoted”", "rock & roll", "rock &amp; roll", "&lt;b&gt;", "100%",
    "3.14159", "12 o'clock", "piñata", "PIÑATA", "são tomé", "Straße", "ἀρχή", "дом",
    "日本語", "안녕", "مرحبا", "नमस्ते", "🐶", "a 🐶 and a ❤️", "👩🏽‍🚒",
    "ﬁre ﬂag", "ＡＢＣ　１２３", "e\u0301clair", "\u200b", "zero\u200bwidth", "\ufeffbom",
    "tab\tand\x00null", "C:\\path\\file", "snake_case",
    "kebab-case", "<start_of_text>", "a <end_of_text> b", "#hashtag @user", "x" * 200, "dog " * 60,
    "a very long prompt about " + "a small dog with a red hat, " * 12, "supercalifragilistic",
)  # fmt: skip


# Half of the emoji are people and hands in five skin tones, and 258 are flags: each is like many
# others and learned with them. So the things, 40% of the images, get ten of the sixteen streams: each
# is seen 2.5 times as often as a person or a flag.
_PEOPLE = {"man", "woman", "person", "men", "women", "people", "skin", "flag"}


def streams_of(split: str, record: Record) -> range:
    """The streams of its split that a record may go to."""
    if split == "heldout":
        return range(16)
    return range(10, 16) if _PEOPLE & set(record.caption.split()) else range(10)


def write_shards(
    output: str, clip_folder: str, emoji_package: str, train: list[Emoji], heldout: list[Emoji]
) -> Manifest:
    """Both splits with their captions' embeddings and tokens, in 16 streams each."""
    encoder = EmbeddedEncoder(clip_folder)

    def records(emoji: list[Emoji], seed: int) -> Iterator[Record]:
        # Neighbours in emoji.json are alike; a stream should not see them together.
        emoji = random.Random(seed).sample(emoji, len(emoji))
        captions = [one.caption for one in emoji]
        embeddings, tokens = encoder.encode(captions), encoder.tokenize(captions)
        for one, embedding, ids in zip(emoji, embeddings, tokens, strict=True):
            image = read_image(emoji_package, one)
            yield Record(one.key, image, one.caption, None, embedding, ids)

    return write_dataset(
        output,
        {"train": records(train, 0), "heldout": records(heldout, 1)},
        name=posixpath.basename(output.rstrip("/")),
        num_streams=16,
        shard_size=4096,
        image_format="png",
        streams_of=streams_of,
        embedding=EmbeddingContract(encoder.encoder_id, encoder.weights_sha256, encoder.dim, True),
        tokens=TokenContract(
            encoder.encoder_id,
            encoder.vocab_size,
            encoder.context_length,
            encoder.tokenizer_sha256,
        ),
    )


def write_reference(path: str, clip_folder: str, emoji: list[Emoji]) -> None:
    """An .npz with prompts, their token ids [N, context] and embeddings [N, D] by open_clip."""
    import torch

    from tools.build_embedded import clip_training, texts

    rng = random.Random(0)
    prompts = [one.caption for one in rng.sample(emoji, 80)]
    prompts += [texts.variant(one, rng) for one in rng.sample(emoji, 80)] + list(ODD_PROMPTS)
    model, tokenizer = clip_training.load(clip_folder)
    tokens = tokenizer(prompts)
    with torch.inference_mode():
        embeddings = model.eval().encode_text(tokens, normalize=True).numpy()
    tokens = tokens.numpy().astype("int16")
    np.savez_compressed(path, prompts=np.array(prompts), tokens=tokens, embeddings=embeddings)
