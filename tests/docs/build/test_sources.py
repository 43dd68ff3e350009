import pytest
from sources import example_pages, linked, page, rewrite


@pytest.fixture
def root(tmp_path):
    for path in ("examples/run.py", "tests/deep/test_a.py", "docs/b.md", "zoo/clip.gif"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(
            '"""Says this.\n\nAnd more."""\n\n\ndef test_it():\n    """\n```\n    """\n'
        )
    return tmp_path


@pytest.mark.parametrize(
    "text, at, turned",
    [
        ("[r](../examples/run.py)", "a.md", "[r](examples/run.md)"),
        ("[r](../../examples/run.py)", "d/a.md", "[r](../examples/run.md)"),
        ("[t](../tests/deep/test_a.py#L3)", "a.md", "[t](source/tests/deep/test_a.py.md)"),
        ("![c](../zoo/clip.gif)", "a.md", "![c](source/zoo/clip.gif)"),
        ("[b](b.md#part)", "a.md", "[b](b.md#part)"),
        ("[w](https://x.org/../y)", "a.md", "[w](https://x.org/../y)"),
        ("[gone](../tests/gone.py)", "a.md", "[gone](../tests/gone.py)"),
        ("```\n[r](../examples/run.py)\n```\n", "a.md", "```\n[r](../examples/run.py)\n```\n"),
        (
            "`tests/deep/test_a.py::test_it` x",
            "a.md",
            "[`test_it`](source/tests/deep/test_a.py.md#__codelineno-0-6) x",
        ),
        ("`tests/deep/test_a.py::test_no`", "a.md", "`tests/deep/test_a.py::test_no`"),
        ("[`tests/deep/test_a.py`](b.md)", "a.md", "[`tests/deep/test_a.py`](b.md)"),
    ],
)
def test_links_that_leave_the_folder(text, at, turned, root):
    assert rewrite(text, at, root) == turned


def test_what_a_page_needs(root):
    text = "[r](../examples/run.py) [b](b.md) `tests/deep/test_a.py::test_it` [n](../no.py)"
    assert linked(text, "a.md", root) == {"examples/run.py", "tests/deep/test_a.py"}


def test_a_file_is_shown_whole_whatever_fences_it_holds(root):
    text = page(root, "tests/deep/test_a.py")
    assert text.startswith("---\nsearch: {exclude: true}\n---\n# tests/deep/test_a.py\n")
    assert text.endswith('def test_it():\n    """\n```\n    """\n~~~~~~\n')


def test_examples_say_what_they_are(root):
    made = example_pages(root)
    assert sorted(made) == ["examples/index.md", "examples/run.md"]
    assert "| [`run.py`](run.md) | Says this. |" in made["examples/index.md"]
