"""The smallest reproduction that has everything: two trials, two models, two OOD sets."""

from dataclasses import replace

from misgiving.reproduction.config import OdinGrid
from misgiving.reproduction.protocol import DIGITS
from misgiving.training.config import DataConfig

TINY = replace(
    DIGITS,
    training=replace(DIGITS.training, epochs=1, batch_size=128),
    images=DataConfig(validation_share=0.2),
    in_distribution=("0", "1", "2"),
    odin=OdinGrid(tuning_set="histology", temperatures=(1.0, 1000.0), epsilons=(0.0,)),
    ood_sets=("histology", "boxes"),
    models=("vanilla", "proposed"),
    trials=2,
    replicates=50,
)
