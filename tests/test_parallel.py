"""Several GPUs on one batch, and their numbers on one device: tested without GPUs, and on two where there are two."""

import copy
import importlib
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import batch_norm
from core.batch_norm import GroupedBatchNorm2d, normalize_group_by_group, normalize_groups_at_once
from core.ema import make_teacher
from core.networks import Classifier
from core.parallel import CropDataParallel, RunningStatistics, merge_running_stats, read_statistics
from core.training.config import Config
from core.training.devices import choose_devices
from core.training.trainer import Trainer
from tests.helpers.golden import SCRIPTS, config_of, strategy_of, trainer_of
from tools.system.errors import UserError
from tools.system.processes import Processes

CLASSES = 3


class OnCPU(CropDataParallel):
    """`CropDataParallel` whose GPUs are copies on the CPU; its replicas' inputs are kept in `seen`."""

    def __init__(self, module: Classifier, count: int):
        super().__init__(module)
        self.device_ids, self.dim, self.output_device = list(range(count)), 0, 0
        self.src_device_obj = torch.device("cpu")
        self.seen: list[list[tuple[int, ...]]] = []

    def replicate(self, module: Classifier, device_ids: list[int]) -> list[Classifier]:
        """Copies with the network's own parameters; the first has its own running statistics too."""
        shared = {id(parameter): parameter for parameter in module.parameters()}
        with_buffers = shared | {id(buffer): buffer for buffer in module.buffers()}
        return [copy.deepcopy(module, dict(shared if index else with_buffers)) for index in range(len(device_ids))]

    def parallel_apply(self, replicas, inputs, kwargs):
        self.seen.append([tuple(part[0].shape) for part in inputs])
        return super().parallel_apply(replicas, inputs, kwargs)


@pytest.fixture
def no_gpus(monkeypatch):
    """Let `nn.DataParallel` run on the CPU: copies between GPUs become plain chunks and concatenations.

    PyTorch has no public seam for this, so these three names are replaced; ours are called as on GPUs.
    """
    data_parallel, scatter_gather = (
        importlib.import_module(f"torch.nn.parallel.{name}") for name in ("data_parallel", "scatter_gather")
    )

    def scatter(gpus, _, dim, tensor):
        return tensor.chunk(len(gpus), dim)

    def gather(_, dim, *tensors):
        return torch.cat(tensors, dim)

    def apply(modules, inputs, kwargs, _):
        return [module(*part, **words) for module, part, words in zip(modules, inputs, kwargs, strict=True)]

    monkeypatch.setattr(scatter_gather, "Scatter", SimpleNamespace(apply=scatter))
    monkeypatch.setattr(scatter_gather, "Gather", SimpleNamespace(apply=gather))
    monkeypatch.setattr(data_parallel, "parallel_apply", apply)


def networks(devices: int, replicas: int) -> tuple[Classifier, Classifier]:
    """Return a network that several devices share, and its twin that computes the same replicas alone."""
    torch.manual_seed(0)
    shared = Classifier("resnet18", CLASSES)
    alone = copy.deepcopy(shared)
    shared.set_replicas(replicas, devices)
    alone.set_replicas(replicas)
    return shared, alone


def assert_same_statistics(first: Classifier, second: Classifier) -> None:
    ours, theirs = read_statistics(first), read_statistics(second)
    torch.testing.assert_close(ours.values.cpu(), theirs.values.cpu(), rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.steps.cpu(), theirs.steps.cpu())


@pytest.mark.parametrize("crops, devices", [(3, 2), (5, 4), (1, 2)])
@pytest.mark.parametrize("features_only", [False, True])
def test_crops_are_scattered_whole_and_counted_in_their_order(no_gpus, crops, devices, features_only):
    shared, alone = networks(devices, devices)
    parallel = OnCPU(shared, devices)
    tiles = torch.randn(crops, 4, 3, 32, 32)
    logits, features = parallel(tiles, features_only=features_only)
    expected_logits, expected = alone(tiles, features_only=features_only)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    if features_only:
        assert logits is None
    else:
        torch.testing.assert_close(logits, expected_logits, rtol=1e-4, atol=1e-4)
    ((*seen,),) = parallel.seen
    assert all(shape[1:] == (4, 3, 32, 32) for shape in seen)  # a crop's four tiles stay together
    assert sum(shape[0] for shape in seen) == crops and len(seen) <= min(crops, devices)
    assert_same_statistics(shared, alone)


