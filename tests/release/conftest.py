"""Programs for type checkers, which are not run."""

collect_ignore = ["typed.py", "wrong.py"]
