"""Yaml of presets, suites and ``--set``: plain values in one document, each key once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LONGEST = 1_000_000
"""Characters of a text; a list of ten thousand captions is shorter."""
DEEPEST = 40
"""Levels of lists and mappings in each other."""
MOST = 200_000
"""Values of a text; a value that an alias repeats is counted again."""
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float"))


def read_yaml(path: Path) -> Any:
    """The plain values in a file.

    Raises:
        ValueError: in one line that names the file, for text that is not UTF-8 or that
            :func:`parse_yaml` refuses.
        OSError: if it cannot be read.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be text in UTF-8, got byte 0x{raw[error.start]:02x} at {error.start}"
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """The plain values that a text stands for: None, bool, int, float, str, list, dict.

    A date is a text. Tags, a second document, a key that comes twice or is no text, and values that
    hold themselves are refused.

    Args:
        text: yaml.
        source: name of the text in error messages.

    Raises:
        ValueError: for anything else, in one line with the source and the place in it.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{source} must have at most {LONGEST} characters, got {len(text)}")
    try:
        return _Reader(text, source).document()
    except UnicodeEncodeError as error:
        raise ValueError(f"{source!r} must be text, got a part of a character") from error
    except yaml.YAMLError as error:
        # Its message is a drawing of several lines.
        raise ValueError(f"{source} is no yaml: {' '.join(str(error).split())}") from error


@dataclass
class _Value:
    """A value and how many values it is made of."""

    value: Any
    size: int = 1


class _Reader:
    """Builds values from a parser's events; the depth is known before anything recurses."""

    def __init__(self, text: str, source: str) -> None:
        self.loader, self.source = _Loader(text), source
        self.anchors: dict[str, _Value] = {}
        self.depth, self.size = 0, 0

    def document(self) -> Any:
        """The only document; None if there is none."""
        try:
            self._next()  # begin of the stream
            if self.loader.check_event(yaml.StreamEndEvent):
                return None
            self._next()
            found = self._value(self._next())
            self._next()
            if not self.loader.check_event(yaml.StreamEndEvent):
                raise self._wrong("expected one document, got another one", self._next())
            return found.value
        finally:
            self.loader.dispose()

    def _next(self) -> Any:
        return self.loader.get_event()

    def _value(self, event: Any) -> _Value:
        if isinstance(event, yaml.AliasEvent):
            return self._count(self._alias(event), event)
        if event.tag is not None:
            raise self._wrong(f"expected plain values, got the tag {event.tag!r}", event)
        if isinstance(event, yaml.ScalarEvent):
            found = _Value(self._scalar(event))
        else:
            self.depth += 1
            if self.depth > DEEPEST:
                raise self._wrong(f"expected at most {DEEPEST} levels of nesting", event)
            is_list = isinstance(event, yaml.SequenceStartEvent)
            found = self._list() if is_list else self._mapping()
            self.depth -= 1
        if event.anchor is not None:
            self.anchors[event.anchor] = found
        return self._count(found, event)

    def _count(self, found: _Value, event: Any) -> _Value:
        self.size += found.size if isinstance(event, yaml.AliasEvent) else 1
        if self.size > MOST:
            raise self._wrong(f"expected at most {MOST} values", event)
        return found

    def _alias(self, event: Any) -> _Value:
        if event.anchor not in self.anchors:
            raise self._wrong(f"expected an anchor above the alias {event.anchor!r}", event)
        return self.anchors[event.anchor]

    def _list(self) -> _Value:
        items: list[Any] = []
        size = 1
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            found = self._value(event)
            items.append(found.value)
            size += found.size
        return _Value(items, size)

    def _mapping(self) -> _Value:
        items: dict[str, Any] = {}
        size = 1
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event)
            if key in items:
                raise self._wrong(f"expected every key once, got {key!r} again", event)
            found = self._value(self._next())
            items[key] = found.value
            size += found.size
        return _Value(items, size)

    def _key(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
            raise self._wrong("expected a text as key", event)
        key = self._scalar(event)
        if not isinstance(key, str):
            raise self._wrong(f"expected a text as key, got {key!r}: put it in quotes", event)
        return key

    def _scalar(self, event: Any) -> Any:
        tag = self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag not in _PLAIN:
            return event.value
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
        try:
            return self.loader.construct_object(node)
        except ValueError as error:
            raise self._wrong(f"expected a number, got {event.value[:40]!r}", event) from error

    def _wrong(self, text: str, event: Any) -> ValueError:
        mark = event.start_mark
        return ValueError(f"{self.source}, line {mark.line + 1}, column {mark.column + 1}: {text}")
