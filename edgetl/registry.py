"""Named things that plug-ins may add: a table of edgetl's own, and a group of entry points."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

from edgetl.errors import UnknownNameError

T = TypeVar("T")
log = logging.getLogger("edgetl")


def look_up(name: str, known: Mapping[str, T], kind: str, *, listing: str) -> T:
    """What is known by that name; UnknownNameError, which names `listing`, where nothing is."""
    if name not in known:
        raise UnknownNameError(kind, name, known, listing=listing)
    return known[name]


class Registry(Generic[T]):
    """Things by name; each is imported when it is asked for, and not before.

    Entry points are looked for only when a name is not edgetl's own, as reading the metadata of all
    packages takes long. A plug-in that cannot be imported, that lacks something, or whose name is
    taken, is logged once and left out.
    """

    def __init__(self, kind: str, group: str, own: dict[str, str], like: type) -> None:
        """`own` maps names to "module" or "module:attribute"; `kind` is what errors call one.

        `like` is the class or protocol whose public names a plug-in's thing must have.
        """
        self.kind, self.group, self.own = kind, group, own
        names = dict.fromkeys((*vars(like), *getattr(like, "__annotations__", ())))
        self.needs = [name for name in names if not name.startswith("_")]
        self._found: dict[str, T] = {}
        self._points: dict[str, importlib.metadata.EntryPoint] | None = None

    def find(self, name: str) -> T:
        """The thing of that name; UnknownNameError suggests the nearest ones."""
        if name not in self._found and name in self.own:
            module, _, attribute = self.own[name].partition(":")
            made: Any = importlib.import_module(module)
            self._found[name] = cast(T, getattr(made, attribute) if attribute else made)
        elif name not in self._found and (point := self._plugins().get(name)):
            try:
                self._found[name] = self._whole(point.load(), name)
            except Exception as error:  # whatever a stranger's module raises
                del self._plugins()[name]
                self._leave_out(point, error)
        if name not in self._found:
            raise UnknownNameError(self.kind, name, self.names(), listing="edgetl doctor")
        return self._found[name]

    def names(self) -> tuple[str, ...]:
        """All names, edgetl's own first; a plug-in that nobody asked for yet may fail to import."""
        return (*self.own, *self._plugins())

    def __contains__(self, name: object) -> bool:
        """Whether there is a thing of that name, which a plug-in's is imported for."""
        if isinstance(name, str) and name not in self.own:
            with contextlib.suppress(UnknownNameError):
                return self.find(name) is not None
        return name in self.own

    def _plugins(self) -> dict[str, importlib.metadata.EntryPoint]:
        """What entry points add, by name; looked for once."""
        if self._points is None:
            self._points = {}
            for point in importlib.metadata.entry_points(group=self.group):
                if point.name in self.own or point.name in self._points:
                    self._leave_out(point, "the name is taken")
                else:
                    self._points[point.name] = point
        return self._points

    def _whole(self, made: T, name: str) -> T:
        """What a plug-in gave; TypeError where it lacks something that edgetl will ask it for."""
        if lacking := [need for need in self.needs if not hasattr(made, need)]:
            raise TypeError(f"it has no {', '.join(lacking)}")
        config = getattr(made, "__struct_config__", None)  # what is stored is found by its tag
        called = config.tag if config else getattr(made, "name", name)
        if called != name:
            raise TypeError(f"it calls itself {called!r}")
        return made

    def _leave_out(self, point: importlib.metadata.EntryPoint, why: object) -> None:
        home = point.dist.name if point.dist else point.value
        log.warning("%s '%s' of %s is left out: %s", self.kind, point.name, home, why)
