"""Download of published image sets, with checks and resumption."""
