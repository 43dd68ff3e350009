"""Heads against slow loops written from the formulas, and what they must not look at."""

import math

import pytest
import torch

from reelrl.rewards.judges.yes_no import NO, YES, yes_of_logits
from reelrl.rewards.soli.backbone import language_rows
from reelrl.rewards.soli.heads import HEADS, HeadConfig, attend, last_token, make_head
from reelrl.rewards.vlm.model import Query, QwenVL

WIDTH, LEVELS, CLIPS, LENGTH = 16, 3, 4, 7


def config(name, **changes):
    return HeadConfig(name, WIDTH, LEVELS, **{"attention_heads": 4, "yes": 2, "no": 3, **changes})


def make(name, seed=0):
    head = make_head(config(name), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # initial biases are zero, which would hide one that is left out
        for parameter in head.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return head


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    states = [torch.randn(CLIPS, LENGTH, WIDTH, generator=generator) for _ in range(LEVELS)]
    mask = torch.arange(LENGTH) >= torch.tensor([0, 2, 3, 6])[:, None]
    return states, mask


def slow_attention(attention, query, tokens):
    """Multi-head attention of one query vector over a list of tokens, by hand."""
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    size = WIDTH // attention.num_heads
    project = [weight[i * WIDTH : (i + 1) * WIDTH] for i in range(3)]
    offset = [bias[i * WIDTH : (i + 1) * WIDTH] for i in range(3)]
    out = []
    for h in range(attention.num_heads):
        part = slice(h * size, (h + 1) * size)
        q = (project[0] @ query + offset[0])[part]
        logits = [((project[1] @ t + offset[1])[part] @ q / math.sqrt(size)).exp() for t in tokens]
        values = [(project[2] @ t + offset[2])[part] for t in tokens]
        out.append(sum(w * v for w, v in zip(logits, values, strict=True)) / sum(logits))
    return attention.out_proj.weight @ torch.cat(out) + attention.out_proj.bias


def slow_head(reward, vector):
    first, last = reward[0], reward[3]
    hidden = first.weight @ vector + first.bias
    return last.weight[0] @ (hidden * torch.sigmoid(hidden))


@torch.no_grad()
def test_hpqa_is_the_formula(batch):
    states, mask = batch
    head = make("hpqa")
    found = head(states, mask)
    for clip in range(CLIPS):
        tokens = [[row for row, there in zip(s[clip], mask[clip], strict=True) if there]
                  for s in states]  # fmt: skip
        query = head.query.weight[0]
        for level in range(LEVELS):
            query = slow_attention(head.levels[level], query, tokens[level])
        query = query + slow_attention(head.residual, head.residual_query.weight[0], tokens[-1])
        torch.testing.assert_close(found[clip], slow_head(head.reward, query), atol=1e-5, rtol=1e-4)


def test_one_query_is_what_torchs_attention_gives(batch):
    states, mask = batch
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(CLIPS, WIDTH, generator=generator, requires_grad=True)
    attention = make("hpqa").levels[0]
    found = attend(attention, query, states[0], mask)
    expected, _ = attention(query[:, None], states[0], states[0], key_padding_mask=~mask)
    torch.testing.assert_close(found, expected[:, 0], atol=1e-5, rtol=1e-4)
    weights = [query, *attention.parameters()]
    for slope, other in zip(
        torch.autograd.grad(found.square().sum(), weights),
        torch.autograd.grad(expected.square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(slope, other, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_pools_are_the_formulas(batch):
    states, mask = batch
    mean, last, yes = (make(name) for name in ("mean_pool", "last_token", "yes_logit"))
    for clip in range(CLIPS):
        there = [
            row for row, is_there in zip(states[-1][clip], mask[clip], strict=True) if is_there
        ]
        expected = slow_head(mean.reward, sum(there) / len(there))
        torch.testing.assert_close(mean(states, mask)[clip], expected)
        torch.testing.assert_close(last(states, mask)[clip], slow_head(last.reward, there[-1]))
        odds = sum(math.exp(row @ there[-1]) for row in yes.yes)
        odds /= sum(math.exp(row @ there[-1]) for row in yes.no)
        assert yes(states, mask)[clip].item() == pytest.approx(math.log(odds), rel=1e-4)


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_padding_is_not_read(name, batch):
    states, mask = batch
    head = make(name)
    poisoned = [torch.where(mask[..., None], state, 1e3) for state in states]
    torch.testing.assert_close(head(poisoned, mask), head(states, mask))
    alone = torch.cat([head([s[i : i + 1, mask[i]] for s in states],
                            mask[i : i + 1, mask[i]]) for i in range(CLIPS)])  # fmt: skip
    torch.testing.assert_close(alone, head(states, mask), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_only_hpqa_reads_the_lower_levels(batch):
    states, mask = batch
    changed = [states[0].flip(0), *states[1:]]
    for name in HEADS:
        head = make(name)
        same = torch.equal(head(changed, mask), head(states, mask))
        assert same == (name != "hpqa")


def test_every_parameter_of_hpqa_learns(batch):
    states, mask = batch
    head = make_head(config("hpqa"))
    head(states, mask).sum().backward()
    # The first query and key rows matter through a softmax, so all gradients are there but small.
    assert {n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()} == set()


def test_last_token_on_either_side_of_the_padding():
    state = torch.arange(8.0).reshape(2, 4, 1)
    left = torch.tensor([[False, True, True, True], [False, False, False, True]])
    assert last_token(state, left).flatten().tolist() == [3, 7]
    assert last_token(state, left.flip(1)).flatten().tolist() == [2, 4]


def test_heads_are_made_by_their_seed_alone():
    state = torch.random.get_rng_state()
    first, again, other = (make_head(config("hpqa"), seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["query.weight"], other["query.weight"])


@torch.no_grad()
def test_an_untrained_yes_logit_is_the_judges(qwen2_5_vl, random_clips):
    vlm = QwenVL.from_pretrained(qwen2_5_vl)
    yes, no = language_rows(vlm, YES), language_rows(vlm, NO)
    head = make_head(HeadConfig("yes_logit", vlm.width, 1, yes=len(yes), no=len(no)))
    head.start_from(yes, no)
    asked = [Query((clip,), "Good?") for clip in random_clips(3)]
    states, mask = vlm.tapped(asked, [vlm.num_layers])
    logits = vlm.next_logits(asked)
    p = yes_of_logits(logits, vlm.single_tokens(YES), vlm.single_tokens(NO))[0]
    odds = head(states, mask)
    known = ~p.isnan()
    torch.testing.assert_close(odds.sigmoid()[known], p[known], atol=1e-5, rtol=1e-4)
    ids = [vlm.single_tokens(words) for words in (YES, NO)]
    expected = logits[:, ids[0]].logsumexp(1) - logits[:, ids[1]].logsumexp(1)
    torch.testing.assert_close(odds, expected, atol=1e-4, rtol=1e-4)


def test_bad_input_is_named(batch):
    states, mask = batch
    with pytest.raises(ValueError, match=r"expected 3 hidden states \(4, 7, 16\), got"):
        make("hpqa")(states[:2], mask)
    with pytest.raises(ValueError, match=r"name must be one of hpqa, .*, got 'hpca'"):
        HeadConfig("hpca", 16, 1)
    with pytest.raises(ValueError, match="8 attention heads do not divide a width of 12"):
        HeadConfig("hpqa", 12, 1)
    with pytest.raises(ValueError, match="needs rows for yes and no, got 0 and 0"):
        HeadConfig("yes_logit", 16, 1)
