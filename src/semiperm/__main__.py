"""`python -m semiperm` is `semiperm`."""

from semiperm.cli import app

if __name__ == "__main__":
    app(prog_name="semiperm")
