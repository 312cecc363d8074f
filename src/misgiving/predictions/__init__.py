"""The outputs of a model for a set of images: the record, its files, and how a model makes it."""
