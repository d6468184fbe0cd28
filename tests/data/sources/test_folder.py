"""Tests that everything in a folder is an item, a counted rejection, or clutter."""

import json
import os
import subprocess

import pytest
from PIL import Image

from t2i_tpu.data.prepare.clean import clean_caption
from t2i_tpu.data.sources.file_names import IMAGE_ENDINGS, UNREADABLE_ENDINGS, is_clutter
from t2i_tpu.data.sources.folder.folder import FolderSource
from t2i_tpu.errors import UserError
from tests.data.sources.folders import encode_color, read_captions, read_items, write_files


@pytest.mark.parametrize(
    "clutter",
    ["._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/0.png", "__MACOSX/._0.png",
     ".git/0.png", ".ipynb_checkpoints/0-checkpoint.png", "@eaDir/0.png/x.jpg", "~$captions.csv",
     "0.png~", ".0.txt.swp", ".hidden.png", "$RECYCLE.BIN/0.png", "._metadata.csv"],
)  # fmt: skip
def test_clutter_is_ignored(tmp_path, clutter):
    write_files(tmp_path, {"0.png": None, "0.txt": "red", clutter: b"\0\5\x16\7"})
    assert read_captions(tmp_path) == {"0.png": "red"}
    assert is_clutter(clutter) and is_clutter("./a/" + clutter)


def test_folder_named_like_an_image_is_a_folder(tmp_path):
    write_files(tmp_path, {
        "jpg/1.jpg": None, "jpg/1.txt": "one", "scan.png/2.jpg": None, "scan.png/2.txt": "two",
        "png": "no image", "jpeg": "no image",
    })  # fmt: skip
    assert read_captions(tmp_path) == {"jpg/1.jpg": "one", "scan.png/2.jpg": "two"}


def test_caption_files_of_other_endings(tmp_path):
    write_files(tmp_path, {
        "a.JPG": None, "a.TXT": "upper", "b.png": None, "b.caption": "kohya",
        "c.png": None, "c.caption": "second", "c.txt": "first", "c.TXT": "second",
        "d.png": None, "d.jpg": None, "d.txt": "both", "e.png": None, "e.png.txt": "full name",
    })  # fmt: skip
    assert read_captions(tmp_path) == {
        "a.JPG": "upper", "b.png": "kohya", "c.png": "first", "d.jpg": "both", "d.png": "both",
        "e.png": "full name",
    }  # fmt: skip


def test_everything_that_cannot_be_used_is_counted(tmp_path):
    write_files(tmp_path, {
        "0.png": None, "0.txt": "red", "1.png": None, "2.txt": "alone", "README.txt": "about",
        "LICENSE-images.txt": "about", "3.heic": b"x", "3.txt": "photo", "4.SVG": "<svg/>",
        "5.cr2": b"x", "notes.docx": b"x", "sub/6.png": None, "sub/6.txt": "six",
    })  # fmt: skip
    os.symlink("nowhere.png", tmp_path / "7.png")
    os.mkfifo(tmp_path / "8.png")
    (tmp_path / "8.txt").write_text("a pipe")
    assert read_captions(tmp_path) == {
        "0.png": "red", "1.png": {"no_caption"}, "2.txt": {"missing_image"},
        "3.heic": {"unsupported_heic"}, "4.SVG": {"unsupported_svg"}, "5.cr2": {"unsupported_cr2"},
        "7.png": {"missing_image"}, "8.png": {"not_a_file"}, "sub/6.png": "six",
    }  # fmt: skip


@pytest.mark.parametrize(
    "ending", ["jfif", "jpe", "tga", "jp2", "ico", "qoi", "pbm", "dib", "apng"]
)
def test_images_of_all_endings_of_pillow_are_used(tmp_path, ending):
    Image.new("L", (8, 8)).convert("1" if ending == "pbm" else "RGB").save(tmp_path / f"a.{ending}")
    (tmp_path / "a.txt").write_text("red")
    assert read_captions(tmp_path) == {f"a.{ending}": "red"}


def test_endings_are_either_images_or_unreadable():
    assert {"png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "ppm"} <= IMAGE_ENDINGS
    assert not IMAGE_ENDINGS & UNREADABLE_ENDINGS
    assert not IMAGE_ENDINGS & {"eps", "h5", "mpg", "txt", "json", "csv", "npy", "pdf", ""}


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_files(tmp_path, {"in/a/0.png": None, "in/a/0.txt": "zero", "in/b/1.png": None,
                           "in/b/1.txt": "one", "out/2.png": None, "out/2.txt": "two"})  # fmt: skip
    folder = tmp_path / "in"
    for link, target in {"self": ".", "outside": "..", "a/up": "..", "a/b": "../b", "b/a": "../a", "loop": "loop",
                         "other": "../out", "3.png": "a/0.png", "3.txt": "a/0.txt"}.items():  # fmt: skip
        os.symlink(target, folder / link)
    captions = read_captions(folder)
    assert captions.pop("3.png") == "zero"
    assert captions == {
        "a/0.png": "zero", "a/b/1.png": "one", "b/1.png": "one", "b/a/0.png": "zero", "other/2.png": "two"
    }  # fmt: skip


def test_very_deep_folder_is_read(tmp_path):
    """It is deeper than Python's recursion limit, so other programs create and remove it."""
    deep = "/".join(["d"] * 1500)
    subprocess.run(["mkdir", "-p", tmp_path / deep], check=True)
    try:
        (tmp_path / deep / "0.png").write_bytes(encode_color("red"))
        (tmp_path / deep / "0.txt").write_text("red")
        assert read_captions(tmp_path) == {f"{deep}/0.png": "red"}
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)


