"""The deployable: a folder with one ONNX graph and all that decisions need, without torch."""
