"""Property tests: random messy folders, tables, tars and parquet files are prepared.

Each example is either kept with its pixels and caption or counted as rejected, or the preparation ends
with an error of one line. A second implementation decides which of the two is right.
"""

import csv
import json
import posixpath
import tarfile

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.data.prepare.messy import (
    CAPTIONS,
    ENDINGS,
    IMAGES,
    MAYBE_IMAGES,
    NAMES,
    QUICK,
    TEXTS,
    check,
    few_or_many,
    is_text,
    is_usable,
    make_folder,
    make_pixels,
    run_prepare,
)
from tests.data.prepare.source_files import add_member, encode_png


def is_plain(stem):
    """Return whether a file's name without its ending has no special meaning and contains no ending."""
    return (
        is_usable(stem)
        and "." not in stem
        and stem.lower() not in ("metadata", "captions", "readme")
    )


STEMS = NAMES.filter(is_plain)
FOLDERS = st.sampled_from(["", "", "", "sub", "folder.png", "sub/deep er", ".hidden", "__MACOSX"])
EXAMPLES = st.fixed_dictionaries(
    {
        "folder": FOLDERS,
        "stem": STEMS,
        "image": MAYBE_IMAGES,
        "ending": ENDINGS,
        "is_link": st.booleans(),
        "caption": CAPTIONS | st.none(),
        "caption_ending": st.sampled_from(["txt", "txt", "TXT", "caption"]),
    }
)
OTHER_FILES = st.sampled_from(
    [".DS_Store", "._x.png", "Thumbs.db", "notes.docx", "clip.mp4", "x.json", "README.txt", "none"]
)


@QUICK
@given(few_or_many(EXAMPLES), st.lists(OTHER_FILES, max_size=3), st.booleans())
def test_folders_with_caption_files(examples, others, has_loop):
    with make_folder() as root:
        source = root / "in"
        source.mkdir()
        images, captions = {}, {}
        for number, each in enumerate(examples):
            path = posixpath.join(each["folder"], each["stem"])
            image = f"{path}.{each['ending']}"
            if each["image"] and image not in images:
                images[image] = each["image"][1]
                write_file(source / image, each["image"][0], root / str(number), each["is_link"])
            # Images with the same name and different endings share the first caption.
            if each["caption"] and path not in captions:
                captions[path] = each["caption"][1]
                write_file(source / f"{path}.{each['caption_ending']}", each["caption"][0])
        for name in others:
            (source / name).write_bytes(b"x")
        if has_loop:
            (source / "loop").symlink_to(".")

        good, num_examples = [], 0
        for path, pixels in images.items():
            caption = captions.get(posixpath.splitext(path)[0])
            num_examples += not is_hidden(path)
            if pixels and caption and not is_hidden(path):
                good.append((path, pixels, caption))
        used = {posixpath.splitext(path)[0] for path in images}
        num_examples += sum(not is_hidden(path) and path not in used for path in captions)
        check(f"folder:{source}", root, good, num_examples - len(good))


def is_hidden(path):
    return path.startswith((".hidden/", "__MACOSX/"))


