"""As in the simulations: the store of the controllers' tests, and no log."""

from tests.simulation.conftest import _no_log, store

__all__ = ["_no_log", "store"]
