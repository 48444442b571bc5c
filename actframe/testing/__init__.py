"""For those who test code that uses actframe: tiny seeded models, records without a model, and a model's self-test."""

from actframe.testing.models import FAMILIES, tiny_model, tiny_tokenizer
from actframe.testing.proofs.report import SelfTestReport
from actframe.testing.proofs.selftest import selftest
from actframe.testing.records import assert_same_record, random_record

__all__ = [
    "FAMILIES",
    "SelfTestReport",
    "assert_same_record",
    "random_record",
    "selftest",
    "tiny_model",
    "tiny_tokenizer",
]
