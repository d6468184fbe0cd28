"""Builds tokenizers with open_clip's byte pair vocabularies, using the `tokenizers` library.

Ids 0 to 255 are bytes, and 256 to 511 are bytes at the end of a word. They are followed by one id for
each merge, the start of text and the end of text. The library does not need torch.
"""

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

TOKENIZER_NAME = "tokenizer.json"
START, END = "<start_of_text>", "<end_of_text>"
WORD_END = "</w>"
_WORDS = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


def fast_tokenizer(merges: list[tuple[str, str]]) -> Tokenizer:
    """Return a tokenizer that adds the start and end of text, but no padding.

    Args:
      merges: the byte pairs to merge, in this order.
    """
    characters = _list_byte_characters()
    tokens = [*characters, *(character + WORD_END for character in characters)]
    tokens += ["".join(merge) for merge in merges] + [START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=WORD_END))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer(), pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(START, vocabulary[START]), (END, vocabulary[END])],
    )
    return tokenizer


def normalizer() -> normalizers.Normalizer:
    """Return a normalizer that makes a text lowercase with single spaces."""
    return normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Lowercase(),
        ]
    )


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Return a pre-tokenizer that splits a text into words as CLIP does, and maps bytes to characters."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _list_byte_characters() -> list[str]:
    """Return a printable character for each byte, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
