"""Image sets: where they come from, how they are split, preprocessed, loaded and augmented."""
