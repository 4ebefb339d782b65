"""What baselines are told besides: the training recipe of the counterparts' papers and, without a puzzle, the loss."""

from torch import Tensor

from baselines.asymmetric_loss import asymmetric_loss
from core.losses import class_loss as binary_cross_entropy
from core.strategy import Argument, Options

# What the counterparts' training scripts use: CSRA sgd; ASL and ML-Decoder asl, Adam, onecycle, cutout and the average.
TRAINING = {
    "optimizer": Argument("sgd", "adamw has --lr, as 1e-4, in all groups, and no --momentum", choices=("sgd", "adamw")),
    "schedule": Argument("poly", "of the learning rate", choices=("poly", "onecycle", "cosine")),
    "evaluate_ema": Argument(False, "validate and save an average of the weights over training"),
    "ema_decay": Argument(0.9997, "weight of that average's past per update, in [0, 1)", least=0, below=1),
    "cutout": Argument(0.0, "share of an image's sides that a rectangle covers; ASL's 0.5", least=0, most=1),
}
RECIPE = {
    "class_loss": Argument("bce", "binary cross-entropy or asymmetric loss", choices=("bce", "asl")),
    "gamma_neg": Argument(4.0, "asl: exponent that lowers the weight of easy negatives", least=0),
    "gamma_pos": Argument(0.0, "asl: exponent that lowers the weight of easy positives", least=0),
    "clip": Argument(0.05, "asl: negatives with a probability below it are ignored", least=0, below=1),
    **TRAINING,
}
ASL = {**RECIPE, "class_loss": RECIPE["class_loss"]._replace(default="asl")}


def class_loss(logits: Tensor, labels: Tensor, options: Options) -> Tensor:
    """Return the loss that `--class_loss` names, mean over classes and images: logits and labels `[B, V]`."""
    if options.class_loss == "bce":
        return binary_cross_entropy(logits, labels)
    return asymmetric_loss(logits, labels, options.gamma_neg, options.gamma_pos, options.clip).mean()
