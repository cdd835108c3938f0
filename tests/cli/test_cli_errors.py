"""Whatever is wrong: one line on standard error, exit code 2, nothing printed and nothing written."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TRAIN = ("train", "standard", "--out", "new", "--set", "epochs=1")
RECORD = "r/evaluate-quick-linf-0.1-n10.json"
SMALL = ("evaluate", "small", "--data", "digits", "-n", "5", "--weights")

WRONG = [
    # names
    (("train", "pgdat"), r"recipe: got 'pgdat'; .*did you mean 'pgd-at'"),
    (("train", "broken.yaml"), r"recipe: got 'broken.yaml'; expected a valid YAML file"),
    (("train", "nameless.yaml"), r"recipe: got .* expected the key recipe with one of"),
    (("train", "nowhere.yaml"), r"a readable YAML file \(No such file or directory\)"),
    ((*TRAIN, "--model", "smal"), r"model: got 'smal'.*did you mean 'small'"),
    ((*TRAIN, "--data", "digit"), r"data: got 'digit'.*did you mean 'digits'"),
    ((*TRAIN, "--data", "./nowhere"), r"data: got './nowhere'; expected a folder that exists"),
    ((*TRAIN, "--data", "file"), r"data: got 'file'; expected a folder, not a file"),
    ((*TRAIN, "--data", "foreign"), r"data: got 'foreign'"),
    (("evaluate", "r", "--suite", "quik"), r"suite: got 'quik'.*did you mean 'quick'"),
    (("list", "recipe"), r"kind: got 'recipe'.*did you mean 'recipes'"),
    # settings
    ((*TRAIN, "--set", "epoch=1"), r"recipe key: got 'epoch'.*did you mean 'epochs'"),
    ((*TRAIN, "--set", "epochs=x"), r"epochs: got 'x'; expected a whole number"),
    ((*TRAIN, "--set", "lr=0"), r"lr: got 0; expected a number above 0"),
    ((*TRAIN, "--set", "eps=8/255x"), r"eps: got '8/255x'"),
    ((*TRAIN, "--set", "epochs"), r"set: got 'epochs'; expected key=value"),
    ((*TRAIN, "--precision", "16"), r"precision: got 16"),
    ((*TRAIN, "--devices", "two"), r"devices: got 'auto x two'"),
    ((*TRAIN, "--devices", "-1"), r"devices: got 'auto x -1'"),
    ((*TRAIN, "--accelerator", "abacus"), r"devices: got 'abacus x 1'"),
    ((*TRAIN, "--strategy", "fsdp"), r"strategy: got 'fsdp'"),
    (("evaluate", "r", "--eps", "8/255x"), r"eps: got '8/255x'"),
    (("evaluate", "r", "--eps", "8"), r"eps: got 8.0; expected at most 1 for linf"),
    (("evaluate", "r", "--norm", "l7"), r"norm: got 'l7'; expected one of linf, l2, l1"),
    (("evaluate", "r", "-n", "361"), r"n: got 361; expected between 1 and the split's 360 images"),
    (("evaluate", "r", "-n", "0"), r"n: got 0"),
    (("evaluate", "r", "--budget", "vast"), r"budget: got 'vast'; expected one of demo, full, normal"),
    (("evaluate", "r", "--batch-size", "0"), r"batch_size: got 0"),
    (("evaluate", "r", "--seed", "-1"), r"seed: got -1"),
    (("evaluate", "r", "--mean", "a"), r"mean: got 'a'; expected numbers separated by commas"),
    (("evaluate", "r", "--mean", "0.5"), r"mean: got .* expected none with a run"),
    (("evaluate", "r", "--device", "abacus"), r"device: got 'abacus'"),
    (("analyze", "r", "styl"), r"kind: got 'styl'; expected one of all, .*, style \(did you mean 'style'\?\)"),
    (("analyze", "r", "style"), r"kind: got 'style'; .* was trained with standard; this one needs a style branch"),
    (("analyze", "nowhere", "style"), r"run: got 'nowhere'; expected a folder with model.safetensors"),
    (("analyze", "r", "style", "--seed", "-1"), r"seed: got -1"),
    (("analyze", "r", "style", "--batch-size", "0"), r"batch_size: got 0"),
    (("analyze", "r", "style", "--device", "abacus"), r"device: got 'abacus'"),
    (
        ("analyze", "r", "style", "--out", "file/below"),
        r"out: got 'file/below'; expected a folder; a file lies at file",
    ),
    # usage
    (("train",), r"deconfound train: Missing argument 'RECIPE'. \(A recipe's name or a YAML file; .*; see --help\)"),
    (("evaluate",), r"deconfound evaluate: Missing argument"),
    (("analyze",), r"deconfound analyze: Missing argument"),
    (("analyze", "r"), r"deconfound analyze: Missing argument"),
    (("report",), r"deconfound report: Missing argument"),
    (("compare",), r"deconfound compare: Missing argument"),
    (("list",), r"deconfound list: Missing argument"),
    (("evaluate", "r", "--nope"), r"deconfound evaluate: No such option: --nope"),
    (("evaluate", "r", "-n", "x"), r"deconfound evaluate: Invalid value for '-n'"),
    (("evaluate", "r", "s"), r"unexpected extra argument"),
    (("train", "standard", "--set"), r"'--set' requires an argument"),
    (("evaluat",), r"No such command 'evaluat'. Did you mean 'evaluate'\?"),
    (("--nope",), r"No such option: --nope"),
    ((*TRAIN, "--num-nodes", "0"), r"Invalid value for '--num-nodes'"),
    ((*TRAIN, "--checkpoint-seconds", "nan"), r"Invalid value for '--checkpoint-seconds'"),
    # data
    ((*TRAIN, "--data", "cli_data:levels"), r"values from .* to 2\d\d.*divide by 255"),
    ((*TRAIN, "--data", "cli_data:normalised"), r"values from -.*leave normalisation to the model"),
    ((*TRAIN, "--data", "cli_data:gap"), r"NaN or infinite pixels in image 3"),
    ((*TRAIN, "--data", "cli_data:negative"), r"labels: got -1; expected labels within 0\.\.8"),
    ((*TRAIN, "--data", "cli_data:beyond"), r"labels: got 9; expected labels within 0\.\.8 for 9 classes"),
    ((*TRAIN, "--data", "cli_data:nothing"), r"at least one image"),
    ((*TRAIN, "--data", "cli_data:only_test"), r"a data set with train images; it has test"),
    ((*TRAIN, "--data", "cli_data:broken"), r"\(RuntimeError: two\)"),
    ((*TRAIN, "--data", "cli_data:absent"), r"data: got 'cli_data:absent'; expected one of cli_data:beyond"),
    ((*TRAIN, "--data", "no_such_module:f"), r"No module named 'no_such_module'"),
    (("evaluate", "r", "--data", "cli_data:colour"), r"images \(1, 16, 16\), as the run was trained on"),
    (("evaluate", "r", "--data", "cli_data:few_classes"), r"the classes that the run was trained on, 10 classes"),
    (("evaluate", "r", "--data", "cli_data:levels"), r"divide by 255"),
    (("evaluate", "r", "--data", "cli_data:only_train"), r"a data set with test images; it has train"),
    # networks and weights
    (("evaluate", "small"), r"weights: got None; expected a file of weights \(--weights\)"),
    (("evaluate", "smal"), r"target: got 'smal'; expected a run folder that exists, or a network: lenet5"),
    (("evaluate", "small", "--weights", "other.pt"), r"data: got None; expected a data set \(--data\)"),
    ((*SMALL, "nowhere.pt"), r"weights: got 'nowhere.pt'; expected a file of weights"),
    ((*SMALL, "evil.pt"), r"pickle of objects that could run code, and is not opened"),
    ((*SMALL, "junk.pt"), r"weights: got 'junk.pt'; expected an intact file of tensors"),
    ((*SMALL, "cut.safetensors"), r"an intact safetensors file"),
    ((*SMALL, "other.pt"), r"8 missing: conv1.weight, conv1.bias, conv2.weight and 5 more; 1 unexpected: weight"),
    ((*SMALL, "r/last.ckpt"), r"a mapping of parameter names to tensors"),
    (("evaluate", "r", "--weights", "other.pt"), r"weights: got 'other.pt'; expected none with a run"),
    (("evaluate", "cli_data:nix", "--data", "digits"), r"model: got 'cli_data:nix'"),
    (("evaluate", "empty"), r"run: got 'empty'; expected a folder with model.safetensors"),
    (("evaluate", "file"), r"run: got 'file'"),
    # places
    (("train", "standard", "--out", "r"), r"a run lies here \(--resume continues it, --overwrite replaces it\)"),
    (("train", "standard", "--out", "r", "--resume", "--overwrite"), r"either resume or overwrite, not both"),
    (("train", "standard", "--out", "file"), r"a file of this name exists"),
    (("train", "standard", "--out", "file/below"), r"a file lies where a folder is needed"),
    (("train", "standard", "--out", "foreign"), r"this one holds files that are not a run"),
    (("train", "standard", "--out", "n" * 300), r"File name too long"),
    (("evaluate", "n" * 300), r"File name too long"),
    (("evaluate", "r", "--suite", "quick", "-n", "10"), r"a finished record lies here \(--overwrite replaces it\)"),
    (("evaluate", "r", "-n", "9", "--out", "foreign"), r"a file; a folder lies here"),
    (("evaluate", "r", "-n", "9", "--out", "file/below"), r"a file lies where a folder is needed"),
    (("demo", "--out", "foreign"), r"this one holds something else"),
    (("demo", "--out", "file"), r"a file of this name exists"),
    # resuming
    (("train", "standard", "--out", "half", "--resume"), r"epochs=40.*started with: epochs=1; continue with: "),
    (
        ("train", "half/recipe.yaml", "--out", "half", "--resume", "--data", "cli_data:right"),
        r"a checkpoint of this recipe and these data",
    ),
    # records
    (("report", "empty"), r"at least one evaluation record \(deconfound evaluate\)"),
    (("report", "nowhere"), r"a folder or file that exists"),
    (("report", "file"), r"report: got 'file'; expected a record that deconfound wrote"),
    (("report", "results.json"), r"a record that deconfound wrote"),
    (("report", "newer.json"), r"newer.json: schema_version: got 99; expected at most 1; update deconfound"),
    (("compare", "r"), r"compare: got 'r'; expected at least two evaluation records \(deconfound evaluate\), not 1"),
    (("compare", RECORD, RECORD), r"each file once; this one is given twice"),
    (("compare", RECORD, "r"), r"each file once; this one is given twice"),
    (("compare", RECORD, "elsewhere.json"), r"elsewhere.json: data: got .* expected the data of r/evaluate-quick"),
    (("compare", RECORD, "nowhere"), r"compare: got 'nowhere'; expected a folder or file that exists"),
    (("compare", RECORD, "r/record.json"), r"r/record.json: got 'training'; expected a record of kind 'evaluation'"),
    (("compare", RECORD, "newer.json"), r"newer.json: schema_version: got 99; expected at most 1; update deconfound"),
    (("compare", RECORD, "file"), r"file: got 'unreadable JSON"),
    (("compare", RECORD, "results.json"), r"a record that deconfound wrote"),
    (("compare", RECORD, "seed.json", "--out", "file"), r"a new file; one lies here \(--overwrite replaces it\)"),
    (
        ("compare", RECORD, "seed.json", "--out", "seed.json", "--overwrite"),
        r"another file than those that are compared",
    ),
    (
        ("compare", RECORD, "seed.json", "--adjust", "bonferroni"),
        r"adjust: got 'bonferroni'; expected one of holm, none",
    ),
    (("report", "r", "--out", "file"), r"a new file; one lies here \(--overwrite replaces it\)"),
    (("report", "r", "--out", "empty", "--overwrite"), r"a file; a folder lies here"),
]


@pytest.mark.parametrize(("words", "message"), WRONG, ids=lambda value: " ".join(value)[:60] if value else "")
def test_one_line_and_nothing_written(refused, words, message):
    assert re.search(message, refused(*words))


def test_a_pickle_did_not_run(refused, workspace):
    refused(*SMALL, "evil.pt")
    assert not (workspace / "ran").exists()


def test_a_corrupt_image_is_named(refused, corrupt_images):
    line = refused(*TRAIN, "--data", "pictures", "--set", "family=digits")
    assert re.search(r"image: got '.*pictures/train/a/0.png'; expected a readable image file", line)


def test_a_file_that_may_not_be_read(refused, monkeypatch):
    """Root may read everything, so the refusal is planted."""
    refuse = PermissionError(errno.EACCES, "Permission denied", "other.pt")
    opened = Path.open

    def planted(path, *args, **kwargs):
        if path.name == "other.pt" and args == ("rb",):
            raise refuse
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", planted)
    assert "Permission denied" in refused(*SMALL, "other.pt")


def test_divergence_is_exit_code_1(cli, tmp_path):
    result = cli("train", "standard", "--out", tmp_path / "run", "--set", "epochs=1", "--set", "lr=1e30", "--quiet")
    assert (result.code, result.out) == (1, "")
    assert re.fullmatch(r"error: training diverged: .*; lower lr\n", result.err)


def test_control_c_is_exit_code_130(cli, monkeypatch):
    def interrupted(kind):
        raise KeyboardInterrupt

    monkeypatch.setattr("deconfound.recipes.listing.listing", interrupted)
    assert cli("list", "models") == (130, "", "")


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of its own of 300 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    if (
        os.geteuid()
        or shutil.which("mount") is None
        or subprocess.run(command, capture_output=True, check=False).returncode
    ):
        pytest.skip("mounting a file system is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


class TestFullDisk:
    def line(self, result):
        assert (result.code, result.out) == (2, "")
        (line,) = result.err.splitlines()
        assert re.match(r"error: out: got '.*'; expected a place that can be written \(No space left on device\)", line)

    def test_training(self, cli, tiny_disk):
        self.line(cli("train", "standard", "--out", tiny_disk / "run", "--set", "epochs=1", "--quiet"))
        assert not [path for path in tiny_disk.rglob("*") if path.name.endswith(".tmp")]
        assert not (tiny_disk / "run" / "model.safetensors").exists()

    def test_a_checkpoint_that_fits_survives_the_next_that_does_not(self, cli, tiny_disk, workspace):
        shutil.copytree(
            workspace / "half",
            tiny_disk / "run",
            ignore=shutil.ignore_patterns("*.ckpt", "*.safetensors", "evaluate-*"),
        )
        (tiny_disk / "filler").write_bytes(b"\0" * 280_000)
        before = {path: path.read_bytes() for path in tiny_disk.rglob("*") if path.is_file()}
        words = ("train", tiny_disk / "run" / "recipe.yaml", "--out", tiny_disk / "run", "--resume", "--quiet")
        self.line(cli(*words))
        after = {path: path.read_bytes() for path in tiny_disk.rglob("*") if path.is_file()}
        assert before[tiny_disk / "run" / "recipe.yaml"] == after[tiny_disk / "run" / "recipe.yaml"]

    def test_a_report_leaves_the_old_one(self, cli, tiny_disk, workspace):
        page = tiny_disk / "report.html"
        page.write_bytes(b"old" * 90_000)
        self.line(cli("report", workspace / "r", "--out", page, "--overwrite"))
        assert page.read_bytes() == b"old" * 90_000
        assert list(tiny_disk.iterdir()) == [page]

    def test_an_evaluation(self, cli, tiny_disk, workspace):
        (tiny_disk / "filler").write_bytes(b"\0" * 303_000)
        result = cli("evaluate", workspace / "r", "-n", "40", "--out", tiny_disk / "record.json", "--quiet")
        self.line(result)
        assert not (tiny_disk / "record.json").exists()
