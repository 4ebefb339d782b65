"""Class-specific instances: every class looks at the feature map through its own class activation map."""

import torch
import torch.distributed
from torch import Tensor, nn

from core.batch_norm import ONE_GROUP, Groups, average_statistics, update_running_stats


class ClassSpecificInstances(nn.Module):
    """One batch normalization and one 1×1 convolution per class on `x · cam_v`, then global average pooling.

    Computed literally, `logit_v = mean_hw(conv_v(BN_v(x · cam_v)))` needs V copies of the feature map. Convolution and
    mean are linear, so only two means are needed, both matrix products; the result is the same up to float32 rounding:

        s1[b,v,c] = mean_hw(x[b,c] · cam[b,v])                mean = mean_b s1
        s2[v,c]   = mean_bhw(x[b,c]² · cam[b,v]²)             var  = s2 − mean²     (evaluation: running statistics)
        logit[b,v] = Σ_c w[v,c] · γ[v,c] · (s1[b,v,c] − mean[v,c]) / √(var[v,c] + ε)  +  Σ_c w[v,c] · β[v,c]

    Parameters and buffers are stacked over classes: `weight` (the convolutions), `bn_weight`, `bn_bias`,
    `running_mean`, `running_var`, each `[V, D]`.
    """

    def __init__(self, channels: int, num_classes: int, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        # Uniform, nn.Conv2d's default for a 1×1 convolution of D channels: the official `initialize` looks only at the
        # entries of its list, and passes over this list of convolutions. Kaiming's weights are 2.45 times as large.
        bound = channels**-0.5
        self.weight = nn.Parameter(torch.empty(num_classes, channels).uniform_(-bound, bound))
        self.bn_weight = nn.Parameter(torch.ones(num_classes, channels))
        self.bn_bias = nn.Parameter(torch.zeros(num_classes, channels))
        self.register_buffer("running_mean", torch.zeros(num_classes, channels))
        self.register_buffer("running_var", torch.ones(num_classes, channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor, cams: Tensor, groups: Groups = ONE_GROUP) -> Tensor:
        """Return the class logits of each image, `[B, V]`, float32.

        Args:
            x: feature maps `[B, D, h, w]`.
            cams: class activation maps in 0…1 `[B, V, h, w]`; the gradient flows through them too.
            groups: how the B images are made up; each group has its own batch statistics.
        """
        # s2 − mean² cancels, so this part stays in float32 whatever the precision around it.
        with torch.autocast(x.device.type, enabled=False):
            pixels = x.float().permute(0, 2, 3, 1).flatten(1, 2)  # [B, hw, D], a view in channels-last memory
            maps = cams.float().flatten(2)  # [B, V, hw]
            image_means = maps @ pixels / pixels.shape[1]  # [B, V, D]
            mean, var = self._statistics(image_means, pixels, maps, groups)
            scale = self.weight * self.bn_weight * torch.rsqrt(var + self.eps)  # [groups, V, D]
            centered = image_means.unflatten(0, (len(mean), -1)) - mean[:, None]
            return (centered * scale[:, None]).sum(-1).flatten(0, 1) + (self.weight * self.bn_bias).sum(-1)

    def _statistics(self, image_means: Tensor, pixels: Tensor, maps: Tensor, groups: Groups) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance of `x · cam_v` over each group's images and pixels, both `[groups, V, D]`."""
        if not self.training:
            return self.running_mean[None], self.running_var[None]
        mean = image_means.unflatten(0, (groups.total, -1)).mean(1)
        squares = pixels.square().unflatten(0, (groups.total, -1)).flatten(1, 2)  # [groups, m·hw, D]
        weights = maps.square().unflatten(0, (groups.total, -1)).transpose(1, 2).flatten(2)  # [groups, V, m·hw]
        count = squares.shape[1]
        var = (weights @ squares / count - mean.square()).clamp_min(0)
        if groups.synchronize:
            count *= torch.distributed.get_world_size()
            mean, var = average_statistics(mean, var)
        if groups.update_running:
            means, unbiased = mean.detach()[groups.updates], var.detach()[groups.updates] * (count / max(count - 1, 1))
            self.num_batches_tracked += len(means)
            update_running_stats(self.running_mean, means, self.momentum)
            update_running_stats(self.running_var, unbiased, self.momentum)
        return mean, var
