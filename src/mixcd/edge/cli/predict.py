"""`mixcd predict`: the prior pass alone."""

from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc

from mixcd.edge.config.config import Config
from mixcd.edge.train.arguments import make_arguments
from mixcd.edge.train.setup import set_up
from mixcd.matter.base_model.prediction_cache import read_parts
from mixcd.matter.base_model.prior_predictions import LEAST_SHARE_RIGHT, cache_predictions, require_enough_right
from mixcd.matter.prior_and_new_data.prior_dataset import PriorDataset
from mixcd.run.outcome.run_folder import RunFolder
from mixcd.run.rehearsal_loop.opening import RehearsalSettings
from mixcd.run.trainer.trainer_predictions import inference_of
from mixcd.run.trainer.trainer_support import rule_of


def predict_prior_data(config: Config, share: float | None, say: Callable[[str], None]) -> None:
    """Cache what the base model predicts for the prior data, without loading the cache.

    An interrupted pass goes on where it was; a complete cache is left as it is.

    Args:
        config: The config of a run; only data, model and cache matter.
        share: The share of the prior samples to predict; None for what the cache has, or all.
    """
    folder = RunFolder(config.run_folder)
    folder.read()  # refuses a foreign folder
    setup = set_up(config, make_arguments(config))
    folder.drop_empty()
    trainer, wanted = setup.trainer, config.rehearsal
    prior = PriorDataset(setup.prior)
    rule = rule_of(trainer, prior, setup.correctness)
    opening = RehearsalSettings(
        config.partition if wanted.partition else None,
        config.estimator,
        features=wanted.features,
        cache_columns=wanted.cache_columns,
    ).open(inference_of(trainer, prior, rule), config.cache_folder)
    manifest, forward_count = cache_predictions(
        opening.prior_pass, config.cache_folder, columns=opening.columns, share=share
    )
    sizes, right, losses = [], [], []
    for part in read_parts(config.cache_folder, manifest):
        sizes.append(part.num_rows)
        right.append(pc.sum(part["correct"]).as_py())
        losses.append(pc.sum(part["loss"]).as_py())
    count = int(np.sum(sizes))
    say(
        f"`{config.cache_folder}` holds predictions for {count:,} of {manifest.sample_count:,} prior samples: "
        f"{np.sum(right) / count:.1%} right, mean loss {np.sum(losses) / count:.3f}. Forward passes made: "
        f"{forward_count}."
    )
    require_enough_right(float(np.sum(right) / count), LEAST_SHARE_RIGHT, rule)
