"""The counterparts: heads and losses against numbers of the official codes (tests/golden/README.md) and written out."""

import hashlib
import json
import math
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluate_classification
import inference_classification
from baselines.asymmetric_loss import asymmetric_loss
from baselines.csra import CSRA, TEMPERATURES
from baselines.ml_decoder import MLDecoder
from baselines.recipe import RECIPE, TRAINING
from core.cam import make_cam
from core.evaluation.loading import read_strategy, trained_network
from core.networks import Classifier
from core.optimizer import learning_rate_at, make_optimizer
from core.strategy import Crops, Strategy
from core.training.config import config_class, parse_config
from core.training.loop import make_data, run_training
from core.weights import load_weights
from tests.helpers.command_line import ROOT, SCRIPTS, SMALL, refused, run
from tests.helpers.golden import make_network, trainer_of
from tools.data.devkit import read_class_names
from tools.runs.checkpoints import Description, save_checkpoint
from tools.system.errors import UserError
from tools.system.processes import Processes

GOLDEN = dict(np.load(ROOT / "tests/golden/counterparts.npz"))
KEY = str(GOLDEN["key"])
CLASSES = 20
GROUPS = {"full": 0, "grouped": 5, "uneven": 7}
# Our names, and those of the official ML-Decoder, in the order of its gradients' norms.
ML_DECODER = {
    "group_weight": "decoder.duplicate_pooling",
    "group_bias": "decoder.duplicate_pooling_bias",
    **{f"norm1.{kind}": f"decoder.layers.0.norm1.{kind}" for kind in ("weight", "bias")},
    **{
        f"attention.{name}": f"decoder.layers.0.multihead_attn.{name}"
        for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    },
    **{
        f"{layer}.{kind}": f"decoder.layers.0.{layer}.{kind}"
        for layer in ("linear1", "linear2", "norm2", "norm3")
        for kind in ("weight", "bias")
    },
    **{f"embedding.{kind}": f"decoder.embed_standart.{kind}" for kind in ("weight", "bias")},
    "queries": "decoder.query_embed.weight",
}
COUNTERPARTS = ("max_pool", "asl", "csra", "ml_decoder")


# Inputs of the golden numbers ----------------------------------------------------------------------------------------


def generator(name: str) -> np.random.RandomState:
    """NumPy's legacy generator never changes, so the same name draws the same numbers everywhere."""
    return np.random.RandomState(int.from_bytes(hashlib.sha256((KEY + name).encode()).digest()[:4], "big"))


def normal(name: str, *shape: int) -> torch.Tensor:
    return torch.from_numpy(generator(name).standard_normal(shape).astype(np.float32))


def feature_map(name: str, *shape: int) -> torch.Tensor:
    return (2 * normal(name, *shape)).clamp_min(0)


