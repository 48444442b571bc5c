"""Values: what is recorded."""
