"""Records -> insight."""
