"""Capture strategy `block_outputs`: what the blocks give, by forward hooks."""

from contextlib import contextmanager

from actframe import CaptureStrategy


class BlockOutputs(CaptureStrategy):
    name = "block_outputs"

    def available(self, model, layout):
        return [site for site in layout.places if site.startswith("layer_") and "." not in site]

    @contextmanager
    def attach(self, model, layout, sites, emit):
        def hook(site):
            return lambda module, args, output: emit(site, output[0] if isinstance(output, tuple) else output)

        handles = []
        try:
            for site in sites:
                module = model.get_submodule(layout.places[site].module)
                handles.append(module.register_forward_hook(hook(site)))
            yield
        finally:
            for handle in handles:
                handle.remove()
