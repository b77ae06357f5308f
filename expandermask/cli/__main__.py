"""`python -m expandermask.cli` is the same as the command `expandermask`."""

from expandermask.cli import main

main()
