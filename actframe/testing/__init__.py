"""For those who test code that uses actframe: tiny seeded models of many families."""

from actframe.testing.models import FAMILIES, tiny_model, tiny_tokenizer

__all__ = ["FAMILIES", "tiny_model", "tiny_tokenizer"]
