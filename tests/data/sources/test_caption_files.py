"""Captions are paired with images whose names are spelled differently."""

from tests.data.sources.folders import encode_color, read_captions, write_files


def test_captions_are_found_in_other_case_and_normal_forms(tmp_path):
    write_files(tmp_path, {
        "IMG_1.JPG": None, "img_1.txt": "one",
        "IMG_2.PNG": None, "img_2.png.Txt": "two",
        "\u00e9.png": None, "e\u0301.txt": "three",
        "A.png": None, "A.txt": "large", "a.png": None, "a.txt": "small",
        "B.png": None, "b.png": None, "B.txt": "only the large one",
    })  # fmt: skip
    assert read_captions(tmp_path) == {
        "IMG_1.JPG": "one", "IMG_2.PNG": "two", "\u00e9.png": "three", "A.png": "large", "a.png": "small",
        "B.png": "only the large one", "b.png": {"no_caption"},
    }  # fmt: skip


def test_captions_of_several_images_in_other_case_are_not_guessed(tmp_path):
    write_files(
        tmp_path, {"IMG.png": None, "Img.png": None, "img.txt": "?", "0.png": None, "0.txt": "0"}
    )
    assert read_captions(tmp_path) == {
        "0.png": "0", "IMG.png": {"no_caption"}, "Img.png": {"no_caption"}, "img.txt": {"missing_image"},
    }  # fmt: skip


def test_images_of_phones_in_mpo_are_read(tmp_path):
    write_files(tmp_path, {"0.MPO": encode_color("red", "JPEG"), "0.txt": "red"})
    assert read_captions(tmp_path) == {"0.MPO": "red"}
