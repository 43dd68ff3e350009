"""One registry for all that is found by name."""

import sys

import pytest

from reelrl.naming import Registry, nearest


def test_names_are_in_alphabetical_order_whatever_came_first():
    registry = Registry("thing")
    for name in ("pear", "apple", "fig"):
        registry.register(name)(object())
    assert list(registry) == ["apple", "fig", "pear"]
    assert len(registry) == 3


def test_an_unknown_name_is_answered_with_the_nearest_and_all_known():
    registry = Registry("fruit")
    registry.register("pear")(1)
    registry.register("apple")(2)
    with pytest.raises(
        ValueError, match=r"^unknown fruit 'appel'; did you mean 'apple'\? Known: apple, pear$"
    ):
        registry.find("appel")
    assert nearest("zzz", registry) == "; known: apple, pear"
    assert nearest("zzz", []) == "; known: none"


def test_a_class_that_is_defined_again_replaces_itself_and_no_other():
    registry = Registry("thing")

    def define():
        class Mine:
            pass

        return Mine

    first, again = define(), define()
    registry.register("mine")(first)
    registry.register("mine")(again)
    assert registry["mine"] is again
    with pytest.raises(ValueError, match="thing name 'mine' is taken by"):
        registry.register("mine")(int)


@pytest.mark.parametrize(
    "read", [lambda r: r.find("a"), lambda r: r["a"], list, len], ids=["find", "get", "iter", "len"]
)
def test_a_package_is_imported_when_its_names_are_first_asked_for(tmp_path, monkeypatch, read):
    package = tmp_path / "shelf_of_names"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from reelrl.naming import Registry\nSHELF = Registry('thing', __name__)\n"
    )
    (package / "one.py").write_text("from shelf_of_names import SHELF\nSHELF.register('a')('A')\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("shelf_of_names")]:
        monkeypatch.delitem(sys.modules, name)
    from shelf_of_names import SHELF

    assert "shelf_of_names.one" not in sys.modules
    assert read(SHELF) in ("A", ["a"], 1)
    assert list(SHELF) == ["a"]
