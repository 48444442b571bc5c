"""The main job: a benchmark, a model, and where the answers go."""
