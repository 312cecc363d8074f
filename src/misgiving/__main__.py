"""`python -m misgiving` is the command line."""

from misgiving.cli import run

if __name__ == "__main__":
    run()
