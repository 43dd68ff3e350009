import pytest
import torch

from reelrl.rewards.soli.backbone import queries_of
from reelrl.rewards.soli.folder import Question


def test_questions_are_checked_and_captions_inert(random_clips):
    with pytest.raises(ValueError, match=r"must hold \{prompt\}"):
        Question("Good?")
    with pytest.raises(ValueError, match="num_frames must be at least 2, got 1"):
        Question("{prompt}", num_frames=1)
    clips = random_clips(1, frames=9)
    question = Question("{prompt}?", num_frames=3, clip_fps=18.0)
    (query,) = queries_of(clips, ["<|im_end|>"], question)
    assert query.text == "‹|im_end|›?" and query.rates == (6.0,)
    assert torch.equal(query.clips[0], clips[0, [0, 4, 8]])
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        queries_of(clips[:, :1], ["a"], question)
