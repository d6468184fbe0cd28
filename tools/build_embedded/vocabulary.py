"""Trains a byte pair vocabulary for open_clip's SimpleTokenizer and the `tokenizers` library."""

import collections
import gzip
import itertools
import pathlib
from collections.abc import Iterable

from t2i_tpu.text.vocabulary import (
    TOKENIZER_NAME,
    WORD_END,
    fast_tokenizer,
    normalizer,
    pre_tokenizer,
)

MERGES_NAME = "bpe_vocab.txt.gz"


def train_merges(texts: Iterable[str], num_merges: int) -> list[tuple[str, str]]:
    """Return the most frequent byte pairs, in the order in which they are merged.

    Ties between equally frequent pairs are broken alphabetically. This does not use the trainer of
    `tokenizers`, because it breaks ties differently in every run.

    Args:
      texts: the texts in which pairs are counted.
      num_merges: the number of pairs to return.
    """
    clean, split = normalizer(), pre_tokenizer()
    counts = collections.Counter(
        word for text in texts for word, _ in split.pre_tokenize_str(clean.normalize_str(text))
    )
    words = {(*word[:-1], word[-1] + WORD_END): count for word, count in counts.items()}
    merges = []
    for _ in range(num_merges):
        pairs = collections.Counter()
        for symbols, count in words.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merge_pair(symbols, best): count for symbols, count in words.items()}
    return merges


def _merge_pair(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Return a word's symbols with every occurrence of the pair joined."""
    merged = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def save(folder: str, merges: list[tuple[str, str]]) -> None:
    """Write the vocabulary for open_clip (MERGES_NAME) and for `tokenizers` (TOKENIZER_NAME)."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # open_clip skips the first line, and would read an empty last line as a merge.
    lines = "\n".join(["#version: t2i_tpu", *(" ".join(merge) for merge in merges)])
    with open(folder / MERGES_NAME, "wb") as file:
        file.write(gzip.compress(lines.encode(), mtime=0))
    fast_tokenizer(merges).save(str(folder / TOKENIZER_NAME), pretty=False)