def parameter(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a parameter by its official name, after that of the case."""
    value = generator("parameter " + name).standard_normal(shape)
    if len(shape) == 1:
        value = 1 + 0.1 * value if name.endswith("weight") else 0.1 * value
    elif "query_embed" not in name:
        fan_in = max(shape[1:]) if len(shape) == 3 else np.prod(shape[1:])
        value = value * np.sqrt((2 if len(shape) == 4 else 1) / fan_in)
    return torch.from_numpy(value.astype(np.float32))


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name])


# CSRA ----------------------------------------------------------------------------------------------------------------


def csra(prefix: str, temperatures: tuple[float, ...], lam: float) -> CSRA:
    head = CSRA(64, CLASSES, temperatures, lam)
    names = [prefix + "head.weight"] if prefix == "csra_single." else []
    names = names or [f"{prefix}multi_head.{i}.head.weight" for i in range(len(temperatures))]
    with torch.no_grad():
        for i, name in enumerate(names):
            head.weight[:, i] = parameter(name, (CLASSES, 64, 1, 1))[:, :, 0, 0]
    return head


CSRA_FEATURES = feature_map("csra features", 2, 64, 7, 7)


@pytest.mark.parametrize("heads", TEMPERATURES)
def test_csra_s_logits_are_the_official_ones(heads):
    for lam, expected in zip((0.1, 0.4), golden(f"csra_{heads}_logits"), strict=True):
        logits, _ = csra(f"csra{heads}.", TEMPERATURES[heads], lam)(CSRA_FEATURES)
        torch.testing.assert_close(logits, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("index, temperature, lam", [(0, 1.0, 0.1), (1, 2.5, 0.3), (2, torch.inf, 0.2)])
def test_one_block_of_csra_is_the_official_one(index, temperature, lam):
    logits, _ = csra("csra_single.", (temperature,), lam)(CSRA_FEATURES)
    torch.testing.assert_close(logits, golden("csra_single_logits")[index], atol=1e-5, rtol=0)


def test_csra_s_gradients_are_the_official_ones():
    head, x = csra("csra4.", TEMPERATURES[4], 0.1), CSRA_FEATURES.clone().requires_grad_()
    (head(x)[0] * normal("csra sum", 2, CLASSES)).sum().backward()
    torch.testing.assert_close(x.grad, golden("csra_grad_features"), atol=1e-5, rtol=0)
    torch.testing.assert_close(head.weight.grad.transpose(0, 1), golden("csra_grad_weights"), atol=1e-4, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([*TEMPERATURES]), st.floats(0, 2))
def test_csra_is_the_sum_of_its_heads_written_out(seed, heads, lam):
    torch.manual_seed(seed)
    head, x = CSRA(5, 3, TEMPERATURES[heads], lam), torch.randn(2, 5, 2, 4)
    logits, features = head(x)
    for b in range(2):
        for v in range(3):
            expected, total = 0, torch.zeros(2, 4)
            for i, temperature in enumerate(TEMPERATURES[heads]):
                w = head.weight[v, i]
                score = sum(w[d] * x[b, d] for d in range(5)) / w.norm()
                weights = (score == score.max()) if math.isinf(temperature) else (temperature * score).exp()
                expected += score.mean() + lam * (score * weights).sum() / weights.sum()
                total = total + score
            torch.testing.assert_close(logits[b, v], expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(features[b, v], total, atol=1e-5, rtol=1e-4)


# The asymmetric loss -------------------------------------------------------------------------------------------------

ASL = [(4, 1, 0.05), (4, 0, 0.05), (2, 1, 0.0), (2, 0, 0.0), (0, 0, 0.0), (1, 1, 0.1)]
MAGNITUDES = [0.5, 2, 5, 9, 12, 15, 16.5, 17.5, 18.5, 20, 30, 60, 88, 90, 104, 200]


def loss_batch() -> tuple[torch.Tensor, torch.Tensor]:
    r = generator("asl batch")
    logits = 3 * r.standard_normal((8, CLASSES))
    labels = r.random_sample((8, CLASSES)) < 0.3
    return torch.from_numpy(logits.astype(np.float32)), torch.from_numpy(labels.astype(np.float32))


def extreme_batch() -> tuple[torch.Tensor, torch.Tensor]:
    row = torch.tensor([*(-value for value in MAGNITUDES[::-1]), 0.0, *MAGNITUDES])
    return torch.stack((row, row)), torch.stack((torch.zeros_like(row), torch.ones_like(row)))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("index", range(len(ASL)))
def test_the_asymmetric_loss_is_the_official_one(index, constant):
    for prefix, (logits, labels), close in (("asl", loss_batch(), 5e-6), ("asl_extreme", extreme_batch(), 1e-5)):
        logits = logits.clone().requires_grad_()
        elements = asymmetric_loss(logits, labels, *ASL[index], constant_focus=constant)
        elements.sum().backward()
        assert elements.sum().item() == pytest.approx(GOLDEN[f"{prefix}_value"][index, 0, int(constant)], rel=2e-6)
        torch.testing.assert_close(elements.detach(), golden(f"{prefix}_elements")[index, 0], atol=2e-5, rtol=0)
        expected = golden(f"{prefix}_grad")[index, 0, int(constant)]
        torch.testing.assert_close(logits.grad, expected, atol=close, rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.floats(-8, 8), st.booleans(), st.floats(0, 5), st.floats(0, 5), st.floats(0, 0.5))
def test_the_asymmetric_loss_is_the_paper_s_formula(logit, positive, gamma_neg, gamma_pos, clip):
    p = 1 / (1 + math.exp(-logit))
    if positive:
        expected = -((1 - p) ** gamma_pos) * math.log(p)
    else:
        shifted = max(p - clip, 0)
        expected = -(shifted**gamma_neg) * math.log(1 - shifted)
    found = asymmetric_loss(torch.tensor([[logit]]), torch.tensor([[float(positive)]]), gamma_neg, gamma_pos, clip)
    assert found.item() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_the_class_loss_is_chosen_by_one_argument():
    logits, labels = torch.randn(3, 4), (torch.rand(3, 4) < 0.5).float()
    for name in (*COUNTERPARTS, "plain", "instances"):
        strategy = declared(name)
        assert strategy.arguments.keys() >= RECIPE.keys()
        for loss, expected in (
            ("bce", F.multilabel_soft_margin_loss(logits, labels)),
            ("asl", asymmetric_loss(logits, labels).mean()),
        ):
            options = strategy.options({"class_loss": loss})
            step = strategy.training_step(lambda images: (logits, None), None, None, labels, None, options)
            torch.testing.assert_close(step.loss, expected)


# ML-Decoder ----------------------------------------------------------------------------------------------------------


def ml_decoder(case: str) -> MLDecoder:
    head = MLDecoder(48, CLASSES, GROUPS[case], width=64).eval()
    state = head.state_dict()
    assert state.keys() == ML_DECODER.keys()
    filled = {
        name: parameter(f"mldecoder_{case}.{ML_DECODER[name]}", tuple(value.shape)) for name, value in state.items()
    }
    head.load_state_dict(filled)
    return head


@pytest.mark.parametrize("case", GROUPS)
def test_ml_decoder_is_the_official_one(case):
    head, x = ml_decoder(case), feature_map("mldecoder features", 2, 48, 7, 7).requires_grad_()
    logits, features = head(x)
    torch.testing.assert_close(logits, golden(f"mldecoder_{case}_logits"), atol=1e-5, rtol=0)
    (logits * normal("mldecoder sum", 2, CLASSES)).sum().backward()
    torch.testing.assert_close(x.grad, golden(f"mldecoder_{case}_grad_features"), atol=1e-5, rtol=0)
    parameters = dict(head.named_parameters())
    norms = [parameters[name].grad.norm().item() if name in parameters else math.nan for name in ML_DECODER]
    assert norms == pytest.approx(GOLDEN[f"mldecoder_{case}_grad_norms"], rel=1e-4, nan_ok=True)
    assert [name in parameters for name in ML_DECODER] == GOLDEN[f"mldecoder_{case}_trainable"].tolist()
    # The features are attention: its sum over positions is 1, and classes of a group share it.
    torch.testing.assert_close(features.sum((2, 3)), torch.ones(2, CLASSES))
    assert torch.equal(features[:, 0], features[:, 1]) == (case != "full")


@pytest.mark.parametrize(
    "classes, groups, queries, per_query", [(3, 0, 3, 1), (150, 0, 100, 2), (7, 3, 3, 3), (2, 5, 2, 1)]
)
def test_every_class_has_a_logit_of_its_group_s_query(classes, groups, queries, per_query):
    head = MLDecoder(6, classes, groups, width=8).eval()
    assert len(head.queries) == queries and head.group_size == per_query
    logits, features = head(torch.randn(2, 6, 3, 2))
    assert logits.shape == (2, classes) and features.shape == (2, classes, 3, 2)
    assert bool(head.per_class) == (per_query == 1)


# Heads within the classifier, and their checkpoints ------------------------------------------------------------------


def declared(name: str) -> Strategy:
    return read_strategy(ROOT / "baselines" / f"{name}.py")


def network_of(name: str, classes: int = 3, **arguments: object) -> Classifier:
    torch.manual_seed(0)
    strategy = declared(name)
    return Classifier("resnet18", classes, head=strategy.head_for(strategy.options(arguments)))


def saved(folder, name: str, network: Classifier, class_names: list[str], **arguments: object):
    path = folder / f"{name}.pth"
    description = Description("resnet18", class_names, 64, network.head, name, arguments=arguments)
    save_checkpoint(path, network.state_dict(), description)
    return path


def test_maximum_pooling_takes_the_strongest_feature():
    logits, features = network_of("max_pool").eval()(torch.randn(2, 3, 64, 64))
    assert torch.equal(logits, features.amax((2, 3)))


@pytest.mark.parametrize("name", ["csra", "ml_decoder"])
def test_a_head_of_its_own_sees_images_and_tiles_and_trains(name):
    network = network_of(name).train()
    logits, features = network(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3) and features.shape == (2, 3, 4, 4) and make_cam(features).amax() <= 1
    tile_logits, tile_features = network(torch.randn(2, 4, 3, 32, 32))
    assert tile_logits.shape == (2, 4, 3) and tile_features.shape == (2, 4, 3, 2, 2)
    assert network(torch.randn(2, 4, 3, 32, 32), features_only=True)[0] is None
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.own_head.parameters())
    assert network.classifier.weight.grad is None and network.instances.weight.grad is None


CLASS_NAMES = ["cat", "cow", "dog"]


@pytest.mark.parametrize(
    "name, arguments", [("csra", {"num_heads": 2, "lam": 0.3}), ("ml_decoder", {}), ("max_pool", {})]
)
def test_a_checkpoint_finds_its_head_and_its_classes_in_another_order(tmp_path, name, arguments):
    network = network_of(name, **arguments).eval()
    path = saved(tmp_path, name, network, CLASS_NAMES, **arguments)
    images = torch.randn(2, 3, 64, 64)
    loaded, description = trained_network(path)
    assert description.head == network.head == loaded.head
    for found, expected in zip(loaded(images), network(images), strict=True):
        torch.testing.assert_close(found, expected)
    reordered, _ = trained_network(path, class_names=CLASS_NAMES[::-1], say=str)
    for found, expected in zip(reordered(images), network(images), strict=True):
        torch.testing.assert_close(found.flip(1), expected)


def test_groups_of_ml_decoder_keep_their_classes(tmp_path):
    path = saved(tmp_path, "ml_decoder", network_of("ml_decoder", num_of_groups=2), CLASS_NAMES, num_of_groups=2)
    trained_network(path)
    with pytest.raises(UserError, match="its head mixes classes: give the classes that it was trained on, in their"):
        trained_network(path, class_names=CLASS_NAMES[::-1], say=str)


def test_a_head_does_not_load_into_another(tmp_path):
    path = saved(tmp_path, "csra", network_of("csra"), CLASS_NAMES)
    with pytest.raises(UserError, match=r"1 extra \(own_head.weight\)"):
        make_network("resnet18", str(path), 3, class_names=CLASS_NAMES)
    beside = path.with_suffix(".json")
    described = {name: value for name, value in json.loads(beside.read_text()).items() if name != "content_sha256"}
    for change, said in (
        ({"strategy": "other"}, "unknown head 'CSRA': choose one of"),
        ({"arguments": {"num_heads": 3}}, "among its arguments, num_heads is not a value that --num_heads takes"),
    ):
        beside.write_text(json.dumps({**described, **change}))
        with pytest.raises(UserError, match=said):
            trained_network(path)


def test_a_backbone_s_weights_leave_the_head_as_it_is():
    network = network_of("csra")
    before = network.own_head.weight.detach().clone()
    assert load_weights(network, dict(Classifier("resnet18", 3).backbone.state_dict())) == "backbone"
    assert torch.equal(network.own_head.weight, before)


# The recipe ----------------------------------------------------------------------------------------------------------


def test_every_baseline_offers_the_recipe_and_the_four_scripts_do_not():
    for name in (*COUNTERPARTS, "plain", "instances", "centre", "centre_ema", "scale_free"):
        assert config_class(declared(name)).__dataclass_fields__.keys() >= TRAINING.keys()
    for script in SCRIPTS.values():
        names = config_class(read_strategy(ROOT / script)).__dataclass_fields__
        assert not RECIPE.keys() & names.keys()


@pytest.mark.parametrize("steps", [10, 37, 200])
def test_schedules_are_torch_s(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    expected = {
        "onecycle": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps, pct_start=0.2, cycle_momentum=False)
    }
    for schedule in (*expected, "cosine"):
        if schedule == "cosine":
            optimizer.param_groups[0].update(lr=0.1, initial_lr=0.1)
            expected[schedule] = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if len(rates) < steps:
                expected[schedule].step()
        assert [learning_rate_at(t, 0.1, steps, schedule=schedule) for t in range(steps)] == pytest.approx(rates)


def test_adamw_has_one_rate_and_spares_biases():
    network = Classifier("resnet18", 3)
    optimizer = make_optimizer(network, lr=1e-4, wd=1e-2, kind="adamw")
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [(group["full_lr"], group["weight_decay"]) for group in optimizer.param_groups] == [
        (1e-4, 0.0 if group["name"].endswith("bias") else 1e-2) for group in optimizer.param_groups
    ]


def test_cutout_is_that_of_the_training_images_alone(toy):
    """A rectangle of the image's sides covers at least a quarter of it, in one color."""
    words = [*map(str, SMALL), "--data_dir", str(toy), "--limit", "16", "--tag", "x"]
    for share in ("0", "1"):
        config = parse_config(declared("asl"), None, [*words, "--cutout", share])
        data = make_data(config, read_class_names(config.class_file), Processes())
        for name, images in data.sets.items():
            most = [
                images[index][0].flatten(0, 1)[:, :3].unique(dim=0, return_counts=True)[1].max() for index in range(9)
            ]
            assert (np.median(most) > 32 * 32 / 5) == (share == "1" and name == "training")


RECIPE_WORDS = {"optimizer": "adamw", "schedule": "onecycle", "evaluate_ema": True, "lr": 1e-3, "max_epoch": 6}


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(2, 3, 64, 64), (torch.rand(2, 3) < 0.5).float()) for _ in range(count)]


