"""`python -m websessions`: the same as the command `websessions`."""

from .cli import main

main(prog_name="websessions")
