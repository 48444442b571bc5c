"""What `actframe selftest` does: a model's records held against plain hooks on the model."""