def test_names_that_are_not_utf8_are_rejected(tmp_path):
    write_files(tmp_path, {"0.png": None, "0.txt": "red"})
    for name in (b"caf\xe9.png", b"caf\xe9.txt"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(encode_color("red"))
    assert read_captions(tmp_path) == {"0.png": "red", "caf\udce9.png": {"key_not_utf8"}}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "has no files; expected images.*a.jpg and a.txt.*metadata.csv"),
        ({".DS_Store": "x"}, "has no files"),
        ({"a.txt": "x", "b.txt": "y"}, "has no image that can be read; found 2 .txt .for example a.txt"),
        ({"a.heic": "x", "b.heic": "x"}, "2 .heic .for example a.heic.*to .png .*install pillow-heif"),
        ({"data": "x", "b.xyz": "x"}, "1 .xyz .for example b.xyz., 1 without an ending"),
        ({"a.png": None, "s/b.png": None}, "2 images, for example a.png, but no captions; found 2 .png"),
        ({"a.png": None, "labels.csv": "x"}, "if labels.csv is the table.*rename it to metadata.csv"),
        ({"a.png": None, "metadata.json": "3"}, "no captions.*metadata.json is JSON of an unknown form"),
        ({"a.png": None, "a.xlsx": "x"}, "1 image, .*; save a.xlsx as metadata.csv .CSV UTF-8."),
        ({"0.tar": "x", "1.tar": "x"}, "for .tar files use --source=webdataset:.*/\\*.tar"),
        ({"train.parquet": "x"}, "use --source=parquet:.*/\\*.parquet"),
        ({"imgs.npy": "x"}, "use --source=npy:"),
        ({"metadata.csv": "file_name,text\n0.png,a\n"}, "none of the 1 rows of metadata.csv .*has no images"),
        ({"a.png": None, "metadata.csv": "file,text\n0.png,a\n"}, "first row names 0.png, but .* such as a.png"),
    ],
)  # fmt: skip
def test_folder_without_anything_usable_is_described(tmp_path, files, words):
    write_files(tmp_path, files)
    with pytest.raises(UserError, match=words) as error:
        read_items(tmp_path)
    assert str(error.value).startswith(f"--source=folder:{tmp_path}")
    assert "\n" not in str(error.value)


def test_path_that_is_not_a_folder_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(encode_color("red"))
    for name, words in {"a.png": "not a folder", "b": "no such folder"}.items():
        with pytest.raises(UserError, match=words):
            list(FolderSource(str(tmp_path / name)).list_units())


@pytest.mark.parametrize(
    ("spelling", "file"),
    [
        ("img/0.png", "img/0.png"),
        ("./img/0.png", "img/0.png"),
        ("/img/0.png", "img/0.png"),
        ("img//0.png", "img/0.png"),
        ("img\\0.png", "img/0.png"),
        (".\\img\\0.png", "img/0.png"),
        (" img/0.png ", "img/0.png"),
        ("img/a%20b.png", "img/a b.png"),
        ("img/100%.png", "img/100%.png"),
        ("IMG/0.PNG", "img/0.png"),
        ("img/0", "img/0.png"),
        ("img/v1.5", "img/v1.5.png"),
        ("data/set/img/0.png", "img/0.png"),
        ("/home/me/set/img/0.png", "img/0.png"),
        ("C:\\Users\\me\\img\\0.png", "img/0.png"),
        ("file:///home/me/img/0.png", "img/0.png"),
        ("0.png", "img/0.png"),
        ("img/0.png", "data/img/0.png"),
        ("img/caf\u00e9.png", "img/cafe\u0301.png"),
        ("img/0", "img/0"),
    ],
)
def test_names_in_tables_are_found(tmp_path, spelling, file):
    """Names may be spelled as on other systems, or be relative to other folders."""
    row = json.dumps({"file_name": spelling, "text": "red"})
    write_files(tmp_path, {file: None, "metadata.jsonl": row})
    assert read_captions(tmp_path) == {file: "red"}


def test_absolute_path_in_the_folder_is_found(tmp_path):
    row = json.dumps({"file_name": f"{tmp_path}/img/0.png", "text": "red"})
    write_files(tmp_path, {"img/0.png": None, "metadata.jsonl": row})
    assert read_captions(tmp_path) == {"img/0.png": "red"}


