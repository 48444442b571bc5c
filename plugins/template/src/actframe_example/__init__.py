"""A plugin of actframe: what it provides is imported inside the hook, so that `actframe --help` stays fast."""

from actframe import hookimpl


@hookimpl
def extensions():
    """The classes that are found by their names from now on."""
    from actframe_example.backend import TorchSaveBackend
    from actframe_example.benchmark import Colours
    from actframe_example.engine import ShiftsEngine
    from actframe_example.strategy import BlockOutputs

    return [TorchSaveBackend, BlockOutputs, Colours, ShiftsEngine]
