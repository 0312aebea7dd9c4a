"""The study behind ``docs/evidence.md``; see ``python -m evidence --help``."""

import sys
from pathlib import Path

# The corpus, the tokenizer and the shape of the model are those of the examples.
sys.path.append(str(Path(__file__).parents[1] / "examples"))
