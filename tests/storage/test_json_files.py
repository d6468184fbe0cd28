"""Tests that damaged JSON raises only one kind of error."""

import pytest

from t2i_tpu.errors import UserError
from t2i_tpu.storage import json_files


def test_value_is_built_from_text_and_bytes():
    for content in ('{"a": 1}', b'{"a": 1}'):
        assert json_files.parse(content, lambda fields: fields["a"]) == 1


@pytest.mark.parametrize(
    "content",
    ["", "{", b"\xff{}", "[" * 100_000, "[]", "null", "{}", '{"a": "x"}', '{"a": Infinity}'],
)
def test_damaged_json_is_one_kind_of_error(content):
    with pytest.raises(json_files.DamagedJson):
        json_files.parse(content, lambda fields: int(fields["a"]))


def test_user_error_of_the_builder_is_passed_on():
    def fail(_):
        raise UserError("written by another version")

    with pytest.raises(UserError, match="another version"):
        json_files.parse("{}", fail)
