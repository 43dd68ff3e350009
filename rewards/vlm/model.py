"""A local model folder of the Qwen2-VL or Qwen2.5-VL class: tensors in, logits or text out."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from reelrl.rewards.vlm.patches import PatchConfig, to_patches

CLASSES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
}
"""``model_type`` of a config -> class of transformers."""
CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
SHIPPED = ("nano-judge",)
"""Names of the judges that come with the library: folders under ``checkpoints``."""
DEFAULT_RATE = 2.0
"""Frames a second that Qwen's own tools sample."""
VIDEO = 2
"""Modality of a video token in ``mm_token_type_ids``; text is 0."""


@dataclass(frozen=True)
class Query:
    """One question about one or more clips.

    Attributes:
        clips: each (F, H, W, 3) in [0, 1], the frames the model is to see.
        text: the text behind them.
        system: the system message; None means the chat template's own.
        rates: frames a second of each clip, as shown; Qwen2.5-VL's positions are in seconds.
            Without any they are 2.
    """

    clips: tuple[Tensor, ...]
    text: str
    system: str | None = None
    rates: tuple[float, ...] = ()


class QwenVL:
    """A frozen model with its tokenizer.

    Several components may share one and ask from several threads; they are served in turn.

    Args:
        model: of one of the two classes, or a subclass.
        tokenizer: with the chat template.
        patches: how frames are cut up.

    Raises:
        ValueError: if the tokenizer has no chat template.
    """

    def __init__(self, model: Any, tokenizer: Any, patches: PatchConfig) -> None:
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template: expected an instruction model")
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.patches = patches
        # transformers' Qwen models keep positions of the last batch (rope_deltas) on the module.
        self._turn = Lock()
        self.accepted = set(inspect.signature(model.forward).parameters)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> QwenVL:
        """Open a shipped judge, or a folder that ``transformers`` would.

        Nothing is downloaded, no code in the folder is run.

        Raises:
            ValueError: if it is no folder or holds a model of another class.
        """
        import transformers

        path = model_folder(folder)
        config = transformers.AutoConfig.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        if config.model_type not in CLASSES:
            raise ValueError(
                f"{path} holds a model of type {config.model_type!r}, expected one of "
                f"{', '.join(CLASSES)}"
            )
        model = load_weights(getattr(transformers, CLASSES[config.model_type]), path, dtype=dtype)
        patches = PatchConfig.from_folder(path)
        return cls(model.to(device), open_tokenizer(path), patches)

    def prompt_text(self, query: Query) -> str:
        """The chat as the template writes it, one placeholder per clip."""
        content = [{"type": "video"} for _ in query.clips] + [{"type": "text", "text": query.text}]
        system = [] if query.system is None else [{"role": "system", "content": query.system}]
        text: str = self.tokenizer.apply_chat_template(
            [*system, {"role": "user", "content": content}],
            tokenize=False,
            add_generation_prompt=True,
        )
        return text

    def inputs(
        self, queries: Sequence[Query], answers: Sequence[Sequence[int]] = ()
    ) -> dict[str, Any]:
        """The tensors that the model's ``forward`` takes, padded on the left.

        Args:
            queries: N questions.
            answers: N lists of tokens to put behind them.

        Raises:
            ValueError: if the template writes another number of clips than there are.
        """
        pixels, grids, rows = [], [], []
        for query in queries:
            cut = [
                to_patches(clip[None].to(self.model.device), self.patches) for clip in query.clips
            ]
            pixels += [patches for patches, _ in cut]
            grids += [grid for _, grid in cut]
            rows.append(self._tokens(query, [grid for _, grid in cut]))
        rows = (
            [row + list(more) for row, more in zip(rows, answers, strict=True)] if answers else rows
        )
        rates = [r for query in queries for r in query.rates or [DEFAULT_RATE] * len(query.clips)]
        length = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor(
            [[pad] * (length - len(row)) + row for row in rows], dtype=torch.int64, device="cpu"
        )
        mask = torch.tensor(
            [[0] * (length - len(row)) + [1] * len(row) for row in rows],
            dtype=torch.int64,
            device="cpu",
        )
        found = {
            "input_ids": ids,
            "attention_mask": mask,
            "pixel_values_videos": torch.cat(pixels).to(self.model.dtype),
            "video_grid_thw": torch.tensor(grids, dtype=torch.int64, device="cpu"),
            "mm_token_type_ids": (ids == self.model.config.video_token_id).int() * VIDEO,
            "second_per_grid_ts": self.patches.temporal
            / torch.tensor(rates, dtype=torch.float32, device="cpu"),
        }
        # Each version and class of transformers' model takes some of these.
        return {k: v.to(self.model.device) for k, v in found.items() if k in self.accepted}

    def _tokens(self, query: Query, grids: list[tuple[int, int, int]]) -> list[int]:
        video = self.model.config.video_token_id
        ids = self.tokenizer(self.prompt_text(query), add_special_tokens=False)["input_ids"]
        if ids.count(video) != len(grids):
            raise ValueError(
                f"the chat template wrote {ids.count(video)} clips, the question has {len(grids)}"
            )
        counts = iter([t * y * x // self.patches.merge**2 for t, y, x in grids])
        return [token for i in ids for token in ([i] * next(counts) if i == video else [i])]

    @torch.no_grad()
    def next_logits(self, queries: Sequence[Query]) -> Tensor:
        """(N, V) float32 logits of the first token of each answer."""
        inputs = self.inputs(queries)
        with self._turn:
            output = self.model(**inputs, logits_to_keep=1, use_cache=False)
        logits: Tensor = output.logits[:, -1]
        return logits.float()

    @torch.no_grad()
    def hidden(
        self, queries: Sequence[Query], answers: Sequence[Sequence[int]] = ()
    ) -> tuple[Tensor, Tensor]:
        """Last hidden states (N, L, D) and the tokens (N, L) they stand at."""
        inputs = self.inputs(queries, answers)
        with self._turn:
            states = self.model.model(**inputs, use_cache=False).last_hidden_state
        return states, inputs["input_ids"]

    @torch.no_grad()
    def tapped(self, queries: Sequence[Query], taps: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Hidden states at some layers of the language model, from one forward.

        Args:
            queries: N questions.
            taps: layers counted from 1; the state of the last one is normalised, as the language
                head reads it.

        Returns:
            One (N, L, D) per tap, and the mask (N, L) of the tokens that are no padding, bool.

        Raises:
            ValueError: for a tap that is no layer.
        """
        layers = self.num_layers
        if not taps or not all(1 <= tap <= layers for tap in taps):
            raise ValueError(f"expected taps from 1 to {layers}, got {list(taps)}")
        inputs = self.inputs(queries)
        # Entry 0 is the input of the first layer.
        with self._turn:
            states = self.model.model(**inputs, use_cache=False, output_hidden_states=True)
        return [states.hidden_states[tap] for tap in taps], inputs["attention_mask"].bool()

    @property
    def num_layers(self) -> int:
        """Layers of the language model."""
        layers: int = self.model.config.get_text_config().num_hidden_layers
        return layers

    @property
    def width(self) -> int:
        """D of the language model's hidden states."""
        width: int = self.model.config.get_text_config().hidden_size
        return width

    @torch.no_grad()
    def generate(self, queries: Sequence[Query], max_new_tokens: int) -> list[list[int]]:
        """The likeliest token at every step, up to the end of the answer or the limit."""
        inputs = self.inputs(queries)
        with self._turn:
            output = self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                # The folder's sampling settings are not ours; left in they warn that search is
                # greedy.
                temperature=None,
                top_p=None,
                top_k=None,
                # A clip in the answer would be one that nobody gave.
                suppress_tokens=self._vision_tokens(),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        new = output[:, inputs["input_ids"].shape[1] :].tolist()
        ends = self._ends()
        return [row[: next((i for i, t in enumerate(row) if t in ends), len(row))] for row in new]

    def _vision_tokens(self) -> list[int]:
        config = self.model.config
        return [config.image_token_id, config.video_token_id, config.vision_start_token_id]

    def _ends(self) -> set[int]:
        known = self.model.generation_config.eos_token_id
        ends = set(known if isinstance(known, list) else [known])
        return (ends | {self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}) - {None}

    def text(self, tokens: Sequence[int]) -> str:
        """The verdict of an answer."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text

    def single_tokens(self, words: Sequence[str]) -> list[int]:
        """Ids of those words that are one token, each once; an unknown word is none."""
        ids = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        found = dict.fromkeys(row[0] for row in ids if len(row) == 1)
        return [token for token in found if token != self.tokenizer.unk_token_id]


def model_folder(folder: str | Path) -> Path:
    """The folder of a shipped judge's name, or a path as it is.

    Raises:
        ValueError: if there is none.
    """
    path = CHECKPOINTS / folder if str(folder) in SHIPPED else Path(folder)
    if not path.is_dir():
        raise ValueError(
            f"{str(folder)!r} is no folder; models are never downloaded, and "
            f"only {', '.join(SHIPPED)} ships"
        )
    return path


def load_weights(kind: Any, folder: Path | None, **settings: Any) -> Any:
    """``kind.from_pretrained``, from local files and with all weights.

    Raises:
        ValueError: if some are missing: transformers makes up random ones and says so in a log.
    """
    model, found = kind.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, output_loading_info=True, **settings
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder or 'the checkpoint'} lacks {len(missing)} weights of {kind.__name__}, such "
            f"as {missing[0]}"
        )
    return model


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder; one without a padding token pads with its end token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def folder_digest(folder: str | Path) -> str:
    """Tells one set of weights from another without reading gigabytes.

    SHA-256 over the small files' contents and the names, sizes and times of change of the large.
    """
    digest = hashlib.sha256()
    root = model_folder(folder)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        stat = path.stat()
        digest.update(f"{path.relative_to(root)}\0{stat.st_size}\0".encode())
        small = stat.st_size < 1 << 20
        digest.update(path.read_bytes() if small else str(stat.st_mtime_ns).encode())
    return digest.hexdigest()


def chunks(queries: Sequence[Query], size: int) -> Iterator[Sequence[Query]]:
    """Consecutive runs of at most ``size`` questions."""
    return (queries[i : i + size] for i in range(0, len(queries), size))
