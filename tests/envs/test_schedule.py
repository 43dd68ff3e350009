import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelrl.envs.schedule import sigma_schedule


@given(st.integers(1, 200), st.floats(0.05, 20))
def test_from_exactly_one_to_exactly_zero_strictly_down(num_steps, shift):
    sigmas = sigma_schedule(num_steps, shift)
    assert sigmas.dtype == torch.float64 and sigmas.shape == (num_steps + 1,)
    assert sigmas[0] == 1 and sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()


def test_the_published_levels_of_ten_steps_at_shift_three():
    expected = [1, 0.964, 0.923, 0.875, 0.818, 0.75, 0.667, 0.5625, 0.4286, 0.25, 0]
    assert sigma_schedule(10, 3).tolist() == pytest.approx(expected, abs=5e-4)


def test_shift_one_is_uniform():
    torch.testing.assert_close(
        sigma_schedule(4), torch.tensor([1, 0.75, 0.5, 0.25, 0], dtype=torch.float64)
    )


@pytest.mark.parametrize("num_steps, shift", [(0, 1.0), (-1, 1.0), (4, 0.0), (4, float("inf"))])
def test_out_of_range_is_an_error_with_the_value(num_steps, shift):
    with pytest.raises(ValueError, match=str(num_steps) if num_steps < 1 else str(shift)):
        sigma_schedule(num_steps, shift)