def test_the_average_is_that_of_weights_and_statistics():
    trainer = trainer_of(declared("csra"), network_of("csra"), ema_decay=0.5, **RECIPE_WORDS)
    history = []
    for images, labels in batches(4):
        trainer.iterate(images, labels)
        history.append({name: value.clone() for name, value in trainer.student.state_dict().items()})
    assert trainer.evaluated is trainer.average
    weights = [0.125, 0.125, 0.25, 0.5]  # the past counts 0, 1/2, 1/2, 1/2
    for name, value in trainer.average.state_dict().items():
        if value.is_floating_point():
            expected = sum(weight * state[name] for weight, state in zip(weights, history, strict=True))
            torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["csra", "scale_free"])
def test_adamw_and_the_average_resume_to_the_same_weights(name):
    def fresh():
        return trainer_of(declared(name), network_of(name), **RECIPE_WORDS)

    whole, first, second = fresh(), fresh(), fresh()
    data = batches(4)
    for images, labels in data:
        whole.iterate(images, labels)
    for images, labels in data[:2]:
        first.iterate(images, labels)
    second.load_state_dict(first.state_dict(), iteration=2)
    for images, labels in data[2:]:
        second.iterate(images, labels)
    for mine, theirs in ((second.student, whole.student), (second.average, whole.average)):
        assert all(
            torch.equal(*pair) for pair in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True)
        )
    sgd = trainer_of(declared(name), network_of(name), evaluate_ema=True)
    for one, other in ((sgd, first), (first, sgd)):
        sgd.iterate(*data[0])
        with pytest.raises(ValueError, match="another --optimizer"):
            one.load_state_dict(other.state_dict(), iteration=2)


