"""Decides what a path from a user means, for all scripts and for the sources of data.

A path is local or gs://. This module does not import TensorFlow, because the command line uses it before
TensorFlow is imported.
"""

import os
import posixpath
import re
import unicodedata

from t2i_tpu.errors import UserError

# The ending of files that are still being written. No other file is taken for unfinished.
PARTIAL_SUFFIX = ".t2i_tpu-partial"

_GS = "gs://"
_BUCKET = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
# Addresses of Cloud Storage on the web. What follows is BUCKET/PATH.
_WEB_ADDRESS = re.compile(
    r"https?://(storage\.googleapis\.com|storage\.cloud\.google\.com|"
    r"console\.cloud\.google\.com/storage/browser)/+"
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(://|:)(.*)", re.DOTALL)
# Schemes that are recognized even if the slashes are missing.
_SCHEMES = ("gs", "gcs", "s3", "s3a", "s3n", "hf", "http", "https", "hdfs", "az", "abfs", "file")


def parse_path(text: str, before: str, is_output: bool = False) -> str:
    """Return the normal form of a path from a user.

    In a local path, ~ stands for the home folder, and file:// may come first. The normal form has no
    doubled or trailing slashes and no ".". It is the normal form of itself.

    Args:
      text: the path, or a pattern of paths.
      before: what precedes the path in the user's command, such as "--workdir=", for messages.
      is_output: whether files will be written there.

    Returns:
      A local path, or gs://BUCKET or gs://BUCKET/PATH.

    Raises:
      UserError: the path is empty or not printable, its scheme is not supported, it has no bucket, or
        it is an output and the root or home folder.
    """
    label = f"{before}{text}"
    if not text.strip():
        raise UserError(f"{before or 'the path '}{text!r} is empty; give a path, local or gs://")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise UserError(
            f"{before}{text!a} contains a line break, a control character, or bytes that are not "
            "UTF-8; use a name without them"
        )
    scheme, separator, rest = _split_scheme(text)
    if scheme == "gs":
        return _parse_gs(separator, rest, label)
    if scheme == "file":
        return _parse_local(_strip_file_scheme(separator, rest, label), label, is_output)
    if scheme:
        raise UserError(f"{label}: {_explain_scheme(text, scheme, rest)}")
    return _parse_local(text, label, is_output)


def parse_source(text: str, before: str) -> str:
    """Return the normal form of a source of data, KIND:PATH, KIND:PATTERN or tfds:NAME[@FOLDER].

    A text that has no kind or no path is returned unchanged. An embedded data set has no path.

    Args:
      text: the source.
      before: what precedes the source in the user's command, such as "--source=", for messages.

    Raises:
      UserError: see `parse_path`.
    """
    kind, _, path = text.partition(":")
    if kind == "tfds":
        name, _, path = path.partition("@")
        kind = f"tfds:{name}@"
    else:
        kind += ":"
    if not path or path.startswith("//") or kind == "embedded:":
        return text
    return kind + parse_path(path, before + kind)


def is_remote(path: str) -> bool:
    """Return whether a path in normal form is on gs://."""
    return path.startswith(_GS)


def is_partial(name: str) -> bool:
    """Return whether a file, given by its name or path, is one that is still being written."""
    return name.endswith(PARTIAL_SUFFIX)


def _split_scheme(text: str) -> tuple[str, str, str]:
    """Return a path's scheme in lower case, what separates it from the rest, and the rest.

    The scheme is "" if the path has none.
    """
    match = _SCHEME.fullmatch(text)
    if match and (match[2] == "://" or match[1].lower() in _SCHEMES):
        return match[1].lower(), match[2], match[3]
    return "", "", text


def _parse_gs(separator: str, rest: str, label: str) -> str:
    path = _GS + posixpath.normpath("/" + rest).lstrip("/")
    bucket = path.removeprefix(_GS).partition("/")[0]
    if not _BUCKET.fullmatch(bucket):
        raise UserError(
            f"{label}: {bucket!r} is not the name of a bucket; write gs://BUCKET or gs://BUCKET/PATH"
        )
    if separator != "://":
        raise UserError(f"{label}: did you mean {path}? gs: is followed by two slashes")
    return path


def _strip_file_scheme(separator: str, rest: str, label: str) -> str:
    """Return the path in file:///PATH, file://localhost/PATH or file:PATH."""
    rest = rest.removeprefix("localhost") if separator == "://" else rest
    if separator == "://" and not rest.startswith("/"):
        raise UserError(
            f"{label}: file:// is followed by the path of a folder, such as file:///data"
        )
    return rest


def _explain_scheme(text: str, scheme: str, rest: str) -> str:
    if scheme == "gcs":
        return f"did you mean gs://{rest}?"
    if match := _WEB_ADDRESS.match(text):
        return f"did you mean gs://{text[match.end() :]}?"
    advice = "copy the data to a disk or to gs:// first, or write there and copy the result"
    if scheme == "hf":
        advice = "download it first: hf download NAME --repo-type=dataset --local-dir=FOLDER"
    elif scheme in ("http", "https"):
        advice = "download the data to a disk or to gs:// first"
    return f"{scheme}:// is not supported, only local paths and gs://; {advice}"


def _parse_local(text: str, label: str, is_output: bool) -> str:
    if "://" in text:
        raise UserError(f"{label}: a path has at most one scheme, at its start; check the path")
    path = os.path.expanduser(text)
    first = path.partition("/")[0]
    is_in_home = text.partition("/")[0] == "~"
    if is_in_home and (first == "~" or os.environ.get("HOME") == ""):
        raise UserError(f"{label}: there is no home folder; set HOME, or write the path without ~")
    if first.startswith("~") and not os.path.lexists(first):
        raise UserError(
            f"{label}: there is no user {first[1:]!r}; write ./{first} for a folder of that name"
        )
    is_explicit = path.startswith("./")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    path = "/" * path.startswith("/") + "/".join(parts) or "."
    # Without its "./", such a name would mean something else.
    if is_explicit and (path.startswith("~") or _split_scheme(path)[0]):
        path = "./" + path
    if is_output and os.path.realpath(path) in ("/", os.path.realpath(os.path.expanduser("~"))):
        raise UserError(
            f"{label} is the folder {os.path.realpath(path)!r}; choose a folder inside it"
        )
    return path
