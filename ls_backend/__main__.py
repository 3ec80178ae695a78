"""`python -m ls_backend` is the command line."""

from ls_backend.cli import main

main()
