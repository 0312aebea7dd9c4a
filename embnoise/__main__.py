"""``python -m embnoise``: the command ``embnoise``."""

from embnoise._cli import main

if __name__ == "__main__":
    raise SystemExit(main())
