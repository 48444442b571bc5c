"""For those who test code that uses actframe: tiny seeded models of many families, and records without a model."""

from actframe.testing.models import FAMILIES, tiny_model, tiny_tokenizer
from actframe.testing.records import assert_same_record, random_record

__all__ = ["FAMILIES", "assert_same_record", "random_record", "tiny_model", "tiny_tokenizer"]
