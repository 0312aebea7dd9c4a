"""What is in an sdist or a wheel."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path


def contents(archive: Path) -> dict[str, bytes]:
    """The files of an archive by their names; those of an sdist without its top folder."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    files = {}
    with tarfile.open(archive) as sdist:
        for member in sdist.getmembers():
            if (file := sdist.extractfile(member)) is not None:
                files[member.name.partition("/")[2]] = file.read()
    return files
