"""Fake installed packages: the dist-info folders that pip would write."""

import pathlib


def install(folder: pathlib.Path, versions: dict[str, str]) -> None:
    """Write a dist-info folder for each distribution and version."""
    for name, version in versions.items():
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(text)
