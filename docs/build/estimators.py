"""Pages of the estimators about which nobody has written one."""

from __future__ import annotations

from pathlib import Path

from reelrl.algos.advantages import list_estimators
from reelrl.zoo.documents.estimator_pages import drafted

FOLDER = "estimators"


def pages(docs: Path) -> dict[str, str]:
    """Site path -> Markdown of every estimator without a page in ``docs``.

    Args:
        docs: folder of the written pages.
    """
    paths = {name: f"{FOLDER}/{name}.md" for name in list_estimators()}
    return {path: drafted(name) for name, path in paths.items() if not (docs / path).is_file()}
