import griffe
import pytest
from docstrings import Roles, to_markdown


def known(name):
    return {"Reward": "reelrl.rewards.Reward", "a.b.make": "a.b.make"}.get(name)


@pytest.mark.parametrize(
    "text, markdown",
    [
        (":class:`Reward` is", "[`Reward`][reelrl.rewards.Reward] is"),
        ("a :func:`~a.b.make` b", "a [`make`][a.b.make] b"),
        ("a :func:`a.b.make` b", "a [`a.b.make`][a.b.make] b"),
        (":meth:`torch.Tensor.to`", "`torch.Tensor.to`"),
        (":math:`x_1\n    + y`.", r"\(x_1 + y\)."),
        (".. math:: a = b\n\nText", "\n\\[ a = b \\]\n\n\nText"),
        ("  .. math::\n    a = b\n    + c\n\n  Text", "\n  \\[ a = b + c \\]\n\n\n  Text"),
        ("``code`` and `:not a role`", "``code`` and `:not a role`"),
    ],
)
def test_roles_and_formulas(text, markdown):
    assert to_markdown(text, known) == markdown


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "house"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        '"""See :mod:`house.room` and :class:`Chair`."""\nfrom house.room import Chair\n'
    )
    (folder / "room.py").write_text(
        '"""A room."""\n'
        "LIMIT = 3\n"
        "class Chair:\n"
        '    """To :meth:`sit` on; :attr:`Chair.legs`, :data:`LIMIT`, :func:`nothing`."""\n'
        "    legs: int = 4\n"
        "    def sit(self):\n"
        '        """Ends with :meth:`stand`, see :class:`Chair`."""\n'
        "    def __call__(self):\n"
        '        """See :meth:`Chair.__call__`."""\n'
        "    def stand(self):\n"
        '        """Up."""\n'
    )
    return griffe.load("house", search_paths=[tmp_path], extensions=griffe.load_extensions(Roles))


def test_names_are_looked_up_where_they_stand(package):
    assert package.docstring.value == (
        "See [`house.room`][house.room] and [`Chair`][house.room.Chair]."
    )
    # What has no docstring has no entry: its class is the nearest that does.
    assert package["room.Chair"].docstring.value == (
        "To [`sit`][house.room.Chair.sit] on; [`Chair.legs`][house.room.Chair], "
        "[`LIMIT`][house.room], `nothing`."
    )
    # Nor has what is not public.
    assert package["room.Chair.__call__"].docstring.value == (
        "See [`Chair.__call__`][house.room.Chair]."
    )
    assert package["room.Chair.sit"].docstring.value == (
        "Ends with [`stand`][house.room.Chair.stand], see [`Chair`][house.room.Chair]."
    )
