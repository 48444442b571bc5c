"""Storage backend `torchsave`: what torch.save writes, and torch.load reads without running code."""

import torch

from actframe import Bundle, FormatError, StorageBackend, StorageError


class TorchSaveBackend(StorageBackend):
    name = "torchsave"
    suffix = ".pt"

    def write(self, path, bundle):
        try:
            # A view would be saved with the whole tensor that it shows a part of.
            plain = torch.contiguous_format
            own = {name: each.detach().clone(memory_format=plain) for name, each in bundle.tensors.items()}
            torch.save({"tensors": own, "metadata": bundle.metadata}, path)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise StorageError(f"torch.save cannot write it: {error}") from error

    def read(self, path, names=None):
        try:
            stored = torch.load(path, weights_only=True)
            tensors, metadata = stored["tensors"], stored["metadata"]
        except Exception as error:
            raise FormatError(f"it is damaged, or not what torchsave writes: {error}") from error
        return Bundle({name: each for name, each in tensors.items() if names is None or name in names}, metadata)
