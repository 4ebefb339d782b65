"""Baseline: plain fine-tuning. The logits are the CAM branch after global average pooling; no image is cut.

It differs from the instances in the head alone.
"""

from dataclasses import replace

from baselines import instances
from core.training import train

STRATEGY = replace(instances.STRATEGY, name="plain", head="gap")

if __name__ == "__main__":
    train(STRATEGY, __doc__)
