"""What the ranks of a distributed run share: their data, and their embeddings."""
