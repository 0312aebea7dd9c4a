"""``python -m embnoise``: the command ``embnoise``."""

from embnoise.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