def write_file(path, content, target=None, is_link=False):
    """Write a file, or a link to a file `target` with the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_link:
        target.write_bytes(content)
        path.symlink_to(target)
    else:
        path.write_bytes(content)


TABLE_ROWS = few_or_many(st.tuples(st.integers(0, 30), TEXTS), 1)
COLUMN_NAMES = st.sampled_from(
    [("file_name", "text"), ("image", "caption"), ("Path", "PROMPT"), ("filename", " Text ")]
)
OTHER_COLUMNS = st.lists(
    st.sampled_from(["id", "größe", "a.b", "0", "similarity"]), unique=True, max_size=3
)


@QUICK
@given(
    few_or_many(st.tuples(NAMES, ENDINGS, IMAGES), 1),
    TABLE_ROWS,
    COLUMN_NAMES,
    OTHER_COLUMNS,
    st.sampled_from(["csv", "csv", "tsv", "jsonl", "json", "parquet"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["utf-8", "utf-8-sig"]),
)
def test_folders_with_a_table(files, rows, columns, others, kind, quoting, line_end, encoding):
    with make_folder() as root:
        source = root / "in"
        source.mkdir()
        images = []
        for number, (stem, ending, image) in enumerate(files):
            # The number keeps the names different in any spelling.
            name = f"{number}{stem}.{ending}".replace("~", "")
            if is_usable(name) and "\\" not in name and "%" not in name:
                (source / name).write_bytes(image[0])
                images.append((name, image[1]))
        names = [name for name, _ in images] + ["gone.png"]
        good, num_rejected, table, named = [], 0, [], set()
        for index, (text, caption) in rows:
            name = names[index % len(names)]
            table.append({columns[0]: name, columns[1]: text} | dict.fromkeys(others, "1"))
            named.add(name)
            pixels = dict(images).get(name)
            if pixels and caption:
                good.append((name, pixels, caption))
            else:
                num_rejected += 1
        num_rejected += sum(name not in named for name, _ in images)
        write_table(source / f"metadata.{kind}", table, quoting, line_end, encoding)
        check(f"folder:{source}", root, good, num_rejected)


def write_table(path, rows, quoting, line_end, encoding):
    """Write rows, which are dicts, with the library that is usual for the format."""
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), encoding)
    elif path.suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        path.write_bytes(line_end.join(lines).encode(encoding))
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        with open(path, "w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(
                file, list(rows[0]), quoting=quoting, lineterminator=line_end, delimiter=delimiter
            )
            writer.writeheader()
            writer.writerows(rows)


@QUICK
@given(
    few_or_many(st.tuples(MAYBE_IMAGES, TEXTS, st.integers(0, 3)), 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from([4, 9, 30]),
)
def test_parquet_files(rows, has_keys, is_struct, group_size):
    import pyarrow
    import pyarrow.parquet

    with make_folder() as root:
        table, good, num_rejected = [], [], 0
        for index, (image, (text, caption), key) in enumerate(rows):
            content, pixels = image or (None, None)
            cell = {"bytes": content, "path": "x.png"} if is_struct else content
            table.append({"image": cell, "text": text} | ({"key": str(key)} if has_keys else {}))
            group, row = divmod(index, group_size)
            name = str(key) if has_keys else f"a-{group:04d}-{row:06d}"
            if pixels and caption:
                good.append((name, pixels, caption))
            else:
                num_rejected += 1
        schema = pyarrow.Table.from_pylist(
            [{"image": {"bytes": b"", "path": ""} if is_struct else b"", "text": "", "key": ""}]
        ).schema
        if not has_keys:
            schema = schema.remove(2)
        path = root / "a.parquet"
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(table, schema), path, row_group_size=group_size
        )
        check(f"parquet:{path}", root, good, num_rejected)


@QUICK
@given(
    few_or_many(st.tuples(NAMES, ENDINGS, MAYBE_IMAGES, CAPTIONS | st.none())),
    st.lists(st.sampled_from(["._x.png", ".DS_Store", "__MACOSX/._a.txt"]), max_size=2),
    st.sampled_from(["txt", "TXT", "json"]),
    st.sampled_from(["w", "w:gz"]),
    st.integers(0, 3),
)
def test_tars(files, clutter, caption_ending, mode, order):
    with make_folder() as root:
        members, good, num_rejected = [], [], 0
        for number, (stem, ending, image, caption) in enumerate(files):
            name = f"{number}{stem}".replace("~", "").replace("/", "").strip(".")
            if not is_usable(name) or (not image and not caption):
                continue
            content, text = caption or (None, None)
            if caption and caption_ending == "json":
                if not is_text(content):
                    continue
                content = json.dumps({"caption": content.decode()}).encode()
            if image:
                members.append((f"{name}.{ending}", image[0]))
            if caption:
                members.append((f"{name}.{caption_ending}", content))
            if image and image[1] and text:
                good.append((f"a/{name}", image[1], text))
            else:
                num_rejected += 1
        members += [(name, b"x") for name in clutter]
        if order == 3:  # all images first
            members.sort(key=lambda member: member[0].lower().endswith(("txt", "json")))
        elif order:
            members.sort(reverse=order == 2)
        with tarfile.open(root / "a.tar", mode) as tar:
            for name, content in members:
                add_member(tar, name, content)
        check(f"webdataset:{root}/a.tar", root, good, num_rejected)


def test_number_of_workers_does_not_change_messy_data():
    """Keys repeat within and between the units, which are tars."""
    with make_folder() as root:
        random = np.random.default_rng(0)
        num_members = 0
        for number in range(4):
            (root / "in" / str(number)).mkdir(parents=True)
            with tarfile.open(root / "in" / str(number) / "a.tar", "w") as tar:
                for index in range(12):
                    seed = int(random.integers(9))
                    content = encode_png(make_pixels(seed))[: random.integers(60, 160)]
                    add_member(tar, f"{index % 5}.png", content)
                    add_member(tar, f"{index % 5}.txt", f"caption {random.integers(3)}".encode())
                    num_members += 1
        source = f"webdataset:{root}/in/*/*.tar".replace("[v2]", "[[]v2]")
        kept, outcomes, contents = run_prepare(source, root / "one" / "data")
        assert sum(outcomes.values()) == num_members and len(kept) > 10
        assert run_prepare(source, root / "two" / "data", workers=2)[2] == contents
