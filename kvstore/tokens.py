"""etcd's simple tokens: who a caller is, for as long as it keeps calling. In memory only."""

from __future__ import annotations

import random
import string
from collections import OrderedDict
from collections.abc import Callable

TOKEN_LETTERS = 16
MAX_TOKENS = 100_000  # the least recently used one goes first; its user logs in again


class Tokens:
    """Tokens by which users are known, each until `ttl` seconds after its last use.

    rng: where the letters come from; `secrets.SystemRandom()` unless a simulation must be repeatable.
    """

    def __init__(self, *, ttl: float, now: Callable[[], float], rng: random.Random) -> None:
        self._ttl = ttl
        self._now = now
        self._rng = rng
        # token -> (user, when it expires), the least recently used first: also the order in which they expire.
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def assign(self, user: str, index: int) -> str:
        """A new token, `<16 letters>.<index>`."""
        now = self._now()
        while self._known and (len(self._known) >= MAX_TOKENS or self._oldest() <= now):
            self._known.popitem(last=False)
        letters = "".join(self._rng.choice(string.ascii_letters) for _ in range(TOKEN_LETTERS))
        token = f"{letters}.{index}"
        self._known[token] = (user, now + self._ttl)
        return token

    def user(self, token: str) -> str | None:
        """Whose it is; None if nobody's, or not any more. Being asked for keeps it alive."""
        found = self._known.get(token)
        if found is None:
            return None
        user, expires_at = found
        now = self._now()
        if expires_at <= now:
            del self._known[token]
            return None
        self._known[token] = (user, now + self._ttl)
        self._known.move_to_end(token)
        return user

    def forget(self, user: str) -> None:
        """Drop the tokens of a user. O(n)."""
        for token in [token for token, (owner, _) in self._known.items() if owner == user]:
            del self._known[token]

    def clear(self) -> None:
        """Drop all."""
        self._known.clear()

    def _oldest(self) -> float:
        return next(iter(self._known.values()))[1]
