"""From the outputs of a model to a decision for each image, without torch."""
