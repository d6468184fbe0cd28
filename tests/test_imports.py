"""Imports point in one direction, and diffusion/ and models/ import Keras but not TensorFlow."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "t2i_tpu"
# A part of the package imports itself and the parts before it. The README lists the folders.
BASE = (
    "errors",
    "process",
    "options",
    "recipes",
    "config_checks",
    "config",
    "findings",
    "metadata",
    "installed",
    "compatibility",
    "framework",
    "cluster",
)
ORDER = (
    *(BASE, "random", "diffusion", "models", "step", "storage", "html_page", "text", "data"),
    *("engines", "run", "sample", "evaluate", "training", "api", "profile", "tpu"),
    *("flag_values", "flag_parsing", "cli"),
)  # fmt: skip
# Files that run on any Keras backend, and the only outside modules that they may import.
KERAS_ONLY = ("random.py", "diffusion/**/*.py", "models/*.py", "step/*.py", "sample/generate.py")
OUTSIDE = {
    "collections",
    "dataclasses",
    "enum",
    "itertools",
    "keras",
    "math",
    "numpy",
    "random",
    "typing",
}


def get_ranks():
    """Return the rank of every part of the package."""
    ranks = {}
    for rank, names in enumerate(ORDER):
        ranks |= dict.fromkeys([names] if isinstance(names, str) else names, rank)
    return ranks


def get_part(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def find_imports(path):
    """Yield the dotted names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_part_has_a_place_in_the_order():
    missing = {get_part(path) for path in FILES} - {"embedded"} - get_ranks().keys()
    assert not missing, "add it to ORDER"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_in_one_direction(path):
    ranks = get_ranks()
    for name in find_imports(path):
        top, *rest = name.split(".")
        assert top not in ("tests", "tools", "launch", "configs"), name
        if top == "t2i_tpu" and rest[0] in ranks:
            assert ranks[rest[0]] <= ranks[get_part(path)], name


@pytest.mark.parametrize("pattern", KERAS_ONLY)
def test_keras_only_files_do_not_import_tensorflow(pattern):
    paths = sorted(PACKAGE.glob(pattern))
    assert paths
    for path in paths:
        outside = {name.split(".")[0] for name in find_imports(path)} - {"t2i_tpu"}
        assert outside <= OUTSIDE, path


def test_config_imports_no_framework():
    """A wrong flag is therefore reported at once."""
    code = (
        "import sys, t2i_tpu.config; "
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 'config imports a framework'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