def test_no_crop_at_all_moves_nothing(no_gpus):
    shared, _ = networks(2, 2)
    before = read_statistics(shared)
    logits, features = OnCPU(shared, 2)(torch.zeros(0, 4, 3, 64, 64), features_only=True)
    assert logits is None and features.shape == (0, 4, CLASSES, 4, 4)
    after = read_statistics(shared)
    assert torch.equal(before.values, after.values) and torch.equal(before.steps, after.steps)


def test_images_have_the_statistics_of_their_replica_and_the_first_replica_s_are_kept(no_gpus):
    shared, alone = networks(2, 2)
    images = torch.randn(6, 3, 64, 64)
    for ours, theirs in zip(OnCPU(shared, 2)(images), alone(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert_same_statistics(shared, alone)


def test_evaluation_is_shared_too(no_gpus):
    shared, alone = networks(2, 2)
    images = torch.randn(5, 3, 64, 64)
    for ours, theirs in zip(OnCPU(shared.eval(), 2)(images), alone.eval()(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert_same_statistics(shared, alone)


def gentle_trainer(strategy: str, network: Classifier) -> Trainer:
    # Maps are flat at the border, so that the last bit can choose the keypoint: steps too small to move a weight.
    weights = {"alpha_schedule_re": 0.05, "alpha_re": 3.0, "alpha_p": 0.5}  # the paper's
    return trainer_of(strategy, network, max_epoch=4, image_size=64, lr=1e-9, **weights)


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Four images; the first has every class, the last none."""
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(number))
    return images, torch.tensor([[1.0, 1, 1], [0, 1, 0], [1, 0, 1], [0, 0, 0]])


def gradient(trainer: Trainer) -> torch.Tensor:
    """Return the gradient of all parameters, concatenated."""
    return torch.cat([parameter.grad.flatten() for parameter in trainer.student.parameters()]).cpu()


def assert_same_steps(ours: Trainer, theirs: Trainer, tolerance: float) -> None:
    for number in range(2):
        (step, _), (expected, _) = ours.iterate(*batch(number)), theirs.iterate(*batch(number))
        assert step.keypoints.tolist() == expected.keypoints.tolist()
        assert float(step.loss) == pytest.approx(float(expected.loss), rel=tolerance)
        assert (gradient(ours) - gradient(theirs)).norm() < 100 * tolerance * gradient(theirs).norm()
    for ours_network, theirs_network in ((ours.student, theirs.student), (ours.teacher, theirs.teacher)):
        if ours_network is not None:
            expected = theirs_network.state_dict()
            for name, value in ours_network.state_dict().items():
                torch.testing.assert_close(value.cpu(), expected[name].cpu(), rtol=1e-3, atol=tolerance, msg=name)


@pytest.mark.parametrize("strategy", SCRIPTS)
def test_steps_on_two_devices_equal_those_of_two_replicas_on_one(no_gpus, strategy):
    shared, alone = networks(2, 2)
    ours, theirs = gentle_trainer(strategy, shared), gentle_trainer(strategy, alone)
    ours.student_forward = OnCPU(ours.student, 2)
    ours.teacher_forward = OnCPU(ours.teacher, 2) if ours.teacher else None
    assert_same_steps(ours, theirs, 1e-4)


@pytest.mark.parametrize("strategy", SCRIPTS)
def test_the_gpu_s_way_of_normalizing_groups_trains_as_the_cpu_s(strategy, monkeypatch):
    """Images go through the library's kernel, tiles through all groups at once; one backward pass goes through both."""
    first, second = networks(1, 1)
    theirs = gentle_trainer(strategy, second)
    for number in range(2):
        expected, _ = theirs.iterate(*batch(number))

    def as_on_a_gpu(layer: GroupedBatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        return (normalize_groups_at_once if layer.groups.total > 1 else normalize_group_by_group)(layer, x)

    monkeypatch.setattr(batch_norm, "normalize_group_by_group", as_on_a_gpu)
    ours = gentle_trainer(strategy, first)
    for number in range(2):
        step, _ = ours.iterate(*batch(number))
    assert float(step.loss) == pytest.approx(float(expected.loss), rel=1e-3)
    assert (gradient(ours) - gradient(theirs)).norm() < 1e-2 * gradient(theirs).norm()
    assert_same_statistics(ours.student, theirs.student)


@pytest.mark.parametrize("crops_at_once", [1, 2, 9])
@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("at_once", [False, True])
def test_parts_of_the_crops_change_no_number(monkeypatch, crops_at_once, replicas, at_once):
    if at_once:
        monkeypatch.setattr(batch_norm, "normalize_group_by_group", normalize_groups_at_once)
    torch.manual_seed(0)
    whole = Classifier("resnet18", CLASSES)
    whole.set_replicas(replicas)
    parts = copy.deepcopy(whole)
    parts.crops_at_once = crops_at_once
    tiles = torch.randn(5, 4, 3, 32, 32)
    with torch.no_grad():
        (expected_logits, expected), (logits, features) = whole(tiles), parts(tiles)
    assert logits.shape == (5, 4, CLASSES)
    if at_once:  # running statistics move in closed form, once per part: the same up to rounding
        torch.testing.assert_close(features, expected)
        assert_same_statistics(parts, whole)
        return
    assert torch.equal(features, expected)
    torch.testing.assert_close(logits, expected_logits)  # the instances' closed form too
    for name, value in whole.backbone.state_dict().items():
        assert torch.equal(parts.backbone.state_dict()[name], value), name
    assert_same_statistics(parts, whole)


def teacher_passes(trainer: Trainer, images: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """Run an iteration; return how many tiles each pass of the teacher's backbone has."""
    passes = []
    hook = trainer.teacher.backbone.register_forward_pre_hook(lambda _, inputs: passes.append(len(inputs[0])))
    trainer.iterate(images, labels)
    hook.remove()
    return passes


def test_the_teacher_sees_as_many_crops_at_a_time_as_there_are_images():
    """So memory depends on the number of labels only through the maps; `--teacher_crops` says how many."""
    torch.manual_seed(0)
    network = Classifier("resnet18", 6)
    images, labels = torch.randn(2, 3, 64, 64), torch.ones(2, 6)
    states = []
    for words, expected in (({}, [8] * 6), ({"teacher_crops": 5}, [20, 20, 8]), ({"teacher_crops": 0}, [48])):
        torch.manual_seed(0)
        trainer = trainer_of("cMax", copy.deepcopy(network), batch_size=2, image_size=64, **words)
        assert teacher_passes(trainer, images, labels) == expected
        states.append([*trainer.student.state_dict().values(), *trainer.teacher.state_dict().values()])
    for state in states[1:]:
        assert all(torch.equal(value, first) for value, first in zip(state, states[0], strict=True))


def test_micro_batches_have_fewer_images():
    trainer = trainer_of("cMax", Classifier("resnet18", 2), batch_size=4, image_size=64, accumulate=2)
    images, labels = torch.randn(4, 3, 64, 64), torch.ones(4, 2)
    assert teacher_passes(trainer, images, labels) == [8, 8, 8, 8]


def test_a_strategy_without_a_teacher_refuses_its_argument():
    with pytest.raises(UserError, match="--teacher_crops: strategy Max has no teacher; --accumulate 2 or more saves"):
        config_of(strategy_of("max"), teacher_crops=2)


def test_an_iteration_asks_the_device_once(monkeypatch):
    """Whether loss and gradients are finite; the crops' numbers are read from the labels, on the CPU."""
    torch.manual_seed(0)
    asked = []

    def noting(name):
        method = getattr(torch.Tensor, name)

        def note(tensor, *arguments):
            asked.append((name, tensor.numel()))
            return method(tensor, *arguments)

        return note

    trainer = gentle_trainer("cTopk_w", Classifier("resnet18", CLASSES))
    trainer.iterate(*batch(0))  # the first one also checks what the step returns
    for name in ("item", "cpu", "tolist", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, noting(name))
    trainer.iterate(*batch(1))
    assert asked == [("tolist", 1), ("__bool__", 1)]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("strategy", SCRIPTS)
def test_two_gpus_train_as_two_replicas_on_one(strategy):
    shared, alone = (network.cuda() for network in networks(2, 2))
    ours, theirs = gentle_trainer(strategy, shared), gentle_trainer(strategy, alone)
    ours.student_forward = CropDataParallel(ours.student, [0, 1])
    ours.teacher_forward = CropDataParallel(ours.teacher, [0, 1]) if ours.teacher else None
    assert_same_steps(ours, theirs, 1e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.integers(0, 2**31))
def test_joined_statistics_are_those_of_one_batch_after_another(counts, seed):
    generator = torch.Generator().manual_seed(seed)
    momentum = torch.tensor([0.1, 0.01, 0.5])
    start = torch.randn(3, generator=generator)
    batches = [[torch.randn(3, generator=generator) for _ in range(count)] for count in counts]

    def moved(values: torch.Tensor, seen: list[torch.Tensor]) -> torch.Tensor:
        for value in seen:
            values = (1 - momentum) * values + momentum * value
        return values

    before = RunningStatistics(start, torch.full((3,), 7))
    after = [RunningStatistics(moved(start, seen), torch.full((3,), 7 + len(seen))) for seen in batches]
    joined = merge_running_stats(before, after, momentum)
    literal = moved(start, [value for seen in batches for value in seen])
    torch.testing.assert_close(joined.values, literal, rtol=1e-4, atol=1e-4)
    assert joined.steps.tolist() == [7 + sum(counts)] * 3


def test_the_teacher_of_a_parallel_student_is_a_plain_network():
    assert type(make_teacher(networks(2, 2)[0])) is Classifier


@pytest.fixture
def four_gpus(monkeypatch):
    """What PyTorch says on a machine that shows four GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")


def config(**given: object) -> Config:
    return config_of(strategy_of("cMax"), **given)


def test_a_run_takes_all_visible_gpus_and_says_so(four_gpus):
    devices = choose_devices(config(), Processes())
    assert devices.gpus == [0, 1, 2, 3] and devices.first == torch.device("cuda:0")
    assert devices.describe() == "4 GPUs (A GPU, A GPU, A GPU, A GPU)"
    assert devices.replicas == 4


@pytest.mark.parametrize(
    "given, said",
    [
        ({"replicas": 2}, "--replicas 2 must be a multiple of the 4 devices"),
        ({"replicas": 8, "batch_size": 36}, "divide the 36 images"),
        ({"replicas": 8, "accumulate": 8}, "divide the 4 images"),
        ({"sync_bn": True}, "torchrun"),
        ({"replicas": 4, "image_size": 32}, "one feature cell"),
    ],
)
def test_what_the_devices_cannot_share_is_said(four_gpus, given, said):
    with pytest.raises(UserError, match=said):
        choose_devices(config(**given), Processes())


def test_more_processes_than_gpus_are_refused(four_gpus, monkeypatch):
    for name, value in {"RANK": "4", "LOCAL_RANK": "4", "WORLD_SIZE": "5"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="process 4 of this machine finds 4 GPUs"):
        choose_devices(config(batch_size=35), Processes())
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(UserError, match="start with torchrun"):
        Processes()
