"""Networks of timm: their maps, whole runs of a ViT and a Swin as a user types them, and networks that are refused."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import evaluate_classification
import inference_classification
from core.batch_norm import Groups, group_batch_norms
from core.evaluation.classifier import load_classifier
from core.evaluation.export import export
from core.networks import Classifier, TimmFeatures
from core.training import train
from core.training.trainer import Trainer
from core.weights import load_weights
from tests.helpers.command_line import run, small_with
from tests.helpers.golden import make_network, strategy_of
from tools.runs.checkpoints import Description, save_checkpoint
from tools.system.errors import UserError

timm = pytest.importorskip("timm")
VIT, SWIN = "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"


# Maps ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [224, 64])
def test_the_map_of_a_vit_is_its_normalized_tokens(side):
    torch.manual_seed(0)
    backbone = Classifier(f"timm/{VIT}", 3).eval().backbone
    theirs = timm.create_model(VIT, img_size=side).eval()  # of this size alone
    state_dict = dict(backbone.model.state_dict())
    grid = state_dict["pos_embed"][:, 1:].unflatten(1, (14, 14)).movedim(-1, 1)
    grid = F.interpolate(grid, (side // 16, side // 16), mode="bicubic", antialias=True).flatten(2).mT
    state_dict["pos_embed"] = torch.cat((state_dict["pos_embed"][:, :1], grid), dim=1)
    missing, extra = theirs.load_state_dict(state_dict, strict=False)
    assert missing == ["head.weight", "head.bias"] and not extra
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        tokens = theirs.forward_features(images)[:, 1:]  # the first is the class token
        expected = tokens.unflatten(1, (side // 16, side // 16)).movedim(-1, 1)
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)


def test_the_map_of_a_swin_is_its_last_stage_resized_to_stride_16():
    torch.manual_seed(0)
    backbone = Classifier(f"timm/{SWIN}", 3).eval().backbone
    theirs = timm.create_model(SWIN).eval()  # of 224 pixels alone
    missing, extra = theirs.load_state_dict(backbone.model.state_dict(), strict=False)
    assert missing == ["head.fc.weight", "head.fc.bias"] and not extra
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        last = theirs.forward_features(images).movedim(-1, 1)
        expected = F.interpolate(last, (14, 14), mode="bilinear")
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)


class Means(nn.Module):
    """A feature extractor whose map is the mean of each cell of `stride` pixels."""

    def __init__(self, stride: int):
        super().__init__()
        self.feature_info = [{"reduction": stride}]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [F.avg_pool2d(x, self.feature_info[0]["reduction"])]


@pytest.mark.parametrize("side", [64, 48, 224])
@pytest.mark.parametrize("stride", [8, 14, 16, 32])
def test_cells_of_a_resized_map_are_where_the_pixels_are(stride, side):
    ramp = torch.arange(float(side)).expand(1, 3, side, side)
    across, down = (TimmFeatures(Means(stride))(x) for x in (ramp, ramp.mT))
    assert across.shape == (1, 3, side // 16, side // 16)
    centers = 16 * torch.arange(side // 16) + 7.5
    between = (centers > stride / 2) & (centers < side - 1.5 * stride)  # the centers of two whole cells
    assert side < 224 or between.any()
    torch.testing.assert_close(across[0, 0, 0][between], centers[between])
    torch.testing.assert_close(down, across.mT)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_dinov2", "swin_tiny_patch4_window7_224"])
def test_images_and_tiles_of_any_size_pass_and_tiles_do_not_depend_on_other_crops(name):
    torch.manual_seed(0)
    network = Classifier(f"timm/{name}", 3).eval()
    for side in (32, 96):
        tiles = torch.randn(2, 4, 3, side // 2, side // 2)
        with torch.no_grad():
            logits, features = network(torch.randn(1, 3, side, side))
            together, alone = network(tiles)[1], network(tiles[:1])[1]
        assert logits.shape == (1, 3) and features.shape == (1, 3, side // 16, side // 16)
        assert together.shape == (2, 4, 3, side // 32, side // 32)
        torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-3)


# Normalization ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 5), (24, 5, 3)])
def test_batch_normalization_of_tokens_equals_one_crop_after_another(shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    literal = nn.BatchNorm1d(5)
    grouped = group_batch_norms(nn.Sequential(nn.BatchNorm1d(5)))[0]
    grouped.groups = Groups(crops=3)
    torch.testing.assert_close(grouped(x), torch.cat([literal(part) for part in x.chunk(3)]))
    torch.testing.assert_close(dict(grouped.named_buffers()), dict(literal.named_buffers()))
    torch.testing.assert_close(grouped.eval()(x), literal.eval()(x))


def test_a_layer_whose_statistics_cannot_be_kept_apart_is_refused_by_name():
    with pytest.raises(ValueError, match="EvoNorm2dB0, whose statistics cannot be kept apart by crop"):
        group_batch_norms(nn.Sequential(nn.Sequential(timm.layers.EvoNorm2dB0(4))))
    frozen = timm.layers.FrozenBatchNormAct2d(4)
    assert group_batch_norms(nn.Sequential(frozen))[0] is frozen  # its statistics are not the batch's


# Weights ------------------------------------------------------------------------------------------------------------


def test_a_vit_file_of_another_image_size_is_resampled_as_timm_does(tmp_path):
    theirs = timm.create_model("vit_tiny_patch16_384").state_dict()
    torch.save(theirs, tmp_path / "vit.pth")
    model = make_network(f"timm/{VIT}", str(tmp_path / "vit.pth"), 3).backbone.model
    assert torch.equal(model.blocks[-1].mlp.fc2.weight, theirs["blocks.11.mlp.fc2.weight"])
    expected = timm.layers.resample_abs_pos_embed(theirs["pos_embed"], (14, 14), (24, 24))
    torch.testing.assert_close(model.pos_embed.data, expected)
    theirs["blocks.11.mlp.fc2.weight"] = theirs["blocks.11.mlp.fc2.weight"][:, 1:]
    with pytest.raises(ValueError, match="1 of another shape"):
        load_weights(Classifier(f"timm/{VIT}", 3), theirs)


def test_a_swin_file_loads_with_the_buffers_that_earlier_versions_wrote():
    theirs = timm.create_model(SWIN).state_dict()
    old = {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    network = Classifier(f"timm/{SWIN}", 3)
    assert load_weights(network, {f"module.{name}": value for name, value in (theirs | old).items()}) == "backbone"
    assert torch.equal(network.backbone.model.norm.weight, theirs["norm.weight"])
    assert load_weights(network, network.backbone.state_dict()) == "backbone"
    with pytest.raises(ValueError, match="the weights do not fit this network"):
        load_weights(network, {"layers.9.relative_position_bias_table": torch.zeros(3)})


# Whole runs ---------------------------------------------------------------------------------------------------------


def typed(monkeypatch, main, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["program", *map(str, words)])
    main()


@pytest.mark.parametrize("name, small", [(VIT, {"depth": 2}), (SWIN, {"embed_dim": 24, "depths": (1, 1, 2, 1)})])
def test_a_run_is_interrupted_resumed_evaluated_and_shown(toy, tmp_path, monkeypatch, name, small, capsys):
    monkeypatch.chdir(tmp_path)
    create = timm.create_model  # with fewer layers, to save time
    monkeypatch.setattr(timm, "create_model", lambda name, **keywords: create(name, **small, **keywords))
    sizes = {"image_size": 64, "min_image_size": 64, "max_image_size": 80, "batch_size": 8, "limit": 16}
    words = small_with(architecture=f"timm/{name}", data_dir=toy, max_epoch=1, lr=0.001, **sizes)

    def start(tag: str, *more: str) -> None:
        typed(monkeypatch, lambda: train(strategy_of("cTopk_w"), "A test."), *words, "--tag", tag, *more)

    start("whole")
    with monkeypatch.context() as patched:
        iterate = Trainer.iterate

        def iterate_and_stop(*arguments):
            os.kill(os.getpid(), signal.SIGTERM)
            return iterate(*arguments)

        patched.setattr(Trainer, "iterate", iterate_and_stop)
        with pytest.raises(SystemExit) as stop:
            start("resumed")
        assert stop.value.code == 128 + signal.SIGTERM
    start("resumed", "--resume")
    models = Path("experiments/models")
    whole, resumed = (torch.load(models / f"last_{tag}.pth", weights_only=True) for tag in ("whole", "resumed"))
    assert whole.keys() == resumed.keys() and all(torch.equal(value, resumed[key]) for key, value in whole.items())

    about = ("--tag", "whole", "--data_dir", toy, "--num_workers", 0)
    typed(monkeypatch, evaluate_classification.main, *about, "--localization", "--bootstrap", 0)
    assert "keypoint" in capsys.readouterr().out
    photos = sorted((toy / "JPEGImages").iterdir())[:2]
    with pytest.raises(SystemExit, match="0"):
        typed(monkeypatch, inference_classification.main, "--tag", "whole", "--images", *photos, "--pictures", "drawn")
    assert len(list(Path("drawn").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [VIT, SWIN])
def test_it_is_exported_or_refused_in_one_line(tmp_path, name):
    torch.manual_seed(0)
    network = Classifier(f"timm/{name}", 3)
    save_checkpoint(tmp_path / "x.pth", network.state_dict(), Description(f"timm/{name}", ["a", "b", "c"], 64))
    model, photos = load_classifier(tmp_path / "x.pth", strategy="cMax"), list(np.zeros((2, 50, 80, 3), np.uint8))
    assert max(export(model, "torch_export", photos)[1].values()) < 1e-2
    if name == VIT:
        assert max(export(model, "onnx", photos)[1].values()) < 1e-2
    else:  # as PyTorch 2.14 converts it, ONNX Runtime cannot read it
        with pytest.raises(UserError, match="cannot be exported with --format onnx"):
            export(model, "onnx", photos)


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, said", [("convit_tiny", "doesn't match model (224)")])
def test_a_network_that_cannot_be_used_is_refused_before_the_data_are_read(tmp_path, monkeypatch, capsys, name, said):
    monkeypatch.chdir(tmp_path)
    words = small_with(architecture=f"timm/{name}", data_dir="nowhere", tag="x")
    with pytest.raises(SystemExit) as stop:
        typed(monkeypatch, lambda: train(strategy_of("cTopk_w"), "A test."), *words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: --architecture: timm/") and error.count("\n") == 1
    assert said in error and not (tmp_path / "experiments").exists()


# The list -----------------------------------------------------------------------------------------------------------


def test_the_list_says_which_families_work(tmp_path):
    head = "| family | smallest network | million parameters | D | stride | normalization | works |"
    (tmp_path / "page.md").write_text(f"# Backbones\n\n{head}\n|---|\n| an earlier row |\n")
    words = ("--families", "starnet,levit", "--image_size", 64, "--output", "page.md")
    result = run(tmp_path, "-m", "benchmarks.backbones", *words)
    assert result.returncode == 0, result.stderr
    title, empty, *table = (tmp_path / "page.md").read_text().splitlines()
    assert (title, empty, table[0]) == ("# Backbones", "", head) and result.stdout.splitlines() == table
    works, refused = table[2:]
    assert works.startswith("| starnet | ") and works.endswith(" | yes |")
    assert refused.startswith("| levit | ") and " | no: " in refused
