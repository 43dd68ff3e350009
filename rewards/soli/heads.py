r"""Heads: from a model's hidden states at some of its layers to one number per clip.

Every head takes a list of hidden states, n times (N, L, D) from shallow to deep, and a mask (N, L)
of the tokens that are there, so it works on whatever model gives hidden states. All but HPQA read
the last of them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor, nn

from reelrl.checks import Ge, Within, check_fields

HeadName = Literal["hpqa", "mean_pool", "last_token", "yes_logit"]
HEADS: tuple[str, ...] = get_args(HeadName)


@dataclass(frozen=True)
class HeadConfig:
    """Sizes and parts of a head.

    Attributes:
        name: of its kind.
        width: D of the hidden states.
        levels: n, how many hidden states there are.
        attention_heads: of HPQA's attention; must divide D.
        dropout: share of the reward head's hidden units that is dropped in training.
        yes: rows of the language head that the yes-logit starts from and keeps.
        no: the same for no.

    Raises:
        ValueError: for an unknown name, or numbers that do not fit.
    """

    name: HeadName
    width: Annotated[int, Ge(1)]
    levels: Annotated[int, Ge(1)]
    attention_heads: int = 8
    dropout: Annotated[float, Within(0, 1)] = 0.1
    yes: int = 0
    no: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.name == "hpqa" and self.width % self.attention_heads:
            raise ValueError(
                f"{self.attention_heads} attention heads do not divide a width of {self.width}"
            )
        if self.name == "yes_logit" and min(self.yes, self.no) < 1:
            raise ValueError(f"a yes-logit needs rows for yes and no, got {self.yes} and {self.no}")


class Head(nn.Module):
    """One number per clip from hidden states; see the module's text.

    Args:
        config: its sizes and parts.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Scores (N,).

        Args:
            states: n hidden states (N, L, D).
            mask: (N, L) bool, True where there is a token.

        Raises:
            ValueError: for another number of states, or shapes that do not fit.
        """
        shape = (*mask.shape, self.config.width)
        if len(states) != self.config.levels or any(state.shape != shape for state in states):
            raise ValueError(
                f"expected {self.config.levels} hidden states {shape}, got "
                f"{[tuple(state.shape) for state in states]}"
            )
        return self.read(states, mask)

    def read(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """:meth:`forward` after the checks."""
        raise NotImplementedError


class PooledHead(Head):
    """A vector per clip, and SoliReward's reward head on it.

    The reward head is Linear(D, D), SiLU, dropout, Linear(D, 1) without bias.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.reward = nn.Sequential(
            nn.Linear(config.width, config.width),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.width, 1, bias=False),
        )

    def read(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """See :meth:`Head.read`."""
        scores: Tensor = self.reward(self.pool(states, mask))
        return scores[:, 0]

    def pool(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """(N, D) of hidden states and mask."""
        raise NotImplementedError


class HPQA(PooledHead):
    r"""Hierarchical progressive query attention.

    :math:`q_i = \mathrm{MHA}_i(q_{i-1}, H_i, H_i)` from a learnt :math:`q_0` through the levels,
    each with weights of its own and without residual, norm or feed-forward in between;
    :math:`r = \mathrm{head}(q_n + \mathrm{MHA}_{res}(q_{res}, H_n, H_n))` (SoliReward, released
    code, ``progressive_hierarchical_attention``).
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        width, heads = config.width, config.attention_heads
        self.query = nn.Embedding(1, width)
        self.residual_query = nn.Embedding(1, width)
        # A ModuleList does not know the type of its entries.
        self.levels: Any = nn.ModuleList(
            nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(config.levels)
        )
        self.residual = nn.MultiheadAttention(width, heads, batch_first=True)

    def pool(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """The last query plus the residual one, (N, D)."""
        query = self.query.weight.expand(len(mask), -1)
        for attention, state in zip(self.levels, states, strict=True):
            query = attend(attention, query, state, mask)
        asked = self.residual_query.weight.expand(len(mask), -1)
        return query + attend(self.residual, asked, states[-1], mask)


def attend(attention: nn.MultiheadAttention, query: Tensor, state: Tensor, mask: Tensor) -> Tensor:
    r"""Result of ``attention`` for one query (N, D) per clip on tokens (N, L, D): (N, D).

    The module's own way projects every token to a key and a value. With a single query neither is
    needed: :math:`q^\top W_k x = (W_k^\top q)^\top x`, and the weighted mean of values is the
    value of the weighted mean: twelve times less work at D = 96 and 8 heads. The bias of the keys
    shifts all tokens alike and drops out.

    Args:
        attention: holds the weights; batch first, equal widths, no dropout.
        query: (N, D).
        state: (N, L, D).
        mask: (N, L) bool, True where there is a token.
    """
    heads, width = attention.num_heads, attention.embed_dim
    size = width // heads
    to_query, to_key, to_value = attention.in_proj_weight.chunk(3)
    query_bias, _, value_bias = attention.in_proj_bias.chunk(3)
    asked = (query @ to_query.T + query_bias).view(-1, heads, size)
    probe = torch.einsum("nhd,hde->nhe", asked, to_key.view(heads, size, width))
    logits = probe @ state.transpose(1, 2) / size**0.5
    share = logits.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1)
    mixed = torch.einsum("nhe,hde->nhd", share @ state, to_value.view(heads, size, width))
    pooled: Tensor = attention.out_proj(mixed.flatten(1) + value_bias)
    return pooled


class MeanPool(PooledHead):
    """The mean of the last hidden states over the tokens that are there."""

    def pool(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """(N, D)."""
        weight = mask[..., None].to(states[-1].dtype)
        return (states[-1] * weight).sum(dim=1) / weight.sum(dim=1)


class LastToken(PooledHead):
    """The last hidden state of the last token, where a causal model has read everything."""

    def pool(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """(N, D)."""
        return last_token(states[-1], mask)


class YesLogit(Head):
    r"""The log odds of yes against no at the first place of an answer.

    :math:`r = \mathrm{LSE}(W_{yes} h) - \mathrm{LSE}(W_{no} h)`, h the last state of the last
    token: the logit of :func:`~reelrl.rewards.judges.yes_no.yes_of_logits`. The rows start as the
    language head's rows (:meth:`start_from`); on a frozen model they are all that
    learns.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.yes = nn.Parameter(
            torch.zeros(config.yes, config.width, dtype=torch.float32, device="cpu")
        )
        self.no = nn.Parameter(
            torch.zeros(config.no, config.width, dtype=torch.float32, device="cpu")
        )

    @torch.no_grad()
    def start_from(self, yes: Tensor, no: Tensor) -> None:
        """Take over the language head's rows of the spellings, (Y, D) and (Z, D)."""
        self.yes.copy_(yes)
        self.no.copy_(no)

    def read(self, states: Sequence[Tensor], mask: Tensor) -> Tensor:
        """See :meth:`Head.read`."""
        last = last_token(states[-1], mask)
        found, other = ((last @ rows.T).logsumexp(dim=-1) for rows in (self.yes, self.no))
        return found - other


def last_token(state: Tensor, mask: Tensor) -> Tensor:
    """(N, D) of the last token that is there, whichever side the padding (N, L) is on."""
    place = mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
    return state[torch.arange(len(state), device=state.device, dtype=torch.int64), place]


_KINDS: dict[str, type[Head]] = {
    "hpqa": HPQA,
    "mean_pool": MeanPool,
    "last_token": LastToken,
    "yes_logit": YesLogit,
}


def make_head(config: HeadConfig, seed: int = 0) -> Head:
    """A head with the initial weights of a seed; the global generator is left as it was."""
    # Module initialisation knows no generator argument.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _KINDS[config.name](config)
