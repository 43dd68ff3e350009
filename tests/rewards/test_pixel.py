"""Closed forms, the libraries that compute the same, and the old proxies bit for bit."""

import math

import cv2
import numpy as np
import pytest
import torch

from reelrl.rewards import chunked, make_reward
from reelrl.rewards.moving_shapes import proxies
from reelrl.rewards.moving_shapes.world import sample_clips
from reelrl.rewards.pixel import (
    _bands,
    chroma_range,
    hasler_susstrunk,
    high_frequency_share,
    laplacian_variance,
    mean_exposure,
    safe_sqrt,
    sobel_energy,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def flat(rgb, frames=3, size=8):
    return torch.tensor(rgb).expand(1, frames, size, size, 3).clone()


@pytest.fixture(scope="module")
def noise():
    return torch.rand(3, 4, 20, 26, 3, generator=seeded())


def greys(videos):
    """Per clip, the grey frames as float64 arrays."""
    return videos.double().mean(-1).numpy()


def test_laplacian_variance_equals_opencv(noise):
    for video, value in zip(greys(noise), laplacian_variance(noise), strict=True):
        inner = [cv2.Laplacian(x, cv2.CV_64F, ksize=1)[1:-1, 1:-1] for x in video]
        assert value.item() == pytest.approx(np.var(inner), rel=1e-5)


def test_sobel_energy_equals_opencv(noise):
    for video, value in zip(greys(noise), sobel_energy(noise), strict=True):
        energy = [
            (cv2.Sobel(x, cv2.CV_64F, 1, 0) ** 2 + cv2.Sobel(x, cv2.CV_64F, 0, 1) ** 2)[1:-1, 1:-1]
            for x in video
        ]
        assert value.item() == pytest.approx(np.mean(energy), rel=1e-5)


def test_sobel_energy_of_a_ramp():
    """A slope of s per pixel has Gx = 8 s."""
    ramp = torch.linspace(0, 1, 11).reshape(1, 1, 1, 11, 1).expand(1, 2, 6, 11, 3)
    assert sobel_energy(ramp).item() == pytest.approx(0.64, rel=1e-5)


def test_the_bound_of_tenengrad_is_reached():
    patch = torch.tensor([[0.0, 0, 1], [0, 0, 1], [0, 1, 1]])
    video = patch[None, None, ..., None].expand(1, 1, 3, 3, 3)
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 9).reshape(-1, 1, 3, 3, 1)
    assert sobel_energy(video).item() == 20
    assert sobel_energy(corners.expand(-1, -1, -1, -1, 3)).max() == 20
    assert laplacian_variance(noise_of_corners()).max() <= 16


def noise_of_corners():
    return torch.randint(0, 2, (8, 2, 12, 12, 3), generator=seeded()).float()


def test_the_bound_of_colourfulness_holds_at_the_corners_of_the_cube():
    high = make_reward("colourfulness").bounds[1]
    assert hasler_susstrunk(noise_of_corners()).max() <= high
    pure = torch.eye(3)[[0, 2]].repeat(1, 8, 1).reshape(1, 1, 4, 4, 3)
    assert high * 0.8 < hasler_susstrunk(pure).item() <= high


@pytest.mark.parametrize("level", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_exposure_of_a_level(level):
    assert mean_exposure(flat([level] * 3)).item() == pytest.approx(1 - 2 * abs(level - 0.5))


def test_black_and_white_in_turn_is_not_well_exposed():
    video = torch.zeros(1, 4, 8, 8, 3)
    video[:, ::2] = 1
    assert mean_exposure(video).item() == 0


def test_over_saturation_equals_the_chroma_of_opencv(noise):
    hsv = [cv2.cvtColor(x.numpy(), cv2.COLOR_RGB2HSV) for x in noise.flatten(0, 1)]
    chroma = np.array([(x[..., 1] * x[..., 2]).mean() for x in hsv]).reshape(3, 4).mean(1)
    np.testing.assert_allclose(chroma_range(noise), chroma, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 18), (9, 11)])
def test_high_frequency_share_equals_numpy(height, width):
    videos = torch.rand(2, 3, height, width, 3, generator=seeded())
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    high = np.hypot(fy, fx) > 0.25
    for video, value in zip(greys(videos), high_frequency_share(videos), strict=True):
        shares = []
        for frame in video:
            energy = np.abs(np.fft.fft2(frame)) ** 2
            energy[0, 0] = 0
            shares.append(energy[high].sum() / energy.sum())
        assert value.item() == pytest.approx(np.mean(shares), rel=1e-4)


