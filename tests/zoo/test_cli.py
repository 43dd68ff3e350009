import importlib

import pytest
from PIL import Image

from reelrl.zoo import train as training
from reelrl.zoo.cli import main
from reelrl.zoo.shipped.soli import command


def test_sample_writes_gif_and_strip_and_prints_the_axes(tmp_path, capsys):
    out = tmp_path / "clip.gif"
    main(["sample", "--prompt", "a red circle moving right", "--out", str(out), "--num-steps", "2"])
    printed = capsys.readouterr().out
    assert all(axis in printed for axis in ("align", "phys", "fid", "gold"))
    with Image.open(out) as gif:
        assert gif.n_frames == 9
    with Image.open(out.with_suffix(".png")) as strip:
        assert strip.width > 9 * 32


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--prompt", "a pink circle moving right"], "unknown word 'pink'"),
        (["--prompt", "circle red a moving"], "is not of the form"),
        (["--model", "nanno"], "unknown model 'nanno'"),
        (["--out", "clip.mp4"], "must end in .gif"),
    ],
)
def test_bad_input_ends_with_one_line_and_writes_nothing(
    arguments, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["sample", *arguments])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert words in message and len(message.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_list_models_names_both(capsys):
    main(["list", "models"])
    printed = capsys.readouterr().out
    assert "nano-early" in printed and "8x5x8x8" in printed


@pytest.mark.parametrize(
    "options",
    [
        ["--set", "a=1", "b=2", "c=3"],
        ["--set", "a=1", "--set", "b=2", "c=3"],
        ["--set", "a=1", "b=2", "--seed", "4", "--set", "c=3"],
    ],
)
@pytest.mark.parametrize(
    ("name", "module"), [("train", training), ("train-reward", command)], ids=str
)
def test_settings_add_up_however_they_are_given(options, name, module, monkeypatch):
    """Of two ``--set`` the parser kept the last, and the run went on without the first."""
    seen = []
    monkeypatch.setattr(
        module, name.replace("-", "_"), lambda *given, settings, **others: seen.append(settings)
    )
    main([name, *options])
    assert seen == [("a=1", "b=2", "c=3")]


def test_a_folder_of_results_is_told_by_the_file_its_writer_writes():
    from reelrl.zoo.benchmark.columns import SUITE
    from reelrl.zoo.cli import WRITERS
    from reelrl.zoo.shipped.soli.ablation import TABLE

    assert list(WRITERS) == [SUITE, TABLE]
    assert all(callable(importlib.import_module(module).report) for module in WRITERS.values())
