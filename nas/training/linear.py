"""The classical baseline that is a network: logistic regression on the pixels, as one layer."""

from __future__ import annotations

import numpy as np
import torch

from nas import data
from nas.data.batches import Normal
from nas.errors import NasError
from nas.job import DataRef
from nas.language.architecture import parse
from nas.training.card import Card, image_entries
from nas.training.classical import Fitted
from nas.training.models import Model
from nas.training.network import build

NEVER = -1e4  # the logit of a class without a train image


def as_model(fitted: Fitted, ref: DataRef) -> Model:
    """Logistic regression as ``INPUT -> FLATTEN -> FC``: the scaling of its pixels is folded into
    the weights, so that the probabilities are the same. Raises NasError where the images are
    resized, as it was fitted to their own size."""
    info, own = data.describe(ref), data.load(ref, "train").pixels.shape[1:]
    if info.shape != own:
        raise NasError(
            f"{fitted.name} takes images of {'x'.join(map(str, own))}, and the networks take "
            f"{'x'.join(map(str, info.shape))}"
        )
    scale, last = fitted.classifier[0], fitted.classifier[-1]
    weights, biases = last.coef_ / scale.scale_, last.intercept_
    biases = biases - weights @ scale.mean_
    if len(biases) == 1:  # of two classes one logit: half of it each way
        weights, biases = np.stack([-weights[0], weights[0]]) / 2, np.r_[-biases, biases] / 2
    architecture = parse("INPUT -> FLATTEN -> FC", info.shape, len(info.classes))
    network = build(architecture, seed=0)
    (head,) = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(NEVER)
        head.weight[last.classes_] = torch.from_numpy(weights).float()
        head.bias[last.classes_] = torch.from_numpy(biases).float()
    channels = info.shape[0]
    card = Card(
        architecture=architecture,
        classes=info.classes,
        normal=Normal((0.0,) * channels, (1.0,) * channels),
        **image_entries(ref),
        metrics={"accuracy": fitted.accuracy},
    )
    return Model(network, card).eval()
