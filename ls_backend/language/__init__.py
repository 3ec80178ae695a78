"""Text into embeddings, without a network and without a download."""
