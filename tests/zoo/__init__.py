"""Every model class of transformers, built tiny: what actframe records of it, and what it should."""