@pytest.mark.parametrize("height", [20, 21, 44])
@pytest.mark.parametrize("width", range(80, 113))
def test_bands_of_half_a_spectrum_are_those_of_the_full_one(height, width):
    """Counted in whole cycles per frame; the real transform leaves out mirror images."""
    y, x = np.mgrid[:height, :width]
    y, x = np.minimum(y, height - y), np.minimum(x, width - x)
    full = np.stack(
        [y + x > 0, 16 * ((y * width) ** 2 + (x * height) ** 2) > (height * width) ** 2]
    )
    frame = torch.rand(height, width, generator=seeded(), dtype=torch.float64)
    expected = (full * np.abs(np.fft.fft2(frame.numpy())) ** 2).sum((1, 2))
    half = torch.view_as_real(torch.fft.rfft2(frame)).square().flatten()
    measured = _bands(height, width, torch.device("cpu")).double() @ half
    assert measured.tolist() == pytest.approx(expected.tolist(), rel=1e-9)


@pytest.mark.parametrize("width", [82, 94, 110, 328, 376])
def test_the_finest_stripes_count_once(width):
    """Stripes of one pixel above the cut and a wave below it, of equal energy."""
    x = torch.arange(width)
    fine = (-1.0) ** x
    coarse = math.sqrt(2) * torch.cos(2 * math.pi * x / width)
    row = 0.5 + 0.1 * (fine + coarse)
    video = row.reshape(1, 1, 1, width, 1).expand(1, 2, 8, width, 3)
    assert high_frequency_share(video).item() == pytest.approx(0.5, abs=1e-4)


def test_high_frequency_share_of_white_noise():
    videos = torch.rand(1, 4, 128, 128, 3, generator=seeded())
    assert high_frequency_share(videos).item() == pytest.approx(1 - math.pi / 16, abs=0.01)


@pytest.mark.parametrize(("period", "share"), [(2, 1.0), (8, 0.0)])
def test_high_frequency_share_of_a_wave(period, share):
    wave = 0.5 + 0.4 * torch.cos(2 * math.pi * torch.arange(32) / period)
    video = wave.reshape(1, 1, 1, 32, 1).expand(1, 2, 32, 32, 3)
    assert high_frequency_share(video).item() == pytest.approx(share, abs=1e-5)


def test_a_flat_frame_has_no_high_frequencies():
    assert high_frequency_share(flat((0.3, 0.3, 0.3))).item() == 0
    assert high_frequency_share(flat((0.3, 0.3, 0.3), size=33)).item() == 0


@pytest.mark.parametrize(
    "statistic", [laplacian_variance, sobel_energy, hasler_susstrunk, high_frequency_share]
)
def test_values_do_not_depend_on_the_size_of_pieces(monkeypatch, noise, statistic):
    whole = statistic(noise)
    for pixels in (1, 600, 1500):
        monkeypatch.setattr(chunked, "PIXELS", {"cpu": pixels})
        torch.testing.assert_close(statistic(noise), whole, rtol=1e-5, atol=1e-6)


def test_root_at_zero_has_no_gradient():
    x = torch.tensor([0.0, 4.0], requires_grad=True)
    root = safe_sqrt(x)
    root.sum().backward()
    assert root.tolist() == [0, 2]
    assert x.grad.tolist() == [0, 0.25]


def old_mean(values):
    flat = values.flatten(1)
    return flat.sum(-1) / flat.shape[1]


def old_variance(values):
    return old_mean((values - old_mean(values).reshape(-1, *[1] * (values.ndim - 1))).square())


def test_the_proxies_are_bit_for_bit_what_they_were_as_one_expression_each():
    """Results of training runs were recorded with these expressions over the whole batch."""
    videos = torch.cat(
        [sample_clips(40, seeded(4)).videos, torch.rand(24, 9, 32, 32, 3, generator=seeded())]
    )
    x = (videos[..., 0] + videos[..., 1] + videos[..., 2]) / 3
    rows = x[:, :, :-2, 1:-1] + x[:, :, 2:, 1:-1]
    columns = x[:, :, 1:-1, :-2] + x[:, :, 1:-1, 2:]
    v = old_variance(rows + columns - 4 * x[:, :, 1:-1, 1:-1])
    assert torch.equal(proxies.sharpness(videos), v / (v + 0.05))

    red, green, blue = videos.unbind(-1)
    rg, yb = red - green, (red + green) / 2 - blue
    spread = (old_variance(rg) + old_variance(yb)).sqrt()
    m = spread + 0.3 * (old_mean(rg).square() + old_mean(yb).square()).sqrt()
    assert torch.equal(proxies.colourfulness(videos), m / (m + 0.15))

    difference = old_mean((videos[:, 1:] - videos[:, :-1]).abs())
    assert torch.equal(proxies.motion(videos), 1 - torch.exp(-difference / 0.05))
