"""What a study has to know of its data sets, each read once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deconfound.core.protocols import ConfoundedSource, Intervenable
from deconfound.data import load as load_data
from deconfound.errors import require
from deconfound.recipes.resolve import read_spec, resolve
from deconfound.recipes.schema import Recipe

if TYPE_CHECKING:
    from deconfound.recipes.study_plan import Planned


@dataclass(frozen=True)
class Facts:
    """What a data set is: its family, the digests of its splits, how many test images there are.

    ``operations`` and ``confounded`` say whether its test images have do-operations, and an agreement probability.
    """

    family: str
    train: str
    test: str
    tests: int
    operations: bool
    confounded: bool


@dataclass
class Shelf:
    """Data sets of a study; each is read once, and only its facts are kept."""

    _known: dict[tuple[str, int | None], Facts] = field(default_factory=dict)
    _counted: dict[tuple[str, int | None], int] = field(default_factory=dict)

    def facts(self, run: Planned) -> tuple[Facts, Recipe]:
        """The facts of a run's data at the size that its recipe asks for, and the complete recipe.

        Raises:
            InputError: data that cannot be read.
        """
        draft = _draft(run)
        found = self._read(run.data, draft.image_size)
        spec = read_spec(run.recipe)
        family = run.changes.get("family") or spec.get("family") or found.family
        resolved = resolve(spec, data=run.data, family=family, changes=run.changes)
        if resolved.image_size != draft.image_size:
            found = self._read(run.data, resolved.image_size)
        return found, resolved

    def tests(self, run: Planned) -> int:
        """How many test images a run's data has; the others are not decoded, and nothing is hashed.

        Raises:
            InputError: data that cannot be read.
        """
        size = _draft(run).image_size
        if (run.data, size) not in self._counted:
            data = load_data(run.data, size=size, parts=("test",))
            assert data.test is not None  # load refuses data without the part that is asked for
            self._counted[run.data, size] = len(data.test)
        return self._counted[run.data, size]

    def _read(self, name: str, size: int | None) -> Facts:
        if (name, size) not in self._known:
            data = load_data(name, size=size)
            require(data.train is not None, "data", name, "a data set with train images")
            require(data.test is not None, "data", name, "a data set with test images")
            assert data.train is not None  # said above
            assert data.test is not None
            self._known[name, size] = Facts(
                family=data.family,
                train=data.train.digest(),
                test=data.test.digest(),
                tests=len(data.test),
                operations=isinstance(data.test, Intervenable),
                confounded=isinstance(data.test, ConfoundedSource),
            )
        return self._known[name, size]


def _draft(run: Planned) -> Recipe:
    """The recipe of a run as far as it is known without data."""
    spec = read_spec(run.recipe)
    family = run.changes.get("family") or spec.get("family") or "generic"
    return resolve(spec, data=run.data, family=family, changes=run.changes)
