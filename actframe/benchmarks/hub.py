"""Data sets of the hub, loaded by `datasets` (the extra `hf`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from actframe.benchmarks.row import Row
from actframe.errors import BenchmarkError, needs_extra

__all__ = ["HubData"]

HUB_TIMEOUT_SECONDS = 5.0


class HubData:
    """A data set of the hub. Nothing is asked of the network before its rows or its identity are wanted.

    Args:
        hub_id: `openai/gsm8k`.
        configuration: which one, where it has several.
        revision: a branch, tag or commit. Default: the newest.
    """

    def __init__(self, hub_id: str, configuration: str | None = None, revision: str | None = None) -> None:
        self._hub_id = hub_id
        self._configuration = configuration
        self._revision = revision
        self._found: tuple[str | None, str] | None = None

    def identity(self) -> Mapping[str, Any]:
        """Which data set, and the commit that it was read at.

        Raises:
            BenchmarkError: it cannot be had.
        """
        commit, _ = self._look()
        return {"hub": self._hub_id, "configuration": self._configuration, "revision": commit or self._cached().hash}

    def rows(self, split: str, *, or_all: bool = False) -> Iterator[Row]:
        """The rows of a split.

        Raises:
            BenchmarkError: the data set cannot be had, or has no such split.
        """
        with needs_extra(f"the data set {self._hub_id!r}", "datasets", "hf"):
            import datasets
        commit, _ = self._look()
        try:
            if commit is None:
                data = self._cached().as_dataset(split=split)
            else:
                data = datasets.load_dataset(self._hub_id, self._configuration, split=split, revision=commit)
        except BenchmarkError:
            raise
        except Exception as error:
            # Which of many libraries raises what changes with `datasets`; its message says what was wrong.
            raise BenchmarkError(
                f"the split {split!r} of {self} cannot be loaded: {type(error).__name__}: {error}. {self._advice()}"
            ) from error
        for number, values in enumerate(data, start=1):
            yield Row(values, f"{self}, {split}, row {number}")

    def _look(self) -> tuple[str | None, str]:
        """The commit on the hub, or None and why there is no answer: one quick question, not minutes of retries.

        Raises:
            BenchmarkError: there is none of that name or revision, or it is gated.
        """
        if self._found is None:
            self._found = self._ask()
        return self._found

    def _ask(self) -> tuple[str | None, str]:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        if constants.is_offline_mode():
            return None, "offline mode is on (HF_HUB_OFFLINE)"
        try:
            info = HfApi().dataset_info(self._hub_id, revision=self._revision, timeout=HUB_TIMEOUT_SECONDS)
        except GatedRepoError as error:
            raise BenchmarkError(f"{self} is gated: {self._ask_for_access()}. {self._advice()}") from error
        except RepositoryNotFoundError as error:
            raise BenchmarkError(
                f"the hub has no data set {self._hub_id!r}, or it is private: {self._ask_for_access()}. "
                f"{self._advice()}"
            ) from error
        except RevisionNotFoundError as error:
            raise BenchmarkError(f"the data set {self._hub_id!r} has no revision {self._revision!r}") from error
        except Exception as error:
            # Whatever it is, there was no answer; it is told where the local cache has nothing either.
            return None, f"{type(error).__name__}: {error}"
        return info.sha, ""

    def _cached(self) -> Any:
        """What `datasets` keeps of an earlier load.

        Raises:
            BenchmarkError: there is none, or not of the revision that is wanted.
        """
        from datasets.packaged_modules.cache.cache import Cache

        _, reason = self._look()
        try:
            cached = Cache(
                dataset_name=self._hub_id.split("/")[-1],
                repo_id=self._hub_id,
                config_name=self._configuration,
                version="auto",
                hash="auto",
            )
        except (ValueError, OSError) as error:
            raise BenchmarkError(
                f"{self} is not in the local cache of data sets, and the hub gives no answer: {reason}. "
                f"{self._advice()}"
            ) from error
        if self._revision not in (None, cached.hash):
            raise BenchmarkError(
                f"revision {self._revision!r} of {self} is not in the local cache of data sets, which has "
                f"{cached.hash!r}, and the hub gives no answer: {reason}"
            )
        return cached

    def _ask_for_access(self) -> str:
        return f"ask for access at https://huggingface.co/datasets/{self._hub_id}, then `hf auth login`"

    def _advice(self) -> str:
        return "Or give the data as files in the published form: --data PATH (data=PATH in Python)"

    def __str__(self) -> str:
        return f"the data set {self._hub_id!r}" + (f" ({self._configuration})" if self._configuration else "")
