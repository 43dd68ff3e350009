import pytest
import torch

from reelrl.zoo.shipped.soli.labels import annotated, passes


def test_a_clip_passes_at_the_threshold():
    assert passes(torch.tensor([0.64, 0.65, 0.9]), 0.65).tolist() == [False, True, True]


def test_two_annotators_agree_as_often_as_the_papers():
    truth = torch.rand(40_000, generator=torch.Generator().manual_seed(0)) < 0.4
    first, second = (annotated(truth, 0.13, torch.Generator().manual_seed(s)) for s in (1, 2))
    assert (first != truth).float().mean().item() == pytest.approx(0.13, abs=0.006)
    agreement = (first == second).float().mean().item()
    assert agreement == pytest.approx(0.87**2 + 0.13**2, abs=0.008)
    # Passes and fails are flipped alike.
    assert (first != truth)[truth].float().mean().item() == pytest.approx(0.13, abs=0.01)


def test_labels_are_their_generator_and_the_truth_is_left_alone():
    truth = torch.tensor([True, False] * 50)
    labels = [annotated(truth, 0.3, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1]) and not torch.equal(labels[0], labels[2])
    assert truth.tolist() == [True, False] * 50
    assert torch.equal(annotated(truth, 0.0, torch.Generator()), truth)
