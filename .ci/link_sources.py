"""Lay out build/src/reelrl, in which reelrl.envs lies in reelrl/envs, out of links.

The four packages lie at the top of the repository. setuptools maps them into ``reelrl``; a type
checker, an editor or a parser of docstrings reads folders and knows nothing of that mapping. Point
such a tool at ``build/src``: ``make types`` does, and so does the documentation.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("rewards", "envs", "algos", "zoo")


def link_sources(root: Path = ROOT) -> Path:
    """Make or renew the links.

    Args:
        root: of the repository.

    Returns:
        The folder to search for ``reelrl``.
    """
    target = root / "build" / "src" / "reelrl"
    target.mkdir(parents=True, exist_ok=True)
    files = {path.name: path for path in (root / "reelrl").iterdir() if path.is_file()}
    wanted = files | {floor: root / floor for floor in FLOORS}
    for link in target.iterdir():
        if link.is_symlink():
            link.unlink()
    for name, path in wanted.items():
        (target / name).symlink_to(path)
    return target.parent


if __name__ == "__main__":
    print(link_sources())
