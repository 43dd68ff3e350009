"""The judge in the process, on a tiny model of its class."""

import gc
import shutil
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.judges import JudgeWarning, VLMJudge
from reelrl.rewards.judges.rubric import RUBRICS, SYSTEM, pointwise_text
from reelrl.rewards.vlm.model import Query


@pytest.fixture(scope="module")
def talker(make_vlm):
    """A model that will say yes or no, which of them hangs on what it sees."""

    def change(model, tokenizer):
        # Every prompt ends in a new line. Made large, its embedding shows through to the last
        # state, and heads along it are likely whatever the rest of the prompt.
        (line,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
        embedding = model.get_input_embeddings().weight
        embedding[line] *= 8
        rows = tokenizer.convert_tokens_to_ids(["yes", "no", "Yes", "No"])
        head = model.lm_head.weight
        words = 2 * head[rows] + 2 * embedding[line] / embedding[line].norm()
        head.mul_(0.01)
        head[rows] = words

    return make_vlm("qwen2_5_vl", change=change)


def test_a_random_model_is_masked_for_its_lack_of_mass(qwen2_5_vl, random_clips):
    judge = make_reward("vlm_judge", model=qwen2_5_vl, num_frames=4)
    with pytest.warns(JudgeWarning, match="3 of 3 questions failed: neither yes nor no x3"):
        output = judge(random_clips(3), ["a", "b", "c"])
    assert not output.valid.any()
    assert all(call.mass < 0.5 and call.attempts == 2 for call in judge.telemetry.calls)


def test_p_yes_is_that_of_the_plain_logits(talker, random_clips):
    judge = VLMJudge(talker, num_frames=4, batch_size=2)
    clips = random_clips(5)
    captions = ["a", "a longer caption", "b", "a", "the longest caption of them all"]
    values = judge(clips, captions).values
    assert values.isfinite().all()
    ids = judge.vlm.tokenizer.convert_tokens_to_ids(["yes", "Yes", "no", "No"])
    for clip, caption, value in zip(clips, captions, values, strict=True):
        text = pointwise_text(RUBRICS["overall"], caption, written=False)
        frames = clip[[0, 2, 3, 5]]
        query = Query((frames,), text, SYSTEM, rates=(4 / 6 * 16,))
        share = judge.vlm.next_logits([query]).softmax(-1)[0, ids]
        expected = share[:2].sum() / share.sum()
        assert float(value) == pytest.approx(float(expected), abs=1e-3)


def test_values_differ_between_clips(talker, random_clips):
    values = VLMJudge(talker)(random_clips(4), ["a"] * 4).values
    assert values.isfinite().all() and values.std() > 1e-4


def test_a_written_score(talker, random_clips, monkeypatch):
    judge = VLMJudge(talker, form="score", max_new_tokens=4)
    answers = iter([["Score: 2", "hm"], ["5"]])
    monkeypatch.setattr(judge.vlm, "generate", lambda queries, n: next(answers))
    monkeypatch.setattr(judge.vlm, "text", lambda answer: answer)
    output = judge(random_clips(2), ["a", "a"])
    assert output.values.tolist() == [0.25, 1.0]
    assert [call.attempts for call in judge.telemetry.calls] == [1, 2]


def test_nonsense_is_no_score(talker, random_clips):
    judge = VLMJudge(talker, form="score", max_new_tokens=4)
    with pytest.warns(JudgeWarning, match="no score in the answer"):
        assert not judge(random_clips(1), ["a"]).valid.any()


def test_pairs_are_debiased(talker, random_clips):
    judge = VLMJudge(talker, compare="group")
    values = judge(random_clips(3), ["a"] * 3).values
    assert float(values.sum()) == pytest.approx(1.5, abs=1e-4)  # wins and losses cancel
    assert judge.pairs == 3 and values.std() > 1e-4


def test_cached_answers_need_no_model(talker, random_clips, tmp_path):
    clips = random_clips(2)
    first = VLMJudge(talker, cache=tmp_path)(clips, ["a", "b"])
    again = VLMJudge(talker, cache=tmp_path)
    assert first.valid.all()
    assert torch.equal(again(clips, ["a", "b"]).values, first.values)
    assert "vlm" not in vars(again)
    other = VLMJudge(talker, cache=tmp_path, rubric="motion")
    assert other.name == "vlm_judge_motion"


def test_judges_of_several_axes_share_the_weights(talker):
    first, second = (VLMJudge(talker, rubric=axis) for axis in ("visual", "motion"))
    assert first.vlm is second.vlm
    assert VLMJudge(talker, dtype="bfloat16").vlm is not first.vlm
    gone = weakref.ref(first.vlm)
    del first, second
    gc.collect()
    assert gone() is None


def test_a_folder_written_anew_is_another_model(talker, tmp_path):
    folder = shutil.copytree(talker, tmp_path / "copy")
    before = VLMJudge(folder)
    version, old = before.version, before.vlm
    (folder / "prompt_template.txt").write_text("{prompt}")
    after = VLMJudge(folder)
    assert after.version != version and after.vlm is not old


def test_judges_that_share_a_model_ask_it_in_turn(talker, random_clips):
    """From two threads; the model keeps positions of the last batch on the module."""
    judges = [VLMJudge(talker, num_frames=4), VLMJudge(talker, num_frames=4, rubric="motion")]
    vlm = judges[0].vlm
    clips = random_clips(4)
    expected = [judge(clips, ["a"] * 4).values for judge in judges]
    inside, most = [], []

    def enter(*_):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)

    hooks = [
        vlm.model.register_forward_pre_hook(enter),
        vlm.model.register_forward_hook(lambda *_: inside.pop() and None),
    ]
    query = Query((clips[0],), "How good?", rates=(16.0,))
    written = vlm.generate([query], 4)
    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(judge, clips, ["a"] * 4) for judge in judges for _ in range(3)]
        answers = [pool.submit(vlm.generate, [query], 4) for _ in range(3)]
    for i, future in enumerate(found):
        torch.testing.assert_close(future.result().values, expected[i // 3])
    assert [answer.result() for answer in answers] == [written] * 3
    assert max(most) == 1
    for hook in hooks:
        hook.remove()


def test_the_folder_is_checked_at_once(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        make_reward("vlm_judge", model=tmp_path / "missing")
    with pytest.raises(ValueError, match="at least 1"):
        VLMJudge(tmp_path, batch_size=0)