# The scale-free reconstruction ---------------------------------------------------------------------------------------


class Maps:
    """A student or teacher whose maps are given, each times a factor of its own; tiles of a crop share theirs."""

    def __init__(self, features: torch.Tensor, factors: torch.Tensor):
        self.features = features * factors.reshape(*factors.shape[:1], *[1] * (features.dim() - 4), -1, 1, 1)

    def __call__(self, images: torch.Tensor, features_only: bool = False):
        return torch.zeros(self.features.shape[:2]), self.features


def re_loss_of(strategy: Strategy, arguments: dict, features: torch.Tensor, tiles: torch.Tensor, factors: tuple):
    images, labels = torch.zeros(2, 3, 64, 64), torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    student, teacher = Maps(features, factors[0]), Maps(tiles, factors[1])
    options = strategy.options(arguments, alpha_re=2.0)
    return strategy.training_step(student, teacher, images, labels, Crops.one_per_class(labels), options)


def per_map(values: st.SearchStrategy) -> st.SearchStrategy:
    """Return factors of the student's maps `[B, V]` and the teacher's `[crops, V]`."""
    lists = st.lists(values, min_size=15, max_size=15)
    return lists.map(lambda drawn: (torch.tensor(drawn[:6]).view(2, 3), torch.tensor(drawn[6:]).view(3, 3)))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    per_map(st.integers(-40, 40).map(lambda exponent: 2.0**exponent)),
    per_map(st.floats(1e-12, 1e12)),
    st.sampled_from(["cMax", "cTopk", "cTopk-w"]),
    st.sampled_from(["L1_Loss", "L2_Loss"]),
)
def test_the_scale_free_loss_does_not_change_with_the_scale_of_any_map(seed, powers, factors, cut, kind):
    torch.manual_seed(seed)
    features, tiles = torch.randn(2, 3, 4, 4), torch.randn(3, 4, 3, 2, 2)
    arguments = {"strategy": cut, "re_loss": kind, "alpha_p": 0.5}
    ones = (torch.ones(2, 3), torch.ones(3, 3))
    scaled, expected, other = (
        re_loss_of(declared("scale_free"), arguments, features, tiles, scale) for scale in (powers, ones, factors)
    )
    # Powers of two are exact in float32. With other factors, rounding may move an arg-max within a level border.
    assert torch.equal(scaled.keypoints, expected.keypoints)
    for name, value in expected.losses().items():
        assert torch.equal(scaled.losses()[name], value)
        if torch.equal(other.keypoints, expected.keypoints):
            torch.testing.assert_close(other.losses()[name], value, atol=1e-6, rtol=1e-5)