@pytest.mark.parametrize(
    ("files", "names", "outcomes"),
    [
        # "0" fits two files, and so does "1.png" without its folder.
        (["0.png", "0.jpg", "2.png"], ["0", "2.png"], {"0": "missing_image", "2.png": "2.png",
         "0.png": "not_in_table", "0.jpg": "not_in_table"}),
        (["a/1.png", "b/1.png", "a/2.png"], ["1.png", "2.png"], {"1.png": "missing_image",
         "a/2.png": "2.png", "a/1.png": "not_in_table", "b/1.png": "not_in_table"}),
        # The image of another folder is not taken for the one that is missing.
        (["0.png", "a/1.png"], ["a/0.png", "a/1.png"], {"a/0.png": "missing_image",
         "a/1.png": "a/1.png", "0.png": "not_in_table"}),
        (["0.png", "1.png"], ["a/0.png", "b/0.png", "1"], {"a/0.png": "missing_image",
         "b/0.png": "missing_image", "1.png": "1", "0.png": "not_in_table"}),
        (["1.jpg", "2.png"], ["1.png", "2.png"], {"1.png": "missing_image", "2.png": "2.png",
         "1.jpg": "not_in_table"}),
    ],
)  # fmt: skip
def test_no_image_gets_the_caption_of_another(tmp_path, files, names, outcomes):
    rows = [json.dumps({"file_name": name, "text": name}) for name in names]
    write_files(tmp_path, dict.fromkeys(files) | {"metadata.jsonl": "\n".join(rows)})
    expected = {
        key: {value} if value in ("missing_image", "not_in_table") else value
        for key, value in outcomes.items()
    }
    assert read_captions(tmp_path) == expected


def test_captions_txt_is_a_table_if_it_has_a_heading(tmp_path):
    """This is the layout of Flickr8k."""
    table = "image,caption\n0.jpg,a dog , running\n1.jpg,red\n"
    write_files(tmp_path, {"Images/0.jpg": None, "Images/1.jpg": None, "captions.txt": table})
    assert read_captions(tmp_path) == {"Images/0.jpg": "a dog , running", "Images/1.jpg": "red"}
    write_files(tmp_path / "b", {"captions.jpg": None, "captions.txt": "a red, red wall"})
    assert read_captions(tmp_path / "b") == {"captions.jpg": "a red, red wall"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_caption_files_in_encodings_of_unicode(tmp_path, encoding):
    write_files(tmp_path, {"0.png": None, "0.txt": "red, grün".encode(encoding)})
    (item,) = read_items(tmp_path)
    assert clean_caption(item.caption) == "red, grün"


def test_rows_without_an_image_or_a_caption_are_counted(tmp_path):
    table = "file_name,text\n0.png,red\n,no name\n1.png,\n2.png\n3.png,gone\n"
    write_files(tmp_path, {"0.png": None, "1.png": None, "2.png": None, "metadata.csv": table})
    assert read_captions(tmp_path) == {
        "0.png": "red", "1.png": "", "2.png": None, "3.png": {"missing_image"},
        "metadata.csv:2": {"missing_image"},
    }  # fmt: skip


def test_second_table_without_captions_is_ignored(tmp_path):
    write_files(tmp_path, {
        "0.png": None, "captions.csv": "image,caption\n0.png,red\n",
        "metadata.csv": "image,width\n0.png,8\n",
    })  # fmt: skip
    assert read_captions(tmp_path) == {"0.png": "red"}
    write_files(tmp_path, {"metadata.csv": "image,caption\n0.png,blue\n"})
    with pytest.raises(UserError, match="captions.csv and metadata.csv; keep only one"):
        read_items(tmp_path)


def test_other_json_file_does_not_hinder_caption_files(tmp_path):
    write_files(tmp_path, {"0.png": None, "0.txt": "red", "metadata.json": '{"version": 3}'})
    assert read_captions(tmp_path) == {"0.png": "red"}


@pytest.mark.parametrize("names", [("train", "test"), ("data/train", "data/validation")])
def test_tables_of_splits_are_read(tmp_path, names):
    """This is the layout of image folders on the Hugging Face Hub."""
    for name in names:
        row = {"file_name": "0.png", "text": name}
        write_files(tmp_path, {f"{name}/0.png": None, f"{name}/metadata.jsonl": json.dumps(row)})
    items = read_items(tmp_path)
    assert {(item.key, item.caption, item.split) for item in items} == {
        (f"{names[0]}/0.png", names[0], "train"),
        (f"{names[1]}/0.png", names[1], "heldout"),
    }


def test_tables_of_other_folders_are_read_without_splits(tmp_path):
    for name in ("train", "more"):
        row = {"file_name": "0.png", "text": name}
        write_files(tmp_path, {f"{name}/0.png": None, f"{name}/metadata.jsonl": json.dumps(row)})
    write_files(tmp_path, {"1.png": None, "1.txt": "one"})
    items = read_items(tmp_path)
    assert {item.key: item.split for item in items} == dict.fromkeys(
        ("train/0.png", "more/0.png", "1.png")
    )
    assert read_captions(tmp_path)["train/0.png"] == "train"
