import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from reelrl.rewards.image.loading import ImageTransform, local_folder, read_state, the_file


def pictures(height, width, count=3):
    """Soft random pictures of whole bytes."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 7, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    fine = fine + 0.05 * torch.randn(fine.shape, generator=generator)
    return (fine.clamp(0, 1) * 255).round().movedim(1, -1) / 255


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 61), (75, 50), (20, 24)])
@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=3
        ),
        CLIPImageProcessorPil(
            size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, resample=2
        ),
        SiglipImageProcessorPil(size={"height": 32, "width": 28}),
    ],
    ids=["clip", "bilinear-crop", "siglip"],
)
def test_it_is_what_the_image_processor_does_up_to_rounding(tmp_path, processor, height, width):
    processor.save_pretrained(tmp_path)
    frames = pictures(height, width)
    images = [Image.fromarray((frame * 255).byte().numpy()) for frame in frames]
    theirs = processor(images=images, return_tensors="pt")["pixel_values"]
    ours = ImageTransform.from_pretrained(tmp_path)(frames)
    assert ours.shape == theirs.shape
    # Pillow rounds to bytes, and clips what bicubic overshoots, after each of two passes.
    levels = (ours - theirs).abs() * torch.tensor(processor.image_std)[:, None, None] * 255
    assert levels.max() < 5
    assert levels.mean() < 0.5


def test_a_config_inside_a_processors_and_one_of_old_are_read(tmp_path):
    old = {
        "size": 224,
        "crop_size": 224,
        "do_center_crop": True,
        "do_resize": True,
        "resample": 3,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": old}))
    transform = ImageTransform.from_pretrained(tmp_path)
    assert (transform.size, transform.crop, transform.mode) == (224, (224, 224), "bicubic")


def test_what_cannot_be_prepared_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config\.json"):
        ImageTransform.from_pretrained(tmp_path)
    config = {"size": 8, "resample": 1, "image_mean": [0] * 3, "image_std": [1] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="got resample=1"):
        ImageTransform.from_pretrained(tmp_path)


def test_padding_is_black_and_around_the_middle():
    """A white frame of twice the width: half the square is white, the rest what black becomes."""
    transform = ImageTransform(32, None, (0.5,) * 3, (0.25,) * 3, pad=True)
    wide = transform(torch.ones(2, 40, 80, 3))
    expected = torch.full((2, 3, 32, 32), -2.0)
    expected[:, :, 8:24] = 2.0
    torch.testing.assert_close(wide, expected)
    torch.testing.assert_close(transform(torch.ones(2, 80, 40, 3)), expected.mT)
    square = transform(torch.ones(1, 20, 20, 3))
    torch.testing.assert_close(square, torch.full((1, 3, 32, 32), 2.0))


@pytest.mark.parametrize(("height", "width"), [(40, 61), (75, 50), (20, 24), (32, 17)])
def test_padding_is_what_open_clip_does_up_to_rounding(height, width):
    transform = ImageTransform(32, None, (0.0,) * 3, (1.0,) * 3, pad=True)
    frames = pictures(height, width)
    scale = 32 / max(height, width)
    size = round(width * scale), round(height * scale)
    for frame, ours in zip(frames, transform(frames), strict=True):
        theirs = Image.new("RGB", (32, 32))
        picture = Image.fromarray((frame * 255).byte().numpy()).resize(
            size, Image.Resampling.BICUBIC
        )
        theirs.paste(picture, ((32 - size[0]) // 2, (32 - size[1]) // 2))
        levels = (ours.movedim(0, -1) * 255 - torch.tensor(np.array(theirs)).float()).abs()
        assert levels.max() < 5
        assert levels.mean() < 0.5


@pytest.mark.parametrize("config", [{"size": (8, 8), "crop": None}, {"size": 8, "crop": (4, 4)}])
def test_padding_makes_squares_alone(config):
    with pytest.raises(ValueError, match="pad needs one size, the long side, and no crop"):
        ImageTransform(**config, mean=(0,) * 3, std=(1,) * 3, pad=True)


def test_gradients_reach_the_frames():
    transform = ImageTransform(16, (16, 16), (0.5,) * 3, (0.5,) * 3)
    frames = pictures(32, 40).clamp(0.1, 0.9).requires_grad_()
    transform(frames).square().sum().backward()
    assert (frames.grad.abs() > 0).float().mean() > 0.7


def test_a_model_that_is_not_there_is_named_without_asking_the_network():
    with pytest.raises(FileNotFoundError, match=r"no local copy of 'no/such-model'.*download=True"):
        local_folder("no/such-model")
    with pytest.raises(FileNotFoundError, match="no local copy of"):
        local_folder("not a name at all")


def test_the_one_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="got none"):
        the_file(tmp_path, "*.pt")
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "a.pt")
    assert read_state(the_file(tmp_path, "b*.pt", "*.pt"))["w"].tolist() == [1, 1]
    torch.save({"w": torch.ones(2)}, tmp_path / "b.pt")
    with pytest.raises(FileNotFoundError, match=r"expected one \*\.pt .* got a\.pt, b\.pt"):
        the_file(tmp_path, "*.pt")


class Bomb:
    def __reduce__(self):
        return (print, ("boom",))


def test_a_checkpoint_cannot_run_code(tmp_path):
    torch.save({"w": Bomb()}, tmp_path / "a.pt")
    with pytest.raises(Exception, match=r"(?i)weights.only|unsupported"):
        read_state(tmp_path / "a.pt")
