"""Out-of-distribution sets: derived from held-out images, from scikit-image, or from elsewhere."""
