"""The receipt of `actframe run --check-unperturbed`, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actframe.cli.console import one_line, stdout
from actframe.cli.tables import facts_table

if TYPE_CHECKING:
    from actframe.runs.unperturbed import UnperturbedReceipt

__all__ = ["print_receipt"]

NAMED = 5


def print_receipt(title: str, receipt: UnperturbedReceipt) -> None:
    """Print what is the same with and without recording, and what recording costs."""
    facts = {name: _compared(receipt.questions, ids) for name, ids in receipt.different.items()}
    facts["overhead"] = (
        f"{receipt.overhead:+.1%}: {receipt.seconds_recorded:.2f} s recording {receipt.sites} sites, "
        f"{receipt.seconds_plain:.2f} s without"
    )
    stdout().print(facts_table(f"{title}, with and without recording", facts))
    verdict = "recording changed nothing" if receipt.is_unperturbed else "recording CHANGED what the model computes"
    stdout().print(verdict, style="green" if receipt.is_unperturbed else "bold red")


def _compared(count: int, different: list[str]) -> str:
    if not different:
        return f"identical for {count} of {count} questions"
    named = ", ".join(map(one_line, different[:NAMED])) + (", ..." if len(different) > NAMED else "")
    return f"identical for {count - len(different)} of {count} questions; different: {named}"
