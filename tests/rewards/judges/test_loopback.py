import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.judges import JudgeWarning
from reelrl.rewards.judges.loopback import LoopbackServer, frames_of, text_reply, yes_reply


def judge_at(server, **settings):
    return make_reward("openai_judge", model="judge", base_url=server.url, retries=0, **settings)


def test_the_frames_arrive(random_clips):
    clip = random_clips(1, frames=3)
    seen = []

    def reply(request):
        seen.append(frames_of(request))
        return yes_reply(0.75)

    with LoopbackServer(reply) as server:
        assert float(judge_at(server)(clip, ["a"]).values) == pytest.approx(0.75)
    torch.testing.assert_close(seen[0], clip[0], atol=0.5 / 255 + 1e-6, rtol=0)


def test_written_replies_and_errors(random_clips):
    with LoopbackServer(lambda request: text_reply("Score: 3")) as server:
        assert float(judge_at(server, form="score")(random_clips(1), ["a"]).values) == 0.5
        with pytest.raises(ValueError, match=r"only \['judge'\]"):
            make_reward("openai_judge", model="other", base_url=server.url).check()
    with LoopbackServer(lambda request: 1 / 0) as server, pytest.warns(JudgeWarning, match="500"):
        assert not judge_at(server)(random_clips(1), ["a"]).valid.any()
    with pytest.raises(ConnectionError):
        judge_at(server).check()  # gone with its block
