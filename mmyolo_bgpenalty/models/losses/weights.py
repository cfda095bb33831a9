"""Factors of losses. Only torch."""

from collections.abc import Mapping


def weigh_losses(
    losses: dict, weight: float, loss_weights: Mapping[str, float] | None = None, scale: float = 1.0
) -> dict:
    """Each loss times ``scale``, ``weight`` and its entry of ``loss_weights`` (1 without one).

    If a factor is 0, the loss becomes 0 even if it was NaN or infinite. It keeps its graph, since the backward pass of
    SyncBN waits for all processes. A loss may be a list with one loss per level. As in MMEngine, only entries with
    "loss" in their name are losses. Other entries do not change.
    """

    def weighed(loss, factor: float):
        if isinstance(loss, (list, tuple)):
            return [weighed(part, factor) for part in loss]
        return loss * factor if factor else (loss * 0).nan_to_num()

    return {
        name: weighed(value, scale * (weight * (loss_weights or {}).get(name, 1.0))) if 'loss' in name else value
        for name, value in losses.items()
    }
