"""What somebody types who has read one page: every refusal says what to type instead, and that works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

TRAIN = ("train", "trades", "--out", "new", "--set", "epochs=1")

TYPED = [
    # names as papers and other libraries spell them
    (("train", "PGD-AT"), r"did you mean 'pgd-at'"),
    (("train", "pgd_at"), r"did you mean 'pgd-at'"),
    (("train", "cafe"), r"did you mean 'cafe/adv'"),
    ((*TRAIN, "--data", "CIFAR-10"), r"did you mean 'uoft-cs/cifar10'"),
    (("evaluate", "r", "--suite", "autoattack"), r"did you mean 'standard'"),
    (("evaluate", "r", "--suite", "AA"), r"did you mean 'standard'"),
    (("evaluate", "r", "--suite", "PGD20"), r"did you mean 'pgd-20'"),
    (("evaluate", "lenet", "--data", "digits"), r"did you mean 'lenet5'"),
    (("evaluate", "r", "--device", "gpu"), r"device: got 'gpu'; expected auto, cpu, cuda, cuda:1 or another device"),
    # one thing in place of another
    (
        ("train", "r"),
        r"recipe: got 'r'; expected a recipe's name or a YAML file; this is a folder: r/recipe.yaml trains",
    ),
    (("train", "r/record.json"), r"recipe: got 'r/record.json'; expected .* a file that ends in .yaml"),
    (("train", "no_such_module:f"), r"recipe: got 'no_such_module:f'; expected a module that can be imported"),
    ((*TRAIN, "--data", "cli_data.py"), r"expected a folder, not a file; cli_data:NAME names a function in it"),
    ((*TRAIN, "--data", ""), r"data: got ''; expected a data name"),
    (
        ("evaluate", "runs/first"),
        r"target: got 'runs/first'; expected a run folder that exists; there is none at this path",
    ),
    (("evaluate", "r/recipe.yaml"), r"run: got 'r/recipe.yaml'; expected a run folder, .* this file is in, r$"),
    (("evaluate", "cli_data.py", "--data", "digits"), r"expected a run folder; cli_data:NAME names a network"),
    (("evaluate", "cli_data:net.pt", "--data", "digits"), r"a name that is there; nothing lies in cli_data:net"),
    (("evaluate", "r", "--data", ""), r"data: got ''; expected a data name"),
    (("evaluate", "small", "--weights", "evil.pt", "--data", "digits"), r"as torch.save\(model.state_dict\(\), FILE\)"),
    (("evaluate", "r", "--transfer-from", "r"), r"transfer_from: got 'r'; expected another run than the one"),
    (("evaluate", "r", "--transfer-from", "nowhere"), r"transfer_from: got 'nowhere'; expected a folder with model"),
    (("evaluate", "r", "--image-size", "8"), r"image_size: got 8; expected none with a run: r has its own"),
    (
        ("evaluate", "cli_data:net", "--data", "digits", "--mean", "127", "--std", "64"),
        r"mean: got \(127.0,\); expected means of pixels in \[0, 1\]; .* divide by 255",
    ),
    # settings where they are not
    ((*TRAIN, "--set", "beta=6"), r"recipe key: got 'beta'.*did you mean 'objective.beta'"),
    ((*TRAIN, "--set", "optimizer.lr=0.1"), r"recipe key: got 'optimizer.lr'.*did you mean 'lr'"),
    ((*TRAIN, "--set", "pgd.steps=3"), r"recipe key: got 'pgd.steps'.*did you mean 'steps'"),
    ((*TRAIN, "--set", "learning_rate=0.1"), r"recipe key: got 'learning_rate'.*did you mean 'lr'"),
    ((*TRAIN, "--set", "weight_decay=0.1"), r"did you mean 'optimizer.weight_decay'"),
    ((*TRAIN, "--set", "step_size=2"), r"step_size: got 2.0; expected at most 1 for linf: .* two levels are 2/255"),
    (
        ("train", "trades", "--epochs", "3"),
        r"No such option: --epochs \(a setting is changed by --set epochs=VALUE; see",
    ),
    (("train", "trades", "epochs=3"), r"\(epochs=3\) \(a setting is changed by --set epochs=3; see --help\)"),
    (("train", "trades", "--zzz"), r"No such option: --zzz \(see --help\)"),
    (("list",), r"Missing argument 'KIND'. \(recipes, models, data, .* or studies; see --help\)"),
    (
        (*TRAIN, "--data", "digits:rho=0.9"),
        r"data: digits: setting: got 'rho'; expected train=N .* digits\+patch:rho=0.9",
    ),
    ((*TRAIN, "--data", "digits:trian=9"), r"data: digits: setting: got 'trian'; expected train=N or test=N"),
    (("certify", "r", "--sigma", "1", "--radii", "a"), r"radii: .* numbers separated by commas, such as 0.25,0.5$"),
    (("certify", "r", "--sigma", "1", "--n0", "0"), r"selection_draws: got 0; .* at least 1 \(--n0\)"),
]


@pytest.mark.parametrize(("words", "message"), TYPED, ids=lambda value: " ".join(value)[:60] if value else "")
def test_the_refusal_says_what_to_type(refused, words, message):
    assert re.search(message, refused(*words))


def test_a_key_that_is_nowhere_has_no_near_one(refused):
    line = refused("train", "standard", "--out", "new", "--set", "beta=6")
    assert "did you mean" not in line


def pictures(folder, places, sizes=((16, 16),)):
    for number, place in enumerate(places):
        file = folder / place / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", sizes[number % len(sizes)], number).save(file)
    return folder


class TestImageFolders:
    def test_images_in_no_class(self, refused, tmp_path):
        flat = pictures(tmp_path / "flat", [""] * 3)
        line = refused(*TRAIN, "--data", flat)
        assert re.search(
            r"flat with 0.png'; expected images by class, .*flat/train/CLASS/0.png; this one lies in", line
        )

    def test_split_folders_without_classes(self, refused, tmp_path):
        folder = pictures(tmp_path / "splits", ["train"] * 3 + ["test"] * 3)
        assert re.search(r"splits with test/3.png'; expected images by class", refused(*TRAIN, "--data", folder))

    @pytest.mark.parametrize("below", [(), ("train/a", "train/b")])
    def test_no_file_at_all(self, refused, tmp_path, below):
        folder = tmp_path / "none"
        for place in ("", *below):
            (folder / place).mkdir(parents=True, exist_ok=True)
        assert "no file is in it" in refused(*TRAIN, "--data", folder)

    def test_no_split_to_judge_on(self, refused, tmp_path):
        folder = pictures(tmp_path / "train_only", ["a", "b"] * 2)
        line = refused("evaluate", "r", "--data", folder)
        assert re.search(r"with test images; it has train; those of a folder lie in .*train_only/test/CLASS$", line)

    def test_the_advice_on_mixed_sizes_works(self, cli, refused, tmp_path, workspace):
        places = [f"{split}/{label}" for split in ("train", "test") for label in "ab" for _ in range(8)]
        folder = pictures(tmp_path / "mixed", places, sizes=((16, 18), (20, 17)))
        judge = ("evaluate", "cli_data:net", "--data", folder, "--suite", "pgd-1")
        for words in ((*TRAIN, "--data", folder), judge):
            assert re.search(r"one size; .* --set image_size=N to train, --image-size N to evaluate", refused(*words))
        small = ("--set", "image_size=16", "--model", "small", "--out", tmp_path / "run", "--quiet")
        assert cli("train", "standard", "--data", folder, "--set", "epochs=1", *small).code == 0
        assert cli(*judge, "--image-size", "16", "-n", "4", "--quiet").code == 0


def test_no_record_is_said_before_the_work(cli, workspace, monkeypatch, tmp_path):
    monkeypatch.chdir(workspace)
    words = ("evaluate", "cli_data:net", "--data", "digits", "--suite", "pgd-1", "-n", "4")
    assert "no record is written; --out FILE writes one" in cli(*words).err
    assert "no record" not in cli(*words, "--out", tmp_path / "r.json").err
    assert (tmp_path / "r.json").is_file()


def test_weights_of_another_network_name_yours(refused, tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    line = refused("evaluate", "cli_data:net", "--weights", tmp_path / "other.pt", "--data", "digits")
    assert "the 2 tensors of this Sequential" in line


class TestFiles:
    @pytest.mark.parametrize(
        ("command", "text", "message"),
        [
            ("study", "study: x\n\tdata: digits\n", r"valid YAML file \(.*found character .* in line 2, column 1\)$"),
            ("study", "study: x\ndata: digits\ndata: shapes\n", r"the key 'data' stands twice, in line 3, column 1"),
            ("train", "recipe: trades\nepochs: 1\nepochs: 2\n", r"the key 'epochs' stands twice, in line 3, column 1"),
            (
                "train",
                "study: x\nruns: []\n",
                r"expected a recipe; this is a study: deconfound study .*f.yaml --out DIR",
            ),
        ],
    )
    def test_what_is_wrong_and_where(self, refused, tmp_path, command, text, message):
        Path(tmp_path / "f.yaml").write_text(text)
        assert re.search(message, refused(command, tmp_path / "f.yaml", "--out", "new"))
