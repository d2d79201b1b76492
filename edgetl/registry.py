"""Named things that plug-ins may add: a table of edgetl's own, and a group of entry points."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from typing import Any, Generic, TypeVar, cast

from edgetl.errors import UnknownNameError

T = TypeVar("T")
log = logging.getLogger("edgetl")


class Registry(Generic[T]):
    """Things by name; each is imported when it is asked for.

    Entry points are looked for only when a name is not edgetl's own, as reading the metadata of all
    packages takes long. A plug-in that cannot be imported is logged once and left out.
    """

    def __init__(self, kind: str, group: str, own: dict[str, str]) -> None:
        """`own` maps names to "module" or "module:attribute"; `kind` is what errors call one."""
        self.kind, self.group, self.own = kind, group, own
        self._found: dict[str, T] = {}
        self._added: dict[str, T] | None = None

    def find(self, name: str) -> T:
        """The thing of that name; UnknownNameError suggests the nearest ones."""
        if name not in self._found and name in self.own:
            self._found[name] = self._imported(self.own[name])
        elif name not in self._found:
            self._found |= self._plugins()
        if name not in self._found:
            raise UnknownNameError(self.kind, name, self.names(), listing="edgetl doctor")
        return self._found[name]

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self._plugins()

    def names(self) -> tuple[str, ...]:
        """All names, edgetl's own first."""
        return (*self.own, *self._plugins())

    @staticmethod
    def _imported(place: str) -> T:
        module, _, attribute = place.partition(":")
        found: Any = importlib.import_module(module)
        return cast(T, getattr(found, attribute) if attribute else found)

    def _plugins(self) -> dict[str, T]:
        """What entry points add, by name; looked for once."""
        if self._added is not None:
            return self._added
        found = self._added = dict[str, T]()
        for point in importlib.metadata.entry_points(group=self.group):
            home = point.dist.name if point.dist else point.value
            try:
                if point.name in self.own:
                    raise ImportError(f"edgetl has a {self.kind} of that name")
                found[point.name] = point.load()
            except Exception as error:  # whatever a stranger's module raises
                log.warning("%s '%s' of %s is left out: %s", self.kind, point.name, home, error)
        return found
