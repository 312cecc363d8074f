"""What a failure names, for `check` of pytest.raises."""


def naming(*names):
    """Check that a failure names these parameters."""
    return lambda failure: {*names} <= {parameter.name for parameter in failure.parameters}
