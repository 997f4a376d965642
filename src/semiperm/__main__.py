"""`python -m semiperm` is `semiperm`."""

from semiperm.cli.main import app

if __name__ == "__main__":
    app(prog_name="semiperm")
