"""A small byte pair vocabulary, for open_clip's SimpleTokenizer and the `tokenizers` library.

Ids: 0..255 bytes, 256..511 bytes at a word's end, then one per merge, start of text, end of text.
"""

import collections
import gzip
import itertools
import pathlib
from collections.abc import Iterable

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

MERGES_NAME = "bpe_vocab.txt.gz"
TOKENIZER_NAME = "tokenizer.json"
START, END = "<start_of_text>", "<end_of_text>"
_WORD_END = "</w>"
_WORDS = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


def train_merges(texts: Iterable[str], num_merges: int) -> list[tuple[str, str]]:
    """The most frequent byte pairs, in order of merging; ties go to the first in the alphabet.

    Written out because the trainer of `tokenizers` breaks ties differently in every run.
    """
    normalizer, pre_tokenizer = _normalizer(), _pre_tokenizer()
    counts = collections.Counter(
        word
        for text in texts
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))
    )
    words = {(*word[:-1], word[-1] + _WORD_END): count for word, count in counts.items()}
    merges = []
    for _ in range(num_merges):
        pairs = collections.Counter()
        for symbols, count in words.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merge(symbols, best): count for symbols, count in words.items()}
    return merges


def _merge(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)


def save(folder: str, merges: list[tuple[str, str]]) -> None:
    """Writes the vocabulary for open_clip (MERGES_NAME) and for `tokenizers` (TOKENIZER_NAME)."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # open_clip drops the first line, and would read an empty last line as a merge.
    lines = "\n".join(["#version: t2i_tpu", *(" ".join(merge) for merge in merges)])
    with open(folder / MERGES_NAME, "wb") as file:
        file.write(gzip.compress(lines.encode(), mtime=0))
    fast_tokenizer(merges).save(str(folder / TOKENIZER_NAME), pretty=False)


def fast_tokenizer(merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    """The vocabulary as a tokenizer whose ids have start and end of text, without padding."""
    characters = _byte_characters()
    tokens = [*characters, *(character + _WORD_END for character in characters)]
    tokens += ["".join(merge) for merge in merges] + [START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=_WORD_END)
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = _normalizer(), _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])],
    )
    return tokenizer


def _normalizer() -> normalizers.Normalizer:
    return normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Lowercase(),
        ]
    )


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _byte_characters() -> list[str]:
    """A printable character for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
