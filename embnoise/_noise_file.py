"""Noise from a JSON file, as commands and configuration files name it."""

from __future__ import annotations

import json
from pathlib import Path

from embnoise._noise import Noise

__all__ = ["read_noise"]


def read_noise(path: str | Path) -> Noise:
    """The noise in a JSON file, which ``json.dump(noise.to_dict(), file)`` wrote.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not JSON, or does not describe a noise.
    """
    try:
        return Noise.from_dict(json.loads(Path(path).read_text(encoding="utf-8-sig")))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {str(path)!r}") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{str(path)!r} is a folder, and no file") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a noise: {error}") from None
