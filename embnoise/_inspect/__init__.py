"""What noise means for a model; ``inspection`` is where to begin reading."""
