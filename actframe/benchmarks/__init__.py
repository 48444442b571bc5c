"""Questions and scores."""
