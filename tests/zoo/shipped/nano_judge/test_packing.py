"""Many questions in one pass are each answered as if asked alone, by the stock model."""

import torch

from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.rewards.vlm.model import Query
from reelrl.zoo.shipped.nano_judge.network import build_judge
from reelrl.zoo.shipped.nano_judge.packing import pack, packed_logits, see
from reelrl.zoo.shipped.nano_judge.questions import ask_about


def test_packed_logits_are_those_of_the_stock_model():
    judge = build_judge(3)
    clips = sample_clips(3, torch.Generator().manual_seed(0))
    asked = ask_about(clips.videos, clips.captions, torch.Generator().manual_seed(1))
    asked = asked[::2]  # rows of unequal length
    packed = pack(judge, clips.videos[0], [q.text for q in asked], [q.clip for q in asked])
    assert sorted(packed.order) == list(range(len(asked)))
    with torch.no_grad():
        fast = packed_logits(judge, clips.videos, packed)
    alone = [
        Query((clips.videos[asked[j].clip],), asked[j].text, rates=(16.0,)) for j in packed.order
    ]
    slow = torch.cat([judge.next_logits([query]) for query in alone])
    assert slow.std() > 0.1
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=0)


def test_a_question_does_not_hear_its_neighbours():
    judge = build_judge(3)
    clips = sample_clips(1, torch.Generator().manual_seed(2))
    texts = [q.text for q in ask_about(clips.videos, clips.captions, torch.Generator())]
    both = pack(judge, clips.videos[0], texts[:2], [0, 0])
    other = pack(judge, clips.videos[0], [texts[0], texts[-1]], [0, 0])
    with torch.no_grad():
        a, b = (packed_logits(judge, clips.videos, p) for p in (both, other))
    torch.testing.assert_close(a[0], b[0], atol=1e-6, rtol=0)
    assert (a[1] - b[1]).abs().max() > 1e-3


def test_the_batched_tower_is_the_stock_tower():
    judge = build_judge(4)
    clips = sample_clips(2, torch.Generator().manual_seed(5))
    inputs = judge.inputs([Query((clip,), "", rates=(16.0,)) for clip in clips.videos])
    with torch.no_grad():
        stock = judge.model.model.visual(inputs["pixel_values_videos"], inputs["video_grid_thw"])
        fast = see(judge, clips.videos)
    torch.testing.assert_close(fast.flatten(0, 1), stock.pooler_output, atol=1e-5, rtol=0)
