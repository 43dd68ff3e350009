"""A local model behind the loopback server: what is asked arrives, what it thinks comes back."""

import pytest
import torch

from reelrl.rewards import make_reward
from reelrl.rewards.judges.chat import chat_request, content, read_yes
from reelrl.rewards.judges.loopback import LoopbackServer
from reelrl.rewards.judges.rubric import SYSTEM
from reelrl.rewards.judges.served import first_token_reply, model_reply, query_of
from reelrl.rewards.vlm.model import Query, QwenVL


def request_of(clips, rates, text, written=False):
    parts = content(clips, rates, text)
    return chat_request("m", parts, written=written, seed=0, max_tokens=4, structured=False)


def test_the_question_comes_back_out_of_the_request(random_clips):
    clips = (random_clips(3) * 255).round() / 255
    for shown, rates in ((clips[:1], (16.0,)), (clips[1:], (14.2, 7.5))):
        query = query_of(request_of(shown, rates, "Is this video good?"))
        assert query.text == "Is this video good?" and query.system == SYSTEM
        assert query.rates == rates and len(query.clips) == len(shown)
        for got, sent in zip(query.clips, shown, strict=True):
            torch.testing.assert_close(got, sent, atol=1e-6, rtol=0)


def test_pictures_that_no_heading_announces_are_refused(random_clips):
    request = request_of(random_clips(1), (16.0,), "?")
    del request["messages"][-1]["content"][1]
    with pytest.raises(ValueError, match=r"expected \[6\] frames by the headings, got 5 pictures"):
        query_of(request)


def test_the_reply_holds_the_models_log_probabilities(qwen2_5_vl, random_clips):
    vlm = QwenVL.from_pretrained(qwen2_5_vl)
    query = Query((random_clips(1)[0],), "yes or no?", rates=(16.0,))
    share = vlm.next_logits([query])[0].log_softmax(-1)
    reply = first_token_reply(vlm, query, 1000)
    listed = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert len(listed) == len(share)
    assert [entry["logprob"] for entry in listed] == sorted(share.tolist(), reverse=True)
    rows = vlm.tokenizer.convert_tokens_to_ids(["yes", "Yes", "no", "No"])
    _, mass = read_yes(reply)
    assert mass == pytest.approx(float(share[rows].exp().sum()), abs=1e-6)


def test_a_written_answer_is_generated(qwen2_5_vl, random_clips):
    vlm = QwenVL.from_pretrained(qwen2_5_vl)
    clips = (random_clips(1) * 255).round() / 255
    query = Query((clips[0],), "How good?", SYSTEM, (16.0,))
    expected = vlm.text(vlm.generate([query], 4)[0])
    reply = model_reply(vlm)(request_of(clips, (16.0,), "How good?", written=True))
    assert reply["choices"][0]["message"]["content"] == expected


def test_a_broken_request_is_an_error_of_the_server(qwen2_5_vl):
    with LoopbackServer(model_reply(QwenVL.from_pretrained(qwen2_5_vl))) as server:
        judge = make_reward("openai_judge", model="judge", base_url=server.url, retries=0)
        reply = judge.transport.request("POST", "/chat/completions", {"messages": []}, 5.0)
        assert reply.status == 500
