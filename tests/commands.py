"""What tests of the command line share."""

from misgiving.files import file_checksum, read_sealed, write_sealed


def one_line(error):
    """The line that an explained failure consists of."""
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1, error
    return lines[0]


def reseal(run, **changes):
    """Make a run, some of whose files or values were changed on purpose, pass for untouched."""
    config = {**read_sealed(run / "config.json"), **changes}
    checksums = {name: file_checksum(run / name) for name in config["checksums"]}
    write_sealed(run / "config.json", {**config, "checksums": checksums})
