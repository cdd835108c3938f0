"""Work in pieces, each done once by one of the processes: what a journal already holds is taken from there."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deconfound.core.protocols import Crew, Journal
from deconfound.errors import InputError
from deconfound.evaluation.meter import Cost, Meter

Work = Callable[[], dict[str, Any]]
Piece = tuple[str, Work]
Seen = Callable[[int, dict[str, Any]], None]

# What every line of a journal holds; others are passed over.
_FIELDS = {"piece", "result", "cost"}


def check_same(field: str, found: Mapping[str, Any], call: Mapping[str, Any]) -> None:
    """What was found is the call itself; ``field`` says where it was found.

    Raises:
        InputError: a key differs; both values are named.
    """
    for key, value in call.items():
        if found.get(key) != value:
            raise InputError(f"{field}: {key}", found.get(key), f"{value!r}, as in this call")


class Solo:
    """The crew of one process."""

    rank, size = 0, 1

    def gather(self, mine: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """What every process has found: its own alone."""
        return [mine]


class Ledger:
    """Does pieces of work, writes each result to the journal, and knows what each one cost.

    Args:
        meter: measures the pieces.
        call: what identifies the evaluation, ready for JSON; a journal of another call is refused.
        journal: None to keep nothing.
        crew: the processes that share the work; by default this one alone.

    Raises:
        InputError: the journal belongs to another call.
    """

    def __init__(
        self, meter: Meter, call: Mapping[str, Any], journal: Journal | None = None, crew: Crew | None = None
    ) -> None:
        self._meter = meter
        self.crew: Crew = crew or Solo()
        self._journal = journal
        self._costs: dict[str, Cost] = {}
        self._done: dict[str, Mapping[str, Any]] = {}
        self._agree(dict(call))

    def _agree(self, call: dict[str, Any]) -> None:
        """All processes are at the same call, and start from what any of them finds in its journal."""
        own = [entry for entry in (self._journal.entries() if self._journal else []) if entry.keys() >= _FIELDS]
        found = self.crew.gather({"call": call, "entries": own})
        for rank, other in enumerate(found):
            check_same(f"process {rank}", other["call"], found[0]["call"])
        entries = [entry for other in found for entry in other["entries"]]
        for entry in entries:
            if entry["piece"] == "call":
                check_same("journal", entry["result"], call)
        self._done = {str(entry["piece"]): entry for entry in entries}
        if self._done and "call" not in self._done:
            raise InputError("journal", "finished pieces without the call they belong to", "an unbroken journal")
        if not self._done:
            self._write("call", call)

    def _write(self, piece: str, result: dict[str, Any], cost: Cost | None = None) -> None:
        if self._journal is not None:
            self._journal.append({"piece": piece, "result": result, "cost": list(cost or Cost())})

    def once(self, piece: str, work: Work) -> dict[str, Any]:
        """The result of one piece, which the first process does."""
        return self.all([(piece, work)])[0]

    def all(self, pieces: Sequence[Piece], seen: Seen | None = None) -> list[dict[str, Any]]:
        """The results of several pieces, in order; each is done only if no journal holds it, by one process in turn.

        Args:
            pieces: names and work. The same list in every process.
            seen: told place and result of each piece that this process has, in order, as soon as it has it.

        Raises:
            Exception: what the work of any process raised, in all of them.
        """
        todo = [place for place, (name, _) in enumerate(pieces) if name not in self._done]
        turns = set(todo[self.crew.rank :: self.crew.size])
        mine: dict[str, Any] = {}
        failure: Exception | None = None
        try:
            for place, (name, work) in enumerate(pieces):
                if place in turns:
                    mine[name] = self._do(name, work)
                if seen is not None and name in self._done:
                    seen(place, dict(self._done[name]["result"]))
        except Exception as error:
            if self.crew.size == 1:
                raise
            failure = error
        self._merge(mine, failure)
        for name, _ in pieces:
            self._costs[name] = Cost(*self._done[name]["cost"])
        return [dict(self._done[name]["result"]) for name, _ in pieces]

    def _do(self, piece: str, work: Work) -> dict[str, Any]:
        before = self._meter.read()
        result = work()
        cost = self._meter.read().minus(before)
        self._write(piece, result, cost)
        done = {"piece": piece, "result": result, "cost": list(cost)}
        self._done[piece] = done
        return done

    def _merge(self, mine: Mapping[str, Any], failure: Exception | None) -> None:
        """Every process learns what the others found; a failure of one is raised by all, so that none waits."""
        if self.crew.size == 1:
            return
        found = self.crew.gather({"done": dict(mine), "failure": None if failure is None else carried(failure)})
        if failure is not None:
            raise failure
        for other in found:
            if other["failure"] is not None:
                raise other["failure"]
            self._done.update(other["done"])

    def cost(self, *starts: str) -> Cost:
        """The cost of all pieces whose names start so."""
        total = Cost()
        for piece, cost in self._costs.items():
            if piece.startswith(starts):
                total = total.plus(cost)
        return total


def carried(failure: Exception) -> Exception:
    """The failure as it can be told to other processes: itself, or its text where it cannot be pickled and unpickled.

    >>> carried(ValueError("seven"))
    ValueError('seven')
    """
    try:
        copy = pickle.loads(pickle.dumps(failure))
    except Exception:  # of foreign code: anything can go wrong there
        copy = None
    return failure if type(copy) is type(failure) else RuntimeError(f"{type(failure).__name__}: {failure}")
