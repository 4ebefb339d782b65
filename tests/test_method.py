"""The method against a literal re-implementation of the published algorithm, and its edge cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.batch_norm import (
    GroupedBatchNorm2d,
    Groups,
    normalize_group_by_group,
    normalize_groups_at_once,
    update_running_stats,
)
from core.cam import make_cam
from core.ema import make_teacher, update_teacher
from core.instances import ClassSpecificInstances
from core.keypoints import cmax_keypoints, ctopk_keypoints, ctopk_w_keypoints, max_keypoints
from core.losses import alpha_re_at, class_loss, p_class_loss, puzzle_losses, reconstruction_loss
from core.networks import Classifier
from core.optimizer import learning_rate_at, make_optimizer, set_learning_rates
from core.puzzle import cut_tiles, merge_tiles
from core.strategy import Crops, Options
from core.training.trainer import Trainer
from core.weights import from_official, load_weights
from tests.helpers import oracle
from tests.helpers.golden import SCRIPTS, iterate_and_keep_logits, strategy_of, trainer_of

sizes = st.integers(1, 6).map(lambda multiple: 32 * multiple)
seeds = st.integers(0, 2**31)


def random_cams(rng: np.random.Generator, count: int, size: int) -> torch.Tensor:
    """Maps in 0…1 with plateaus, ties, empty and constant ones among them."""
    cells = size // 16
    features = rng.normal(0, 1, (count, cells, cells)).astype(np.float32)
    if rng.random() < 0.5:
        features = np.round(features)  # equal peaks
    features[rng.random(count) < 0.15] = 0
    features[rng.random(count) < 0.1] = 1
    return make_cam(torch.from_numpy(features))


@settings(max_examples=60, deadline=None)
@given(seeds, sizes, st.integers(1, 6), st.sampled_from([0, 40, 128, 700]))
def test_keypoints_equal_the_literal_search(seed, size, k, radius):
    rng = np.random.default_rng(seed)
    cams = random_cams(rng, 4, size)
    maps = list(oracle.resize_cam(cams, size))
    expected = {
        "cMax": [oracle.max_keypoint(response) for response in maps],
        "cTopk": [oracle.ctopk_keypoint(response, k, radius) for response in maps],
        "cTopk-w": [oracle.ctopk_w_keypoint(response, k) for response in maps],
    }
    found = {
        "cMax": cmax_keypoints(cams, size),
        "cTopk": ctopk_keypoints(cams, size, k, radius),
        "cTopk-w": ctopk_w_keypoints(cams, size, k),
    }
    for name, points in found.items():
        np.testing.assert_array_equal(points, np.array(expected[name]), err_msg=name)
        assert ((points > 0) & (points < size)).all()


@settings(max_examples=30, deadline=None)
@given(seeds, sizes, st.integers(1, 5))
def test_max_keypoint_is_the_arg_max_of_the_strongest_present_class(seed, size, classes):
    rng = np.random.default_rng(seed)
    cams = random_cams(rng, 2 * classes, size).unflatten(0, (2, classes))
    labels = torch.from_numpy(rng.integers(0, 2, (2, classes))).float()
    found = max_keypoints(cams, labels, size)
    for image in range(2):
        strongest = (cams[image] * labels[image][:, None, None]).amax(0)
        response = oracle.resize_cam(strongest[None], size)[0]
        assert found[image].tolist() == list(oracle.max_keypoint(response))


@settings(max_examples=40, deadline=None)
@given(seeds, sizes, st.sampled_from([torch.contiguous_format, torch.channels_last]))
def test_tiles_and_merged_maps_equal_the_literal_ones_for_any_keypoint(seed, size, layout):
    rng = np.random.default_rng(seed)
    half = size // 32
    images = torch.from_numpy(rng.normal(size=(2, 3, size, size)).astype(np.float32)).contiguous(memory_format=layout)
    keypoints = torch.from_numpy(rng.integers(1, size, (5, 2)))
    image_index = torch.from_numpy(rng.integers(0, 2, 5))
    tiles = cut_tiles(images, image_index, keypoints)
    tile_features = torch.from_numpy(rng.normal(size=(5, 4, 3, half, half)).astype(np.float32))
    merged = merge_tiles(tile_features, keypoints, size)
    for crop, (image, keypoint) in enumerate(zip(image_index.tolist(), keypoints.tolist(), strict=True)):
        assert torch.equal(tiles[crop], oracle.cut_tiles(images[image], tuple(keypoint)))
        assert torch.equal(merged[crop], oracle.merge_tiles(tile_features[crop], tuple(keypoint), 2 * half))


@pytest.mark.parametrize("crops, replicas", [(1, 1), (3, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("at_once", [False, True])
def test_grouped_batch_norm_equals_one_crop_after_another(crops, replicas, at_once):
    torch.manual_seed(0)
    x = torch.randn(crops * 4, 5, 3, 3, requires_grad=True)
    ours, literal = GroupedBatchNorm2d(5), torch.nn.BatchNorm2d(5)
    literal.load_state_dict(ours.state_dict())
    ours.groups = Groups(crops, replicas)
    normalize = normalize_groups_at_once if at_once else normalize_group_by_group
    result = normalize(ours, x)
    result.square().sum().backward()
    gradient, x.grad = x.grad, None
    for index, part in enumerate(x.chunk(crops * replicas)):
        mean, var = literal.running_mean.clone(), literal.running_var.clone()
        output = literal(part)
        output.square().sum().backward()
        if index % replicas:  # only the first replica's buffers are kept
            literal.running_mean.copy_(mean), literal.running_var.copy_(var)
        count = len(part)
        torch.testing.assert_close(result[index * count : (index + 1) * count], output)
    torch.testing.assert_close(gradient, x.grad)
    torch.testing.assert_close(ours.weight.grad, literal.weight.grad)
    torch.testing.assert_close(ours.bias.grad, literal.bias.grad)
    torch.testing.assert_close(ours.running_mean, literal.running_mean)
    torch.testing.assert_close(ours.running_var, literal.running_var)


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 9))
def test_running_statistics_move_by_one_update_after_another(seed, steps):
    values = torch.from_numpy(np.random.default_rng(seed).normal(size=(steps, 3))).float()
    running, literal = torch.ones(3), torch.ones(3)
    update_running_stats(running, values, 0.1)
    for value in values:
        literal = 0.9 * literal + 0.1 * value
    torch.testing.assert_close(running, literal)


def official_weights(network: oracle.OracleClassifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def twins(classes: int) -> tuple[Classifier, oracle.OracleClassifier]:
    """Our network and the literal one, with equal weights."""
    torch.manual_seed(1)
    literal = oracle.resnet_classifier("resnet18", classes)
    ours = Classifier("resnet18", classes, channels_last=False)
    assert load_weights(ours, official_weights(literal)) == "official checkpoint"
    return ours, literal


def trainer_like(strategy: str, network: Classifier, hyper: oracle.Hyper, max_iteration: int) -> Trainer:
    names = ("lr", "alpha_re", "alpha_schedule_re", "alpha_p", "re_loss")
    settings = {name: getattr(hyper, name) for name in names}
    return trainer_of(strategy, network, max_epoch=max_iteration, image_size=128, **settings)


@pytest.mark.parametrize("strategy", SCRIPTS)
@pytest.mark.parametrize("re_loss", ["L1_Loss", "L2_Loss"])
def test_steps_equal_the_literal_algorithm(strategy, re_loss):
    classes, max_iteration = 5, 10
    ours, literal = twins(classes)
    hyper = oracle.Hyper(lr=0.01, alpha_re=3.0, alpha_schedule_re=0.05, alpha_p=0.5, re_loss=re_loss)
    teacher = oracle.make_teacher(literal) if strategy_of(strategy).teacher else None
    optimizer = oracle.make_optimizer(literal, hyper)
    trainer = trainer_like(strategy, ours, hyper, max_iteration)
    labels = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 0]], dtype=torch.float32)
    for iteration in range(2):
        images = torch.randn(3, 3, 128, 128, generator=torch.Generator().manual_seed(iteration))
        arguments = (literal, teacher, optimizer, images, labels, iteration, max_iteration, hyper)
        expected = oracle.training_step(strategy, *arguments)
        step, logits = iterate_and_keep_logits(trainer, images, labels)
        assert step.keypoints.tolist() == expected["keypoints"]
        torch.testing.assert_close(logits, expected["logits"], rtol=1e-3, atol=1e-4)
        for name in ("loss", "class_loss", "p_class_loss", "re_loss"):
            assert float(getattr(step, name).detach()) == pytest.approx(expected[name], rel=1e-3), name
    theirs = from_official(official_weights(literal))
    for name, value in ours.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, theirs[name], rtol=5e-3, atol=5e-4, msg=name)


@pytest.mark.parametrize("strategy", SCRIPTS)
@pytest.mark.parametrize("classes", [1, 3])
def test_a_batch_without_labels_breaks_nothing(strategy, classes):
    torch.manual_seed(0)
    trainer = trainer_like(strategy, Classifier("resnet18", classes), oracle.Hyper(), 4)
    step, finite = trainer.iterate(torch.randn(2, 3, 64, 64), torch.zeros(2, classes))
    assert finite
    assert torch.isfinite(step.loss)
    assert float(step.re_loss.detach()) == 0
    if trainer.strategy.crops == Crops.one_per_class:  # otherwise every image is cut, at the centre without a class
        assert len(step.keypoints) == 0
        assert float(step.p_class_loss.detach()) == 0
    else:
        assert step.keypoints.tolist() == [[32, 32]] * 2
    assert all(torch.isfinite(value).all() for value in trainer.student.state_dict().values())


def test_memory_layouts_agree():
    torch.manual_seed(0)
    fast = Classifier("resnet18", 4, channels_last=True)
    official = Classifier("resnet18", 4, channels_last=False)
    official.load_state_dict(fast.state_dict())
    images = torch.randn(2, 3, 96, 96)
    for ours, theirs in zip(fast(images), official(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 4), st.booleans())
def test_class_specific_instances_equal_one_feature_map_per_class(seed, classes, training):
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(3, 6, 4, 4)).astype(np.float32)).relu()
    cams = torch.from_numpy(rng.random((3, classes, 4, 4)).astype(np.float32))
    instances = ClassSpecificInstances(6, classes).train(training)
    with torch.no_grad():
        instances.bn_bias.normal_()
        instances.bn_weight.normal_()
    logits = instances(x, cams)
    for v in range(classes):
        norm = torch.nn.BatchNorm2d(6).train(training)
        with torch.no_grad():
            norm.weight.copy_(instances.bn_weight[v]), norm.bias.copy_(instances.bn_bias[v])
        literal = (norm(x * cams[:, v : v + 1]) * instances.weight[v][:, None, None]).sum(1).mean((1, 2))
        torch.testing.assert_close(logits[:, v], literal, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(instances.running_var[v], norm.running_var, rtol=1e-4, atol=1e-6)


def test_losses_of_no_crop_are_zero():
    merged, targets = torch.zeros(0, 4, 2, 2), torch.zeros(0, 4)
    assert p_class_loss(merged, targets) == 0
    assert reconstruction_loss(merged, merged, targets) == 0
    assert class_loss(torch.zeros(2, 4), torch.ones(2, 4)) == pytest.approx(np.log(2))


def test_the_reconstruction_weight_rises_to_its_end():
    assert [alpha_re_at(t, 10, 3.0, 0.5) for t in (0, 1, 5, 9)] == pytest.approx([0, 0.6, 3, 3])
    assert alpha_re_at(0, 10, 3.0, 0) == 3


def test_learning_rates_of_the_schedule():
    rates = [learning_rate_at(t, 0.1, max_iteration=10, warmup_iterations=2) for t in range(10)]
    poly = [0.1 * (1 - t / 10) ** 0.9 for t in range(10)]
    assert rates == pytest.approx([poly[0] / 2, *poly[1:]])
    optimizer = make_optimizer(Classifier("resnet18", 2), lr=0.1, wd=1e-4)
    for iteration, rate in enumerate(poly):
        set_learning_rates(optimizer, iteration, max_iteration=10)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [rate, 2 * rate, 10 * rate, 20 * rate]
        )


def test_teacher_starts_as_the_student_and_follows_slowly():
    student = torch.nn.Linear(2, 1)
    teacher = make_teacher(student)
    assert teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    with torch.no_grad():
        student.weight.add_(1)
    update_teacher(teacher, student, iteration=0, alpha_ema=0.99)
    torch.testing.assert_close(teacher.weight, student.weight)
    before = teacher.weight.clone()
    with torch.no_grad():
        student.weight.add_(1)
    update_teacher(teacher, student, iteration=1000, alpha_ema=0.99)
    torch.testing.assert_close(teacher.weight, before + 0.01)


def test_crops_follow_images_and_classes():
    crops = Crops.one_per_class(torch.tensor([[0.0, 1, 1], [0, 0, 0], [1, 0, 0]]))
    assert crops.image.tolist() == [0, 0, 2]
    assert crops.label.tolist() == [1, 2, 0]


def test_targets_are_the_crop_s_class_or_all_classes_of_its_image():
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    logits, merged = torch.randn(2, 3), torch.randn(3, 3, 4, 4)
    features = torch.randn(2, 3, 4, 4)
    per_class, per_image = Crops.one_per_class(labels), Crops.one_per_image(labels)
    own = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])
    for crops, targets in ((per_class, own), (per_image, labels)):
        maps = merged[: len(targets)]
        expected = (
            class_loss(logits, labels),
            p_class_loss(maps, targets),
            reconstruction_loss(features[crops.image], maps, targets),
        )
        assert puzzle_losses(logits, features, maps, labels, crops) == expected


def test_a_step_never_synchronizes_with_the_device(monkeypatch):
    """No `.item()`, `.cpu()` or `.tolist()` between images and losses."""
    torch.manual_seed(0)
    network = Classifier("resnet18", 3)
    teacher = make_teacher(network)
    images, labels = torch.randn(2, 3, 64, 64), torch.ones(2, 3)
    strategies = [strategy_of(name) for name in SCRIPTS]
    crops = [strategy.crops(labels) for strategy in strategies]

    def refuse(*_):
        raise AssertionError("the step waits for the device")

    for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for strategy, of_strategy in zip(strategies, crops, strict=True):
        options = Options(alpha_p=0.5, alpha_re=1.0)
        strategy.training_step(network, teacher if strategy.teacher else None, images, labels, of_strategy, options)