def test_its_gradient_is_orthogonal_to_every_map_and_the_published_one_is_not():
    torch.manual_seed(0)
    features, tiles = torch.randn(2, 3, 4, 4), torch.randn(3, 4, 3, 2, 2)
    features[1, 1] = -1  # a map of zeros after relu
    ones = (torch.ones(2, 3), torch.ones(3, 3))
    for path, is_orthogonal in (("baselines/scale_free.py", True), (SCRIPTS["cMax"], False)):
        maps = features.clone().requires_grad_()
        step = re_loss_of(read_strategy(ROOT / path), {}, maps, tiles, ones)
        step.re_loss.backward()
        along = (maps * maps.grad).sum((2, 3))
        assert torch.isfinite(maps.grad).all() and maps.grad.abs().sum() > 0
        assert (along.abs().max() < 1e-6) == is_orthogonal


def test_without_crops_the_scale_free_loss_is_zero():
    strategy, images, labels = declared("scale_free"), torch.zeros(2, 3, 64, 64), torch.zeros(2, 3)
    network = Classifier("resnet18", 3)
    step = strategy.training_step(network, network, images, labels, Crops.one_per_class(labels), strategy.options({}))
    assert step.re_loss == 0 and torch.isfinite(step.loss)


# Whole runs ----------------------------------------------------------------------------------------------------------

