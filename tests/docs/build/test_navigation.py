from navigation import complete

PAGES = ["index.md", "a.md", "extra.md", "e/README.md", "e/b.md", "e/a.md", "e/deep/c.md"]


def test_patterns_take_what_is_named_nowhere_else_index_first():
    nav = [{"Home": "index.md"}, {"E": [{"B first": "e/b.md"}, "e/*.md"]}, {"More": ["*.md"]}]
    assert complete(nav, PAGES) == [
        {"Home": "index.md"},
        {"E": [{"B first": "e/b.md"}, "e/README.md", "e/a.md"]},
        {"More": ["a.md", "extra.md"]},
    ]


def test_pages_that_may_not_exist():
    nav = [{"A": "a.md?"}, {"No": "no.md?"}, {"Group": [{"No": "none.md?"}]}, "extra.md?"]
    assert complete(nav, PAGES) == [{"A": "a.md"}, "extra.md"]


def test_a_page_that_must_exist_stays_for_mkdocs_to_miss():
    assert complete([{"No": "no.md"}], PAGES) == [{"No": "no.md"}]
