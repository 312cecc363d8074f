"""What tests of the command line share."""


def one_line(error):
    """The line that an explained failure consists of."""
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1, error
    return lines[0]