RUNS = {
    "max_pool": ["--schedule", "cosine"],
    "asl": ["--train_difficult", "negative"],
    "csra": ["--num_heads", "2", "--lam", "0.2", "--class_loss", "asl"],
    "ml_decoder": ["--num_of_groups", "5", "--optimizer", "adamw", "--schedule", "onecycle", "--evaluate_ema"],
    "scale_free": ["--strategy", "cTopk", "--optimizer", "adamw", "--schedule", "cosine", "--evaluate_ema"],
}


@pytest.mark.parametrize("name", RUNS)
def test_it_trains_resumes_is_evaluated_and_infers_maps(name, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*SMALL, "--data_dir", str(toy), "--tag", name, "--max_epoch", "1", "--lr", "0.001", *RUNS[name]]
    words += ["--keep", "all"]
    strategy = declared(name)
    with Processes() as processes:
        run_training(strategy, parse_config(strategy, None, words), processes)
    description = json.loads((tmp_path / f"experiments/models/best_{name}.json").read_text())
    assert description["strategy"] == name
    again = ["--config", f"experiments/data/{name}.config.json", "--tag", name, "--resume"]
    with Processes() as processes:
        run_training(strategy, parse_config(strategy, None, again), processes)
    assert "[i] resumed at iteration" in (tmp_path / f"experiments/logs/{name}.txt").read_text()

    words = ["--tag", name, "--data_dir", toy, "--split", "Main/val", "--num_workers", 0, "--bootstrap", 0]
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, words), "--localization"])
    evaluate_classification.main()
    result = json.loads((tmp_path / f"experiments/evaluation/best_{name}_Main_val.json").read_text())
    assert result["mAP"] == pytest.approx(description["mAP"], abs=1e-3)
    assert 0 < result["localization"]["over_pairs"]["energy"] < 100
    history = json.loads((tmp_path / f"experiments/data/{name}.json").read_text())
    assert history["validation"][0]["map_scale"] == pytest.approx(result["localization"]["strength"], rel=0.5)
    if name == "scale_free":
        own, cut = (result["localization"]["over_pairs"][column] for column in ("scale_free", "cTopk"))
        assert own == cut

    words = ["--tag", name, "--images", next((toy / "JPEGImages").iterdir()), "--pictures"]
    monkeypatch.setattr(sys, "argv", ["inference", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        inference_classification.main()
    assert end.value.code in (0, None)
    assert any(path.is_file() for path in (tmp_path / "experiments/pictures").rglob("*"))


def test_help_names_paper_and_official_code(tmp_path):
    result = run(tmp_path, "-m", "baselines.csra", "--help")
    assert result.returncode == 0, result.stderr
    for text in ("ICCV 2021", "Kevinz-code/CSRA", "--num_heads", "--evaluate_ema", "--class_loss"):
        assert text in result.stdout
    for name in COUNTERPARTS:
        docstring = (ROOT / f"baselines/{name}.py").read_text().split('"""')[1]
        assert "Paper: " in docstring and "fficial code" in " ".join(docstring.split())


def test_a_config_of_another_strategy_is_refused_in_one_line(toy, tmp_path):
    words = [*SMALL, "--data_dir", toy, "--max_epoch", 1, "--limit", 16, "--tag"]
    cuts = ("-m", "baselines.scale_free"), (SCRIPTS["cMax"],)
    for tag, script in zip(("scale_free", "cMax"), cuts, strict=True):
        result = run(tmp_path, *script, *words, tag)
        assert result.returncode == 0, result.stderr
    for tag, script, name in (("scale_free", cuts[1], "cMax"), ("cMax", cuts[0], "scale_free")):
        file = f"experiments/data/{tag}.config.json"
        said = refused(tmp_path, *script, "--config", file)
        assert f"--config {file} is of strategy {tag}: use its script, not that of {name}" in said
    # The description beside a checkpoint is one too.
    said = refused(tmp_path, *cuts[1], "--data_dir", toy, "--config", "experiments/models/best_scale_free.json")
    assert "is of strategy scale_free" in said
    config = json.loads((tmp_path / "experiments/data/scale_free.config.json").read_text())
    assert config.pop("trained") == "scale_free" and config["strategy"] == "cMax"
    (tmp_path / "before.json").write_text(json.dumps(config))  # of an earlier version
    again = parse_config(declared("scale_free"), None, ["--config", str(tmp_path / "before.json")])
    assert again.strategy == "cMax" and again.limit == 16
