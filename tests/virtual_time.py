"""The clock of tests marked `pytest.mark.virtual_time` (the hook is in `tests/conftest.py`)."""

from controllers.simulation.virtual_time import VirtualTimeLoop

__all__ = ["VirtualTimeLoop"]
