"""Random requests to every method: only proper errors come out."""

from __future__ import annotations

from tests.kvstore.fuzz import fuzz

test_only_proper_errors_come_out = fuzz(40)
