"""`python -m semiperm` is `semiperm`."""

from semiperm.cli import app

app(prog_name="semiperm")
