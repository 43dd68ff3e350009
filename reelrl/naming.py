"""Names for things: one registry for all that is found by name, one hint for a misspelt one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")
F = TypeVar("F")


def nearest(word: object, known: Iterable[str]) -> str:
    """The end of an error message: the name that was probably meant, and the known ones."""
    names = sorted(known)
    near = get_close_matches(str(word), names, n=1)
    hint = f"; did you mean {near[0]!r}? Known" if near else "; known"
    return f"{hint}: {', '.join(names) or 'none'}"


class Registry(Mapping[str, T]):
    """Things of one kind by name, in alphabetical order.

    Args:
        kind: name of one entry's kind in error messages.
        package: dotted name of a package whose modules register their entries; all of them,
            and all of its sub-packages, are imported when the registry is first read. None means
            that whoever registers is imported anyway. A module whose name starts with ``_`` is
            left out: it registers nothing and may need a library that is slow to load.
    """

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind, self.package = kind, package
        self._entries: dict[str, T] = {}
        self._complete = package is None

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator that gives a class or a function its name here.

        Raises:
            ValueError: if the name is taken by another one.
        """

        def decorate(entry: F) -> F:
            # An entry from elsewhere hears of a taken name here, and not at the first look-up.
            if not getattr(entry, "__module__", "").startswith(f"{self.package}."):
                self._read_package()
            taken = self._entries.get(name)
            # By qualified name, so that re-running a notebook cell may replace its own class.
            if taken is not None and _qualified(taken) != _qualified(entry):
                raise ValueError(f"{self.kind} name {name!r} is taken by {taken!r}")
            # F is whatever is decorated; that it is a T is for the caller to see to.
            self._entries[name] = entry  # type: ignore[assignment]
            return entry

        return decorate

    def find(self, name: str) -> T:
        """The entry of that name.

        Raises:
            ValueError: for an unknown name; the message names the nearest known one.
        """
        self._read_package()
        if name not in self._entries:
            raise ValueError(f"unknown {self.kind} {name!r}{nearest(name, self._entries)}")
        return self._entries[name]

    def __getitem__(self, name: str) -> T:
        self._read_package()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._read_package()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._read_package()
        return len(self._entries)

    @contextmanager
    def isolated(self, keep: Callable[[T], bool] = lambda entry: True) -> Iterator[None]:
        """A context that begins with some of the entries and forgets later ones at its end.

        Args:
            keep: tells the entries that are known inside; by default all of them.
        """
        self._read_package()
        before = dict(self._entries)
        self._entries = {name: entry for name, entry in before.items() if keep(entry)}
        try:
            yield
        finally:
            self._entries = before

    def _read_package(self) -> None:
        if self._complete or self.package is None:
            return
        # First, because a module may look into the registry while it is imported.
        self._complete = True
        try:
            _import_below(importlib.import_module(self.package))
        except BaseException:
            # Half a registry would call the other half unknown.
            self._complete = False
            raise


def _import_below(package: ModuleType) -> None:
    """Import the public modules of a package and of its sub-packages."""
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            found = importlib.import_module(f"{package.__name__}.{module.name}")
            if module.ispkg:
                _import_below(found)


def _qualified(entry: object) -> str:
    return getattr(entry, "__qualname__", type(entry).__qualname__)
