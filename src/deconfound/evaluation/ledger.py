"""Work in pieces, each done once: what the journal already holds is taken from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from deconfound.core.protocols import Journal
from deconfound.errors import InputError
from deconfound.evaluation.meter import Cost, Meter

Work = Callable[[], dict[str, Any]]


class Ledger:
    """Does pieces of work, writes each result to the journal, and knows what each one cost.

    Args:
        meter: measures the pieces.
        call: what identifies the evaluation, ready for JSON; a journal of another call is refused.
        journal: None to keep nothing.

    Raises:
        InputError: the journal belongs to another call.
    """

    def __init__(self, meter: Meter, call: Mapping[str, Any], journal: Journal | None = None) -> None:
        self._meter = meter
        self._journal = journal
        self._done = {
            str(entry["piece"]): entry for entry in (journal.entries() if journal else []) if "piece" in entry
        }
        self._costs: dict[str, Cost] = {}
        self._check(dict(call))

    def _check(self, call: dict[str, Any]) -> None:
        found = self._done.get("call")
        if found is None:
            if self._done:
                raise InputError("journal", "finished pieces without the call they belong to", "an unbroken journal")
            self._write("call", call)
            return
        for key, value in call.items():
            if found["result"].get(key) != value:
                raise InputError(f"journal: {key}", found["result"].get(key), f"{value!r}, as in this call")

    def _write(self, piece: str, result: dict[str, Any], cost: Cost | None = None) -> None:
        if self._journal is not None:
            self._journal.append({"piece": piece, "result": result, "cost": list(cost or Cost())})

    def once(self, piece: str, work: Work) -> dict[str, Any]:
        """The result of a piece of work, which is done only if the journal does not hold it."""
        found = self._done.get(piece)
        if found is not None:
            self._costs[piece] = Cost(*found["cost"])
            return dict(found["result"])
        before = self._meter.read()
        result = work()
        self._costs[piece] = self._meter.read().minus(before)
        self._write(piece, result, self._costs[piece])
        return result

    def cost(self, *starts: str) -> Cost:
        """The cost of all pieces whose names start so."""
        total = Cost()
        for piece, cost in self._costs.items():
            if piece.startswith(starts):
                total = total.plus(cost)
        return total
