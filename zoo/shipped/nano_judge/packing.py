"""Many questions about one clip in one forward pass: the clip's tokens are shared.

A question attends to the clip and to itself, and its positions begin behind the clip, so that its
logits equal the logits of the question asked alone (up to rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reelrl.rewards.vlm.model import Query, QwenVL
from reelrl.rewards.vlm.patches import to_patches
from reelrl.zoo.shipped.nano_judge.network import CLIP_FPS


@dataclass(frozen=True)
class Packed:
    """N clips with their questions, padded to one length.

    Attributes:
        ids: (N, L) tokens.
        positions: (3, N, L) time, row and column of each token.
        mask: (N, 1, L, L) bool, whether the row attends to the column.
        ends: (N, L) bool, the last token of each question.
        order: for each true entry of ``ends``, in reading order, the question it ends.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    ends: Tensor
    order: list[int]


def pack(judge: QwenVL, clip: Tensor, texts: Sequence[str], owners: Sequence[int]) -> Packed:
    """Lay out questions ``texts[j]`` about clips ``owners[j]``.

    Args:
        judge: for its tokenizer and positions.
        clip: any one of the clips (F, H, W, 3), for its size.
        texts: of M questions.
        owners: the clip of each, 0 to N - 1.
    """
    prefix, positions = clip_prefix(judge, clip)
    tails = _tails(judge, texts)
    rows: list[list[int]] = [[] for _ in range(max(owners) + 1)]
    for question, owner in enumerate(owners):
        rows[owner].append(question)
    length = len(prefix) + max(sum(len(tails[j]) for j in row) for row in rows)
    ids = torch.full((len(rows), length), judge.tokenizer.pad_token_id)
    ids[:, : len(prefix)] = torch.tensor(prefix)
    places = torch.zeros(3, len(rows), length, dtype=torch.long)
    places[:, :, : len(prefix)] = positions[:, None]
    part = torch.full((len(rows), length), -1)
    part[:, : len(prefix)] = 0
    ends = torch.zeros(len(rows), length, dtype=torch.bool)
    first = behind(judge, positions)
    order = []
    for n, row in enumerate(rows):
        start = len(prefix)
        for number, j in enumerate(row, start=1):
            stop = start + len(tails[j])
            ids[n, start:stop] = torch.tensor(tails[j])
            places[:, n, start:stop] = first + torch.arange(stop - start)
            part[n, start:stop] = number
            ends[n, stop - 1] = True
            order.append(j)
            start = stop
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    shared = part[:, None, :] == 0
    own = part[:, :, None] == part[:, None, :]
    return Packed(ids, places, (causal & (shared | own))[:, None], ends, order)


def clip_prefix(judge: QwenVL, clip: Tensor) -> tuple[list[int], Tensor]:
    """Tokens (P,) up to the end of the clip and their positions (3, P)."""
    inputs = judge.inputs([Query((clip,), "", rates=(CLIP_FPS,))])
    ids = inputs["input_ids"]
    positions, _ = judge.model.model.get_rope_index(
        ids,
        inputs["mm_token_type_ids"],
        video_grid_thw=inputs["video_grid_thw"],
        second_per_grid_ts=inputs["second_per_grid_ts"],
        attention_mask=inputs["attention_mask"],
    )
    stop = ids[0].tolist().index(judge.model.config.vision_end_token_id) + 1
    return ids[0, :stop].tolist(), positions[:, 0, :stop]


def behind(judge: QwenVL, positions: Tensor) -> int:
    """Position of the first token after a prefix, whose last token is text."""
    return int(positions[0, -1]) + 1


def _tails(judge: QwenVL, texts: Sequence[str]) -> list[list[int]]:
    """Tokens behind the clip for each question."""
    template = judge.prompt_text(Query((torch.zeros(0),), "\0"))
    end = judge.tokenizer.convert_ids_to_tokens(judge.model.config.vision_end_token_id)
    before, after = template.split(end, 1)[1].split("\0")
    known = {
        text: judge.tokenizer(before + text + after, add_special_tokens=False)["input_ids"]
        for text in dict.fromkeys(texts)
    }
    return [known[text] for text in texts]


def see(judge: QwenVL, videos: Tensor) -> Tensor:
    """Vision tokens (N, T * Y * X / merge^2, D) of clips (N, F, H, W, 3) of one size.

    The stock tower attends frame pair by frame pair in a Python loop; clips of one size go through
    as one batch here, with the same weights and the same result.
    """
    tower = judge.model.model.visual
    patches, (time, height, width) = to_patches(videos, judge.patches)
    grid = torch.tensor([[1, height, width]])
    states = tower.patch_embed(patches).unflatten(0, (len(videos) * time, height * width))
    rotation = rotary(tower, states, grid)
    for block in tower.blocks:
        states = states + attend(block.attn, block.norm1(states), *rotation)
        states = states + block.mlp(block.norm2(states))
    merged: Tensor = tower.merger(states.flatten(0, 1))
    return torch.unflatten(merged, 0, (len(videos), -1))


def rotary(tower: Any, states: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (height * width, d) of one frame pair's patches in the tower's order."""
    merge = tower.spatial_merge_size
    _, height, width = grid[0].tolist()
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([y, x], dim=-1).reshape(height // merge, merge, width // merge, merge, 2)
    places = places.transpose(1, 2).reshape(-1, 2)
    cos, sin = tower.rotary_pos_emb(states, places)
    return cos, sin


def attend(attention: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Full attention within each row of (B, L, D)."""
    heads = attention.num_heads
    q, k, v = attention.qkv(states).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    q, k = (u * cos + _half_turn(u) * sin for u in (q, k))
    mixed = functional.scaled_dot_product_attention(q, k, v)
    mapped: Tensor = attention.proj(mixed.transpose(1, 2).flatten(2))
    return mapped


def _half_turn(u: Tensor) -> Tensor:
    low, high = u.chunk(2, dim=-1)
    return torch.cat([-high, low], dim=-1)


def packed_logits(judge: QwenVL, videos: Tensor, packed: Packed) -> Tensor:
    """(M, V) logits of each question's first answer token, in the order of ``packed.order``."""
    model = judge.model.model
    states = model.get_input_embeddings()(packed.ids)
    video = packed.ids == judge.model.config.video_token_id
    states = states.masked_scatter(video[..., None], see(judge, videos))
    output = model.language_model(
        inputs_embeds=states,
        position_ids=packed.positions,
        attention_mask={"full_attention": packed.mask},
        use_cache=False,
    )
    logits: Tensor = judge.model.lm_head(output.last_hidden_state[packed.ends])
    return logits
