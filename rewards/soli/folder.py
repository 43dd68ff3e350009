"""A reward model on disk: one JSON file of facts, one safetensors file with the head.

The model the head sits on is not copied: the facts say where it lies, relative to the folder or
absolute, and the digest of its contents, because a head on other hidden states than those it was
trained on gives numbers that mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from reelrl.checks import Ge, Gt, check_fields
from reelrl.rewards.soli.heads import Head, HeadConfig, make_head
from reelrl.rewards.vlm.model import model_folder

FACTS, WEIGHTS = "soli_reward.json", "head.safetensors"
FORMAT = 1
READ = (
    "*.safetensors",
    "config.json",
    "*preprocessor_config.json",
    "tokenizer*.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.*",
)
"""Files of a model folder that its hidden states depend on; a model card may change."""


@dataclass(frozen=True)
class Question:
    """How a clip is put to the model.

    Attributes:
        template: the user's message, ``{prompt}`` where the caption goes.
        system: the system message; None means the chat template's own.
        num_frames: frames that are shown, spread evenly with both ends in; None shows all.
        clip_fps: frames a second the clips are meant to be shown at.

    Raises:
        ValueError: for a template without ``{prompt}``, or numbers out of range.
    """

    template: str
    system: str | None = None
    num_frames: Annotated[int, Ge(2)] | None = None
    clip_fps: Annotated[float, Gt(0)] = 16.0

    def __post_init__(self) -> None:
        check_fields(self)
        if "{prompt}" not in self.template:
            raise ValueError(f"the template must hold {{prompt}}, got {self.template[:80]!r}")


@dataclass(frozen=True)
class Facts:
    """All that a reward model is besides its weights.

    Attributes:
        dimension: the judged axis, for example ``"phys"``; part of the component's name.
        head: sizes and parts of the head.
        taps: layers of the language model it reads, counted from 1.
        question: how a clip is put to the model.
        backbone: folder of the model relative to the reward model's, or the name of one that ships.
        backbone_digest: :func:`content_digest` of it.
        training: its training data and settings, for people.
    """

    dimension: str
    head: HeadConfig
    taps: tuple[int, ...]
    question: Question
    backbone: str
    backbone_digest: str
    training: dict[str, Any] = field(default_factory=dict)


def save_reward_model(folder: Path, facts: Facts, head: Head) -> None:
    """Write a reward model; each file is replaced whole, the facts last."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    _replace(folder / WEIGHTS, save(state))
    text = json.dumps({"format": FORMAT, **asdict(facts)}, indent=1) + "\n"
    _replace(folder / FACTS, text.encode())


def read_facts(folder: str | Path) -> Facts:
    """The facts of a reward model.

    Raises:
        ValueError: if the folder is none or holds none, or one of another format.
    """
    path = model_folder(folder) / FACTS
    if not path.is_file():
        raise ValueError(f"{folder} holds no {FACTS}: expected a folder of `reelrl train-reward`")
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.pop("format", None) != FORMAT:
        raise ValueError(f"{path} has another format than {FORMAT}, which this version reads")
    values["head"], values["question"] = (
        HeadConfig(**values["head"]),
        Question(**values["question"]),
    )
    values["taps"] = tuple(values["taps"])
    return Facts(**values)


def load_head(folder: str | Path, facts: Facts) -> Head:
    """The trained head, frozen and in evaluation mode.

    Raises:
        RuntimeError: if the weights do not fit the head in the facts.
    """
    from safetensors.torch import load_file

    head = make_head(facts.head).float()  # whatever torch's default dtype is
    head.load_state_dict(load_file(Path(folder) / WEIGHTS))
    return head.eval().requires_grad_(False)


def find_backbone(folder: str | Path, facts: Facts, given: str | Path | None = None) -> Path:
    """The folder of the model that a reward model sits on.

    Args:
        folder: of the reward model.
        facts: of it.
        given: where the model lies, if not where the facts say.

    Raises:
        ValueError: if it is not there, or holds other contents than in training.
    """
    path = Path(folder) / facts.backbone
    try:
        path = model_folder(given or (path if path.is_dir() else facts.backbone))
    except ValueError as error:
        raise ValueError(
            f"{folder} sits on the model {facts.backbone}, which is not there; give backbone= its "
            f"place. {error}"
        ) from error
    found = content_digest(path)
    if found != facts.backbone_digest:
        raise ValueError(
            f"{path} is not the model that {folder} was trained on: digest {found[:12]}, expected "
            f"{facts.backbone_digest[:12]}"
        )
    return path


def place_of(backbone: str, folder: Path) -> str:
    """How the facts name a model: relative to the reward model, so that both can move together.

    One that is no folder has a name, which means the same everywhere.
    """
    if not Path(backbone).is_dir():
        return backbone
    return os.path.relpath(Path(backbone).resolve(), folder.resolve())


def content_digest(folder: str | Path) -> str:
    """SHA-256 over names and contents of the files that decide a model's hidden states."""
    digest = hashlib.sha256()
    root = model_folder(folder)
    for path in sorted({path for pattern in READ for path in root.glob(pattern)}):
        digest.update(f"{path.name}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
